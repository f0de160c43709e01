"""The numbers that figures draw, by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline import rows
from pipeline.figures import series
from pipeline.metrics.best_of_n import Form


def test_columns_come_from_either_kind_of_file(tmp_path: Path):
    (tmp_path / "out").mkdir()
    rows.write(tmp_path / "out", [{"step": 3, "y": 0.5}], "steps")
    (tmp_path / "out" / "curve.json").write_text(json.dumps([{"kl": 0.0}, {"kl": 2.0}]))
    assert {name: v.tolist() for name, v in series.read(tmp_path, "steps").items()} == {"step": [3], "y": [0.5]}
    assert {name: v.tolist() for name, v in series.read(tmp_path, "curve").items()} == {"step": [0, 1], "kl": [0, 2]}


def test_a_running_mean_looks_back():
    assert series.running_mean([1, 2, 6, 4], 1).tolist() == [1, 2, 6, 4]
    assert series.running_mean([1, 2, 6, 4], 3).tolist() == [1, 1.5, 3, 4]


def test_a_band_reaches_from_the_smallest_to_the_largest_seed():
    mean, low, high = series.band([[1, 5], [3, 1]])
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([2, 3], [1, 1], [3, 5])


def test_groups_are_measured_by_one_of_them():
    found = series.by_group([2.0, 4.0, 6.0, 12.0], ["a", "a", "a", "b"], "a")
    assert {name: v.tolist() for name, v in found.items()} == {"a": [0.5, 1.0, 1.5], "b": [3.0]}
    assert series.by_group([5.0], [1], None)["1"].tolist() == [5.0]


def test_error_bins_are_geometric_means_over_seeds():
    def seed(distance: list[float], error: float) -> series.Columns:
        columns = {"bin": [1, 1, 2], "error": [error] * 3, "distance": distance, "weighted": [1.0, 1.0, 4.0]}
        return {name: np.array(values) for name, values in columns.items()}

    first, second = series.error_bins([seed([1.0, 2.0, 9.0], 0.2), seed([4.0, 8.0, 9.0], 0.4)])
    assert first["distance"].tolist() == pytest.approx([2.0, 4.0]) and first["error"] == pytest.approx(0.3)
    assert second["weighted"].tolist() == pytest.approx([4.0]) and second["distance"].tolist() == pytest.approx([9.0])


def test_a_frontier_starts_from_the_first_step():
    one, other = ([-0.2, 2, 4, 4], [1, 4, 3, 3]), ([-0.2, 0, 4, 4], [3, 2, 5, 5])
    curves = [{"kl": np.array(kl), "gold": np.array(gold)} for kl, gold in (one, other)]
    d, gain = series.frontier(curves, 2)
    assert d.tolist() == pytest.approx([math.sqrt(0.4), 2.0]) and gain.tolist() == pytest.approx([0.5, 2.0])
    below, _ = series.frontier([{"kl": np.array([-1.0]), "gold": np.array([0.0])}], 5)
    assert below.tolist() == [0.0]


def test_the_best_of_n_gains_over_one_sample():
    one, other = [1.0, 3.0, 2.0, 6.0], [0.0, 0.0, 2.0, 4.0]
    d, gain = series.best_of([{"n": np.array([1, 1, 4, 4]), "gold": np.array(gold)} for gold in (one, other)])
    assert d.tolist() == pytest.approx([0.0, math.sqrt(math.log(4) - 0.75)])
    assert gain.tolist() == pytest.approx([0.0, ((4 - 2) + (3 - 0)) / 2])


@pytest.mark.parametrize(("form", "penalty"), [("rl", math.log(2)), ("bon", 2.0)])
def test_the_fit_of_gao_is_drawn_where_it_was_planted(form: Form, penalty: float):
    d = np.linspace(0.1, 2, 9)
    at, curve, found = series.fitted(d, d * (0.5 - 0.3 * (np.log(d) if form == "rl" else d)), form)
    assert (found["alpha"], found["beta"]) == pytest.approx((0.5, 0.3)) and at[-1] == 2.0
    assert curve[-1] == pytest.approx(2 * (0.5 - 0.3 * penalty))


def test_reliability_by_hand():
    """Sorted by |Δ|: 0 (a tie), −1, then 2, 3."""
    sure, right = series.reliability([2.0, -1.0, 0.0, 3.0], 2)
    logistic = [1 / (1 + math.exp(-x)) for x in (0, 1, 2, 3)]
    assert sure.tolist() == pytest.approx([sum(logistic[:2]) / 2, sum(logistic[2:]) / 2])
    assert right.tolist() == [0.25, 1.0]


def test_deltas_are_chosen_less_rejected_of_one_set():
    rewards = np.array([[1.0, 3.0], [5.0, 1.0, 7.0], [2.0, 2.5]], object)
    examples = {"set": np.array(["a", "b", "a"]), "rewards": rewards}
    assert series.deltas(examples, "a").tolist() == [-2.0, -0.5]


@pytest.mark.parametrize("wanted", [(0.5, 0.5, 0.5), (0.0, 0.01, 1.0), (0.97, 0.98, 0.99), (0.1, 0.5, 0.9)])
def test_labels_keep_apart_in_their_order_and_inside(wanted: tuple[float, ...]):
    places = series.spread(dict(zip("abc", wanted, strict=True)), 0.1, 0.0, 1.0)
    at = [places[name] for name in "abc"]
    assert min(np.diff(at)) >= 0.1 - 1e-6 and min(at) >= 0.0 and max(at) <= 1.0
    if wanted == (0.1, 0.5, 0.9):
        assert at == pytest.approx(list(wanted))
