"""What a language model makes of responses: log-probability and entropy of each of their tokens, at a temperature.

Logits exist at response positions only and ROWS of them at once; the backward pass computes them again. So no tensor
has more than ROWS rows as wide as the vocabulary, however long the stream is.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline import dist
from pipeline.attention import hidden
from pipeline.packing import Layout

ROWS = 256  # of 8,192 words in fp32: 8 MiB


def logprobs(model: PreTrainedModel, at: Layout, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(m,) log-probability of each response token, and (m,) entropy of what could stand there, without gradient."""
    with dist.autocast():
        h = hidden(model, at)[at.before]
    return of_hidden(model, h, at.target, temperature)


def of_hidden(model: PreTrainedModel, h: Tensor, target: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The same, from the (m, d) representations that predict them."""
    head: Any = model.get_output_embeddings()
    assert head.bias is None, "the causal models of transformers have none"
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return Head.apply(h, head.weight.to(h.dtype), target, temperature, cap)  # type: ignore[return-value]  # of two


class Head(torch.autograd.Function):
    """log softmax of capped logits / temperature in fp32, at the targets."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, target: Tensor, temperature: float, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        logp, entropy = h.new_empty(2, len(h), dtype=torch.float32)
        for at in chunks(len(h)):
            each = logits(h[at], weight, cap).div_(temperature).log_softmax(1)
            logp[at] = each.gather(1, target[at, None]).squeeze(1)
            entropy[at] = -torch.linalg.vecdot(each.exp(), each)
        ctx.save_for_backward(h, weight, target)
        ctx.temperature, ctx.cap = temperature, cap
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # of two outputs
        h, weight, target = ctx.saved_tensors
        of_logp = gradients[0][:, None] / ctx.temperature  # (m, 1)
        of_h, of_weight = torch.empty_like(h), torch.zeros_like(weight)
        for at in chunks(len(h)):
            z = logits(h[at], weight, ctx.cap)
            of_z = z.div(ctx.temperature).softmax(1).mul_(-of_logp[at]).scatter_add_(1, target[at, None], of_logp[at])
            if ctx.cap is not None:
                of_z.mul_(1 - (z / ctx.cap).square_())
            of_z = of_z.to(h.dtype)
            of_h[at] = of_z @ weight
            of_weight.addmm_(of_z.t(), h[at])
        return of_h, of_weight, None, None, None


def chunks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS))


def logits(h: Tensor, weight: Tensor, cap: float | None) -> Tensor:
    z = (h @ weight.t()).float()
    return z if cap is None else z.div_(cap).tanh_().mul_(cap)
