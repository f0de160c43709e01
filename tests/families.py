"""Stand-ins for the hub's models: random weights, and of the real ones the config class, tied embeddings, template,
special tokens as their tokenizers have them (their gaps too), and how spaces become tokens. Ids are laid by hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from pipeline import config, models
from pipeline.experiment import Model

# Pieces that are one token, after the special ones; a piece with a space before it is another token.
PIECES = (
    *("user", "assistant", "system", "model", "hi", "yes", "ok", "fine", "[INST]", "[/INST]"),
    *("You", "are", "a", "helpful", "named", "AI", "Cutting", "Knowledge", "Date", "December", "Today", "Jul", "\n\n"),
)
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
CHATML = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
OLMO = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not (loop.last and message['role'] == 'assistant') %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    config: Callable[..., PreTrainedConfig]
    special: tuple[str, ...]  # ids from 0
    bos: str | None
    eos: str
    pad: str | None
    template: str | None
    spaces: Literal["bytes", "marks", "marks before all"] = "bytes"  # byte-level, or sentencepiece's ▁
    more: dict[str, Any] = field(default_factory=dict)  # of its config
    bare: bool = False  # no BOS before a text that is tokenized without saying otherwise


HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMAS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
LONG = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
ROPE = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, **LONG}}
TIED = {"tie_word_embeddings": True}
WIDE = {"head_dim": 16}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 24}

FAMILIES = {  # by their names in conf/model
    "llama-3.2-3b": Family(LlamaConfig, HEADERS, HEADERS[0], HEADERS[1], None, None, more=TIED | ROPE),
    "llama-3.2-3b-instruct": Family(LlamaConfig, HEADERS, HEADERS[0], HEADERS[4], None, LLAMA, more=TIED | ROPE),
    "qwen2.5-0.5b": Family(Qwen2Config, TURNS, None, TURNS[0], TURNS[0], CHATML, more=TIED, bare=True),
    "gemma-2b-it": Family(GemmaConfig, GEMMAS, "<bos>", "<eos>", "<pad>", GEMMA, "marks", TIED | WIDE),
    "gemma-2-2b-it": Family(Gemma2Config, GEMMAS, "<bos>", "<eos>", "<pad>", GEMMA, "marks", TIED | WIDE | CAPS),
    "mistral-7b-instruct-v0.2": Family(
        MistralConfig,
        ("<unk>", "<s>", "</s>"),
        "<s>",
        "</s>",
        None,
        MISTRAL,
        "marks before all",
        {"sliding_window": None},
    ),
    "smollm2-1.7b-instruct": Family(LlamaConfig, TURNS, TURNS[1], TURNS[2], TURNS[2], CHATML, more=TIED, bare=True),
    "olmo-2-7b-instruct": Family(
        Olmo2Config, ("<|endoftext|>", "<|pad|>"), "<|endoftext|>", "<|endoftext|>", "<|pad|>", OLMO, bare=True
    ),
}


def vocabulary(of: Family) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids by token, and the merges that make a token of each piece: from its first letter on, then with a space."""
    if of.spaces == "bytes":
        space, letters = "Ġ", sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        space, letters = "▁", ["▁", "\n", *map(chr, range(33, 127)), *(f"<0x{i:02X}>" for i in range(256))]
    pieces = [p.replace("\n", "Ċ") if of.spaces == "bytes" else p for p in PIECES]
    tokens = dict.fromkeys((*of.special, *pieces, *(space + p for p in pieces), *letters))
    merges: dict[tuple[str, str], None] = {}
    for piece in pieces:
        for end in range(1, len(piece)):
            merges[piece[:end], piece[end]] = None
            tokens[piece[: end + 1]] = None
    merges |= {(space, piece): None for piece in pieces}
    return {token: i for i, token in enumerate(tokens)}, list(merges)


def ids(of: Family, tokens: Sequence[str]) -> list[int]:
    """By hand: where each stands in the vocabulary. A space is written as such."""
    known, _ = vocabulary(of)
    marks = {" ": "Ġ", "\n": "Ċ"} if of.spaces == "bytes" else {" ": "▁"}
    return [known[t if t in of.special else "".join(marks.get(c, c) for c in t)] for t in tokens]


def tokenizer(of: Family) -> PreTrainedTokenizerFast:
    tokens, merges = vocabulary(of)
    if of.spaces == "bytes":
        made = Tokenizer(BPE(tokens, merges))
        made.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
            [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    else:
        before = [normalizers.Prepend("▁")] if of.spaces == "marks before all" else []
        made = Tokenizer(BPE(tokens, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        made.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
        strip = [decoders.Strip(" ", 1, 0)] if before else []
        made.decoder = decoders.Sequence(  # type: ignore[assignment]
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
    made.add_special_tokens(list(of.special))
    if not of.bare:
        before_all = [(of.bos, tokens[of.bos or ""])]
        made.post_processor = processors.TemplateProcessing(f"{of.bos} $A", special_tokens=before_all)  # type: ignore[assignment]
    named = {"bos_token": of.bos, "eos_token": of.eos, "pad_token": of.pad, "chat_template": of.template}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=4096, **named)


def write(folder: Path, of: Family, seed: int = 0, positions: int = 512, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Its folder, as the hub would give it: weights in half precision, ids in config.json as the real one has them."""
    words = tokenizer(of)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": positions}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2}
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(
        of.config(vocab_size=len(words), **{"tie_word_embeddings": False, **sizes, **heads, **special, **of.more})
    )
    models.save(made.to(dtype), words, folder)
    return folder


def settings(name: str, folder: Path, **changed: Any) -> Model:
    """What conf/model says of it, for the stand-in in this folder."""
    return Model(**{**config.load_yaml(config.CONF / "model" / f"{name}.yaml"), "id": str(folder), **changed})
