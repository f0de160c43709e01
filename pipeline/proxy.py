"""The reward that a policy is trained on: of a reward model, or the world's gold reward; what is done to it; and a
first look at it before anything is trained.

A reward model scores by its contract, in fp32: its own tokenizer and template on the text that the policy's tokens
say. The tokens themselves do not reach it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline import contract, dist, scoring, world
from pipeline.errors import ConfigError, check
from pipeline.experiment import Rloo, Where
from pipeline.implicit import Implicit
from pipeline.packing import Mode
from pipeline.placed import Placed, abreast
from pipeline.rollout import Rollouts

Reward = Callable[[Sequence[str], Sequence[str]], Tensor]  # prompts, responses -> (n,)


@dataclass(frozen=True)
class Whitening:
    """Mean and standard deviation of the rewards of SFT samples, frozen."""

    mean: float
    std: float


def learned(folder: Path, mode: Mode, tokens: int, where: Where = "device") -> Placed:
    there = (folder / contract.NAME).is_file()
    check(
        there, "rm", str(folder), f"has no {contract.NAME}: nobody knows how it scores; make doctor RM=... looks at it"
    )
    with dist.single(), numbers("what it scored when it was saved"):
        model, tokenizer = contract.load(folder, mode)
    alone = where != "shard" or not isinstance(model, Implicit)
    check(alone, "run.reward", where, "an implicit reward is of two models, not to be sharded: say offload or device")

    def reward(model: PreTrainedModel, asked: Sequence[str], said: Sequence[str]) -> Tensor:
        with dist.single(), abreast(model) if where == "shard" else nullcontext():
            return torch.from_numpy(scoring.score(model, tokenizer, asked, said, tokens)[0])

    with dist.single():
        return Placed(model, reward, where)


@contextmanager
def numbers(what: str) -> Iterator[None]:
    """Scores in here must be numbers."""
    try:
        yield
    except FloatingPointError as e:
        raise ConfigError("rm", "no number", f"it cannot score {what}: {e}") from e


def gold(asked: Sequence[str], said: Sequence[str]) -> Tensor:
    """Whether a response ended is not looked at: `missing_eos` is there for that."""
    return torch.tensor([world.gold(q, a) for q, a in zip(asked, said, strict=True)])


def judged(prompts: Sequence[str], settings: Rloo) -> bool:
    """Are they prompts of the micro world? They must be if its reward is trained on."""
    try:
        gold(prompts, [""] * len(prompts))
    except ValueError as e:
        check(settings.reward == "rm", "rloo.reward", settings.reward, str(e))
        return False
    return True


def probed(score: Callable[[Rollouts], Tensor], samples: Rollouts, settings: Rloo) -> Whitening:
    """The first call: statistics of the rewards of samples. ConfigError if one is no number, or there is no scale."""
    with numbers("what the SFT model says"):
        found = score(samples)
    std = float(found.std())
    scale = std > 0 or settings.reward_transform == "none"
    same = f"{len(found)} samples of the SFT model all get the reward {float(found[0]):g}: it has no scale"
    check(scale, "rloo.reward_transform", settings.reward_transform, same)
    return Whitening(float(found.mean()), std)


def transformed(raw: Tensor, ended: Sequence[bool], settings: Rloo, whitening: Whitening) -> Tensor:
    """(n,) on the scale of SFT samples if asked, clipped, less the penalty for no end."""
    value = (raw - whitening.mean) / whitening.std if settings.reward_transform == "whiten_sft" else raw
    if settings.clip_reward is not None:
        value = value.clamp(-settings.clip_reward, settings.clip_reward)
    return value - settings.missing_eos * (~torch.tensor(ended)).float()
