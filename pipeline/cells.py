"""Rows that a model goes on writing: the keys and values of what they say so far, in buffers that are made once.

A row's tokens stand in its first cells, prompt and response alike, whatever the other rows hold: nothing is padded in
memory, and an ended row's place is taken by another. Prompts are read as one stream (`pipeline/packing.py`), each once
for all the rows that begin with it. Living rows are the first ones, so a step reads no dead one.

Like streams, this needs a model that hands on what its forward does not know to an attention function of ours; what
differs between layers (scale, soft-cap, window) comes with each call. `attended` refuses models that get it wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from pipeline import attention
from pipeline.packing import Tree

NAME = "cells"


@dataclass
class Cells:
    """Buffers of (rows, heads, width, d) for each layer's keys and values, as large as the layer turns out to want."""

    model: PreTrainedModel
    rows: int
    width: int
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def read(self, prompts: Sequence[Sequence[int]], row: int, k: int = 1) -> Tensor:
        """(n, vocabulary) logits after each prompt, which is written into k rows, from `row` on."""
        tree = Tree(tuple((0, (len(p),)) for p in prompts), str(self.model.device))
        ids, position = (tree.tensor(chain.from_iterable(x)) for x in (prompts, (range(len(p)) for p in prompts)))
        last = tree.tensor(accumulate(map(len, prompts))) - 1
        return self.forward(ids[None], position[None], Reading(self, tree, row, k), last)[0]

    def write(self, tokens: Tensor, at: Tensor) -> Tensor:
        """(n, vocabulary) logits after one more token in each of the first n rows, at its position."""
        return self.forward(tokens[:, None], at[:, None], Writing(self, at, int(at.max()) + 1), 1)[:, 0]

    def forward(self, ids: Tensor, position: Tensor, turn: "Turn", keep: Tensor | int) -> Tensor:
        unread = ids.new_ones(1, 1, 1, 1, dtype=torch.bool)  # with a 4-D mask, transformers builds none of its own
        rest: dict[str, Any] = {"attention_mask": unread, "use_cache": False, "logits_to_keep": keep, "turn": turn}
        return self.model(input_ids=ids, position_ids=position, **rest).logits

    def layer(self, at: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if at not in self.kept:
            keys, values = (x.new_zeros(self.rows, x.shape[1], self.width, x.shape[3]) for x in (k, v))
            self.kept[at] = keys, values
        return self.kept[at]

    def move(self, source: Tensor, target: Tensor, width: int) -> None:
        """The first `width` cells of some rows into others."""
        for both in self.kept.values():
            for cells in both:
                cells[target, :, :width] = cells[source, :, :width]


@dataclass(frozen=True)
class Reading:
    """A pass over prompts."""

    cells: Cells
    tree: Tree
    row: int
    k: int

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
        for kept, new in zip(self.cells.layer(layer, k, v), (k, v), strict=True):
            for i, (_, own) in enumerate(self.tree.sequences):
                rows = slice(self.row + i * self.k, self.row + (i + 1) * self.k)
                kept[rows, :, : len(own)] = new[:, :, own.start : own.stop]
        return attention.forward(nn.Identity(), q, k, v, None, tree=self.tree, **how)[0]


@dataclass(frozen=True)
class Writing:
    """A pass over one new token in each of the first rows. A window counts the token itself."""

    cells: Cells
    at: Tensor  # (n,) its position
    width: int  # that of the longest row
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, softcap: float | None,
        sliding_window: int | None,
    ) -> Tensor:  # fmt: skip
        kept = self.cells.layer(layer, k, v)
        n, row = len(self.at), torch.arange(len(self.at), device=q.device)
        for cells, new in zip(kept, (k, v), strict=True):
            cells[row, :, self.at] = new[:, :, 0]
        keys, values = (cells[:n, :, : self.width] for cells in kept)
        each = q.reshape(n, keys.shape[1], -1, q.shape[3])  # heads that share their keys stand side by side
        seen = self.seen(sliding_window)
        if softcap is None:
            out = F.scaled_dot_product_attention(each, keys, values, seen, scale=scaling)
        else:
            out = attention.capped(each, keys, values, seen, scaling, softcap)
        return out.reshape(n, 1, q.shape[1], -1)

    def seen(self, window: int | None) -> Tensor:
        """(n, 1, 1, width): True where a row sees a cell."""
        if window not in self.masks:
            cell, at = torch.arange(self.width, device=self.at.device), self.at[:, None]
            near = cell <= at if window is None else (cell <= at) & (cell > at - window)
            self.masks[window] = near[:, None, None]
        return self.masks[window]


Turn = Reading | Writing


def forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    turn: Turn | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """(B, heads, T, d) queries, keys and values -> (B, T, heads, d)."""
    if turn is None:
        raise ValueError("its code does not hand on what it does not know")
    how = {
        "scaling": query.shape[-1] ** -0.5 if scaling is None else scaling,
        "softcap": softcap,
        "sliding_window": sliding_window,
    }
    return turn.attend(module.layer_idx, query, key, value, **how), None  # type: ignore[arg-type]  # every layer has it


AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


# --- which models get it right ---

RIGHT: WeakSet[PreTrainedModel] = WeakSet()


@contextmanager
def attended(model: PreTrainedModel) -> Iterator[None]:
    """While it writes, the model attends by cells; afterwards by what it did before."""
    own = model.config._attn_implementation or "eager"
    expected = None if model in RIGHT else alone(model)
    model.set_attn_implementation(NAME)
    try:
        if expected is not None:
            wrong = attention.unsupported(model.config, "packed") or difference(model, expected)
            if wrong:
                raise ValueError(f"{type(model).__name__} cannot be sampled from: {wrong}")
            RIGHT.add(model)
        yield
    finally:
        model.set_attn_implementation(own)


def example(model: PreTrainedModel) -> list[list[int]]:
    """Three short rows; the first two begin alike."""
    vocabulary = model.config.get_text_config().vocab_size
    tokens = [7 * i % vocabulary for i in range(1, 25)]
    return [tokens[:8], [*tokens[:5], *tokens[10:13]], tokens[12:24]]


BEGINNING = (5, 5, 9)  # tokens of each row that are its prompt; three more are written


@torch.no_grad()
def alone(model: PreTrainedModel) -> Tensor:
    """(3, rows, vocabulary) logits of the model's own, one whole row at a time."""
    each = [model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits for ids in example(model)]
    return torch.stack([logits[0, -4:-1] for logits in each], dim=1)


@torch.no_grad()
def difference(model: PreTrainedModel, expected: Tensor) -> str | None:
    """What is wrong with the example's logits by cells, if anything."""
    if model.config._attn_implementation != NAME:
        return "its code does not let its attention be replaced"
    rows = example(model)
    cells = Cells(model, len(rows), max(map(len, rows)))
    at = torch.tensor(BEGINNING, device=model.device)
    try:
        first = cells.read([rows[0][:5]], 0, k=2), cells.read([rows[2][:9]], 2)
        got = [torch.cat([first[0], first[0], first[1]])]
        for step in range(2):
            tokens = torch.tensor([ids[-3 + step] for ids in rows], device=model.device)
            got.append(cells.write(tokens, at + step))
    except (AttributeError, TypeError, ValueError, RuntimeError) as e:
        return f"{type(e).__name__}: {e}"
    error = float((torch.stack(got) - expected).abs().max() / expected.abs().max())
    if error <= attention.TOLERANCE.get(expected.dtype, attention.HALF_TOLERANCE):
        return None
    return f"a small example's logits are off by {error:.1g} of the largest"
