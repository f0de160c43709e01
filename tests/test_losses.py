"""Losses against NumPy in double precision, gradients against the papers' closed forms, and what each loss promises."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import losses
from pipeline.advantages import leave_one_out
from pipeline.config import CONF, load_yaml
from pipeline.losses import PairScores

D = 8
YAML = {path.stem: load_yaml(path) for path in sorted((CONF / "loss").glob("*.yaml"))}


def pairs(n: int, seed: int = 0, scale: float = 1.0) -> PairScores:
    """n random pairs whose rewards are a random head's."""
    generator = torch.Generator().manual_seed(seed)
    h = scale * torch.randn(2, n, D, generator=generator) + 0.3  # a mean that is not zero, else BSR has little to say
    w = torch.randn(D, generator=generator)
    return PairScores(h[0] @ w, h[1] @ w, h[0], h[1])


def equidistant(n: int, distance: float, seed: int = 0) -> PairScores:
    s = pairs(n, seed)
    step = torch.zeros(n, D)
    step[torch.arange(n), torch.arange(n) % D] = distance
    return replace(s, h_rejected=s.h_chosen + step)


# --- oracles ---


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


@dataclass
class Arrays:
    """A batch in double precision."""

    chosen: np.ndarray
    rejected: np.ndarray
    h_chosen: np.ndarray
    h_rejected: np.ndarray


def arrays(s: PairScores) -> Arrays:
    return Arrays(*(getattr(s, name).double().numpy() for name in ("chosen", "rejected", "h_chosen", "h_rejected")))


class BtOracle:
    def __call__(self, b: Arrays) -> float:
        return float(-log_sigmoid(b.chosen - b.rejected).mean())


class BsrOracle:
    def __init__(self, coef: float):
        self.coef = coef

    def __call__(self, b: Arrays) -> float:
        return BtOracle()(b) + self.coef * float(np.concatenate([b.chosen, b.rejected]).mean()) ** 2


class NormBtOracle:
    def __init__(self, decay: float, eps: float):
        self.decay, self.eps, self.mu = decay, eps, None

    def __call__(self, b: Arrays) -> float:
        distance = np.sqrt(((b.h_chosen - b.h_rejected) ** 2).sum(1))
        mu = distance.mean() if self.mu is None else self.mu
        self.mu = self.decay * mu + (1 - self.decay) * distance.mean()
        return float((-mu / (distance + self.eps) * log_sigmoid(b.chosen - b.rejected)).mean())


ORACLES: dict[str, Callable[..., Callable[[Arrays], float]]] = {
    "bt": BtOracle,
    "bsr": BsrOracle,
    "norm_bt": NormBtOracle,
}


def both(name: str) -> tuple[losses.Loss, Callable[[Arrays], float]]:
    """The loss as its YAML makes it, and the oracle with the same constants."""
    constants = {k: v for k, v in YAML[name].items() if k != "name"}
    return losses.make(**YAML[name]), ORACLES[name](**constants)


def test_every_loss_has_a_yaml_and_an_oracle() -> None:
    assert set(YAML) == set(ORACLES) == set(losses.LOSSES)
    assert all(values["name"] == name for name, values in YAML.items())


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("n", [1, 2, 17])
def test_a_loss_equals_its_oracle_step_by_step(name: str, n: int) -> None:
    loss, oracle = both(name)
    for step in range(6):
        batch = pairs(n, seed=step, scale=1.0 + step)  # distances that drift: the EMA lags behind
        assert float(loss(batch)) == pytest.approx(oracle(arrays(batch)), rel=2e-6)


def test_the_constants_are_those_of_the_yaml() -> None:
    s = pairs(5)
    mean = torch.cat([s.chosen, s.rejected]).mean()
    bsr, norm_bt = losses.make(**YAML["bsr"]), losses.make(**YAML["norm_bt"])
    assert float((bsr(s) - losses.bt(s)) / mean.square()) == pytest.approx(YAML["bsr"]["coef"], rel=1e-4)
    assert isinstance(norm_bt, losses.NormBT)
    assert (norm_bt.decay, norm_bt.eps) == (YAML["norm_bt"]["decay"], YAML["norm_bt"]["eps"]) == (0.9, 1e-6)


# --- gradients of the head ---


def head_gradient(loss: losses.Loss, s: PairScores, w: Tensor) -> Tensor:
    w = w.clone().requires_grad_()
    value = loss(replace(s, chosen=s.h_chosen @ w, rejected=s.h_rejected @ w))
    return torch.autograd.grad(value, w)[0]


def bt_terms(s: PairScores, w: Tensor) -> Tensor:
    """(n, d): σ(−Δ)(h_l − h_w) of each pair."""
    delta = (s.h_chosen - s.h_rejected) @ w
    return torch.sigmoid(-delta)[:, None] * (s.h_rejected - s.h_chosen)


