"""What a cost is reckoned with: conf/cost.yaml, each number there with its source. And the shapes of models, which are
all that their cost depends on."""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.config import CONF, build, closest
from pipeline.errors import ConfigError, check

HUB = Path("~/.cache/huggingface/hub").expanduser()  # where the hub's library keeps what it has fetched, by default


@dataclass(frozen=True)
class Gpu:
    memory: float  # GB
    bf16: float  # TFLOP/s
    fp32: float
    bandwidth: float  # GB/s


@dataclass(frozen=True)
class Assumed:
    usable: float
    training: float
    scoring: float
    decoding: float
    copying: float
    learned: float
    score_bytes: float


@dataclass(frozen=True)
class On:
    """A kind of GPU, and what is assumed of it."""

    gpu: Gpu
    assumed: Assumed

    @property
    def room(self) -> float:
        """Bytes for tensors."""
        return 1e9 * self.gpu.memory * self.assumed.usable


@dataclass(frozen=True)
class Shape:
    """A decoder with gated MLPs and RMSNorms: Llama, Qwen2, Mistral, Gemma."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int  # width of one
    mlp: int
    vocab: int
    tied: bool  # is the LM head the embedding?
    qkv_bias: bool = False

    @property
    def queries(self) -> int:
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Values are as wide."""
        return self.kv_heads * self.head

    @property
    def linear(self) -> int:
        """Parameters of one layer that tokens are multiplied by."""
        return self.hidden * (2 * self.queries + 2 * self.keys) + 3 * self.hidden * self.mlp

    @property
    def layer(self) -> int:
        bias = self.queries + 2 * self.keys if self.qkv_bias else 0
        return self.linear + bias + 2 * self.hidden

    @property
    def words(self) -> int:
        return self.vocab * self.hidden

    @property
    def body(self) -> int:
        """Parameters without any head."""
        return self.words + self.layers * self.layer + self.hidden

    @property
    def lm(self) -> int:
        return self.body + (0 if self.tied else self.words)

    @property
    def rm(self) -> int:
        return self.body + self.hidden

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA on all linear layers: rank times the widths of both sides."""
        d, q, k, m = self.hidden, self.queries, self.keys, self.mlp
        return rank * self.layers * (2 * (d + q) + 2 * (d + k) + 3 * (d + m))


@dataclass(frozen=True)
class Texts:
    prompt: float
    response: float
    responses: int


@dataclass(frozen=True)
class Lengths:
    hub: dict[str, Texts]
    world: Texts


@dataclass(frozen=True)
class Both:
    hub: float
    world: float


@dataclass(frozen=True)
class Sheet:
    gpus: dict[str, Gpu]
    assumed: Assumed
    models: dict[str, Shape]
    rows: dict[str, int]
    texts: Lengths
    answers: Both
    longest_prompt: Both


@cache
def sheet() -> Sheet:
    return build(Sheet, config.load_yaml(CONF / "cost.yaml"), "cost")


def gpu(name: str, mfu: float | None = None) -> On:
    """`mfu`: the share of the peak, in training and in scoring, that was measured; None: as assumed."""
    known, assumed = sheet().gpus, sheet().assumed
    if name not in known:
        raise ConfigError("gpu", name, f"not in conf/cost.yaml, which has {', '.join(known)}; {closest(name, known)}")
    check(mfu is None or 0 < mfu <= 1, "mfu", mfu, "is a share of the peak: 0 < mfu <= 1")
    return On(known[name], assumed if mfu is None else replace(assumed, training=mfu, scoring=mfu))


def shape(model: dict[str, Any]) -> Shape:
    """Of an experiment's `model`, as plain values."""
    if model["source"] == "tiny":
        d, h = model["hidden"], model["heads"]
        bias = model["family"] == "qwen2"
        return Shape(d, model["layers"], h, h, d // h, model["mlp"], model["vocab"], tied=False, qkv_bias=bias)
    return of_hub(model["id"])


@cache
def of_hub(id: str) -> Shape:
    """From config.json where one is at hand, else from the table."""
    here = Path(id) / "config.json"
    fetched = sorted((HUB / f"models--{id.replace('/', '--')}").glob("snapshots/*/config.json"))
    for path in (here, *fetched):
        if path.is_file():
            return of_config(json.loads(path.read_text()), str(path))
    known = sheet().models
    if id not in known:
        raise ConfigError("model.id", id, "its shape is not known: fetch it, or add it to `models` in conf/cost.yaml")
    return known[id]


def of_config(found: dict[str, Any], path: str) -> Shape:
    text = found.get("text_config", found)
    experts = [name for name in text if "expert" in name]
    check(not experts, "model.id", path, f"a cost is not known for models with {', '.join(experts)}")
    d, heads = text["hidden_size"], text["num_attention_heads"]
    return Shape(
        hidden=d,
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head=text.get("head_dim") or d // heads,
        mlp=text["intermediate_size"],
        vocab=text["vocab_size"],
        tied=found.get("tie_word_embeddings", text.get("model_type", "").startswith("gemma")),
        qkv_bias=text.get("attention_bias", text.get("model_type") == "qwen2"),
    )
