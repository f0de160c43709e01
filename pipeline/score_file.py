"""Rewards for the rows of a file of one's own: the same rows as JSON lines, with `reward`, with `reward_chosen` and
`reward_rejected`, or with lists of them as RM-Bench's own tool writes them. What a kill leaves beside the result is not
scored again; a result appears as a whole.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import contract, external, given, own, scoring
from pipeline.errors import check
from pipeline.metrics import pairs
from pipeline.own import Own
from pipeline.store import sha256, write_atomically

Tick = Callable[[int, int], None]  # responses done, of how many


def run(folder: Path, data: Path, out: Path, tokens: int, tick: Tick = lambda done, total: None) -> dict[str, float]:
    """`folder` holds the reward model. Returns counts, and of pairs the accuracy."""
    found = own.read(data)
    for column in found.scores:
        there = column in found.rows[0]
        check(
            not there, f"{data.name}, column {column}", found.rows[0].get(column), "is what is written here: rename it"
        )
    model, tokenizer = contract.load(folder, "shared")
    total = sum(len(a.responses) for a in found.asked)
    parts = scoring.Parts(out.with_name(f".{out.name}.{fingerprint(folder, data)}"))
    tick(len(parts.done), total)
    scored = scoring.keep(model, tokenizer, found.asked, tokens, parts, lambda done: tick(done, total))
    of_row: list[list[float]] = [[] for _ in found.rows]
    for record in scored:  # in input order
        of_row[record["row"]].append(record["reward"])
    rows = [{**row, **found.rewards(at, of_row[at])} for at, row in enumerate(found.rows)]
    write_atomically(out, "".join(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in rows))
    shutil.rmtree(parts.folder)
    return summary(found, rows, sum(record["truncated"] for record in scored))


def summary(found: Own, rows: Sequence[given.Row], truncated: int) -> dict[str, float]:
    responses = sum(len(a.responses) for a in found.asked)
    counts: dict[str, float] = {"rows": len(rows), "responses": responses, "truncated": truncated}
    if not found.pairs:
        return counts
    chosen, rejected = ([row[column] for row in rows] for column in found.scores)
    return {**counts, "accuracy": pairs.accuracy(chosen, rejected), "ties": pairs.ties(chosen, rejected)}


def fingerprint(folder: Path, data: Path) -> str:
    """Of model and data, so that what another run left is not taken for ours. Weights go by size and time: reading
    them takes longer than scoring a few rows."""
    text = [sha256(data)]
    for path in external.files(folder):
        large = path.suffix == ".safetensors"
        text.append(f"{path.name} {(path.stat().st_size, path.stat().st_mtime_ns) if large else sha256(path)}")
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]
