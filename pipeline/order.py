"""Which rows make up a step: a function of seed and epoch alone, never of rank, world size or what ran before."""

import random
from functools import cache

from pipeline.seeds import derive


@cache
def epoch_order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(rows))
    random.Random(derive(seed, "order", epoch)).shuffle(order)
    return tuple(order)


def epoch_steps(rows: int, batch: int) -> int:
    """Steps of one epoch; the odd rest of the rows is left out."""
    if rows < batch:
        raise ValueError(
            f"{rows} rows are left for a batch of {batch}: more rows, a smaller batch or a longer max_length"
        )
    return rows // batch


def step_rows(rows: int, batch: int, seed: int, step: int) -> list[int]:
    """The rows of one step."""
    epoch, at = divmod(step, epoch_steps(rows, batch))
    return list(epoch_order(rows, seed, epoch)[at * batch : (at + 1) * batch])
