"""One reward model's rewards for every response of every benchmark, once."""

from pathlib import Path

from pipeline import models, rows, scoring
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    model, tokenizer = models.load_rm(inputs["rm"])
    asked = [
        (name, row, i, response)
        for name in sorted(set(inputs) - {"rm"})
        for row in rows.read(inputs[name])
        for i, response in enumerate(rows.responses_of(row))
    ]
    prompts = [rows.prompt_of(row) for _, row, _, _ in asked]
    reward, norm = scoring.score(model, tokenizer, prompts, [a[3] for a in asked], x.run.micro_tokens)
    rows.write(out, [
        {"set": name, "id": row["id"], "response": i, "reward": float(r), "norm": float(n)}
        for (name, row, i, _), r, n in zip(asked, reward, norm, strict=True)
    ], "scores")  # fmt: skip
    return {"responses": len(asked)}