def closed_bt(s: PairScores, w: Tensor) -> Tensor:
    return bt_terms(s, w).mean(0)


def closed_bsr(s: PairScores, w: Tensor) -> Tensor:
    """BT's + λ · 2 · (mean reward) · (mean representation): d/dw (mean(h)ᵀw)²."""
    mean_h = torch.cat([s.h_chosen, s.h_rejected]).mean(0)
    return closed_bt(s, w) + YAML["bsr"]["coef"] * 2 * (mean_h @ w) * mean_h


def closed_norm_bt(s: PairScores, w: Tensor) -> Tensor:
    """Each pair's BT gradient times its weight; on the first step μ is the batch's own mean distance."""
    distance = (s.h_chosen - s.h_rejected).norm(dim=1)
    weight = distance.mean() / (distance + YAML["norm_bt"]["eps"])
    return (weight[:, None] * bt_terms(s, w)).mean(0)


CLOSED = {"bt": closed_bt, "bsr": closed_bsr, "norm_bt": closed_norm_bt}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("n", [1, 2, 32])
def test_the_head_gradient_is_the_closed_form(name: str, n: int) -> None:
    s, w = pairs(n, seed=n), torch.randn(D, generator=torch.Generator().manual_seed(9))
    difference = head_gradient(losses.make(**YAML[name]), s, w) - CLOSED[name](s, w)
    assert difference.abs().max() <= 1e-6


def test_no_gradient_flows_through_the_weight_of_norm_bt() -> None:
    s = pairs(4)
    h_w, h_l = s.h_chosen.requires_grad_(), s.h_rejected.requires_grad_()
    r = torch.ones(4, requires_grad=True)
    losses.make(**YAML["norm_bt"])(PairScores(r, -r, h_w, h_l)).backward()
    assert h_w.grad is None and h_l.grad is None and r.grad is not None


