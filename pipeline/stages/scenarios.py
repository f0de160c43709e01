"""One part of the four generalization sets, as rows that reward models learn from or are judged on: which prompts are
on which side (`split`), the valid models' answers to them (`answered`), training pairs (`preferences`), second pairs
(`in_domain`), prompts for a policy (`prompts`), ranked responses (`scenarios`); or the first n of these, of each set,
which are n at random."""

from collections import Counter
from pathlib import Path

from pipeline import rows, scenarios
from pipeline.rows import Row
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    name = x.source.part
    if name == "split":
        made, counts = scenarios.split(rows.read(inputs["data"]), x.split)
        rows.write(out, made)
        return {**counts}
    made = first(part(name, inputs), x.source.n)
    rows.write(out, made)
    ties = {"ties": sum(row["margin"] == 0 for row in made)} if name in PAIRS else {}
    return {"rows": len(made), **ties}


PAIRS: dict[str, scenarios.Which] = {"preferences": "first", "in_domain": "second"}


def part(name: str, inputs: Inputs) -> list[Row]:
    if name in PAIRS:
        return scenarios.pairs(rows.read(inputs["gold"]), PAIRS[name])
    if name == "scenarios":
        return list(scenarios.ranked(rows.read(inputs["gold"]), rows.read(inputs["gold_answered"])))
    if name == "prompts":
        return scenarios.prompts(rows.read(inputs["split"]))
    answers = {by.removeprefix("by_"): rows.read(inputs[by]) for by in sorted(set(inputs) - {"split"})}
    return scenarios.answered(rows.read(inputs["split"]), answers)


def first(made: list[Row], n: int | None) -> list[Row]:
    """Of each set."""
    seen: Counter[str | None] = Counter()
    kept = []
    for row in made:
        seen[row.get("set")] += 1
        if n is None or seen[row.get("set")] <= n:
            kept.append(row)
    return kept
