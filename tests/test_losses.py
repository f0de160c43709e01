"""Losses against NumPy in double precision, their gradients against closed forms, and what happens at extremes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scores import CASES, FIELDS, YAML, D, Section, cast, head_gradient, names, pairs, reward_gradients, stacked, value

from pipeline import losses
from pipeline.losses import PairScores, make

Array = np.ndarray


# --- oracles ---


def log_sigmoid(x: Array) -> Array:
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def sigmoid(x: Array) -> Array:
    return np.exp(log_sigmoid(x))


@dataclass
class Arrays:
    """A step in double precision."""

    r_w: Array
    r_l: Array
    h_w: Array
    h_l: Array
    m: Array
    done: float | None

    @property
    def delta(self) -> Array:
        return self.r_w - self.r_l

    @property
    def z(self) -> Array:
        return self.delta / np.hypot(self.r_w, self.r_l)


def arrays(s: PairScores) -> Arrays:
    return Arrays(*(getattr(s, name).detach().double().numpy() for name in FIELDS), done=s.done)


TERMS: dict[str, Callable[..., Array]] = {
    "bt": lambda b: -log_sigmoid(b.delta),
    "margin": lambda b: -log_sigmoid(b.delta - b.m),
    "margin_out": lambda b: -np.maximum(b.m, 0) * log_sigmoid(b.delta),
    "label_smoothing": lambda b, alpha: -(1 - alpha) * log_sigmoid(b.delta) - alpha * log_sigmoid(-b.delta),
    "hinge": lambda b, margin: np.maximum(0, margin - b.delta),
    "bt_norm": lambda b: -log_sigmoid(b.z),
    "dr": lambda b: -log_sigmoid(b.delta) - log_sigmoid(b.r_w) - log_sigmoid(-b.r_l),
}


def group_means(b: Arrays, group: int | None) -> list[tuple[slice, float]]:
    """Each group's pairs and the mean of its rewards, one after the other."""
    g = group or len(b.r_w)
    slices = [slice(at, at + g) for at in range(0, len(b.r_w), g)]
    return [(at, float(np.concatenate([b.r_w[at], b.r_l[at]]).mean())) for at in slices]


def bsr(b: Arrays, coef: float, group: int | None, times_group: bool) -> float:
    squares = [mean**2 for _, mean in group_means(b, group)]
    return coef * ((group or len(b.r_w)) if times_group else 1) * float(np.mean(squares))


def bsr_var(b: Arrays, coef: float, group: int | None) -> float:
    return coef * float(np.mean([np.concatenate([b.r_w[at], b.r_l[at]]).var() for at, _ in group_means(b, group)]))


def line(b: Arrays, start: float, end: float, share: float) -> float:
    """λ of a schedule."""
    assert b.done is not None
    return float(np.interp(b.done, [0, share], [start, end]))


class AdaptiveOracle:
    def __init__(self, coef: float, target: float, rate: float, factor: float, decay: float, group: int | None):
        self.log, self.around, self.width = math.log(coef), math.log(coef), math.log(factor)
        self.target, self.rate, self.decay, self.group = target, rate, decay, group
        self.average: float | None = None

    def __call__(self, b: Arrays) -> float:
        square = bsr(b, 1.0, self.group, False)
        made = math.exp(self.log) * square
        before = square if self.average is None else self.average
        self.average = self.decay * before + (1 - self.decay) * square
        self.log += self.rate * (0.5 * math.log(self.average) - math.log(self.target))
        self.log = min(max(self.log, self.around - self.width), self.around + self.width)
        return made

    def closed(self, b: Arrays) -> tuple[Array, Array]:
        return closed_bsr(b, math.exp(self.log), self.group, False)


PENALTIES: dict[str, Callable[..., float]] = {
    "bsr": bsr,
    "bsr_var": bsr_var,
    "bsr_schedule": lambda b, start, end, share, group: bsr(b, line(b, start, end, share), group, False),
    "bsr_adaptive": AdaptiveOracle.__call__,
    "center": lambda b, coef: coef * float(((b.r_w + b.r_l) ** 2).mean()),
}


