"""The model that SFT starts from: one from the hub, or a tiny one built from numbers, with an initialisation that
trains fast at that size and a tokenizer trained on the world's text.
"""

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pipeline import chat, hub
from pipeline.errors import check
from pipeline.experiment import Model
from pipeline.world import tokenizer as world_tokenizer

FAMILIES: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}


def make(model: Model, seed: int, root: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that SFT starts from, and its tokenizer. root: of hub models (hub.py)."""
    if model.source == "tiny":
        tokenizer = tiny_tokenizer(model)
        return tiny(model, tokenizer, seed), tokenizer
    assert model.id is not None, "Model checks it"
    folder = hub.model(model.id, model.revision, root).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model.template == "zephyr":
        tokenizer.chat_template = chat.ZEPHYR
    check(bool(tokenizer.chat_template), "model.template", None, f"{model.id} has no template of its own: say zephyr")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer


def tiny_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """A byte-level BPE trained on the world's text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=world_tokenizer.train(model.vocab or 0),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=chat.ZEPHYR if model.template == "zephyr" else world_tokenizer.CHAT_TEMPLATE,
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
