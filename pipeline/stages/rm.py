"""A pairwise reward model with one loss: the SFT model's body, a linear head, one update for each batch of pairs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import chat, losses, models, order, packing, rows
from pipeline.checkpoint import Checkpoints
from pipeline.fit import fit
from pipeline.losses import PairScores
from pipeline.packing import Group
from pipeline.rows import Row
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections
from pipeline.track import Track


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    model, tokenizer = models.new_rm(inputs["sft"], x.rm.head_init, derive(x.seed, "rm", "head"))
    pairs, dropped = encode(tokenizer, rows.read(inputs["data"]), x.rm.max_length)
    steps = x.rm.epochs * order.epoch_steps(len(pairs), x.rm.batch)
    loss = losses.make(**x.loss)
    curve: list[dict[str, float]] = []

    def batch_of(step: int) -> list[Group]:
        return [pairs[i] for i in order.step_rows(len(pairs), x.rm.batch, derive(x.seed, "rm"), step)]

    def update(step: int) -> dict[str, Tensor | float]:
        scores = forward(model, batch_of(step), x.run.micro_tokens)
        value = loss(scores)
        value.backward()
        curve.append(observe(scores, value))
        return dict(curve[-1])

    gradient_error = head_gradient_error(model, batch_of(0), x.run.micro_tokens)
    state: dict[str, Any] = {"curve": curve, **({"loss": loss} if isinstance(loss, nn.Module) else {})}
    fit(model, update, steps, x.rm.optim, Checkpoints(out, x.run), lambda step: Track(x, out, steps, step), state)
    models.save(model, tokenizer, out)
    (out / "curve.json").write_text(json.dumps(curve))
    late = curve[-max(1, len(curve) // 4) :]
    return {
        "loss": mean(late, "loss"),
        "accuracy_train": mean(late, "accuracy"),
        "batch_mean": sum(abs(row["batch_mean"]) for row in late) / len(late),
        "distance": mean(late, "distance"),
        "head_norm": float(models.head(model).weight.detach().norm()),
        "head_gradient_error": gradient_error,
        "pairs": len(pairs),
        "tokens": sum(g.tokens for step in range(steps) for g in batch_of(step)),
        "dropped": dropped,
    }


def encode(tokenizer: PreTrainedTokenizerBase, data: Sequence[Row], limit: int) -> tuple[list[Group], int]:
    """Pairs as groups of (chosen, rejected). Identical and overlong pairs teach nothing or something else: dropped
    and counted."""
    prompts = [rows.prompt_of(row) for row in data]
    chosen = chat.answered(tokenizer, prompts, [row["chosen"] for row in data])
    rejected = chat.answered(tokenizer, prompts, [row["rejected"] for row in data])
    kept = []
    for pair in zip(chosen, rejected, strict=True):
        if pair[0] != pair[1] and max(map(len, pair)) <= limit:
            shared = min(chat.common_prefix(pair), min(map(len, pair)) - 1)  # each keeps a token of its own
            kept.append(Group(pair[0][:shared], [ids[shared:] for ids in pair]))
    return kept, len(data) - len(kept)


def forward(model: PreTrainedModel, groups: Sequence[Group], tokens: int) -> PairScores:
    """Rewards and representations of a whole step, in input order whatever the micro-batches."""
    at: list[int] = []
    reward, hidden = [], []
    for positions, batch in packing.batches(groups, tokens):
        r, h = models.rewards(model, packing.layout(batch))
        at += positions
        reward.append(r.view(-1, 2))
        hidden.append(h.view(len(batch), 2, -1))
    back = torch.tensor(at).argsort()
    r, h = torch.cat(reward)[back], torch.cat(hidden)[back]
    return PairScores(r[:, 0], r[:, 1], h[:, 0], h[:, 1])


@torch.no_grad()
def observe(s: PairScores, value: Tensor) -> dict[str, float]:
    both = torch.cat([s.chosen, s.rejected])
    return {
        "loss": float(value),
        "accuracy": float((s.delta > 0).float().mean()),
        "batch_mean": float(both.mean()),
        "reward_std": float(both.std()),
        "distance": float(s.distance.mean()),
    }


def head_gradient_error(model: PreTrainedModel, groups: Sequence[Group], tokens: int) -> float:
    """Largest difference between autograd's gradient of the BT loss for the head and the mean of σ(−Δ)(h_l − h_w),
    relative to the pairs' own gradients: the identity that both papers start from (BSR eq. 19, NormBT eq. 6)."""
    with torch.no_grad():
        s = forward(model, groups, tokens)
    weight = models.head(model).weight.detach().squeeze(0).double().requires_grad_()
    h_chosen, h_rejected = s.h_chosen.double(), s.h_rejected.double()  # their difference is small beside them
    scored = PairScores(h_chosen @ weight, h_rejected @ weight, h_chosen, h_rejected)
    (by_autograd,) = torch.autograd.grad(losses.bt(scored), weight)
    by_pair = torch.sigmoid(-scored.delta.detach())[:, None] * (h_rejected - h_chosen)  # (n, d)
    return float((by_autograd - by_pair.mean(0)).abs().max() / by_pair.abs().mean(0).max())


def mean(curve: Sequence[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in curve) / len(curve)
