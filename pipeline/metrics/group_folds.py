"""Which fold each of n equally large groups falls into: scikit-learn's `GroupKFold`, old and new.

`GroupKFold` sorts the groups by size, reverses the order and gives every next group to the lightest fold. AlpacaEval's
groups all have size 2, so the sort only permutes equal keys, and the folds depend on how the sort treats ties:

- "stable": scikit-learn since it sorts stably (1.9.1 does). The order stays 0, 1, 2, …
- "legacy": older scikit-learn on a NumPy without SIMD sorting (before 1.25 on x86): NumPy's introsort, which reorders
  ties. Most rows of the published leaderboard were computed with this one.

The permutation is derived here from the algorithm (numpy/_core/src/npysort: quicksort.cpp, SMALL_QUICKSORT = 15), not
asked from the installed NumPy, whose answer depends on the processor.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FoldOrder = Literal["stable", "legacy"]

INSERTION_SORT_UP_TO = 15  # NumPy partitions a range only if last - first exceeds this; insertion sort keeps ties


def assign(n_groups: int, n_folds: int, order: FoldOrder) -> NDArray[np.intp]:
    """Fold of every group, (n_groups,)."""
    if n_groups < n_folds:
        raise ValueError(f"{n_groups} groups are too few for {n_folds} folds")
    if order not in ("stable", "legacy"):
        raise ValueError(f"fold_order={order!r}: choose 'stable' or 'legacy'")
    by_size = np.arange(n_groups) if order == "stable" else introsort_of_ties(n_groups)
    fold = np.empty(n_groups, dtype=np.intp)
    fold[by_size[::-1]] = np.arange(n_groups) % n_folds  # equal weights: the lightest fold is the next one in turn
    return fold


def introsort_of_ties(n: int) -> NDArray[np.intp]:
    """NumPy's introsort applied as `argsort` to n equal keys.

    On ties no comparison ever swaps for the median of three, both partition scans stop at every step, and so a
    partition moves the pivot to the end, reverses what lies between, and puts the pivot in the middle. Halves are
    balanced: the heap-sort fallback for bad partitions is never reached.
    """
    order = np.arange(n)
    pending = [(0, n - 1)]
    while pending:
        first, last = pending.pop()
        if last - first <= INSERTION_SORT_UP_TO:
            continue
        middle, parked = first + (last - first) // 2, last - 1
        order[[middle, parked]] = order[[parked, middle]]
        swaps = (last - first - 2) // 2
        left, right = slice(first + 1, first + 1 + swaps), slice(parked - swaps, parked)
        order[left], order[right] = order[right][::-1].copy(), order[left][::-1].copy()
        pivot = first + 1 + swaps
        order[[pivot, parked]] = order[[parked, pivot]]
        pending += [(first, pivot - 1), (pivot + 1, last)]
    return order
