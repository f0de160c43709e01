"""Random draws that give the same result in every version of Python.

Built on `random.random()` alone: it is the one method whose sequence Python promises to keep.
"""

import random
from bisect import bisect
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """One stream of random choices."""

    def __init__(self, seed: int):
        self.uniform = random.Random(seed).random  # a float in [0, 1)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.uniform() * len(items))]

    def weighted(self, items: Sequence[T], cumulative: Sequence[float]) -> T:
        """An item with the probability by which the cumulative weight (last: the total) rises at it."""
        at = bisect(cumulative, self.uniform() * cumulative[-1])
        return items[min(at, len(items) - 1)]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """k different items, in random order."""
        left = list(items)
        return [left.pop(int(self.uniform() * len(left))) for _ in range(k)]

    def other(self, items: Sequence[T], than: T) -> T:
        """An item that is not `than`."""
        return self.pick([item for item in items if item != than])
