"""Causal language models and reward models as transformers' own classes in ordinary folders; nothing is patched."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from pipeline import attention, dist
from pipeline.attention import hidden
from pipeline.errors import check
from pipeline.packing import Layout, Mode

logging.disable_progress_bar()
logging.set_verbosity_error()  # a fresh score head and an unused LM head are meant


def load_lm(folder: Path, packing: Mode = "padded") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    attention.use(model, packing)
    return model, AutoTokenizer.from_pretrained(folder)


def load_rm(folder: Path, packing: Mode = "padded") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    absent = ", ".join(sorted(info["missing_keys"]))
    check(
        not absent, "rm", str(folder), f"its folder does not hold {absent}, which would be random: make doctor RM=..."
    )
    attention.use(model, packing)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


HeadInit = Literal["stiennon", "hf", "reference"]


def new_rm(
    sft: Path, init: HeadInit, seed: int, packing: Mode = "padded"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The SFT model's body with a fresh linear head of one output, no bias."""
    torch.manual_seed(seed)  # the class initialises the head before we do
    model = AutoModelForSequenceClassification.from_pretrained(sft, num_labels=1, dtype=torch.float32)
    width = model.config.hidden_size
    stds = {
        "stiennon": 1 / math.sqrt(width + 1),
        "hf": model.config.initializer_range,
        "reference": 1 / math.sqrt(width),
    }
    nn.init.normal_(head(model).weight, std=stds[init], generator=torch.Generator().manual_seed(seed))
    attention.use(model, packing)
    return model, AutoTokenizer.from_pretrained(sft)


def head(model: PreTrainedModel) -> nn.Linear:
    return model.score  # type: ignore[return-value]  # every *ForSequenceClassification has it


def rewards(model: PreTrainedModel, at: Layout) -> tuple[Tensor, Tensor]:
    """(n,) rewards and the (n, d) representations they are read from: each response's last token."""
    with dist.autocast():
        h = hidden(model, at)[at.last]
    return head(model)(h.float()).squeeze(-1), h


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
