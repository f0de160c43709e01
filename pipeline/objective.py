"""Learning from rollouts: the gradient of RLOO's objective on some prompts of a step, by all processes together.

    R = reward − β Σ KL,   A = R − mean of the k − 1 others' R,   loss = −mean of min(ρ A, clip(ρ) A),   ρ = π / π_old

Rollouts that are learned from once, by the policy that sampled them, have ρ = 1: π_old is the training pass's own π,
and A is made between its forward and its backward pass, since a micro-batch holds whole groups. Others are looked at
before the first optimizer step. The reference speaks before the policy reads: so an offloaded one comes once for all
micro-batches, and its weights lie beside no activations of the policy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.advantages import kl, leave_one_out, policy_loss
from pipeline.dist import Learner
from pipeline.experiment import Rloo
from pipeline.packing import Group, Layout
from pipeline.placed import Placed
from pipeline.watch import SUMS, Clock

LOGP = SUMS.index("logp")


class Objective:
    def __init__(self, learner: Learner, reference: Placed, settings: Rloo, tokens: int, clock: Clock):
        """`learner` and `reference` give `policy.logprobs`. `tokens` in one forward pass."""
        self.learner, self.reference, self.settings = learner, reference, settings
        self.tokens, self.clock = tokens, clock
        self.penalty = SUMS.index({"k1": "kl", "k2": "kl_k2", "k3": "kl_k3"}[settings.kl_estimator])
        self.kept = settings.k if settings.trained == "all" else 1
        self.once = settings.minibatches * settings.passes == 1 and settings.trained == "all"

    def parts(self) -> list[range]:
        """The prompts of each optimizer step. They stand in random order already."""
        each = self.settings.prompts // self.settings.minibatches
        return [range(at, at + each) for at in range(0, self.settings.prompts, each)] * self.settings.passes

    @torch.no_grad()
    def look(self, groups: Sequence[Group]) -> Tensor:
        """(nk, len(SUMS)) under the policy as it is."""
        at: list[int] = []
        own = []
        layouts = self.layouts(groups)
        told = self.told(layouts)
        for (positions, _), layout in zip(self.learner.batches(groups, self.tokens), layouts, strict=True):
            with self.clock("update"):
                logp, entropy = self.learner(layout)
            own.append(sums(logp, entropy, told.pop(0), layout))
            at += rows(positions, self.settings.k)
        return self.learner.whole(torch.cat(own), at, len(groups) * self.settings.k)

    def learn(self, groups: Sequence[Group], reward: Tensor, part: range, before: Tensor | None) -> Tensor:
        """Adds the gradient of these prompts' loss. `groups`, `reward` (nk,) and `before`, what `look` saw if it had
        to, are of the whole step. (n, 2 + len(SUMS)) of the responses learned from: loss, clipped or not, sums."""
        some = [Group(groups[i].prompt, groups[i].responses[: self.kept]) for i in part]
        n = len(some) * self.kept
        at: list[int] = []
        seen = []
        layouts = self.layouts(some)
        told = self.told(layouts) if before is None else []
        for (positions, _), layout in zip(self.learner.batches(some, self.tokens), layouts, strict=True):
            with self.clock("update"):
                logp, entropy = self.learner(layout)
            of = rows([part[i] for i in positions], self.settings.k)
            own = sums(logp.detach(), entropy, told.pop(0), layout) if before is None else before[of]
            advantage = self.trained(self.advantage(reward[of], own))
            own = self.trained(own)
            with self.clock("update"):
                loss, clipped = policy_loss(total(logp, layout), own[:, LOGP], advantage, self.settings.clip_ratio)
                (loss.sum() / n).backward()
            seen.append(torch.cat([loss.detach()[:, None], clipped[:, None], own], dim=1))
            at += rows(positions, self.kept)
        return self.learner.whole(torch.cat(seen), at, n)

    def advantage(self, reward: Tensor, sums: Tensor) -> Tensor:
        """(n k,) of whole groups."""
        worth = reward - self.settings.kl * sums[:, self.penalty]
        return leave_one_out(worth.view(-1, self.settings.k)).flatten()

    def trained(self, values: Tensor) -> Tensor:
        """Of k responses to each prompt those that are learned from."""
        return values.unflatten(0, (-1, self.settings.k))[:, : self.kept].flatten(0, 1)

    def layouts(self, groups: Sequence[Group]) -> list[Layout]:
        """Of this process's micro-batches."""
        return [self.learner.layout(batch) for _, batch in self.learner.batches(groups, self.tokens)]

    @torch.no_grad()
    def told(self, layouts: Sequence[Layout]) -> list[Tensor]:
        """The reference's (m,) log-probabilities of each one's response tokens."""
        with self.clock("reference"), self.reference.here() as logprobs:
            return [logprobs(layout)[0] for layout in layouts]


def sums(logp: Tensor, entropy: Tensor, reference: Tensor, at: Layout) -> Tensor:
    """(n, len(SUMS))"""
    moved = kl(logp, reference)
    return total(torch.stack([logp, moved["k1"], moved["k2"], moved["k3"], entropy], dim=1), at)


def total(values: Tensor, at: Layout) -> Tensor:
    """(m, …) values of tokens → (n, …) sums over each response."""
    return values.new_zeros(len(at.last), *values.shape[1:]).index_add(0, at.owner, values)


def rows(prompts: Sequence[int], k: int) -> list[int]:
    """Where k responses to each of these prompts stand."""
    return [i * k + j for i in prompts for j in range(k)]
