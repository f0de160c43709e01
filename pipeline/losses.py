"""Losses of reward models: pure functions of one batch's rewards and representations. Means over pairs; fp32; no
config, no ranks.

A loss with running state is a small module with the same call. Constants are keyword-only and come from conf/loss/.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PairScores:
    """n pairs that are one optimizer step. Representations are the exact input of the score head."""

    chosen: Tensor  # (n,) r_w
    rejected: Tensor  # (n,) r_l
    h_chosen: Tensor  # (n, d)
    h_rejected: Tensor  # (n, d)

    @property
    def delta(self) -> Tensor:
        return self.chosen.float() - self.rejected.float()

    @property
    def distance(self) -> Tensor:
        """‖h_w − h_l‖ in fp32: half precision loses the small distances."""
        return (self.h_chosen.detach().float() - self.h_rejected.detach().float()).norm(dim=-1)


Loss = Callable[[PairScores], Tensor]


def bt(s: PairScores) -> Tensor:
    """−log σ(Δ). BSR eq. 3."""
    return -F.logsigmoid(s.delta).mean()


def bsr(s: PairScores, *, coef: float) -> Tensor:
    """BT + λ (mean of the batch's 2n rewards)². BSR eq. 24–25; its code multiplies λ by the per-device batch as
    well."""
    mean = torch.cat([s.chosen, s.rejected]).float().mean()
    return bt(s) + coef * mean.square()


class NormBT(nn.Module):
    """−w log σ(Δ) with the detached weight w = μ / (‖h_w − h_l‖ + ε), μ an EMA of the batch's mean distance. NormBT
    eq. 10–13.

    Open in the paper, our choice: μ₀ is the first batch's mean; the weight uses μ before its update; one update a
    step."""

    mu: Tensor

    def __init__(self, *, decay: float, eps: float):
        super().__init__()
        self.decay, self.eps = decay, eps
        self.register_buffer("mu", torch.tensor(float("nan")))

    def forward(self, s: PairScores) -> Tensor:
        distance = s.distance
        mean = distance.mean()
        mu = torch.where(self.mu.isnan(), mean, self.mu)
        weight = mu / (distance + self.eps)
        self.mu.copy_(self.decay * mu + (1 - self.decay) * mean)
        return -(weight * F.logsigmoid(s.delta)).mean()


LOSSES: dict[str, Callable[..., Loss]] = {
    "bt": lambda: bt,
    "bsr": lambda **constants: lambda s: bsr(s, **constants),
    "norm_bt": NormBT,
}


def make(name: str, **constants: float) -> Loss:
    return LOSSES[name](**constants)
