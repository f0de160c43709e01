"""A policy's answers to a set of instructions."""

from pathlib import Path

import torch

from pipeline import chat, models, rows
from pipeline.sample import sample
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections

BATCH = 256


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    model, tokenizer = models.load_lm(inputs["policy"])
    model.eval()
    asked = rows.read(inputs["data"])
    made = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        answers = sample(
            model,
            chat.prompts(tokenizer, [rows.prompt_of(row) for row in part]),
            max_new=x.generate.max_new,
            temperature=x.generate.temperature,
            eos=chat.eos(tokenizer),
            generator=torch.Generator().manual_seed(derive(x.seed, "generate", start)),
        )
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        for row, ids, text in zip(part, answers, texts, strict=True):
            ended = ids[-1] == chat.eos(tokenizer)
            made.append(
                {"id": row["id"], "prompt": rows.prompt_of(row), "output": text, "ended": ended, "tokens": len(ids)}
            )
    rows.write(out, made)
    n = len(made)
    return {
        "responses": n,
        "mean_tokens": sum(r["tokens"] for r in made) / n,
        "ended": sum(r["ended"] for r in made) / n,
    }
