import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold

from pipeline.metrics import group_folds


def introsort(keys):
    """NumPy's aquicksort step by step, with real comparisons: the oracle of the shortcut for equal keys."""
    order, pending = list(range(len(keys))), [(0, len(keys) - 1)]

    def swap(a, b):
        order[a], order[b] = order[b], order[a]

    def less(a, b):
        return keys[order[a]] < keys[order[b]]

    while pending:
        left, right = pending.pop()
        if right - left <= 15:
            order[left : right + 1] = sorted(order[left : right + 1], key=lambda i: keys[i])
            continue
        middle = left + (right - left) // 2
        for low, high in ((left, middle), (middle, right), (left, middle)):
            if less(high, low):
                swap(high, low)
        swap(middle, right - 1)
        i, j = left, right - 1
        while True:
            i += 1
            while less(i, right - 1):
                i += 1
            j -= 1
            while less(right - 1, j):
                j -= 1
            if i >= j:
                break
            swap(i, j)
        swap(i, right - 1)
        pending += [(left, i - 1), (i + 1, right)]
    return order


@pytest.mark.parametrize("n", [1, 5, 15, 16, 17, 18, 19, 33, 34, 100, 805, 1610, 2411, 2415])
def test_ties_move_as_in_numpys_introsort(n):
    assert group_folds.introsort_of_ties(n).tolist() == introsort([2] * n)


def test_the_oracle_sorts():
    keys = np.random.default_rng(0).integers(0, 50, 500).tolist()
    assert [keys[i] for i in introsort(keys)] == sorted(keys)


@pytest.mark.parametrize("n", [5, 23, 805, 2415])
def test_stable_is_todays_group_k_fold(n):
    groups = np.tile(np.arange(n), 2)
    expected = np.empty(n)
    for f, (_, held_out) in enumerate(GroupKFold(n_splits=5).split(groups, groups=groups)):
        expected[groups[held_out]] = f
    np.testing.assert_array_equal(group_folds.assign(n, 5, "stable"), expected)


@pytest.mark.parametrize("order", ["stable", "legacy"])
def test_folds_are_balanced(order):
    sizes = np.bincount(group_folds.assign(2413, 5, order))
    assert sorted(sizes.tolist()) == [482, 482, 483, 483, 483]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="too few"):
        group_folds.assign(4, 5, "stable")
    with pytest.raises(ValueError, match="'stable' or 'legacy'"):
        group_folds.assign(9, 5, "simd")  # pyright: ignore[reportArgumentType]


def test_legacy_equals_an_old_numpy(reference):
    recorded = pd.read_csv(reference / "alpaca_eval/group_order_introsort.csv.gz")
    for name in recorded:
        order = recorded[name].dropna().to_numpy(dtype=int)
        np.testing.assert_array_equal(group_folds.introsort_of_ties(len(order)), order)