class NormBtOracle:
    def __init__(self, distance: str, eps: float, mu: str, decay: float, power: float, cap: Any, mean_one: bool):
        self.distance, self.eps, self.kind, self.decay = distance, eps, mu, decay
        self.power, self.cap, self.mean_one = power, cap, mean_one
        self.mu: float | None = None

    def __call__(self, b: Arrays) -> Array:
        d = np.sqrt(((b.h_w - b.h_l) ** 2).sum(1))
        if self.distance == "cosine":
            d = 1 - (b.h_w * b.h_l).sum(1) / np.sqrt((b.h_w**2).sum(1) * (b.h_l**2).sum(1))
        before = d.mean() if self.mu is None else self.mu
        self.mu = self.decay * before + (1 - self.decay) * d.mean()
        mu = {"ema": before, "batch": d.mean(), "one": 1.0}[self.kind]
        w = (mu / (d + self.eps)) ** self.power
        w = w if self.cap is None else np.minimum(w, self.cap)
        return w / w.mean() if self.mean_one else w


def own(part: Section) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in ("name", "of")}


class Oracle:
    """mean(w ℓ) + penalties, and its derivative by every reward."""

    def __init__(self, at: Section):
        *self.on, self.term = stacked(at)
        self.weights = [NormBtOracle(**own(part)) for part in self.on if part["name"] == "norm_bt"]
        self.penalties = [self.penalty(part["name"], own(part)) for part in self.on if part["name"] != "norm_bt"]

    def penalty(self, name: str, constants: Section) -> tuple[Callable[[Arrays], float], Callable[[Arrays], Any]]:
        """Its value and its closed form."""
        if name == "bsr_adaptive":
            made = AdaptiveOracle(**constants)
            return made, made.closed
        return partial(PENALTIES[name], **constants), partial(CLOSED_PENALTIES[name], **constants)

    def weight(self, b: Arrays) -> Array:
        return np.prod([weight(b) for weight in self.weights], axis=0) * np.ones(len(b.r_w))

    def __call__(self, b: Arrays) -> float:
        values = self.weight(b) * TERMS[self.term["name"]](b, **own(self.term))
        return float(values.mean()) + sum(penalty(b) for penalty, _ in self.penalties)

    def gradients(self, b: Arrays) -> tuple[Array, Array]:
        on_w, on_l = CLOSED[self.term["name"]](b, **own(self.term))
        weight = self.weight(b) / len(b.r_w)
        more = [closed(b) for _, closed in self.penalties]
        return weight * on_w + sum(on for on, _ in more), weight * on_l + sum(on for _, on in more)


# --- closed forms: derivatives of each pair's term, and of a penalty, by r_w and r_l ---


def along_delta(pull: Array) -> tuple[Array, Array]:
    return -pull, pull


def closed_bt_norm(b: Arrays) -> tuple[Array, Array]:
    both = sigmoid(-b.z) * (b.r_w + b.r_l) / np.hypot(b.r_w, b.r_l) ** 3
    return -both * b.r_l, both * b.r_w


CLOSED: dict[str, Callable[..., tuple[Array, Array]]] = {
    "bt": lambda b: along_delta(sigmoid(-b.delta)),
    "margin": lambda b: along_delta(sigmoid(b.m - b.delta)),
    "margin_out": lambda b: along_delta(np.maximum(b.m, 0) * sigmoid(-b.delta)),
    "label_smoothing": lambda b, alpha: along_delta(sigmoid(-b.delta) - alpha),
    "hinge": lambda b, margin: along_delta((b.delta < margin).astype(float)),
    "bt_norm": closed_bt_norm,
    "dr": lambda b: (-sigmoid(-b.delta) - sigmoid(-b.r_w), sigmoid(-b.delta) + sigmoid(b.r_l)),
}


def closed_bsr(b: Arrays, coef: float, group: int | None, times_group: bool) -> tuple[Array, Array]:
    """λ (mean of the group) / n, for λ in its dialect."""
    made = np.empty(len(b.r_w))
    for at, mean in group_means(b, group):
        made[at] = coef * ((group or len(b.r_w)) if times_group else 1) * mean / len(b.r_w)
    return made, made


