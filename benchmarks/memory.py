"""The most memory that tensors hold at once during one optimizer step: ours beside TRL's, for the steps whose time
`rm_step` and `sft_step` measure. It is the first step of each, so that gradients and the optimizer's moments count for
both; weights were there before and do not.

Three times each: as the step is timed; with the same texts in a micro-batch; and with each one's default micro-batch.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from datasets import disable_progress_bars
from transformers import TrainerCallback

from benchmarks import rm_step, sft_step
from benchmarks.bar import Bar, publish
from benchmarks.held import Held
from benchmarks.rm_step import MICRO, TOKENS
from pipeline import config
from pipeline.packing import Group

DEFAULT = config.experiment(("scale=micro",)).run.micro_tokens
ALL = 10**6  # tokens: one micro-batch


def main() -> int:
    torch.set_num_threads(1)
    disable_progress_bars()
    short, long = rm_step.pairs(prompt=120), rm_step.pairs(prompt=400)
    return publish([
        *reward_model("memory-rm-step", "RM step, prompts around 120 tokens", short, by_length=True),
        *reward_model("memory-rm-step-long", "RM step, prompts around 400 tokens", long),
        *tuning(),
    ])  # fmt: skip


def reward_model(file: str, name: str, pairs: Sequence[Group], by_length: bool = False) -> list[Bar]:
    own, default = (held(rm_step.ours(pairs, {}, tokens)) for tokens in (TOKENS, DEFAULT))
    same = held(rm_step.ours(pairs[:MICRO], {}, ALL))
    of, all_pairs, some = rm_step.PEER, by_rm_trl(pairs), by_rm_trl(pairs[:MICRO])
    timed, whole = f"{name}, {TOKENS:,} tokens in a micro-batch", f"{of}, {MICRO} pairs"
    made = [
        beside(file, timed, own, all_pairs, whole),
        beside(f"{file}-same", f"{name}, the same {MICRO} pairs in a micro-batch", same, some, of),
        beside(f"{file}-default", f"{name}, {DEFAULT:,} tokens by default", default, all_pairs, whole),
    ]
    if by_length:
        made.append(beside(f"{file}-grouped", timed, own, by_rm_trl(pairs, True), f"{whole}, group_by_length"))
    return made


def tuning() -> list[Bar]:
    talks = sft_step.conversations()
    best, default, _ = sft_step.PEERS
    of_best, of_default = (by_sft_trl(talks, peer) for peer in (best, default))
    made = [
        ("memory-sft-step", f"{TOKENS:,} tokens in a micro-batch", TOKENS, of_best, best),
        ("memory-sft-step-same", f"{rm_step.LONGEST:,} tokens in a micro-batch", rm_step.LONGEST, of_best, best),
        ("memory-sft-step-default", f"{DEFAULT:,} tokens by default", DEFAULT, of_default, default),
    ]
    return [
        beside(file, f"SFT step, {name}", held(sft_step.ours(talks, tokens)), theirs, peer.name)
        for file, name, tokens, theirs, peer in made
    ]


def beside(file: str, name: str, ours: float, theirs: float, peer: str) -> Bar:
    name = f"the most that tensors hold in an {name} (the peer holds {theirs / ours:.2f} times as much)"
    return Bar(file, name, ours, "MB", "lower", [ours], peer=peer, ratio=theirs / ours, more={"peer_mb": theirs})


# --- how it is measured ---


class Watch(TrainerCallback):
    """Of a trainer's one step."""

    def __init__(self) -> None:
        self.held = Held()

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.held.__enter__()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.held.__exit__(None, None, None)


def held(step: Callable[[], object]) -> float:
    with Held() as found:
        step()
    return found.most


def by_rm_trl(pairs: Sequence[Group], by_length: bool = False) -> float:
    watch = Watch()
    rm_step.by_trl(pairs, by_length, watch)
    return watch.held.most


def by_sft_trl(talks: Sequence[list[int]], peer: sft_step.Peer) -> float:
    watch = Watch()
    sft_step.by_trl(talks, peer, watch)
    return watch.held.most


if __name__ == "__main__":
    sys.exit(main())
