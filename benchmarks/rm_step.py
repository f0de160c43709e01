"""One optimizer step of a reward model beside the same step by TRL's RewardTrainer: same model, pairs and precision
(fp32), no gradient checkpointing. A Llama of width 256 with 4 layers; 16 pairs in one step, in TRL's default
micro-batches of 8; lengths log-normal, the draw whose padding is nearest to that of a large one.

Also what share of this machine's matrix speed goes into work that the unshared, unpadded step needs. TRL's defaults
would checkpoint and use bf16, slower still on such a CPU: not compared.
"""

import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer

from benchmarks.bar import Bar, publish
from pipeline import attention, losses, models, packing
from pipeline.losses import PairScores
from pipeline.packing import Group, Mode

ROUNDS = 5
PAIRS = 16
MICRO = 8  # pairs in a micro-batch of TRL: its default
TOKENS = 4096  # in a micro-batch of ours
LONGEST = 1024
VOCABULARY = 8192
LAYERS, WIDTH = 4, 256
PEER = "TRL RewardTrainer, fp32, no checkpointing"

Step = Callable[[], float]  # CPU seconds


@dataclass(frozen=True)
class Case:
    """Pairs, and how to take a step with them."""

    prompt: int  # median of the prompts' lengths before what is longer than LONGEST is left out
    groups: list[Group]
    ours: Step
    trl: Step
    grouped: Step
    read: dict[str, int]  # tokens of the last step, by who took it


def main() -> int:
    torch.set_num_threads(1)
    disable_progress_bars()
    short, long = case(prompt=120), case(prompt=400)
    steps = {
        "gemm": gemm,
        "ours": short.ours,
        "trl": short.trl,
        "grouped": short.grouped,
        "long": long.ours,
        "trl long": long.trl,
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    short.ours()  # warm
    for i in range(ROUNDS):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            seconds[name].append(steps[name]())
    return publish([
        beside("rm-step", short, "trl", seconds["ours"], seconds["trl"], must=2.0, aim=2.8),
        beside("rm-step-grouped", short, "grouped", seconds["ours"], seconds["grouped"], must=1.5, aim=2.0),
        beside("rm-step-long", long, "trl", seconds["long"], seconds["trl long"], must=2.3, aim=3.0),
        useful(short, seconds["ours"], seconds["gemm"]),
    ])  # fmt: skip


def beside(
    file: str, at: Case, peer: str, ours: list[float], theirs: list[float], *, must: float, aim: float
) -> Bar:  # fmt: skip
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    tokens = at.read[peer] / at.read["ours"]
    about = {"cpu_seconds": statistics.median(ours), "peer_cpu_seconds": statistics.median(theirs)}
    value = statistics.median(ratios)
    return Bar(
        file,
        f"RM step, prompts around {at.prompt} tokens (the peer reads {tokens:.2f} times the tokens)",
        *(value, "times as fast", "higher", ratios, must, aim),
        peer=PEER + (", group_by_length" if peer == "grouped" else ""),
        ratio=value,
        more={**about, "token_ratio": tokens},
    )


def useful(at: Case, ours: list[float], peak: list[float]) -> Bar:
    """The fastest of the matrix products counts: a busy neighbour is no excuse."""
    speed = GEMM_FLOP / min(peak)
    rounds = [100 * needed_flop(at.groups) / s / speed for s in ours]
    value = statistics.median(rounds)
    name = "useful share of the matrix speed in an RM step"
    return Bar("rm-mfu", name, value, "%", "higher", rounds, 42, 60, more={"gemm_gflops": speed / 1e9})


def needed_flop(groups: Sequence[Group]) -> float:
    """Of a step that reads each prompt with each of its responses and pads nothing: 6 per weight and token, and causal
    attention."""
    weights = sum(p.numel() for name, p in model().named_parameters() if p.dim() == 2 and "embed" not in name)
    lengths = [len(g.prompt) + len(r) for g in groups for r in g.responses]
    return sum(6 * weights * n + 3 * 4 * LAYERS * WIDTH * n * n / 2 for n in lengths)


GEMM_SIZE = 1024
GEMM_FLOP = 20 * 2 * GEMM_SIZE**3


def gemm() -> float:
    a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE)
    start = time.process_time()
    for _ in range(20):
        a @ b
    return time.process_time() - start


# --- the pairs ---


Lengths = tuple[int, int, int]  # prompt, chosen, rejected


def case(prompt: int) -> Case:
    groups, read = pairs(prompt), dict[str, int]()
    trl, grouped = (peer(groups, by_length, read) for by_length in (False, True))
    return Case(prompt, groups, ours(groups, read), trl, grouped, read)


