"""One optimizer step of supervised fine-tuning by the stage's own code beside the same step by TRL's SFTTrainer with
its packing: a language model of the size of `benchmarks/rm_step.py`, the prompts and chosen responses of its pairs as
conversations, loss on all tokens, fp32, no gradient checkpointing.

TRL packs whole conversations ("bfd") into rows of 1,024 tokens and reads a micro-batch of rows as one stream under a
mask of its size squared. One row at a time is best for it on a CPU; its default is eight. With a mask no conversation
sees another: loss and gradient norm must agree with ours before anything is timed. "wrapped" needs no mask because it
cuts conversations and lets them see one another: another loss, but the same tokens.
"""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, PreTrainedModel, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.bar import Bar, publish
from benchmarks.rm_step import TOKENS, Clock, config, pairs, settings, words
from pipeline import attention
from pipeline.dist import Learner
from pipeline.packing import Group
from pipeline.stages.sft import Sample, learn, weighted_loss

ROUNDS = 7
TOLERANCE = 1e-5  # of loss and gradient norm, relative


@dataclass(frozen=True)
class Taken:
    """A step."""

    seconds: float  # CPU
    loss: float
    norm: float  # of the gradient


@dataclass(frozen=True)
class Peer:
    """A way to pack."""

    file: str
    about: str
    strategy: str
    rows: int  # in a micro-batch
    exact: bool = True  # conversations stay whole and alone

    @property
    def name(self) -> str:
        return f"TRL SFTTrainer, fp32, no checkpointing, {self.about}"


CUT = "wrapped rows one at a time: conversations are cut and see one another"
PEERS = (
    Peer("sft-step", "packing rows of 1,024 one at a time, its best", "bfd", 1),
    Peer("sft-step-default", "packing rows of 1,024 eight at a time, its default", "bfd", 8),
    Peer("sft-step-wrapped", CUT, "wrapped", 1, exact=False),
)

Step = Callable[[], Taken]


def main() -> int:
    torch.set_num_threads(1)
    disable_progress_bars()
    talks = conversations()
    steps = {"ours": ours(talks), **{peer.file: partial(theirs, talks, peer) for peer in PEERS}}
    off = differences(ours(talks)(), steps)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(ROUNDS):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            seconds[name].append(steps[name]().seconds)
    tokens = sum(map(len, talks))
    return publish([beside(peer, seconds["ours"], seconds[peer.file], off[peer.file], tokens) for peer in PEERS])


def differences(first: Taken, steps: dict[str, Step]) -> dict[str, float]:
    """Of each peer's first step from ours, relative, in loss or gradient norm."""
    found = {}
    for peer in PEERS:
        taken = steps[peer.file]()
        found[peer.file] = off = max(abs(taken.loss / first.loss - 1), abs(taken.norm / first.norm - 1))
        assert math.isfinite(off) and (off <= TOLERANCE or not peer.exact), f"{peer.file} differs by {off:.1g}"
    return found


def beside(peer: Peer, ours: list[float], theirs: list[float], off: float, tokens: int) -> Bar:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    own, other = statistics.median(ours), statistics.median(theirs)
    about = {"cpu_seconds": own, "peer_cpu_seconds": other, "tokens": tokens, "largest_difference": off}
    value = statistics.median(ratios)
    return Bar(
        peer.file,
        f"SFT step, both reading the same {tokens:,} tokens",
        *(value, "times as fast", "higher", ratios, 0.9, 1.2),
        peer=peer.name,
        ratio=value,
        more=about,
    )


def conversations() -> list[list[int]]:
    return [pair.prompt + pair.responses[0] for pair in pairs(prompt=120)]


def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config())


def ours(talks: Sequence[list[int]], tokens: int = TOKENS) -> Step:
    ours = model().train()
    attention.use(ours, "shared")
    learner = Learner(ours, weighted_loss)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-4, fused=True)
    batch = [Sample(Group(ids[:1], [ids[1:]]), [1.0] * (len(ids) - 1)) for ids in talks]

    def step() -> Taken:
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = learn(learner, batch, tokens)
        norm = torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        return Taken(time.process_time() - start, float(loss), float(norm))

    return step


def theirs(talks: Sequence[list[int]], peer: Peer) -> Taken:
    clock = Clock()
    said = by_trl(talks, peer, clock)
    return Taken(clock.seconds, said["loss"], said["grad_norm"])


def by_trl(talks: Sequence[list[int]], peer: Peer, watch: TrainerCallback) -> dict[str, float]:
    """One epoch of one step, of as many micro-batches as there are; what it logs."""
    packing = {"packing": True, "packing_strategy": peer.strategy, "per_device_train_batch_size": peer.rows}
    with tempfile.TemporaryDirectory() as folder:
        made = SFTConfig(folder, **packing, **settings(len(talks)), logging_steps=1)
        data = Dataset.from_dict({"input_ids": talks})
        trainer = SFTTrainer(model(), made, train_dataset=data, processing_class=words(), callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.state.log_history[0]


if __name__ == "__main__":
    sys.exit(main())
