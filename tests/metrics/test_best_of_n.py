from itertools import combinations
from math import comb

import numpy as np
import pytest

from pipeline.metrics import best_of_n


def enumerate_subsets(proxy, gold, size):
    """Mean over all subsets of the mean gold among those that share the subset's highest proxy."""
    total = 0.0
    for subset in combinations(range(len(proxy)), size):
        best = max(proxy[i] for i in subset)
        total += np.mean([gold[i] for i in subset if proxy[i] == best])
    return float(total / comb(len(proxy), size))


@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_equals_the_enumeration_of_all_subsets(levels):
    rng = np.random.default_rng(levels)
    proxy, gold = rng.integers(0, levels, (3, 8)).astype(float), rng.normal(size=(3, 8))
    ns = list(range(1, 9))
    expected = [[enumerate_subsets(p, g, n) for n in ns] for p, g in zip(proxy, gold, strict=True)]
    np.testing.assert_allclose(best_of_n.expected(proxy, gold, ns), expected, rtol=0, atol=1e-13)


def test_weights_are_the_binomials_and_hold_at_405():
    weights = best_of_n.rank_weights(405, [1, 2, 200, 405])
    exact = [[comb(i, n - 1) / comb(405, n) for i in range(405)] for n in (1, 2, 200, 405)]
    np.testing.assert_allclose(weights, np.array(exact), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)


def test_ends_are_the_mean_and_the_favourite():
    proxy, gold = [[3.0, 1.0, 2.0]], [[10.0, 20.0, 60.0]]
    np.testing.assert_allclose(best_of_n.expected(proxy, gold, [1, 3]), [[30.0, 10.0]])
    np.testing.assert_allclose(best_of_n.expected(np.zeros((1, 3)), gold, [1, 2, 3]), [[30.0, 30.0, 30.0]])


def test_ns_may_come_in_any_order():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(2, 4, 6))
    there = best_of_n.expected(proxy, gold, [1, 4, 6])
    np.testing.assert_array_equal(best_of_n.expected(proxy, gold, [6, 1, 4]), there[:, [2, 0, 1]])


def test_kl_by_hand():
    np.testing.assert_allclose(best_of_n.kl([1, 2, 4]), [0.0, np.log(2) - 0.5, np.log(4) - 0.75])


@pytest.mark.parametrize(
    ("form", "curve", "turning_point"),
    [
        ("bon", lambda d: d * (1.2 - 0.3 * d), 1.2 / 0.6),
        ("rl", lambda d: d * (1.2 - 0.3 * np.log(d)), np.exp(1.2 / 0.3 - 1)),
    ],
)
def test_exact_curves_give_their_coefficients_and_peak(form, curve, turning_point):
    d = np.linspace(0.5, 6, 12)
    result = best_of_n.fit(np.append(0.0, d), np.append(0.0, curve(d)), form)
    assert (result["alpha"], result["beta"]) == pytest.approx((1.2, 0.3))
    assert result["turning_point"] == pytest.approx(turning_point)
    assert (result["turning_low"], result["turning_high"]) == pytest.approx((turning_point, turning_point))
    assert result["r2"] == pytest.approx(1.0) and result["n"] == 12
    step = 1e-4  # the peak really is one
    peak, left, right = curve(turning_point), curve(turning_point - step), curve(turning_point + step)
    assert peak > left and peak > right


@pytest.mark.parametrize(("form", "ratio_to_d"), [("bon", lambda q: q / 2), ("rl", lambda q: np.exp(q - 1))])
@pytest.mark.parametrize("replicates", [1, 12])
def test_interval_covers_at_its_level(form, ratio_to_d, replicates):
    rng = np.random.default_rng(7)
    d = np.linspace(0.4, 3, 10)
    truth, noise = ratio_to_d(1.0 / 0.25), 0.15
    penalty = d**2 if form == "bon" else d * np.log(d)
    covered = []
    for _ in range(400):
        alpha = 1.0 + (0.2 * rng.normal(size=(replicates, 1)) if replicates > 1 else 0.0)  # replicates differ
        gain = alpha * d - 0.25 * penalty + noise * rng.normal(size=(replicates, len(d)))
        result = best_of_n.fit(d, gain, form)
        covered.append(result["turning_low"] <= truth <= result["turning_high"])
    assert 0.925 <= np.mean(covered) <= 0.975


def test_a_curve_that_never_turns_has_no_upper_end():
    d = np.linspace(0.2, 2, 8)
    bent = np.array([[-0.05], [0.05], [-0.1], [0.1]]) * d**2  # beta differs by replicate, around its mean
    straight = best_of_n.fit(d, d + bent, "bon")
    assert straight["turning_high"] == np.inf and straight["turning_low"] > 2  # beyond what was seen
    rising = best_of_n.fit(d, d + 0.5 * d**2 + bent, "bon")
    assert np.isnan([rising["turning_point"], rising["turning_low"], rising["turning_high"]]).all()
    noise = best_of_n.fit(d, np.array([[-1.0], [1.1]]) * d + bent[:2], "bon")
    assert (noise["turning_low"], noise["turning_high"]) == (0.0, np.inf)
    flat = best_of_n.fit(d, np.zeros((3, 8)), "rl")
    assert np.isnan(flat["turning_point"]) and (flat["turning_low"], flat["turning_high"]) == (0.0, np.inf)


def test_no_freedom_no_interval():
    result = best_of_n.fit([1.0, 2.0], [1.0, 1.0], "bon")
    assert result["turning_point"] == pytest.approx(1.5)
    assert np.isnan([result["turning_low"], result["turning_high"]]).all()


def test_score_shows_overoptimisation():
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(200, 64))
    gold = -((proxy - 0.8) ** 2)  # good up to a point, then worse
    result = best_of_n.score(proxy, gold, [1, 2, 4, 16, 64])
    assert result["gold@4"] > result["gold@1"] and result["gold@64"] < result["gold@4"]
    assert result["proxy@64"] > result["proxy@16"] > result["proxy@1"]
    assert result["bon/beta"] > 0
    assert result["bon/turning_low"] < result["bon/turning_point"] < result["bon/turning_high"]
    assert set(best_of_n.score(proxy, gold, [1, 2])) == {"gold@1", "gold@2", "proxy@1", "proxy@2"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_n.rank_weights(4, [5]), r"1\.\.4"),
        (lambda: best_of_n.rank_weights(4, [0]), r"1\.\.4"),
        (lambda: best_of_n.expected([[1.0, np.nan]], [[1.0, 2.0]], [1]), "NaN"),
        (lambda: best_of_n.expected([1.0], [1.0], [1]), "prompts, samples"),
        (lambda: best_of_n.fit([1, 2], [1, 2], "ppo"), "'bon' or 'rl'"),  # pyright: ignore[reportArgumentType]
        (lambda: best_of_n.fit([0, 2], [0, 2], "bon"), "two different distances"),
        (lambda: best_of_n.fit([1, 2], [1, 2, 3], "bon"), r"\(1, 3\), \(2,\)"),
        (lambda: best_of_n.fit([-1, 2], [1, 2], "bon"), ">= 0"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
