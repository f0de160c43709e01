"""Sampled tokens a second beside transformers' `generate` with its cache: the same Llama in fp32, the same prompts, the
same number of tokens in every row. Shapes are those of rollouts, k rows to a prompt, and of a longer queue that is
answered sixteen rows at a time, by the peer in batches of sixteen. Both draw at temperature 1, without cuts.

The peer gets its rows left-padded, all of a batch at once, and stops each where ours ended. It is timed a second time
while it only repeats our tokens and draws nothing, so that both read exactly the same; before anything is timed, its
greedy tokens must be ours.
"""

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LogitsProcessor, PreTrainedModel, StoppingCriteria

from benchmarks.bar import Bar, publish
from benchmarks.rm_step import LAYERS, VOCABULARY, WIDTH
from pipeline.sample import Sampling, sample

ROUNDS = 5
MUST, AIM = 1.7, 2.5
LONGEST = 640  # tokens of a prompt


@dataclass(frozen=True)
class Case:
    file: str
    name: str
    prompts: list[list[int]]
    k: int
    max_new: int
    stops: int  # the last tokens of the vocabulary: the more, the shorter
    slots: int | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_new, 1.0, stops=tuple(range(VOCABULARY - self.stops, VOCABULARY)))


@dataclass(frozen=True)
class Round:
    ours: float  # CPU seconds
    sampling: float
    repeating: float
    tokens: int
    steps: int  # rows times steps of the peer


def main() -> int:
    torch.set_num_threads(1)
    lm = model()
    found = list(cases())
    for case in found:
        check(lm, case)
    rounds = [[one(lm, case, i) for case in found] for i in range(ROUNDS)]
    return publish([beside(case, [each[n] for each in rounds]) for n, case in enumerate(found)])


def model() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 688, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **heads, **ends, max_position_embeddings=4096)).eval()


def cases() -> Iterator[Case]:
    rollouts = "4 to each of {} prompts, at most {} tokens"
    yield Case("decode-short", rollouts.format(8, 128), prompts(8), 4, 128, stops=120)
    yield Case("decode-long", rollouts.format(4, 384), prompts(4), 4, 384, stops=36)
    yield Case("decode-queue", "32 prompts, 16 at once, at most 128 tokens", prompts(32), 1, 128, stops=120, slots=16)


def prompts(n: int) -> list[list[int]]:
    draw = random.Random(n)
    lengths: list[int] = []
    while len(lengths) < n:
        length = int(draw.lognormvariate(math.log(120), 0.8))
        lengths += [length] if 8 <= length <= LONGEST else []
    return [[draw.randrange(10, VOCABULARY) for _ in range(length)] for length in lengths]


def check(lm: PreTrainedModel, case: Case) -> None:
    """Both read the model alike."""
    greedy = Sampling(24, 0.0)
    asked = case.prompts[:8]
    ours = sample(lm, asked, greedy, range(len(asked)), 2)
    theirs = padded_generate(lm, [p for p in asked for _ in range(2)], 24, do_sample=False)
    assert ours == [row.tolist() for row in theirs], "greedy tokens differ"


def one(lm: PreTrainedModel, case: Case, i: int) -> Round:
    """Ours first, since it says what the peer has to do; the order of the peer's two ways changes."""
    seeds = [1000 * i + n for n in range(len(case.prompts))]
    answers: list[list[int]] = []
    ours = cpu(lambda: answers.extend(sample(lm, case.prompts, case.sampling, seeds, case.k, case.slots)))
    torch.manual_seed(i)
    ways = {repeat: peer(lm, case, answers, repeat) for repeat in (False, True)[:: 1 if i % 2 else -1]}
    return Round(ours, ways[False], ways[True], sum(map(len, answers)), row_steps(case, answers))


def peer(lm: PreTrainedModel, case: Case, answers: Sequence[list[int]], repeat: bool) -> float:
    rows = [p for p in case.prompts for _ in range(case.k)]
    batch = case.slots or len(rows)

    def answered() -> None:
        for start in range(0, len(rows), batch):
            part, ends = rows[start : start + batch], answers[start : start + batch]
            width = max(map(len, part))
            how = {"logits_processor": [Repeat(ends, width)]} if repeat else {}
            stop = Stop(torch.tensor([width + len(end) for end in ends]))
            padded_generate(lm, part, case.max_new, do_sample=not repeat, stopping_criteria=[stop], **how)

    return cpu(answered)


class Stop(StoppingCriteria):
    """Each row at a length of its own."""

    def __init__(self, lengths: Tensor):
        self.lengths = lengths

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:  # type: ignore[override]  # theirs names narrower tensors
        return input_ids.shape[1] >= self.lengths


class Repeat(LogitsProcessor):
    """Puts the token that is wanted first."""

    def __init__(self, answers: Sequence[list[int]], width: int):
        longest = max(map(len, answers))
        self.wanted, self.width = torch.tensor([a + [0] * (longest - len(a)) for a in answers]), width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]  # theirs names narrower tensors
        return scores.scatter_(1, self.wanted[:, input_ids.shape[1] - self.width, None], torch.inf)


def padded_generate(lm: PreTrainedModel, rows: Sequence[list[int]], max_new: int, **how: object) -> Tensor:
    """(n, new) tokens."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    drawn = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if how["do_sample"] else {}
    return lm.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new, **drawn, **how)[:, width:]  # type: ignore[operator]  # a method


def row_steps(case: Case, answers: Sequence[list[int]]) -> int:
    batch = case.slots or len(answers)
    parts = [answers[start : start + batch] for start in range(0, len(answers), batch)]
    return sum(len(part) * max(map(len, part)) for part in parts)


def cpu(what: Callable[[], object]) -> float:
    start = time.process_time()
    what()
    return time.process_time() - start


def beside(case: Case, rounds: Sequence[Round]) -> Bar:
    ratios = [r.sampling / r.ours for r in rounds]
    repeating = statistics.median(r.repeating / r.ours for r in rounds)
    value = statistics.median(ratios)
    steps = statistics.median(r.steps / r.tokens for r in rounds)
    return Bar(
        case.file,
        f"decoding, {case.name} (the peer takes {steps:.2f} row-steps a token; drawing nothing: {repeating:.2f})",
        *(value, "times as fast", "higher", ratios, MUST, AIM),
        peer="transformers' generate, left-padded, dynamic cache",
        ratio=value,
        more={
            "tokens_per_cpu_second": statistics.median(r.tokens / r.ours for r in rounds),
            "peer_tokens_per_cpu_second": statistics.median(r.tokens / r.sampling for r in rounds),
            "ratio_drawing_nothing": repeating,
            "row_steps_per_token": steps,
            "mean_tokens": statistics.median(r.tokens / (case.k * len(case.prompts)) for r in rounds),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
