"""Which rows make up a step: a function of seed and epoch alone, never of rank, world size or what ran before."""

import random
from functools import cache

from pipeline.seeds import derive


@cache
def epoch_order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(rows))
    random.Random(derive(seed, "order", epoch)).shuffle(order)
    return tuple(order)


def step_rows(rows: int, batch: int, seed: int, step: int) -> list[int]:
    """The rows of one step. An epoch has rows // batch steps; the odd rest of it is left out."""
    epoch, at = divmod(step, rows // batch)
    return list(epoch_order(rows, seed, epoch)[at * batch : (at + 1) * batch])
