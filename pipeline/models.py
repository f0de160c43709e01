"""Causal language models and reward models as transformers' own classes in ordinary folders; nothing is patched.

One control is no such class: a head with a hidden layer (`Mlp`). Its folder is of the same files, with weights that
transformers alone refuses to load, since their shapes are not those of a linear head. Nor is a language model whose
reward is implicit (pipeline/implicit.py).
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from pipeline import attention, chat, dist, implicit
from pipeline.attention import hidden
from pipeline.errors import check
from pipeline.implicit import Implicit
from pipeline.packing import Layout, Mode

logging.disable_progress_bar()
logging.set_verbosity_error()  # a fresh score head and an unused LM head are meant


def load_lm(folder: Path, packing: Mode = "padded") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.to(dist.device())  # type: ignore[arg-type]  # a device
    attention.use(model, packing)
    return model, chat.load(folder)


def load_rm(folder: Path, packing: Mode = "padded") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    made = classifier(AutoConfig.from_pretrained(folder))
    model, info = made.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    absent = ", ".join(sorted(info["missing_keys"]))
    check(
        not absent, "rm", str(folder), f"its folder does not hold {absent}, which would be random: make doctor RM=..."
    )
    attention.use(model, packing)
    return model.eval(), chat.load(folder)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


HeadInit = Literal["stiennon", "hf", "reference"]
Head = Literal["mlp"] | None  # None: linear


class Mlp(nn.Linear):
    """One hidden layer, then a linear head without bias. It has not as many units as the model is wide: `score.weight`
    is then of another shape than that of a linear head. Size and nonlinearity are ours: no paper states them."""

    def __init__(self, width: int):
        super().__init__(2 * width, 1, bias=False)
        self.inner = nn.Linear(width, 2 * width, bias=False)

    def read(self, x: Tensor) -> Tensor:
        """(n, 2 d) what the last layer reads."""
        return F.relu(self.inner(x))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.read(input))


def classifier(config: PreTrainedConfig) -> Any:
    """The class of a reward model, which `from_pretrained` makes."""
    if implicit.has_beta(config):
        return implicit.kind(config)
    if getattr(config, "score_head", None) is None:
        return AutoModelForSequenceClassification
    own: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]

    class WithMlp(own):
        def __init__(self, config: PreTrainedConfig):
            super().__init__(config)
            self.score = Mlp(config.hidden_size)

    return WithMlp


def new_rm(
    sft: Path, init: HeadInit, seed: int, packing: Mode = "padded", kind: Head = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The SFT model's body with a fresh head of one output, no bias: where the class has one, it stays 0."""
    torch.manual_seed(seed)  # the class initialises the head before we do
    config = AutoConfig.from_pretrained(sft, num_labels=1)
    if kind is not None:
        config.score_head = kind
    model = classifier(config).from_pretrained(sft, config=config, dtype=torch.float32)
    width = head(model).in_features
    stds = {
        "stiennon": 1 / math.sqrt(width + 1),
        "hf": model.config.initializer_range,
        "reference": 1 / math.sqrt(width),
    }
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head(model).weight, std=stds[init], generator=generator)
    if head(model).bias is not None:
        nn.init.zeros_(head(model).bias.requires_grad_(False))
    if isinstance(last := head(model), Mlp):  # He: what it makes is about as large as what it reads
        nn.init.kaiming_normal_(last.inner.weight, nonlinearity="relu", generator=generator)
    attention.use(model, packing)
    return model, chat.load(sft)


def head(model: PreTrainedModel) -> nn.Linear:
    """Its weight is that of the linear layer that gives the reward."""
    return getattr(model, head_name(model.config))


def head_name(config: PreTrainedConfig) -> str:
    """What a *ForSequenceClassification calls it."""
    return "classifier" if attention.is_encoder(config) else "score"


@torch.no_grad()
def fix_gain(model: PreTrainedModel) -> None:
    """The final norm without its gain, for good: each h then has the norm √d, also for transformers alone."""
    body: Any = model.base_model
    ((name, gain),) = body.norm.named_parameters()
    assert name == "weight", "an RMSNorm has a gain and nothing else"
    x = torch.randn(8, len(gain), generator=torch.Generator().manual_seed(0)).to(gain.device)
    for stored in (1.0, 0.0):  # Gemma stores what it adds to 1
        gain.fill_(stored)
        if torch.allclose(body.norm(x).square().mean(-1), torch.ones(8, device=x.device), atol=1e-3):
            gain.requires_grad_(False)
            return
    raise ValueError(
        f"{type(body.norm).__name__} has no gain that leaves vectors at norm √d: set norm_before_head=null"
    )


def rewards(model: PreTrainedModel, at: Layout) -> tuple[Tensor, Tensor]:
    """(n,) rewards and the (n, d) representations they are read from, of each response's last token or, of an encoder,
    of its first: the input of the last linear layer."""
    if isinstance(model, Implicit):
        return implicit.rewards(model, at)
    with dist.autocast():
        h = attention.pooled(model, at) if attention.is_encoder(model.config) else hidden(model, at)[at.last]
    return read(model, h)


def read(model: PreTrainedModel, h: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) rewards of the body's (n, d) outputs, and what the last linear layer reads."""
    score = head(model)
    if isinstance(score, Mlp):
        h = score.read(h.float())
        return F.linear(h, score.weight).squeeze(-1), h
    return score(h.float()).squeeze(-1), h


@torch.no_grad()
def spread_gain(model: PreTrainedModel, spread: float, norm: float, at: Layout, seed: int) -> None:
    """Multiplies the final norm's gain by exp(spread z) and by what makes the mean ‖h‖ on `at` equal norm·√d;
    divides the LM head by the same. What the model says is unchanged; what a reward head reads is no longer pinned
    to one norm."""
    body: Any = model.base_model
    gain, lm_head = body.norm.weight, model.get_output_embeddings().weight  # type: ignore[union-attr]  # a causal LM has one
    factor = torch.exp(spread * torch.randn(len(gain), generator=torch.Generator().manual_seed(seed))).to(gain.device)
    mean = (hidden(model, at)[at.last] * factor).norm(dim=-1).mean()
    factor *= norm * math.sqrt(len(gain)) / mean
    gain.mul_(factor)
    lm_head.div_(factor)  # (vocab, d)
