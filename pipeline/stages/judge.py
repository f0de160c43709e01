"""Which of two answers is better, by the gold reward: a preference in [1, 2], 2 for the policy, as AlpacaEval's
annotators give."""

import math
from pathlib import Path

from pipeline import rows, world
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    made = []
    for ours, theirs in zip(rows.read(inputs["policy"]), rows.read(inputs["baseline"]), strict=True):
        assert ours["id"] == theirs["id"], "both answer the same instructions"
        gold, base = (world.gold(r["prompt"], r["output"], r["ended"]) for r in (ours, theirs))
        wins = 1 / (1 + math.exp(-(gold - base) / x.judge.temperature))
        made.append({
            "id": ours["id"],
            "instruction": ours["prompt"],
            "output_1": theirs["output"],
            "output_2": ours["output"],
            "preference": 1 + wins if ours["output"] != theirs["output"] else 1.5,
            "gold_1": base,
            "gold_2": gold,
        })  # fmt: skip
    rows.write(out, made)
    return {"annotations": len(made)}
