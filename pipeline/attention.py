"""How a model reads a layout: the one attention function that transformers is given for streams, and the choice of
the best mode that a model gets right.

No model is patched. The function is registered with transformers' AttentionInterface under a name for each mode; models
hand on to it every keyword that their forward does not know, so the layout's tree reaches each layer. Without a tree
(sampling, padded layouts) it does what transformers' own functions do.

On a CPU, and in fp32 anywhere, a stream's attention is one causal call for each block of sequences of similar length
(`packing.Rows`). In half precision on a GPU it is one variable-length call: not yet run on a GPU. Soft-capped scores
(Gemma 2) are computed plainly.

An encoder's tokens see all of their text: it reads padded rows alone, with a mask (`pooled`).

Left out: models whose result depends on what else is in a stream or on its length. `unsupported` names those that a
small example would not show; `use` finds the others by reading two small groups both ways.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.errors import check
from pipeline.packing import MODES, Group, Layout, Mode, Rows, Tree, Varlen, layout

NAMES: dict[Mode, str] = {"shared": "stream-shared", "packed": "stream-packed"}


def forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    tree: Tree | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """(B, heads, T, d) queries, keys and values -> (B, T, heads, d); B is 1 for a stream."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree is None:
        if softcap is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scale, **rest)
        seen = attention_mask
        if seen is None:  # new tokens after those in the cache
            seen = band(key.shape[2], None, str(key.device))[-query.shape[2] :]
        return capped(query, key, value, seen, scale, softcap).transpose(1, 2).contiguous(), None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, d)
    if softcap is None and q.is_cuda and q.dtype != torch.float32:
        return by_segments(q, k, v, tree.varlen, scale, sliding_window)[None], None
    attend = partial(sequences, scale=scale, softcap=softcap, window=sliding_window)
    return by_rows(q, k, v, tree.rows, attend)[None], None


for name in NAMES.values():
    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, sdpa_mask)  # for what has no tree


def by_rows(q: Tensor, k: Tensor, v: Tensor, rows: Rows, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    sizes = [count * width for count, width in rows.blocks]
    parts = (x.index_select(0, rows.take).split(sizes) for x in (q, k, v))
    made = []
    for block, *each in zip(rows.blocks, *parts, strict=True):
        q, k, v = (x.unflatten(0, block).transpose(1, 2) for x in each)  # (rows, heads, width, d)
        made.append(attend(q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(made).index_select(0, rows.put)


def sequences(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, window: int | None) -> Tensor:
    """Causal attention of (rows, heads, width, d)."""
    width = q.shape[2]
    binding = window if window is not None and window < width else None
    if softcap is not None:
        return capped(q, k, v, band(width, binding, str(q.device)), scale, softcap)
    seen = None if binding is None else band(width, binding, str(q.device))
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None, scale=scale, enable_gqa=gqa)


def capped(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, softcap: float) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = softcap * torch.tanh(q @ k.transpose(2, 3) * (scale / softcap))
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1, dtype=torch.float32).to(q.dtype) @ v


@lru_cache(maxsize=8)
def band(width: int, window: int | None, device: str) -> Tensor:
    """(width, width): True where a query sees a key. A window counts the query itself."""
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return causal if window is None else causal.triu(1 - window)


def by_segments(q: Tensor, k: Tensor, v: Tensor, at: Varlen, scale: float, window: int | None) -> Tensor:
    """The kernel lets the last query of a segment see its last key, and counts a window without the query itself."""
    k, v = (x.index_select(0, at.take) for x in (k, v))
    left = -1 if window is None else window - 1
    starts_and_longest = at.queries, at.keys, at.longest_query, at.longest_key
    gqa = q.shape[1] != k.shape[1]
    out = varlen_attn(q, k, v, *starts_and_longest, scale=scale, window_size=(left, 0), enable_gqa=gqa)
    assert isinstance(out, Tensor), "no log-sum-exp was asked for"
    return out


def hidden(model: PreTrainedModel, at: Layout) -> Tensor:
    """(tokens, d): the final norm's output, which is what heads read."""
    body: Any = model.base_model
    if at.tree is None:
        return body(input_ids=at.ids, use_cache=False).last_hidden_state.flatten(0, 1)
    assert mode(model) != "padded", "a stream needs the attention that `use` sets"
    unread = at.ids.new_ones(1, 1, 1, 1, dtype=torch.bool)  # with a 4-D mask, transformers builds none of its own
    out = body(input_ids=at.ids, position_ids=at.position, attention_mask=unread, tree=at.tree, use_cache=False)
    return out.last_hidden_state.flatten(0, 1)


ENCODERS = ("bert",)  # families seen to read padded rows right, with a pooler of the first token


def is_encoder(config: PreTrainedConfig) -> bool:
    return config.model_type in ENCODERS


def pooled(model: PreTrainedModel, at: Layout) -> Tensor:
    """(n, d) what an encoder's pooler makes of each response's first token, which is the prompt's."""
    assert at.tree is None, "a stream's texts would see each other"
    rows, width = at.ids.shape
    place = torch.arange(width, device=at.ids.device)
    length = at.last + 1 - width * torch.arange(rows, device=at.ids.device)
    body: Any = model.base_model
    return body(input_ids=at.ids, attention_mask=(place < length[:, None]).long()).pooler_output


def mode(model: PreTrainedModel) -> Mode:
    """In which mode this model's layouts are to be made."""
    for found, name in NAMES.items():
        if model.config._attn_implementation == name:
            return found
    return "padded"


# --- which mode a model gets right ---

WINDOWS_TESTED = ("gemma2", "gemma3_text", "mistral", "qwen2")  # families seen to hand their windows to attention
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}  # relative; some norms are in fp32 whatever the model is
HALF_TOLERANCE = 5e-2
BOTH_WAYS = "each token of an encoder sees all that stands beside it"