# --- extremes ---


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("delta", [100.0, -100.0])
def test_a_huge_margin_gives_the_linear_or_the_flat_end(name: str, delta: float) -> None:
    """σ saturates: the gradient on r_w is 0 where the pair is right, minus its full weight where it is wrong."""
    r_w, r_l = torch.tensor([delta / 2], requires_grad=True), torch.tensor([-delta / 2])
    s = replace(pairs(1), chosen=r_w, rejected=r_l)
    value = losses.make(**YAML[name])(s)
    value.backward()
    assert float(value.detach()) == pytest.approx(max(0.0, -delta), rel=1e-5, abs=1e-6)
    assert r_w.grad is not None
    assert float(r_w.grad) == pytest.approx(-1.0 if delta < 0 else 0.0, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", YAML)
def test_identical_representations_stay_finite(name: str) -> None:
    """NormBT's weight is then μ/ε, about 1e6: the loss is huge but finite, and the gradient of the head is exactly 0,
    since h_w − h_l is. (The RM stage drops identical pairs before training.) If all pairs are identical, μ is 0 and so
    is the loss."""
    s = pairs(3)
    one = replace(s, h_rejected=torch.cat([s.h_chosen[:1], s.h_rejected[1:]]))
    every = replace(s, h_rejected=s.h_chosen)
    w = torch.randn(D, generator=torch.Generator().manual_seed(1))
    for batch in (one, every):
        assert math.isfinite(losses.make(**YAML[name])(batch))
        assert head_gradient(losses.make(**YAML[name]), batch, w).isfinite().all()
    alone = PairScores(*(getattr(one, field)[:1] for field in ("chosen", "rejected", "h_chosen", "h_rejected")))
    if name != "bsr":  # whose other term does not look at differences
        assert head_gradient(losses.make(**YAML[name]), alone, w).abs().max() == 0
    if name == "norm_bt":
        assert float(losses.make(**YAML[name])(every)) == 0
        assert float(losses.make(**YAML[name])(one)) > 1e4


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_gives_single_precision_out(name: str, dtype: torch.dtype) -> None:
    """The same as if the inputs had been cast up before anything was computed."""
    s = pairs(16)
    fields = ("chosen", "rejected", "h_chosen", "h_rejected")
    low = PairScores(*(getattr(s, f).to(dtype) for f in fields))
    high = PairScores(*(getattr(low, f).float() for f in fields))
    value = losses.make(**YAML[name])(low)
    assert value.dtype == torch.float32 and value.shape == ()
    assert torch.equal(value, losses.make(**YAML[name])(high))


# --- what each promises ---


def shifted(s: PairScores, by: float) -> PairScores:
    return replace(s, chosen=s.chosen + by, rejected=s.rejected + by)


@pytest.mark.parametrize("name", ["bt", "norm_bt"])
def test_a_constant_added_to_all_rewards_changes_nothing(name: str) -> None:
    s = pairs(8)
    before, after = losses.make(**YAML[name])(s), losses.make(**YAML[name])(shifted(s, 4.0))
    assert float(after) == pytest.approx(float(before), rel=1e-5)


def test_a_constant_added_to_all_rewards_costs_under_bsr() -> None:
    s = pairs(8)
    s = shifted(s, -float(torch.cat([s.chosen, s.rejected]).mean()))
    cost = losses.bsr(shifted(s, 4.0), coef=0.01) - losses.bsr(s, coef=0.01)
    assert float(cost) == pytest.approx(0.01 * 4.0**2, rel=1e-4)


def test_bsr_does_not_pull_on_the_margin() -> None:
    """Its penalty's gradient is the same for all 2n rewards, so for each pair it is zero along Δ = r_w − r_l."""
    s = pairs(6)
    r_w, r_l = s.chosen.requires_grad_(), s.rejected.requires_grad_()
    scored = replace(s, chosen=r_w, rejected=r_l)
    on_w, on_l = torch.autograd.grad(losses.bsr(scored, coef=10.0) - losses.bt(scored), (r_w, r_l))
    mean = torch.cat([r_w, r_l]).detach().mean()
    assert torch.allclose(on_w, on_l, atol=1e-6)
    assert torch.allclose(on_w, (10.0 * 2 * mean / 12).expand(6), rtol=1e-4)


def test_for_one_pair_the_bsr_penalty_is_a_quarter_of_lambda_times_the_squared_sum() -> None:
    s = pairs(1)
    penalty = losses.bsr(s, coef=0.8) - losses.bt(s)
    assert float(penalty) == pytest.approx(0.8 / 4 * float(s.chosen + s.rejected) ** 2, rel=1e-4)


def test_norm_bt_of_equal_distances_is_bt() -> None:
    loss = losses.make(**YAML["norm_bt"])
    for step in range(3):
        s = equidistant(12, distance=2.5, seed=step)
        assert float(loss(s)) == pytest.approx(float(losses.bt(s)), rel=1e-5)


def test_the_gradient_of_a_pair_under_norm_bt_is_parallel_to_that_under_bt() -> None:
    """Also for the body: the weight is a positive number, so both gradients on (h_w, h_l) point the same way."""
    torch.manual_seed(0)
    body = nn.Linear(D, D)
    w = torch.randn(D)
    for seed in range(5):
        s = pairs(1, seed)
        flat = []
        for name in ("bt", "norm_bt"):
            loss = losses.make(**YAML[name])
            if isinstance(loss, losses.NormBT):
                loss.mu.fill_(7.0)  # an EMA from elsewhere: the weight is not 1
            h_w, h_l = body(s.h_chosen), body(s.h_rejected)
            grads = torch.autograd.grad(loss(PairScores(h_w @ w, h_l @ w, h_w, h_l)), tuple(body.parameters()))
            flat.append(torch.cat([g.flatten() for g in grads]))
        assert float(torch.cosine_similarity(*flat, dim=0)) == pytest.approx(1.0, abs=1e-6)
        assert not torch.allclose(*flat)


def test_the_mean_weight_of_the_first_batch_is_at_least_one() -> None:
    """Jensen: mean(d) · mean(1/d) >= 1. With Δ = 0 everywhere NormBT is log 2 times the mean weight."""
    zero = torch.zeros(16)
    for seed in range(20):
        s = replace(pairs(16, seed), chosen=zero, rejected=zero)
        assert float(losses.make(**YAML["norm_bt"])(s)) / math.log(2) >= 1


def test_the_state_of_norm_bt_survives_saving() -> None:
    whole, first = losses.make(**YAML["norm_bt"]), losses.make(**YAML["norm_bt"])
    second = losses.make(**YAML["norm_bt"])
    assert isinstance(first, nn.Module) and isinstance(second, nn.Module)
    for step in range(2):
        assert torch.equal(whole(pairs(4, step)), first(pairs(4, step)))
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        assert torch.equal(whole(pairs(4, step)), second(pairs(4, step)))


# --- advantages ---


def advantage_oracle(rewards: np.ndarray) -> np.ndarray:
    made = np.empty_like(rewards)
    for i, row in enumerate(rewards):
        for j, reward in enumerate(row):
            made[i, j] = reward - np.delete(row, j).mean()
    return made


@pytest.mark.parametrize("k", [2, 4])
def test_leave_one_out_equals_its_oracle_and_sums_to_zero(k: int) -> None:
    rewards = torch.randn(5, k, generator=torch.Generator().manual_seed(k)) * 3 + 1
    made = leave_one_out(rewards)
    assert np.allclose(made.numpy(), advantage_oracle(rewards.double().numpy()), atol=1e-5)
    assert made.sum(1).abs().max() < 1e-5


def test_leave_one_out_by_hand() -> None:
    made = leave_one_out(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    assert made.tolist() == [[-2.0, 2.0], [0.0, 0.0]]
    assert leave_one_out(torch.tensor([[0.0, 0.0, 0.0, 4.0]]))[0].tolist() == pytest.approx([-4 / 3] * 3 + [4.0])
