"""Rows of one source, as Parquet, with a card that says what they are."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import rows, world
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    if x.source.kind == "world":
        card, metrics = of_the_world(x, out)
    elif x.source.kind == "sets":
        card, metrics = together(inputs, out)
    else:
        from pipeline.data.load import load

        card, metrics = load(x.source, x.hub.root, out)
    (out / "card.json").write_text(json.dumps(card, indent=1))
    return metrics


def of_the_world(x: Sections, out: Path) -> tuple[dict[str, Any], dict[str, float]]:
    source = x.source
    made = world.rows(source.part, source.n, source.seed, x.world)
    rows.write(out, made)
    families = Counter(row["family"] for row in made if "family" in row)
    card = {"part": source.part, "rows": len(made), "families": dict(sorted(families.items()))}
    return card, {"rows": len(made)}


def together(inputs: Inputs, out: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Several sets as one, each row with the name of its own."""
    parts = {}
    for name in sorted(inputs):
        part = pq.read_table(inputs[name] / "rows.parquet")
        ids = [f"{name}-{id}" for id in part["id"].to_pylist()]
        part = part.set_column(part.column_names.index("id"), "id", [ids])
        parts[name] = part.append_column("set", [[name] * len(part)])
    made = pa.concat_tables(parts.values())
    pq.write_table(made, out / "rows.parquet")
    sets = {name: len(part) for name, part in parts.items()}
    return {"rows": len(made), "sets": sets}, {"rows": len(made), **{f"rows/{name}": n for name, n in sets.items()}}
