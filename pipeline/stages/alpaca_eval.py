"""Win rate of a policy against its baseline, from the judge's annotations."""

from pathlib import Path

from pipeline import rows
from pipeline.metrics import alpaca_eval
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    judged = rows.read(inputs["judge"])
    rows.write(out, [{**row, "length": len(row["output_2"])} for row in judged], "examples")
    n = len(judged)
    return {
        **alpaca_eval.win_rate([row["preference"] for row in judged]),
        "avg_length": int(sum(len(row["output_2"]) for row in judged) / n),
        "baseline_length": int(sum(len(row["output_1"]) for row in judged) / n),
        "gold": sum(row["gold_2"] for row in judged) / n,
        "gold_difference": sum(row["gold_2"] - row["gold_1"] for row in judged) / n,
    }
