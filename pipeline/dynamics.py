"""What training does to each pair, recorded at every step.

The head's gradient of one pair is σ(−Δ)(h_w − h_l), so error, representation distance and gradient cost one subtraction
a pair. Δ = r_w − r_l, σ(−Δ) and cos ψ = Δ / (‖W_p‖ ‖h_w − h_l‖) (BSR eq. 23) follow from what is recorded and have no
columns. What the records say is computed by `metrics/dynamics.py`.

`step` is the number of updates made before: the rewards at step 0 are the untrained model's. Records are training
state, so that a resumed run ends in the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from pipeline.losses import PairScores

Columns = dict[str, np.ndarray]

PAIR = ("r_w", "r_l", "norm_w", "norm_l", "distance", "weight")
STEP = ("loss", "accuracy", "batch_mean", "reward_std", "head_norm", "effective_rank", "mu")
RANK_EVERY = 10  # steps: singular values cost more than all the rest


@torch.no_grad()
def of_pairs(s: PairScores, weight: Tensor) -> Tensor:
    """(n, 6) the columns PAIR. Norms are of the head's exact input; `weight` is what the loss multiplies each pair's
    term by."""
    norms = (h.float().norm(dim=-1) for h in (s.h_chosen, s.h_rejected))
    return torch.stack([s.r_w, s.r_l, *norms, s.distance, weight], dim=1).float()


@torch.no_grad()
def effective_rank(h: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares, of (n, d) representations: from 1 to min(n, d). BSR eq. 32,
    after Roy and Vetterli 2007. Neither centred nor normalised by row: the paper mentions neither [inferred]."""
    sigma = torch.linalg.svdvals(h.float())
    return torch.special.entr(sigma / sigma.sum()).sum().exp()


class Recorder(nn.Module):
    """A row for each pair and step, and one for each step; NaN where nothing was measured."""

    pairs: Tensor  # (steps, n, 6) PAIR
    steps: Tensor  # (steps, 7 or more) STEP, and what else there is

    def __init__(self, steps: int, batch: int, more: Sequence[str] = ()):
        """`more`: columns of a step that only some trainings have."""
        super().__init__()
        self.names = (*STEP, *(name for name in more if name not in STEP))
        self.register_buffer("pairs", torch.full((steps, batch, len(PAIR)), torch.nan))
        self.register_buffer("steps", torch.full((steps, len(self.names)), torch.nan))

    @torch.no_grad()
    def add(
        self, step: int, s: PairScores, weight: Tensor, loss: Tensor, head: Tensor | None, more: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """`head` gave these rewards, if one did; `more` is what else there is to say of the step, such as the loss's
        moving average after it. Returns what to log."""
        pairs = of_pairs(s, weight)
        reward = pairs[:, :2]
        found = {
            "loss": loss.detach(),
            "accuracy": (reward[:, 0] > reward[:, 1]).float().mean(),
            "batch_mean": reward.mean(),
            "reward_std": reward.std(),
        }
        if head is not None:
            found["head_norm"] = head.norm()
        if step % RANK_EVERY == 0:
            found["effective_rank"] = effective_rank(torch.cat([s.h_chosen, s.h_rejected]))
        found |= more
        missing = torch.full_like(loss, torch.nan)
        self.pairs[step] = pairs
        self.steps[step] = torch.stack([found.get(name, missing) for name in self.names])
        return {**found, "distance": pairs[:, PAIR.index("distance")].mean()}

    def columns(self, ids: Sequence[str | None]) -> tuple[Columns, Columns]:
        """Of pairs and of steps, in the order they were trained on; `ids`: of the pairs, in that order."""
        steps, batch = self.pairs.shape[:2]
        step = np.arange(steps, dtype=np.int32)
        pairs = {"step": step.repeat(batch), "id": np.array(ids, dtype=object), **named(PAIR, self.pairs.flatten(0, 1))}
        return pairs, {"step": step, **named(self.names, self.steps)}


def named(names: Sequence[str], values: Tensor) -> Columns:
    """(n, k) fp32 values as k columns."""
    return dict(zip(names, values.numpy().T, strict=True))


def write(out: Path, name: str, columns: Mapping[str, np.ndarray]) -> None:
    """As Parquet; NaN becomes null."""
    kinds = {column: pa.string() if values.dtype == object else None for column, values in columns.items()}
    made = {column: pa.array(values, kinds[column], from_pandas=True) for column, values in columns.items()}
    pq.write_table(pa.table(made), out / f"{name}.parquet")
