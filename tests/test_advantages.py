"""RLOO's maths against NumPy, one response after the other, and against what it must be by hand."""

import math

import numpy as np
import pytest
import torch

from pipeline.advantages import kl, leave_one_out, policy_loss

CLIP = 0.2


def drawn(k: int, seed: int = 0) -> np.ndarray:
    """(prompts, k) rewards."""
    return np.random.default_rng(seed).normal(3, 2, size=(5, k))


@pytest.mark.parametrize("k", [2, 4])
def test_an_advantage_is_the_reward_less_the_mean_of_the_others(k: int) -> None:
    rewards = drawn(k)
    expected = [[row[i] - np.delete(row, i).mean() for i in range(k)] for row in rewards]
    got = leave_one_out(torch.from_numpy(rewards))
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert got.sum(1).abs().max() < 1e-12


def test_of_two_the_advantage_is_their_difference() -> None:
    assert leave_one_out(torch.tensor([[1.0, 4.0]])).tolist() == [[-3.0, 3.0]]


@pytest.mark.parametrize("clip", [CLIP, None])
@pytest.mark.parametrize("k", [2, 4])
def test_loss_and_slope_are_numpys(k: int, clip: float | None) -> None:
    draw = np.random.default_rng(k)
    advantage, old = leave_one_out(torch.from_numpy(drawn(k))).flatten().numpy(), draw.normal(-20, 3, 5 * k)
    new = old + draw.normal(0, 0.3, 5 * k)
    loss, slope, clipped = [], [], []
    for a, n, o in zip(advantage, new, old, strict=True):
        ratio = math.exp(n - o)
        bounded = ratio if clip is None else min(max(ratio, 1 - clip), 1 + clip)
        flat = bounded * a < ratio * a  # past the bound in the direction that pays
        loss.append(-bounded * a if flat else -ratio * a)
        slope.append(0.0 if flat else -ratio * a)
        clipped.append(flat)
    logp = torch.from_numpy(new).requires_grad_()
    got, where = policy_loss(logp, torch.from_numpy(old), torch.from_numpy(advantage), clip)
    got.sum().backward()
    np.testing.assert_allclose(got.detach(), loss, rtol=1e-12)
    np.testing.assert_allclose(logp.grad, slope, rtol=1e-12)
    assert where.tolist() == clipped and any(clipped) == (clip is not None)


def test_on_the_policy_that_sampled_the_gradient_is_that_of_reinforce() -> None:
    logp, advantage = torch.randn(6, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64)
    loss, clipped = policy_loss(logp, logp.detach(), advantage, CLIP)
    (slope,) = torch.autograd.grad(loss.sum(), logp)
    assert torch.equal(slope, -advantage) and not clipped.any()


def test_the_estimates_of_kl_are_those_of_two_known_distributions() -> None:
    """Their expectations under p: k1 and k3 are the divergence itself, k2 is half the mean square."""
    p, q = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]))
    found = {name: float((p * value).sum()) for name, value in kl(p.log(), q.log()).items()}
    true = 0.5 * math.log(0.5 / 0.2) + 0.2 * math.log(0.2 / 0.5)
    assert found["k1"] == pytest.approx(true, rel=1e-12) and found["k3"] == pytest.approx(true, rel=1e-12)
    assert found["k2"] == pytest.approx(0.7 * math.log(2.5) ** 2 / 2, rel=1e-12)


def test_k3_is_never_negative_and_keeps_what_is_small() -> None:
    logp = torch.tensor([-1.0, -1.0, -1.0])
    k3 = kl(logp, logp + torch.tensor([1e-4, 0.0, -1e-4]))["k3"]
    assert k3.tolist() == pytest.approx([5e-9, 0, 5e-9], rel=0.01)
