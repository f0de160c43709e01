"""The gold reward of stored samples: a row for each prompt, with the texts in `responses` and their rewards in `gold`.

The micro world's own gold reward is the only one known here; a gold reward model would be another way to fill `gold`.
"""

from collections import defaultdict
from pathlib import Path

from pipeline import rows, world
from pipeline.rows import Row
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    samples: dict[str, list[Row]] = defaultdict(list)
    for sample in rows.read(inputs["samples"]):
        samples[sample["id"]].append(sample)
    made = [judged(row, samples[row["id"]]) for row in rows.read(inputs["data"])]
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
