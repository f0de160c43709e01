"""Floating-point operations of passes over texts, and the seconds that they take a GPU."""

from dataclasses import dataclass
from typing import Literal

from pipeline.cost.memory import Place
from pipeline.cost.sheet import On, Shape


@dataclass(frozen=True)
class Text:
    """Groups of a prompt and its responses, in mean tokens (pipeline/packing.py)."""

    groups: float
    prompt: float
    response: float
    responses: int

    @property
    def sequences(self) -> float:
        return self.groups * max(1, self.responses)

    @property
    def length(self) -> float:
        return self.prompt + self.response

    def tokens(self, packing: str) -> float:
        """That a forward pass reads; padding of `padded` is left out."""
        if packing == "shared":
            return self.groups * (self.prompt + self.responses * self.response)
        return self.sequences * self.length

    def within(self, limit: float | None) -> "Text":
        """With responses no longer than a limit on the whole leaves."""
        if limit is None or self.length <= limit:
            return self
        prompt = min(self.prompt, limit)
        return Text(self.groups, prompt, limit - prompt, self.responses)


def forward(s: Shape, text: Text, packing: str) -> float:
    """Matrix products, 2 for each weight and token, and causal attention, 2 n² times its width for n tokens."""
    products = 2 * s.layers * s.linear * text.tokens(packing)
    return products + 2 * s.layers * s.queries * text.sequences * text.length**2


def logits(s: Shape, positions: float) -> float:
    return 2 * s.words * positions


def trained(flops: float, p: Place) -> float:
    """A backward pass is two forward ones, with LoRA one: the weights themselves have no gradient."""
    return flops * (1 + (1 if p.rank else 2) + (p.recompute != "none"))


def seconds(flops: float, on: On, precision: Literal["fp32", "bf16"], share: float) -> float:
    """`share` of the peak."""
    peak = on.gpu.bf16 if precision == "bf16" else on.gpu.fp32
    return flops / (1e12 * share * peak)


def decoding(s: Shape, p: Place, on: On, tokens: float, rows: float, length: float) -> float:
    """Seconds to write so many tokens, in `rows` answers at a time: each step reads all weights and what is kept of the
    rows' texts, half written on average."""
    steps = tokens / rows
    read = p.width * (s.layers * s.linear + s.words) + rows * length * 2 * s.keys * s.layers * p.width
    flops = rows * 2 * (s.layers * s.linear + s.words)
    by_memory = read / (1e9 * on.gpu.bandwidth * on.assumed.decoding)
    return steps * max(by_memory, seconds(flops, on, p.precision, on.assumed.scoring))


def copying(size: float, on: On) -> float:
    """Seconds from main memory."""
    return size / (1e9 * on.assumed.copying)
