"""RLOO: k responses to each of a step's prompts, and from them one optimizer step or several (`pipeline/objective.py`).

A step depends on weights and seeds alone: each prompt of each step has a seed of its own. Left out: sampling while
training, whose responses would be of older weights.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline import attention, dist, lora, models, placed, policy, proxy, rollout, rows, watch
from pipeline.checkpoint import Checkpoints
from pipeline.dist import Learner
from pipeline.fit import fit
from pipeline.objective import Objective
from pipeline.order import step_rows
from pipeline.placed import Placed
from pipeline.proxy import Reward, Whitening
from pipeline.rollout import Prompt, Rollouts
from pipeline.sample import check_room
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections
from pipeline.track import Track
from pipeline.watch import SUMS, Clock


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    placed.check_places(x.run)
    model, tokenizer = models.load_lm(inputs["sft"], x.run.packing)
    attention.refuse_dropout(model)
    prompts = rollout.read(tokenizer, [rows.prompt_of(row) for row in rows.read(inputs["data"])], x.rloo)
    check_room(model, [p.ids for p in prompts], x.rloo.max_new, "rloo.max_new")
    how = x.run.packing, x.run.micro_tokens, x.run.reward
    reward = proxy.gold if x.rloo.reward == "gold" else proxy.learned(inputs["rm"], *how)
    learner = Learner(model, partial(policy.logprobs, temperature=x.rloo.temperature), x.run.parallel, x.run.recompute)
    steps = Steps(x, out, learner, tokenizer, prompts, reward)
    with lora.adapted(model, x.rloo.optim.lora, derive(x.seed, "rloo", "lora")):
        fit(
            learner,
            steps.update,
            x.rloo.steps,
            x.rloo.optim,
            Checkpoints(out, x.run),
            steps.track,
            {"curve": steps.curve},
            names=lambda step: [repr(prompts[i].text) for i in steps.asked(step)],
            turns=len(steps.objective.parts()),
            shown=steps.watch,
        )
    models.save(model, tokenizer, out)
    (out / "curve.json").write_text(json.dumps(steps.curve))
    (out / "whitening.json").write_text(json.dumps(asdict(steps.whitening)))
    return {"prompts": len(prompts), **{f"final_{name}": value for name, value in steps.curve[-1].items()}}


@dataclass(frozen=True)
class Batch:
    """What a step's optimizer steps learn from."""

    rollouts: Rollouts
    proxy: Tensor  # (nk,) as the reward model gives it
    reward: Tensor  # (nk,) what was made of it
    before: Tensor | None  # what the objective saw beforehand, if it had to look


class Steps:
    """The loop's updates, and the curve that they leave."""

    def __init__(
        self, x: Sections, out: Path, learner: Learner, tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt], reward: Reward,
    ):  # fmt: skip
        self.x, self.out, self.learner, self.tokenizer, self.prompts = x, out, learner, tokenizer, prompts
        self.reward, self.judged = reward, proxy.judged([p.text for p in prompts], x.rloo)
        self.curve: list[dict[str, float]] = []
        self.clock = Clock(self.held)
        self.log: Track | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        logprobs = partial(policy.logprobs, temperature=x.rloo.temperature)
        reference = Placed(copy.deepcopy(learner.model), logprobs, x.run.reference)
        self.frozen = [reference, *([reward] if isinstance(reward, Placed) else [])]
        self.objective = Objective(learner, reference, x.rloo, x.run.micro_tokens, self.clock)
        self.whitening = self.first_look()
        self.left: list[range] = []  # prompts of the optimizer steps that are still to be taken on `batch`
        self.learned: list[Tensor] = []  # from what those before learned

    def first_look(self) -> Whitening:
        """At rewards of the SFT model's own responses."""
        asked = range(min(len(self.prompts), self.x.rloo.whiten_samples))
        samples = self.roll(asked, "whiten", k=1)
        return proxy.probed(self.score, samples, self.x.rloo)

    def asked(self, step: int) -> list[int]:
        return step_rows(len(self.prompts), self.x.rloo.prompts, derive(self.x.seed, "rloo"), step)

    def track(self, step: int) -> Track:
        self.log = Track(self.x, self.out, self.x.rloo.steps, step)
        return self.log

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def held(self) -> int:
        """Bytes on this process's device: the policy's weights, gradients and moments, and of frozen models the most
        since this was last asked."""
        weights = [*self.learner.parameters()]
        state = self.optimizer.state.values() if self.optimizer else ()
        moments = [value for each in state for value in each.values() if isinstance(value, Tensor)]
        own = placed.held([*weights, *(w.grad for w in weights), *moments])
        return own + sum(model.taken() for model in self.frozen)

    def roll(self, asked: Sequence[int], *tags: str | int, k: int) -> Rollouts:
        seeds = [derive(self.x.seed, "rloo", *tags, i) for i in asked]
        with self.learner.entire() as whole:
            rolled = rollout.roll(whole, self.tokenizer, [self.prompts[i] for i in asked], self.x.rloo, seeds, k)
            self.clock.weigh()
        return rolled

    def score(self, rollouts: Rollouts) -> Tensor:
        """(nk,), each process its share of the prompts."""
        n, k = len(rollouts.groups), len(rollouts.groups[0].responses)
        own = [i * k + j for i in dist.share(n) for j in range(k)]
        found = self.reward([rollouts.asked[i] for i in own], [rollouts.said[i] for i in own])
        return dist.over_all(torch.zeros(n * k).index_copy(0, torch.tensor(own), found))

    def begin(self, step: int) -> Batch:
        with self.clock("generate"):
            rollouts = self.roll(self.asked(step), "rollout", step, k=self.x.rloo.k)
        with self.clock("reward"):
            given = self.score(rollouts)
            reward = proxy.transformed(given, rollouts.ended, self.x.rloo, self.whitening)
        before = None if self.objective.once else self.objective.look(rollouts.groups)
        return Batch(rollouts, given, reward.to(self.learner.model.device), before)

    def update(self, step: int) -> dict[str, Tensor | float]:
        """One optimizer step. The last one on a step's rollouts leaves their record."""
        if not self.left:
            self.batch, self.left, self.learned = self.begin(step), self.objective.parts(), []
        batch, part = self.batch, self.left.pop(0)
        self.learned.append(self.objective.learn(batch.rollouts.groups, batch.reward, part, batch.before))
        loss, clipped, sums = torch.cat(self.learned).split((1, 1, len(SUMS)), dim=1)
        record = {"loss": float(loss.mean()), "clipped": float(clipped.mean())}
        if self.left:
            return {**record}
        sums = sums if batch.before is None else batch.before
        self.curve.append(record | watch.record(batch.rollouts, batch.proxy, batch.reward, sums, self.judged))
        if self.log and (step + 1) % self.log.every == 0:
            self.log.samples(step + 1, watch.samples(batch.rollouts, batch.proxy, batch.reward))
        return {**self.curve[-1], **self.clock.read(sum(batch.rollouts.lengths))}
