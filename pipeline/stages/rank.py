"""The effective rank of what the reward head reads, for responses it was trained on and for those of RM-Bench: does it
jump from the one to the other (BSR, Table 1)?

About as many responses on both sides, whole rows in their order, since few have a small rank. The definition is in
pipeline/dynamics.py; the paper does not say how many it took.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch

from pipeline import contract, rows, scoring
from pipeline.conversations import Asked
from pipeline.dynamics import effective_rank
from pipeline.stage import Inputs, Sections

MOST = 1024  # responses of a side [ours]


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    model, tokenizer = contract.load(inputs["rm"], x.run.packing)
    sides = {
        side: [Asked(rows.asked_of(row), rows.responses_of(row)) for row in rows.read(inputs[name])]
        for side, name in (("train", "data"), ("rm_bench", "rm_bench"))
    }
    most = min(MOST, *(sum(len(asked.responses) for asked in side) for side in sides.values()))
    metrics, spectra = {}, []
    for side, asked in sides.items():
        scored = scoring.stream(model, tokenizer, first(asked, most), x.run.micro_tokens)
        hidden = torch.cat([row.hidden for batch in scored for row in batch])
        metrics |= {f"effective_rank/{side}": float(effective_rank(hidden)), f"responses/{side}": float(len(hidden))}
        values = torch.linalg.svdvals(hidden).tolist()
        spectra += [{"set": side, "number": i, "singular_value": v} for i, v in enumerate(values, start=1)]
    rows.write(out, spectra, "spectra")
    return metrics


def first(asked: Sequence[Asked], responses: int) -> list[Asked]:
    """As many whole rows as have no more than so many responses together, at least one."""
    reached = accumulate(len(row.responses) for row in asked)
    return [row for row, n in zip(asked, reached, strict=True) if n <= responses] or list(asked[:1])
