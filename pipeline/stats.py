"""How sure a difference between two losses is, from a handful of seeds. NumPy and SciPy; no files.

Two rows of a table share seed, pairs, head, evaluation items and SFT model, so their difference at a seed is one
number, and items are drawn anew for each seed: their noise is in it. Seeds i and i + replicas start from one SFT
model, and what a loss gains may depend on that model. Then their differences go together, and an interval over seeds
is too narrow: with 4 models and 8 seeds it covers 89 % instead of 95 % if the model matters as much as the rest, with
10 seeds 85 %. The mean of each model's differences is free of that: an interval over these means covers 95 % whatever
the share of the model (tests/test_stats.py), at the price of 1.3 times the width where the model does not matter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc, stdtr, stdtrit

LEVEL = 0.95
POWER = 0.8
ENOUGH_TO_FLIP = 8  # units: below, the smallest possible p-value is too large for a family of six
MOST_SEEDS = 1000
DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval."""

    mean: float
    low: float
    high: float
    error: float  # standard error
    means: tuple[float, ...]  # of the units
    unit: str  # what was taken as independent, in the plural

    @property
    def freedom(self) -> int:
        return len(self.means) - 1


def units(values: ArrayLike, replica: Sequence[int]) -> tuple[NDArray, str]:
    """What is independent: the mean over each SFT model's seeds. Where all come from one SFT model the seeds are, and
    nothing is said about another model."""
    v, of = np.asarray(values, float), np.asarray(replica)
    assert v.shape == of.shape and v.ndim == 1, "one SFT model for each value"
    models = np.unique(of)
    if len(models) == len(v):
        return v, "seeds"
    if len(models) == 1:
        return v, "seeds of one SFT model"
    return np.array([v[of == model].mean() for model in models]), "SFT models"


def estimate(values: ArrayLike, replica: Sequence[int], bootstrap: bool = False) -> Estimate:
    """Of per-seed values or paired differences, by Student's t; `bootstrap`: by the bootstrap-t, for skewed ones.
    Needs two units."""
    of, unit = units(values, replica)
    if len(of) < 2:
        raise ValueError("one unit has no spread")
    mean, error = float(of.mean()), float(of.std(ddof=1)) / math.sqrt(len(of))
    low, high = bootstrap_t(of) if bootstrap else (stdtrit(len(of) - 1, q) for q in (_tail(), 1 - _tail()))
    return Estimate(mean, mean + low * error, mean + high * error, error, tuple(of.tolist()), unit)


def bootstrap_t(of: NDArray, draws: int = DRAWS) -> tuple[float, float]:
    """What takes the place of Student's quantiles: those of t among resamples, turned round."""
    if len(of) < ENOUGH_TO_FLIP:
        raise ValueError(f"{len(of)} units have too few resamples; {ENOUGH_TO_FLIP} are needed")
    drawn = np.random.default_rng(0).choice(of, (draws, len(of)))
    spread = drawn.std(axis=1, ddof=1)
    t = (drawn.mean(axis=1) - of.mean())[spread > 0] / (spread[spread > 0] / math.sqrt(len(of)))
    if not len(t):
        return 0.0, 0.0
    low, high = np.quantile(t, (_tail(), 1 - _tail()))
    return -float(high), -float(low)


def _tail() -> float:
    return (1 - LEVEL) / 2


# --- tests ---


def p_value(found: Estimate, than: float = 0.0) -> float:
    """Two-sided, by Student's t."""
    if found.error == 0:
        return float(found.mean == than)
    return float(2 * stdtr(found.freedom, -abs(found.mean - than) / found.error))


def sign_flip(found: Estimate, than: float = 0.0) -> float | None:
    """Two-sided and exact where each unit's sign could as well be the other; None below 8 units. Beyond 20 the flips
    are drawn."""
    away = np.asarray(found.means) - than
    n = len(away)
    if n < ENOUGH_TO_FLIP:
        return None
    if n <= 20:
        sums = np.zeros(1)
        for value in away:
            sums = np.concatenate([sums + value, sums - value])
    else:
        sums = np.random.default_rng(0).choice((-1.0, 1.0), (2**16, n)) @ away
        sums[0] = away.sum()  # what was seen is one of them
    return float(np.mean(np.abs(sums) >= abs(away.sum()) * (1 - 1e-12)))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values of one family: at most 5 % of families with no effect have one of 0.05 or less."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


# --- power ---


def detectable(found: Estimate) -> float:
    """The smallest true difference that a new set of as many units, as noisy as these, would tell from none in 80 % of
    cases."""
    return _shift(found.freedom) * found.error


def seeds_needed(found: Estimate, difference: float) -> int | None:
    """How many units, as noisy as these, would tell this difference from none in 80 % of cases; None: over 1,000. An
    SFT model for each seed counts in full."""
    spread = found.error * math.sqrt(len(found.means))
    if difference == 0:
        return None
    enough = (n for n in range(2, MOST_SEEDS + 1) if _shift(n - 1) * spread / math.sqrt(n) <= abs(difference))
    return next(enough, None)


@cache
def _shift(freedom: int) -> float:
    """In standard errors: of the noncentral t that lies beyond the interval's quantile with probability POWER."""
    return float(nctdtrinc(freedom, 1 - POWER, stdtrit(freedom, 1 - _tail())))


# --- one model ---


def items_only(
    measure: Callable[[NDArray[np.intp]], Mapping[str, float]], prompt: ArrayLike, draws: int = 400
) -> dict[str, tuple[float, float]]:
    """An interval for each measure of one model's items, by a bootstrap over prompts: other items would have been
    drawn. Says nothing about another seed, so it compares no losses. `measure` gets the places of a draw's items."""
    of = np.unique(np.asarray(prompt), return_inverse=True)[1]
    members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = rng.integers(len(members), size=len(members))
        for name, value in measure(np.concatenate([members[i] for i in drawn])).items():
            found.setdefault(name, []).append(value)
    low, high = _tail(), 1 - _tail()
    return {name: (float(np.nanquantile(v, low)), float(np.nanquantile(v, high))) for name, v in found.items()}
