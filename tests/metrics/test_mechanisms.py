"""Breakdowns of recorded dynamics against oracles by hand."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from pipeline.metrics import dynamics, mechanisms

RNG = np.random.default_rng


def trained(steps: int, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of dynamics.parquet."""
    rng, n = RNG(seed), steps * batch
    columns = {name: rng.normal(size=n) for name in ("r_w", "r_l")}
    positive = {name: rng.uniform(1, 9, n) for name in ("norm_w", "norm_l", "distance", "weight")}
    return {"step": np.repeat(np.arange(steps), batch), **columns, **positive}


# --- parts of training ---


def test_parts_are_four_windows_of_a_quarter_of_the_steps():
    """14 steps: windows of 3, from 0, 4, 7 and 11."""
    assert mechanisms.window(np.arange(14), 14).tolist() == [1, 1, 1, 0, 2, 2, 2, 3, 3, 3, 0, 4, 4, 4]
    assert mechanisms.window(np.arange(8), 8).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_of_few_steps_the_last_one_is_all(steps: int):
    assert mechanisms.window(np.arange(steps), steps).tolist() == [0] * (steps - 1) + [1]


def test_pairs_by_hand():
    recorded = {"step": [0, 1], "r_w": [0.0, math.log(3)], "r_l": [0.0, 0.0], "distance": [2.0, 4.0], "weight": [1, 5]}
    found = mechanisms.of_pairs(recorded, 1)
    assert found["error"].tolist() == pytest.approx([0.5, 0.25])
    assert found["gradient"].tolist() == pytest.approx([1.0, 1.0]) and found["part"].tolist() == [1, 0]
    assert found["weighted"].tolist() == pytest.approx([1.0, 5.0])


def test_growth_is_measured_from_the_first_part_and_ends_where_the_manifest_of_rm_does():
    pairs = trained(14, 5)
    steps = {"step": np.arange(14), "head_norm": np.linspace(1.0, 1.3, 14)}
    found = mechanisms.growth(pairs, steps)
    assert [row["part"] for row in found] == [1, 2, 3, 4] and found[0]["grown_delta"] == 0.0
    second = pairs["step"] // 4 == 1  # steps 4 to 6, without 7
    second &= pairs["step"] < 7
    assert found[1]["distance"] == pytest.approx(pairs["distance"][second].mean())
    assert found[1]["delta"] == pytest.approx((pairs["r_w"] - pairs["r_l"])[second].mean())
    nothing = np.full(14, np.nan)
    more = dict.fromkeys(("loss", "accuracy", "batch_mean", "reward_std"), nothing)
    whole = dynamics.of_training(pairs, {**steps, **more, "effective_rank": np.ones(14)})
    for name in ("delta", "head", "distance", "direction"):
        assert found[-1][f"grown_{name}"] == pytest.approx(whole[f"growth_{name}"])


def test_the_heads_largest_change_may_go_either_way():
    assert mechanisms.head_norm([2.0, 2.2, 1.4, 2.0]) == pytest.approx({"start": 2.0, "largest_change": 0.3})


def test_norms_widen_by_the_ratio_of_the_last_look_to_the_first():
    looks = {
        "set": ["a", "a", "b", "b"] * 3,
        "step": np.repeat([0, 5, 9], 4),
        "norm": [1, 3, 5, 5, 7, 7, 7, 7, 1, 7, 5, 6],
    }
    found = mechanisms.spread_growth(looks)
    assert found["a"] == pytest.approx(3.0) and math.isnan(found["b"])


# --- gradients ---


def cells() -> list[dict[str, Any]]:
    """Two bins by error, two groups by distance; the gradient doubles in the first bin and is 8 times as large in the
    second. Rows are shuffled."""
    columns = {
        "error": np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9]),
        "distance": np.array([1.0, 2, 3, 4, 1, 2, 3, 4]),
        "gradient": np.array([1.0, 1, 2, 2, 1, 1, 8, 8]),
        "weighted": np.array([3.0, 3, 3, 3, 2, 4, 3, 3]),
    }
    order = RNG(0).permutation(8)
    return mechanisms.by_error({name: values[order] for name, values in columns.items()}, bins=2, groups=2)


def test_cells_by_error_and_distance_by_hand():
    found = cells()
    assert [(c["bin"], c["group"], c["pairs"]) for c in found] == [(1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2)]
    assert [c["distance"] for c in found] == [1.5, 3.5, 1.5, 3.5] and [c["gradient"] for c in found] == [1, 2, 1, 8]
    assert [c["error"] for c in found] == pytest.approx([0.1, 0.1, 0.9, 0.9])


def test_far_over_near_is_a_geometric_mean():
    assert mechanisms.far_over_near(cells(), "gradient") == pytest.approx(4.0)
    assert mechanisms.far_over_near(cells(), "weighted") == pytest.approx(1.0)


def test_too_few_pairs_are_not_divided():
    few = {name: np.ones(7) for name in ("error", "distance", "gradient", "weighted")}
    assert mechanisms.by_error(few, bins=2, groups=4) == [] and math.isnan(mechanisms.far_over_near([], "gradient"))


def test_misranked_pairs_are_those_of_all_pairs_quarters():
    """Sorted by distance: 1, 2 | 3, 4; wrong are 2 (Δ = 0: gradient 1) and none of the far ones."""
    found = mechanisms.misranked([5.0, 1.0, 0.0, 2.0], [4.0, 1.0, 2.0, 3.0], groups=2)
    assert found[0] == pytest.approx(1.0) and math.isnan(found[1])


def test_the_undecided_near_and_far_pair():
    """Of 21 undecided pairs the 2nd and the 20th by distance; decided ones lie beyond."""
    distance = np.concatenate([RNG(1).permutation(21) + 1.0, [0.0, 99.0]])
    error = np.concatenate([np.full(21, 0.42), [0.1, 0.9]])
    found = mechanisms.undecided({"distance": distance, "error": error})
    assert (distance[found["near"]], distance[found["far"]]) == (2.0, 20.0)
    assert mechanisms.undecided({"distance": distance[21:], "error": error[21:]}) == {}


# --- the trained model ---


def test_a_set_is_summed_up():
    rng, n = RNG(2), 40
    rows = {"reward": rng.normal(size=n), "norm": rng.uniform(1, 2, n), "gold": rng.normal(size=n)}
    rows |= {"length": rng.integers(3, 90, n), "id": np.repeat(np.arange(10), 4)}
    found = mechanisms.of_set(rows)
    norm, reward = (np.abs(rows[name] - np.median(rows[name])) for name in ("norm", "reward"))
    assert found["extreme"] == pytest.approx(
        np.corrcoef(scipy.stats.rankdata(norm), scipy.stats.rankdata(reward))[0, 1]
    )
    assert found["norm_skew"] == pytest.approx(scipy.stats.skew(rows["norm"]))
    partial = dynamics.partial_correlation(rows["reward"], rows["length"], rows["gold"], rows["id"])
    assert found["length_given_gold"] == partial and set(found) == {
        *("norm_mean", "norm_std", "norm_skew", "norm_outliers", "extreme", "length_given_gold")
    }


def test_categories_have_medians():
    pairs = {"distance": [1.0, 2.0, 30.0, 5.0], "gradient": [0.1, 0.2, 0.3, 4.0]}
    assert mechanisms.by_category(["a", "a", "a", "b"], pairs) == {
        "distance/a": 2.0,
        "distance/b": 5.0,
        "gradient/a": 0.2,
        "gradient/b": 4.0,
    }
