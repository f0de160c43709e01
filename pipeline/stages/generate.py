"""A policy's answers to a set of instructions: one, or several samples to each, row after row."""

from pathlib import Path

from pipeline import chat, models, rows
from pipeline.sample import Sampling, check_room, sample, stops
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections
from pipeline.track import Track

SLOTS = 256  # answers that are written at once


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    model, tokenizer = models.load_lm(inputs["policy"])
    model.eval()
    asked, settings = rows.read(inputs["data"]), x.generate
    prompts = chat.prompts(tokenizer, [rows.prompt_of(row) for row in asked])
    check_room(model, prompts, settings.max_new, "generate.max_new")
    ends, k = stops(model, tokenizer), settings.samples
    how = Sampling(settings.max_new, settings.temperature, settings.top_p, settings.top_k, ends)
    seeds = [derive(x.seed, "generate", i) for i in range(len(asked))]
    with Track(x, out, k * len(asked)) as log:
        answers = sample(model, prompts, how, seeds, k, max(k, SLOTS), log.progress)
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    made = [
        {
            "id": asked[i // k]["id"],
            "sample": i % k,
            "prompt": rows.prompt_of(asked[i // k]),
            "output": texts[i],
            "ended": answers[i][-1] in ends,
            "tokens": len(answers[i]),
        }
        for i in range(len(answers))
    ]
    rows.write(out, made)
    n = len(made)
    return {
        "responses": n,
        "mean_tokens": sum(r["tokens"] for r in made) / n,
        "ended": sum(r["ended"] for r in made) / n,
    }
