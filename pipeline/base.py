"""The model that SFT starts from: one from the hub, with the template and the special tokens that its YAML names; or a
tiny one built from numbers, with an initialisation that trains fast at that size and a tokenizer trained on the world's
text. A tiny encoder's body is made in the same way, and SFT leaves it as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
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
from pipeline.experiment import PAD_REMEDY, Model
from pipeline.world import tokenizer as world_tokenizer

FAMILIES: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "bert": (BertConfig, BertModel),
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # which BERT has


def make(model: Model, seed: int, root: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that SFT starts from, and its tokenizer. root: of hub models (hub.py)."""
    if model.source == "tiny":
        tokenizer = tiny_tokenizer(model)
        return tiny(model, tokenizer, seed), tokenizer
    return from_hub(model, root)


def from_hub(model: Model, root: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """In fp32, whatever it is stored in."""
    assert model.id is not None, "Model checks it"
    folder = hub.model(model.id, model.revision, root).folder
    tokenizer = chat.load(folder)
    settle(tokenizer, model)
    made: Any = AutoModelForCausalLM
    lm, info = made.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    odd = sorted(info["missing_keys"]) + sorted(key for key in info["unexpected_keys"] if key.startswith("score."))
    reward = f"it is no language model ({', '.join(odd)}); make eval RM=... scores reward models"
    check(not odd, "model.id", model.id, reward)
    layers = lm._no_split_modules or ()
    found = {type(module).__name__ for module in lm.modules()} & set(layers)
    there = model.layer is None or model.layer in found
    check(there, "model.layer", model.layer, f"{type(lm).__name__} is sharded by {', '.join(found) or 'no layer'}")
    tell(lm, tokenizer)
    return lm, tokenizer


def settle(tokenizer: PreTrainedTokenizerBase, model: Model) -> None:
    """Gives it the template and special tokens that `model` names, and sees that they are what they should be."""
    whose = f"the tokenizer of {model.id}"
    if model.template is not None:
        tokenizer.chat_template = chat.TEMPLATES[model.template]
    there = bool(tokenizer.chat_template)
    check(there, "model.template", None, f"{whose} has none of its own: say zephyr, or llama3 for a Llama 3")
    same = model.bos in (None, tokenizer.bos_token)
    check(same, "model.bos", model.bos, f"{whose} has {tokenizer.bos_token!r}")
    for role in ("eos", "pad"):
        token = getattr(model, role)
        if token is not None:
            check(token in tokenizer.get_vocab(), f"model.{role}", token, f"{whose} does not know it")
            setattr(tokenizer, f"{role}_token", token)
    end, pad = chat.eos(tokenizer), tokenizer.pad_token_id
    check(pad not in (None, end), "model.pad", tokenizer.pad_token, PAD_REMEDY)
    (cue,), (ids,) = chat.prompts(tokenizer, ["?"]), chat.answered(tokenizer, ["?"], ["!"])
    once = model.bos is None or (ids[0] == tokenizer.bos_token_id and ids[1] != tokenizer.bos_token_id)
    check(once, "model.bos", model.bos, f"the template begins a conversation with {tokenizer.decode(ids[:2])!r}")
    ended = end in ids[chat.common_prefix([cue, ids]) :]
    check(ended, "model.eos", tokenizer.eos_token, "the template ends no answer with it: name the token that does")


def tell(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The special tokens, to whoever reads config.json alone: transformers looks there for what is padding."""
    config, generation = lm.config.get_text_config(), lm.generation_config
    assert generation is not None, "a causal LM's"
    stops = generation.eos_token_id
    more = stops if isinstance(stops, list) else [] if stops is None else [stops]
    generation.eos_token_id = sorted({chat.eos(tokenizer), *more})
    config.eos_token_id = tokenizer.eos_token_id
    for each in (config, generation):
        each.bos_token_id, each.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id


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
        **(NO_DROPOUT if model.is_encoder else {}),
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
