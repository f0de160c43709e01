"""Rollouts: a policy's k responses to each of a step's prompts.

The policy waits until they are learned from: sampling the next ones meanwhile is left out, since they would come from
older weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import chat, dist
from pipeline.errors import check
from pipeline.experiment import Rloo
from pipeline.packing import Group
from pipeline.sample import Sampling, sample, stops

SLOTS = 512  # responses that a process writes at once


@dataclass(frozen=True)
class Prompt:
    text: str
    ids: list[int]  # as the policy reads it, up to where the assistant speaks


@dataclass(frozen=True)
class Rollouts:
    """The responses to a step's prompts, prompt after prompt: nk, where a list is of responses."""

    groups: list[Group]  # (n,) with k responses each
    asked: list[str]  # (nk,)
    said: list[str]  # (nk,)
    ended: list[bool]  # (nk,) by the end token, not at the limit

    @property
    def lengths(self) -> list[int]:
        return [len(response) for group in self.groups for response in group.responses]


def roll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: Rloo,
    seeds: Sequence[int],
    k: int,
) -> Rollouts:
    """By all processes, each its share of the prompts. One seed for each prompt."""
    how = Sampling(settings.max_new, settings.temperature, stops=stops(model, tokenizer))
    own = dist.share(len(prompts))
    said = sample(model, [prompts[i].ids for i in own], how, [seeds[i] for i in own], k, max(k, SLOTS))
    answers = everyones(said, [i * k + j for i in own for j in range(k)], len(prompts) * k, settings.max_new)
    return Rollouts(
        [Group(p.ids, answers[i * k : (i + 1) * k]) for i, p in enumerate(prompts)],
        [p.text for p in prompts for _ in range(k)],
        tokenizer.batch_decode(answers, skip_special_tokens=True),
        [a[-1] in how.stops for a in answers],
    )


def everyones(own: Sequence[list[int]], at: Sequence[int], n: int, longest: int) -> list[list[int]]:
    """n lists, of which this process has those that stand at `at`."""
    table = torch.zeros(n, 1 + longest, dtype=torch.long)  # the length first
    for row, ids in zip(at, own, strict=True):
        table[row, : 1 + len(ids)] = torch.tensor([len(ids), *ids])
    return [ids[:length] for length, *ids in dist.over_all(table).tolist()]


def read(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], settings: Rloo) -> list[Prompt]:
    """Prompts within the limit. One that is over it is an error, or is left out, or loses its end and with it the cue
    to speak."""
    check(len(texts) > 0, "data.prompts", 0, "there is no prompt to train on")
    chat.eos(tokenizer)  # without one, no response would end
    read = [Prompt(t, ids) for t, ids in zip(texts, chat.prompts(tokenizer, texts), strict=True)]
    limit, over = settings.max_prompt, sum(len(p.ids) > settings.max_prompt for p in read)
    if settings.long_prompts == "refuse":
        longest = max(len(p.ids) for p in read)
        check(not over, "rloo.max_prompt", limit, f"{over} of {len(read)} prompts are longer, one has {longest} tokens:"
              " raise it, or say rloo.long_prompts=drop")  # fmt: skip
    if settings.long_prompts == "drop":
        read = [p for p in read if len(p.ids) <= limit]
    check(len(read) >= settings.prompts, "rloo.prompts", settings.prompts, f"{len(read)} prompts are left for a step:"
          " more prompts, fewer in a step, or a higher rloo.max_prompt")  # fmt: skip
    return [Prompt(p.text, p.ids[:limit]) for p in read]