def use(model: PreTrainedModel, wanted: Mode) -> None:
    """Makes the model read layouts of the wanted mode, or of the next that it gets right: then one warning says why."""
    assert mode(model) == "padded", "a mode is chosen once"
    name = type(model).__name__
    if is_encoder(model.config):
        if wanted != "padded":
            warnings.warn(f"{name} is run with run.packing=padded, not {wanted}: {BOTH_WAYS}", stacklevel=2)
        return
    own, expected = model.config._attn_implementation or "eager", alone(model)
    wrong: dict[Mode, str] = {}
    for tried in MODES[MODES.index(wanted) :]:
        reason = unsupported(model.config, tried) or difference(model, tried, expected)
        if reason is None:
            break
        wrong[tried] = reason
        model.set_attn_implementation(own)
    why = "; ".join(dict.fromkeys(wrong.values()))
    if "padded" in wrong:
        raise ValueError(f"{name} cannot be used as a causal model, not even with run.packing=padded: {why}")
    if wrong:
        warnings.warn(f"{name} is run with run.packing={mode(model)}, not {wanted}: {why}", stacklevel=2)


def refuse_dropout(model: PreTrainedModel) -> None:
    """Before training: what is dropped differs between layouts, and all responses would share their prompt's."""
    modules = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    settings = model.config.get_text_config().to_dict()
    for key, p in (modules | {name: p for name, p in settings.items() if "drop" in name}).items():
        check(not p, key, p, "training is without dropout: set it to 0 in the model's config.json")


def unsupported(config: PreTrainedConfig, wanted: Mode) -> str | None:
    """What a small example would not show."""
    config = config.get_text_config()
    if wanted == "padded":
        return None
    if wanted == "shared" and any(getattr(config, name, None) for name in EXPERTS):
        return "its experts are balanced by counting tokens, and those of a shared prompt count once"
    rope = getattr(config, "rope_parameters", None) or {}  # of all layers, or one for each kind of layer
    kinds = {each.get("rope_type") for each in (rope, *rope.values()) if isinstance(each, dict)}
    if kinds & {"dynamic", "longrope"}:
        return "its position encoding depends on the longest text beside"
    layers = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if layers:
        return f"it has layers other than plain attention: {', '.join(sorted(layers))}"
    if getattr(config, "sliding_window", None) and config.model_type not in WINDOWS_TESTED:
        return f"windows of {config.model_type} are not tested"
    return None


def example(model: PreTrainedModel) -> list[Group]:
    """Two small groups of different tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    token = iter([7 * i % vocabulary for i in range(1, 40)])

    def take(n: int) -> list[int]:
        return [next(token) for _ in range(n)]

    return [Group(take(5), [take(4), take(7), take(1)]), Group(take(9), [take(2), take(6)])]


@torch.no_grad()
def alone(model: PreTrainedModel) -> Tensor:
    """(m, d) what the model's own attention makes of the example, one unpadded sequence at a time."""
    each = [layout([Group(g.prompt, [r])], device=str(model.device)) for g in example(model) for r in g.responses]
    return torch.cat([hidden(model, at)[at.before] for at in each])


@torch.no_grad()
def difference(model: PreTrainedModel, tried: Mode, expected: Tensor) -> str | None:
    """Switches to a mode; what is wrong with it, if anything."""
    if tried != "padded":
        model.set_attn_implementation(NAMES[tried])
        if mode(model) != tried:
            return "its code does not let its attention be replaced"
    at = layout(example(model), tried, str(model.device))
    try:
        got = hidden(model, at)[at.before]
    except (TypeError, ValueError, RuntimeError) as e:
        return f"{type(e).__name__}: {e}"
    error = float((got - expected).abs().max() / expected.abs().max())
    if error <= TOLERANCE.get(got.dtype, HALF_TOLERANCE):
        return None
    return f"a small example's hidden states are off by {error:.1g} of the largest"
