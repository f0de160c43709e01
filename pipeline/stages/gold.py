"""The gold reward of responses: a row for each prompt, with the texts in `responses` and their rewards in `gold`.

Of stored samples, or of the responses that the rows have; by the micro world, which knows its own prompts, or by the
reward model that `gold` names.
"""

from collections import defaultdict
from pathlib import Path

from pipeline import rows, stopping, world
from pipeline.rows import Row
from pipeline.stage import Inputs, Sections
from pipeline.track import Track

WINDOW = 512  # prompts whose rewards a kill may take away


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    samples: dict[str, list[Row]] = defaultdict(list)
    for sample in rows.read(inputs["samples"]) if "samples" in inputs else ():
        samples[sample["id"]].append(sample)
    data = rows.read(inputs["data"])
    if hasattr(x, "gold"):
        asked = [row if "responses" in row else with_samples(row, samples[row["id"]]) for row in data]
        made = by_model(x, asked, out)
    else:
        made = [judged(row, samples[row["id"]]) for row in data]
    rows.write(out, made)
    rewards = [reward for row in made for reward in row["gold"]]
    different = sum(len(set(row["responses"])) for row in made)
    return {
        "prompts": len(made),
        "responses": len(rewards),
        "different": different / len(rewards),
        "gold": sum(rewards) / len(rewards),
    }


def judged(row: Row, samples: list[Row]) -> Row:
    said = [(sample["output"], sample["ended"]) for sample in samples]
    return {**row, "responses": [text for text, _ in said], "gold": [world.gold(row["prompt"], *one) for one in said]}


def with_samples(row: Row, samples: list[Row]) -> Row:
    return {**row, "responses": [sample["output"] for sample in samples]}


def by_model(x: Sections, data: list[Row], out: Path) -> list[Row]:
    """Some rows at a time; what a kill leaves is not scored again."""
    from pipeline import dist, gold_model  # torch
    from pipeline.checkpoint import Checkpoints

    dist.prepare(x.gold.compute.threads, x.gold.compute.precision)
    reward, checkpoints = gold_model.scorer(x.gold, x.run.micro_tokens, x.hub.root), Checkpoints(out, x.run)
    checkpoints.folder.mkdir(exist_ok=True)
    made: list[Row] = []
    with Track(x, out, len(data)) as log, stopping.stops_between_steps():
        for start in range(0, len(data), WINDOW):
            some = data[start : start + WINDOW]
            path = checkpoints.folder / f"rows-{start:08d}.parquet"
            if not path.exists():
                gold_model.keep(path, some, reward)
            found = rows.read(path.parent, path.stem)
            made += [{**row, **gold} for row, gold in zip(some, found, strict=True)]
            log.progress(len(made))
            if len(made) < len(data) and checkpoints.due(len(made)):
                checkpoints.stop_if_asked()
    return made