def pairs(prompt: int) -> list[Group]:
    typical = padding(drawn(prompt, 4000, seed=0))
    lengths = min((drawn(prompt, PAIRS, seed) for seed in range(10)), key=lambda of: abs(padding(of) - typical))
    draw = random.Random(0)
    made = [[[draw.randrange(10, VOCABULARY) for _ in range(n)] for n in each] for each in lengths]
    return [Group(start, own) for start, *own in made]


def drawn(prompt: float, n: int, seed: int) -> list[Lengths]:
    draw = random.Random(seed)
    made: list[Lengths] = []
    while len(made) < n:
        start = int(draw.lognormvariate(math.log(prompt), 0.8))
        usual = draw.lognormvariate(math.log(250), 0.5)
        chosen, rejected = (int(usual * draw.lognormvariate(0, 0.4)) for _ in range(2))
        if min(start, chosen, rejected) >= 8 and start + max(chosen, rejected) <= LONGEST:
            made.append((start, chosen, rejected))
    return made


def padding(lengths: Sequence[Lengths]) -> float:
    """Tokens with all rows of a micro-batch padded to one width, for each that a stream has."""
    rows = [start + max(own) for start, *own in lengths]
    padded = sum(2 * len(part) * max(part) for part in (rows[i : i + MICRO] for i in range(0, len(rows), MICRO)))
    return padded / sum(map(sum, lengths))


# --- the steps ---


def config(**more: Any) -> LlamaConfig:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 688, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaConfig(**sizes, **heads, max_position_embeddings=4096, pad_token_id=0, **more)


def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config(num_labels=1))


def ours(groups: Sequence[Group], read: dict[str, int], tokens: int = TOKENS, mode: Mode = "shared") -> Step:
    ours = model().train()
    attention.use(ours, mode)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        start = time.process_time()
        read["ours"] = 0
        optimizer.zero_grad(set_to_none=True)
        for _, batch in packing.batches(groups, tokens, mode):
            at = packing.layout(batch, mode)
            read["ours"] += at.ids.numel()
            loss = losses.bt(pair_scores(*models.rewards(ours, at))).sum() / len(groups)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        return time.process_time() - start

    return step


def pair_scores(reward: Tensor, hidden: Tensor) -> PairScores:
    return PairScores(reward[::2], reward[1::2], hidden[::2], hidden[1::2])


class Clock(TrainerCallback):
    """CPU seconds of the steps alone."""

    seconds = 0.0

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.seconds -= time.process_time()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        self.seconds += time.process_time()


def peer(groups: Sequence[Group], by_length: bool, read: dict[str, int]) -> Step:
    def step() -> float:
        clock = Clock()
        read["grouped" if by_length else "trl"] = by_trl(groups, by_length, clock)
        return clock.seconds

    return step


def by_trl(groups: Sequence[Group], by_length: bool, watch: TrainerCallback) -> int:
    """One epoch of one step; the tokens that it read. Grouping by length finds its column only if no column is
    removed."""
    chosen, rejected = ([g.prompt + g.responses[i] for g in groups] for i in range(2))
    length = [max(map(len, pair)) for pair in zip(chosen, rejected, strict=True)]
    columns = {"chosen_ids": chosen, "rejected_ids": rejected, **({"length": length} if by_length else {})}
    sampling = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False} if by_length else {}
    theirs, read = model(), 0

    def count(_: object, ids: tuple[Tensor]) -> None:
        nonlocal read
        read += ids[0].numel()

    theirs.get_input_embeddings().register_forward_pre_hook(count)
    with tempfile.TemporaryDirectory() as folder:
        made = RewardConfig(folder, per_device_train_batch_size=MICRO, **settings(len(groups) // MICRO), **sampling)
        data = Dataset.from_dict(columns)
        trainer = RewardTrainer(theirs, made, train_dataset=data, processing_class=words(), callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return read


def settings(micro_batches: int) -> dict[str, Any]:
    """What both of TRL's trainers are told."""
    return {
        "gradient_accumulation_steps": micro_batches,
        "num_train_epochs": 1,
        "bf16": False,
        "gradient_checkpointing": None,  # none; False warns
        "use_cpu": True,
        "max_length": LONGEST,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def words() -> PreTrainedTokenizerFast:
    """TRL wants a tokenizer, though the data are token ids."""
    vocabulary = {f"w{i}": i for i in range(3, VOCABULARY)} | {"<pad>": 0, "<bos>": 1, "<eos>": 2}
    made = Tokenizer(WordLevel(vocabulary, unk_token="w9"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


if __name__ == "__main__":
    sys.exit(main())