def closed_bsr_var(b: Arrays, coef: float, group: int | None) -> tuple[Array, Array]:
    """λ (r − mean of the group) / n."""
    mean, _ = closed_bsr(b, 1.0, group, False)
    return coef * (b.r_w / len(b.r_w) - mean), coef * (b.r_l / len(b.r_w) - mean)


def closed_center(b: Arrays, coef: float) -> tuple[Array, Array]:
    made = 2 * coef * (b.r_w + b.r_l) / len(b.r_w)
    return made, made


CLOSED_PENALTIES: dict[str, Callable[..., tuple[Array, Array]]] = {
    "bsr": closed_bsr,
    "bsr_var": closed_bsr_var,
    "bsr_schedule": lambda b, start, end, share, group: closed_bsr(b, line(b, start, end, share), group, False),
    "bsr_adaptive": AdaptiveOracle.closed,
    "center": closed_center,
}


def test_every_loss_has_a_yaml_an_oracle_and_a_closed_form() -> None:
    assert {**TERMS, "norm_bt": None, **PENALTIES}.keys() == losses.LOSSES.keys() == YAML.keys()
    assert CLOSED.keys() == TERMS.keys() and CLOSED_PENALTIES.keys() == PENALTIES.keys()
    assert all(values["name"] == name for name, values in YAML.items())


def sizes(case: str) -> tuple[int, ...]:
    return (2, 32) if any(part.get("group") for part in stacked(CASES[case])) else (1, 2, 17)


EACH = [(case, n) for case in CASES for n in sizes(case)]


@pytest.mark.parametrize(("case", "n"), EACH)
def test_a_loss_equals_its_oracle_step_by_step(case: str, n: int) -> None:
    loss, oracle = make(**CASES[case]), Oracle(CASES[case])
    for step in range(5):
        s = pairs(n, seed=step, scale=1.0 + step)  # distances that drift: a moving average lags behind
        assert value(loss, s) == pytest.approx(oracle(arrays(s)), rel=5e-6)


