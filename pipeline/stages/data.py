"""Rows of one source, as Parquet, with a card that says what they are."""

import json
from collections import Counter
from pathlib import Path

from pipeline import rows, world
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    source = x.source
    assert source.kind == "world", "the planner blocks other sources"
    made = world.rows(source.part, source.n, source.seed, x.world)
    rows.write(out, made)
    families = Counter(row["family"] for row in made if "family" in row)
    card = {"part": source.part, "rows": len(made), "families": dict(sorted(families.items()))}
    (out / "card.json").write_text(json.dumps(card, indent=1))
    return {"rows": len(made)}
