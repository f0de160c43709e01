"""Implicit rewards: r(x, y) = β (log π(y|x) − log π_ref(y|x)), of a language model beside the frozen one that it was.

With them the BT loss is DPO's (Rafailov et al., arXiv 2305.18290, eq. 7); any other loss of `losses` sees rewards as it
always does. The sum is over the response's tokens as the template writes them, the end of turn included, in fp32. What
h is called elsewhere, the input of a score head, is here the final norm's output at the last token: nothing reads it.

A folder holds both: π as any causal LM's, so that transformers alone finds the policy there, π_ref under `reference.`.
Left out: a reference that moves, sums divided by length.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from pipeline import attention, dist, policy
from pipeline.packing import Layout


class Implicit(PreTrainedModel):
    """A causal LM with `config.implicit_beta` and, as a part of it, the same model as it was."""

    reference: PreTrainedModel


def has_beta(config: PreTrainedConfig) -> bool:
    return getattr(config, "implicit_beta", None) is not None


def kind(config: PreTrainedConfig) -> Any:
    """The class of such a model, which `from_pretrained` makes."""
    own: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]

    class WithReference(own, Implicit):
        def __init__(self, config: PreTrainedConfig):
            super().__init__(config)
            self.reference = own(config)  # one config: what sets the attention of one sets that of both
            self.post_init()  # again: it looks which weights of its parts are tied

    return WithReference


def new(sft: Path, beta: float) -> Implicit:
    """The SFT model, beside itself: all rewards are 0."""
    config = AutoConfig.from_pretrained(sft, num_labels=1)
    config.implicit_beta = beta
    model: Implicit = kind(config).from_pretrained(sft, config=config, dtype=torch.float32)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("reference.")}
    model.reference.load_state_dict(own)
    model.reference.requires_grad_(False)
    return model


def rewards(model: Implicit, at: Layout) -> tuple[Tensor, Tensor]:
    """(n,) rewards and the (n, d) final representations of each response's last token."""
    with dist.autocast():
        h = attention.hidden(model, at)
    own, _ = policy.of_hidden(model, h[at.before], at.target)
    with torch.no_grad():
        reference, _ = policy.logprobs(model.reference, at)
    ratio = own - reference  # (m,)
    summed = ratio.new_zeros(len(at.last)).index_add(0, at.owner, ratio)
    return model.config.implicit_beta * summed, h[at.last]