@pytest.mark.parametrize(("case", "n"), EACH)
def test_gradients_of_rewards_and_head_are_the_closed_forms(case: str, n: int) -> None:
    """A linear head's gradient is the sum over rewards of their derivative times their representation."""
    s = pairs(n, seed=n, dtype=torch.float64)
    w = torch.randn(D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    s = replace(s, chosen=s.h_chosen @ w, rejected=s.h_rejected @ w)
    b = arrays(s)
    on_w, on_l = Oracle(CASES[case]).gradients(b)
    for got, expected in zip(reward_gradients(make(**CASES[case]), s), (on_w, on_l), strict=True):
        assert np.abs(got.numpy() - expected).max() <= 1e-9
    assert np.abs(head_gradient(make(**CASES[case]), s, w).numpy() - (on_w @ b.h_w + on_l @ b.h_l)).max() <= 1e-9


def papers_head_gradient(name: str, s: PairScores, w: torch.Tensor) -> torch.Tensor:
    """As the papers write them. BSR eq. 19: −σ(−Δ)(h_w − h_l); its penalty: 2λ (mean r)(mean h). NormBT: −μ σ(−Δ) times
    the unit vector, on the first step with μ = mean ‖h_w − h_l‖."""
    difference = s.h_chosen - s.h_rejected
    length = difference.norm(dim=1)
    pull = torch.sigmoid(-difference @ w)
    if name == "norm_bt":
        return -(length.mean() * pull / (length + 1e-6)) @ difference / len(pull)
    gradient = -pull @ difference / len(pull)
    if name == "bsr":
        mean = torch.cat([s.h_chosen, s.h_rejected]).mean(0)
        gradient += YAML["bsr"]["coef"] * 2 * (mean @ w) * mean
    return gradient


@pytest.mark.parametrize("name", ["bt", "bsr", "norm_bt"])
@pytest.mark.parametrize("n", [1, 2, 32])
def test_the_head_gradient_is_the_papers_in_single_precision_too(name: str, n: int) -> None:
    s, w = pairs(n, seed=n), torch.randn(D, generator=torch.Generator().manual_seed(9))
    difference = head_gradient(make(**YAML[name]), s, w) - papers_head_gradient(name, s, w)
    assert difference.abs().max() <= 1e-6


# --- extremes ---


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("delta", [100.0, -100.0])
def test_a_huge_difference_gives_finite_values_and_the_closed_gradient(case: str, delta: float) -> None:
    n = sizes(case)[0]
    s = replace(pairs(n), chosen=torch.full((n,), delta / 2 + 1), rejected=torch.full((n,), 1 - delta / 2))
    oracle = Oracle(CASES[case])
    expected = oracle.gradients(arrays(s))
    assert value(make(**CASES[case]), s) == pytest.approx(Oracle(CASES[case])(arrays(s)), rel=1e-5, abs=1e-6)
    for got, closed in zip(reward_gradients(make(**CASES[case]), s), expected, strict=True):
        assert np.allclose(got.numpy(), closed, rtol=1e-5, atol=1e-6)


def test_bt_is_linear_where_it_is_wrong_and_flat_where_it_is_right() -> None:
    for delta, loss, pull in ((100.0, 0.0, 0.0), (-100.0, 100.0, 1.0)):
        s = replace(pairs(1), chosen=torch.tensor([delta / 2]), rejected=torch.tensor([-delta / 2]))
        assert value(make("bt"), s) == pytest.approx(loss, abs=1e-6)
        assert float(reward_gradients(make("bt"), s)[0]) == pytest.approx(-pull, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", ["one", "every"])
def test_identical_representations_stay_finite(case: str, which: str) -> None:
    """NormBT's weight is then μ/ε, about 1e6. (The RM stage drops identical pairs before training.)"""
    s = pairs(4)
    same = s.h_chosen if which == "every" else torch.cat([s.h_chosen[:1], s.h_rejected[1:]])
    s = replace(s, h_rejected=same)
    w = torch.randn(D, generator=torch.Generator().manual_seed(1))
    assert math.isfinite(value(make(**CASES[case]), s))
    assert head_gradient(make(**CASES[case]), s, w).isfinite().all()


PULL_ON_ONE_PAIR = {"bsr", "bsr_schedule", "bsr_adaptive", "center", "dr", "bt_norm"}


ALONE = [case for case in CASES if sizes(case)[0] == 1 and not names(case) & PULL_ON_ONE_PAIR]


@pytest.mark.parametrize("case", ALONE)
def test_an_identical_pair_does_not_move_the_head(case: str) -> None:
    """Its gradient is h_w − h_l times something finite."""
    s = pairs(1)
    w = torch.randn(D, generator=torch.Generator().manual_seed(1))
    assert head_gradient(make(**CASES[case]), replace(s, h_rejected=s.h_chosen), w).abs().max() == 0


def test_identical_pairs_weigh_a_lot_or_nothing() -> None:
    s = pairs(4)
    one = replace(s, h_rejected=torch.cat([s.h_chosen[:1], s.h_rejected[1:]]))
    assert value(make(**CASES["norm_bt"]), one) > 1e4
    assert 0 < value(make(**CASES["norm_bt cap"]), one) < 10
    assert value(make(**CASES["norm_bt"]), replace(s, h_rejected=s.h_chosen)) == 0  # μ is 0


def test_rewards_of_zero_stay_finite_under_bt_norm() -> None:
    zero = torch.zeros(3)
    s = replace(pairs(3), chosen=zero, rejected=zero)
    assert value(make("bt_norm"), s) == pytest.approx(math.log(2))
    assert all(g.isfinite().all() for g in reward_gradients(make("bt_norm"), s))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_gives_single_precision_out(case: str, dtype: torch.dtype) -> None:
    """The same as if the inputs had been cast up before anything was computed."""
    low = cast(pairs(16), dtype)
    made = make(**CASES[case])(low)
    assert made.dtype == torch.float32 and made.shape == ()
    assert torch.equal(made, make(**CASES[case])(cast(low, torch.float32)))
