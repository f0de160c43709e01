"""Causal language models and reward models as transformers' own classes in ordinary folders; nothing is patched.

The tiny ones are built from numbers in the config, with an initialisation that trains fast at that size.
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

from pipeline.experiment import Model
from pipeline.packing import Layout
from pipeline.world import tokenizer as world_tokenizer

FAMILIES: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
logging.disable_progress_bar()
logging.set_verbosity_error()  # a fresh score head and an unused LM head are meant


def base(model: Model, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that SFT starts from, and its tokenizer."""
    if model.source == "tiny":
        tokenizer = tiny_tokenizer(model)
        return tiny(model, tokenizer, seed), tokenizer
    assert model.id is not None, "Model checks it"
    tokenizer = AutoTokenizer.from_pretrained(model.id, revision=model.revision)
    return AutoModelForCausalLM.from_pretrained(model.id, revision=model.revision, dtype=torch.float32), tokenizer


def tiny_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """A byte-level BPE trained on the world's text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=world_tokenizer.train(model.vocab or 0),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=world_tokenizer.CHAT_TEMPLATE,
        model_max_length=model.positions,
        clean_up_tokenization_spaces=False,
    )


def tiny(model: Model, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    config_class, model_class = FAMILIES[model.family or ""]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden,
        intermediate_size=model.mlp,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.heads,
        max_position_embeddings=model.positions,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    lm = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in lm.named_parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=initial_std(name, parameter, config.num_hidden_layers), generator=generator)
    return lm


def initial_std(name: str, parameter: Tensor, layers: int) -> float:
    """1/√fan-in; output projections also / √(2 layers); embeddings large, head small."""
    if "embed_tokens" in name:
        return 0.5
    if "lm_head" in name:
        return 0.02
    residual = "o_proj" in name or "down_proj" in name
    return parameter.shape[1] ** -0.5 * ((2 * layers) ** -0.5 if residual else 1.0)


def load_lm(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def load_rm(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


HeadInit = Literal["stiennon", "hf", "reference"]


def new_rm(sft: Path, init: HeadInit, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
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
    return model, AutoTokenizer.from_pretrained(sft)


def head(model: PreTrainedModel) -> nn.Linear:
    return model.score  # type: ignore[return-value]  # every *ForSequenceClassification has it


def hidden(model: PreTrainedModel, at: Layout) -> Tensor:
    """(tokens, d): the final norm's output, which is what heads read."""
    body: Any = model.base_model
    return body(input_ids=at.ids, use_cache=False).last_hidden_state.flatten(0, 1)


def rewards(model: PreTrainedModel, at: Layout) -> tuple[Tensor, Tensor]:
    """(n,) rewards and the (n, d) representations they are read from: each response's last token."""
    h = hidden(model, at)[at.last]
    return head(model)(h.float()).squeeze(-1), h


def logprobs(model: PreTrainedModel, at: Layout, temperature: float = 1.0) -> Tensor:
    """(m,) log-probability of each response token; logits exist at those positions only."""
    logits = model.lm_head(hidden(model, at)[at.before]).float() / temperature  # type: ignore[operator]  # the head is a module
    return logits.log_softmax(-1).gather(1, at.target[:, None]).squeeze(1)


@torch.no_grad()
def spread_gain(model: PreTrainedModel, spread: float, norm: float, at: Layout, seed: int) -> None:
    """Multiplies the final norm's gain by exp(spread z) and by what makes the mean ‖h‖ on `at` equal norm·√d;
    divides the LM head by the same. What the model says is unchanged; what a reward head reads is no longer pinned
    to one norm."""
    body: Any = model.base_model
    gain, lm_head = body.norm.weight, model.get_output_embeddings().weight  # type: ignore[union-attr]  # a causal LM has one
    factor = torch.exp(spread * torch.randn(len(gain), generator=torch.Generator().manual_seed(seed)))
    mean = (hidden(model, at)[at.last] * factor).norm(dim=-1).mean()
    factor *= norm * math.sqrt(len(gain)) / mean
    gain.mul_(factor)
    lm_head.div_(factor)  # (vocab, d)
