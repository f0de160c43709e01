"""Statistics: quantiles and p-values by hand, and by simulation how often an interval holds."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from pipeline import stats

Noise = tuple[float, float, float]  # of a loss with the SFT model, of a loss with the seed, of items

NOISES: list[Noise] = [(0, 1, 1), (0.5, 1, 1), (1, 1, 0), (2, 1, 1), (0, 0, 1), (1, 0, 0.2)]


def spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


# --- intervals ---


def test_an_interval_is_students_of_the_differences():
    values = [0.1, 0.3, 0.2, 0.6]
    found = stats.estimate(values, range(4))
    half = 3.182446 * spread(values) / 2  # t(0.975; 3), from a printed table
    assert (found.mean, found.unit, found.freedom) == (pytest.approx(0.3), "seeds", 3)
    assert (found.low, found.high) == (pytest.approx(0.3 - half, abs=1e-6), pytest.approx(0.3 + half, abs=1e-6))


def test_seeds_of_one_sft_model_count_once():
    found = stats.estimate([1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 0, 2])
    assert found.means == (3.0, 3.0, 6.0) and found.mean == 4.0 and found.unit == "SFT models"


def test_with_one_sft_model_the_seeds_are_units_and_it_is_said():
    found = stats.estimate([1.0, 2.0, 3.0], [4, 4, 4])
    assert found.freedom == 2 and found.unit == "seeds of one SFT model"


def test_one_unit_has_no_interval():
    with pytest.raises(ValueError, match="no spread"):
        stats.estimate([1.0], [0])


def test_the_bootstrap_t_follows_skew_and_needs_eight_units():
    skewed = [0, 0, 0, 0, 0, 0.1, 0.2, 5]
    student, found = (stats.estimate(skewed, range(8), bootstrap) for bootstrap in (False, True))
    assert found.mean == student.mean
    assert found.high - found.mean > 1.5 * (found.mean - found.low)
    assert found.high > student.high
    with pytest.raises(ValueError, match="8 are needed"):
        stats.estimate(skewed[:7], range(7), bootstrap=True)
    flat = stats.estimate([2.0] * 8, range(8), bootstrap=True)
    assert (flat.low, flat.high) == (2, 2)


# --- how often an interval holds ---


def differences(rng: np.random.Generator, seeds: int, noise: Noise, replicas: int = 4) -> np.ndarray:
    """(seeds,) accuracy differences of two losses without a true one. What a seed or an SFT model does to both is
    gone; each seed has 400 items of its own, answered by both, of which `items` of a half differ by luck."""
    model, seed, items = noise
    of_model = rng.normal(0, model, min(replicas, seeds))
    own = of_model[np.arange(seeds) % replicas] + rng.normal(0, seed, seeds)
    luck = rng.multinomial(400, [items / 4, items / 4, 1 - items / 2], seeds)
    return 0.02 * own + (luck[:, 0] - luck[:, 1]) / 400


def coverage(seeds: int, noise: Noise, runs: int, alone: bool = False) -> float:
    """`alone`: as if each seed had an SFT model of its own."""
    rng = np.random.default_rng([seeds, runs])
    replica = [seed if alone else seed % 4 for seed in range(seeds)]
    found = (stats.estimate(differences(rng, seeds, noise), replica) for _ in range(runs))
    return sum(e.low <= 0 <= e.high for e in found) / runs


def within(share: float, low: float, high: float, runs: int) -> bool:
    """Is a share between low and high compatible with what was counted? To 99.9 % at either side."""
    count = round(share * runs)
    return bool(scipy_stats.binom.sf(count - 1, runs, high) > 1e-3 and scipy_stats.binom.cdf(count, runs, low) > 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8, 10])
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_an_interval_holds_as_often_as_it_says(seeds: int, noise: Noise):
    share = coverage(seeds, noise, 6000)
    assert 0.93 <= share <= 0.97 and within(share, 0.94, 0.96, 6000)


@pytest.mark.parametrize("seeds", [5, 8])
def test_an_interval_holds_where_the_gain_depends_on_the_sft_model(seeds: int):
    noise = (1, 1, 0.2)
    assert within(coverage(seeds, noise, 600), 0.94, 0.96, 600)
    assert not within(coverage(8, noise, 600, alone=True), 0.93, 0.97, 600)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "share"), [(8, 0.89), (10, 0.85)])
def test_seeds_taken_as_independent_cover_too_little(seeds: int, share: float):
    """What the module says of the simpler interval."""
    assert coverage(seeds, (1, 1, 0), 6000, alone=True) == pytest.approx(share, abs=0.01)


# --- tests ---


def test_a_p_value_and_its_interval_say_the_same():
    found = stats.estimate([0.1, 0.3, 0.2, 0.6], range(4))
    assert stats.p_value(found, found.low) == pytest.approx(0.05) == stats.p_value(found, found.high)
    assert stats.p_value(found) == pytest.approx(0.06914, abs=5e-6)  # t = 2.77746


def test_without_any_spread_a_p_value_is_certain():
    found = stats.estimate([0.5, 0.5], range(2))
    assert (stats.p_value(found), stats.p_value(found, 0.5)) == (0, 1)


def test_signs_are_flipped_in_all_ways():
    values = [0.3, -0.1, 0.2, 0.5, 0.4, -0.2, 0.1, 0.6]
    flips = itertools.product((1, -1), repeat=8)
    sums = [abs(sum(sign * v for sign, v in zip(signs, values, strict=True))) for signs in flips]
    expected = sum(s >= sum(values) - 1e-9 for s in sums) / 256
    assert stats.sign_flip(stats.estimate(values, range(8))) == expected
    assert stats.sign_flip(stats.estimate([1.0] * 8, range(8))) == 2 / 256
    assert stats.sign_flip(stats.estimate([1.0, 1.1] * 4, range(8)), than=1.05) == 1


def test_many_signs_are_flipped_at_random_and_never_to_nothing():
    assert stats.sign_flip(stats.estimate([1.0] * 40, range(40))) == 2**-16


@pytest.mark.parametrize("replica", [range(7), [i % 4 for i in range(16)]], ids=["7 seeds", "4 SFT models"])
def test_few_units_are_not_flipped(replica: list[int]):
    assert stats.sign_flip(stats.estimate(np.arange(len(replica)), replica)) is None


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.5]) == [1, 1]
    assert stats.holm([]) == []


# --- power ---


@pytest.mark.parametrize("n", [3, 8, 30])
def test_a_detectable_difference_is_found_in_four_of_five_cases(n: int):
    found = stats.estimate(np.arange(n), range(n))
    shift = stats.detectable(found) / found.error
    beyond = scipy_stats.t.ppf(0.975, n - 1)
    assert scipy_stats.nct.sf(beyond, n - 1, shift) == pytest.approx(0.8, abs=1e-4)


def test_seeds_needed_are_the_fewest_that_detect_it():
    found = stats.estimate([0, 1, 2, 3, 4, 5.0], range(6))
    known = {0.5: 34, 0.8: 15, 1.0: 10}  # {difference in standard deviations: pairs}, from printed tables
    assert {d: stats.seeds_needed(found, d * spread([0, 1, 2, 3, 4, 5])) for d in known} == known
    assert stats.seeds_needed(found, -1.5) == stats.seeds_needed(found, 1.5)
    assert stats.seeds_needed(found, 1e-3) is None is stats.seeds_needed(found, 0)
    assert stats.seeds_needed(found, stats.detectable(found)) == 6


# --- one model ---


def interval(items: ArrayLike, prompt: ArrayLike) -> tuple[float, float]:
    values = np.asarray(items, float)
    return stats.items_only(lambda at: {"mean": values[at].mean()}, prompt)["mean"]


def test_items_of_a_prompt_are_drawn_together():
    """Ten items a prompt that agree are one item."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(2, size=200)
    items, prompt = np.repeat(prompts, 10), np.repeat(np.arange(200), 10)
    low, high = interval(items, prompt)
    expected = 1.96 * math.sqrt(prompts.mean() * (1 - prompts.mean()) / 200)
    assert high - prompts.mean() == pytest.approx(expected, rel=0.2) == prompts.mean() - low
    alone = interval(items, np.arange(2000))
    assert alone[1] - alone[0] < (high - low) / 2.5


def test_prompts_of_many_items_weigh_as_many():
    """Fifty prompts of nine right items, fifty of one wrong: 0.9, not a half."""
    low, high = interval([1] * 450 + [0] * 50, [*np.repeat(np.arange(50), 9), *range(50, 100)])
    assert 0.8 < low < 0.9 < high < 1


def test_each_measure_has_its_own_interval_whatever_the_order_of_items():
    values = np.arange(12.0)
    found = stats.items_only(lambda at: {"n": float(len(at)), "mean": values[at].mean()}, [2, 0, 1] * 4)
    assert found["n"] == (12.0, 12.0)
    assert found["mean"] == (values[0::3].mean(), values[2::3].mean())  # one prompt alone, in 1 of 27 draws each
