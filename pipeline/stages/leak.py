"""Which rows of every benchmark have a prompt that nearly repeats one of the preference data: set, id, leaked, the
similarity to the training row most like it, and that row's id. Nothing is left out here: scripts/leak.py does that."""

from pathlib import Path

from pipeline import leak, rows
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    training = rows.read(inputs["data"])
    seen = leak.Seen([rows.prompt_of(row) for row in training], x.leak.words, x.leak.similarity)
    made, metrics = [], {}
    for name in sorted(set(inputs) - {"data"}):
        data = rows.read(inputs[name])
        found = [seen.nearest(rows.prompt_of(row)) for row in data]
        for row, near in zip(data, found, strict=True):
            like, of = (0.0, None) if near is None else (near.similarity, training[near.at].get("id"))
            made.append({"set": name, "id": row["id"], "leaked": near is not None, "similarity": like, "of": of})
        metrics |= {f"{name}/leaked": sum(near is not None for near in found), f"{name}/n": len(data)}
    rows.write(out, made)
    return metrics
