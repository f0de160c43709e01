"""Where the reward is read, and whether that is the same in any company: against transformers' own forward, against
other ways to lay out a batch, against the day on which the folder was saved."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline import attention, contract, scoring
from pipeline.conversations import Asked
from pipeline.doctor.patient import Patient, Seen, shown
from pipeline.errors import ConfigError
from pipeline.implicit import Implicit
from pipeline.packing import MODES, Mode
from pipeline.scoring import Conversation

MOST_TRUNCATED = 0.01


def read_position(p: Patient) -> Seen:
    own = np.array([float(unpadded(p.model, talk)) for talk in p.talks])
    off = difference(own, p.alone)
    if off > 1:
        remedy = "score with the model's own code: it does not read the last token, or not by its head alone"
        return "FAIL", f"transformers' own forward moves a reward by {off:.2g} times what is tolerated", remedy
    if not p.closing:
        return "FAIL", "the template does not end the answer", "let it write the end-of-turn token after each answer"
    if attention.is_encoder(p.model.config):
        return "good", f"at {shown(p, p.talk[0])}, the first token, pooled", ""
    last = shown(p, p.closing[-1]) + (", with all tokens of the response" if isinstance(p.model, Implicit) else "")
    special = {i for i, t in p.tokenizer.added_tokens_decoder.items() if t.special}
    if p.closing[-1] not in special:
        remedy = "leave it if the model was trained so; else cut what the template writes after the end of turn"
        return "warn", f"at {last}, which ends no turn", remedy
    return "good", f"at {last}, the end of turn", ""


@contextmanager
def without_pad(model: PreTrainedModel) -> Iterator[None]:
    """Transformers' own forward then reads the last token, whatever it is."""
    config = model.config.get_text_config()
    kept, config.pad_token_id = config.pad_token_id, None
    try:
        yield
    finally:
        config.pad_token_id = kept


def unpadded(model: PreTrainedModel, talk: Conversation) -> Tensor:
    with without_pad(model):
        return by_own_forward(model, {"input_ids": [talk.ids]}, [talk])[0]


@torch.no_grad()
def by_own_forward(model: PreTrainedModel, given: dict[str, list[list[int]]], talks: Sequence[Conversation]) -> Tensor:
    """(n,) rewards of a batch as transformers reads it; an implicit one from its logits of each token."""
    batch = {name: torch.tensor(rows, device=model.device) for name, rows in given.items()}
    if not isinstance(model, Implicit):
        return model(**batch).logits[:, 0].float().cpu()
    own, reference = (m(**batch).logits.float().log_softmax(-1) for m in (model, model.reference))
    made = []
    for row, ids, talk in zip(own - reference, given["input_ids"], talks, strict=True):
        first = 0 if ids[: len(talk.ids)] == talk.ids else len(ids) - len(talk.ids)  # padding is on either side
        said = range(first + (talk.start or 0), first + len(talk.ids))
        made.append(row[[i - 1 for i in said], ids[said.start : said.stop]].sum())
    return model.config.implicit_beta * torch.stack(made).cpu()


def batch(p: Patient) -> Seen:
    asked = [Asked(prompt, [response]) for prompt, response in p.compared]
    ways = {}
    for packing_mode in MODES:
        with reading(p.model, packing_mode) as good:
            if good:
                ways[f"packing={packing_mode}"] = np.concatenate(p.score(asked))
    if p.model.config.get_text_config().pad_token_id is not None:
        one = np.array([float(padded(p.model, [talk], "right")[0]) for talk in p.talks])
        sides = ("right",) if attention.is_encoder(p.model.config) else ("right", "left")  # its positions are absolute
        for side in sides:
            ways[f"padding on the {side}"] = p.alone + padded(p.model, p.talks, side).numpy() - one
    worst, off = max(((way, difference(r, p.alone)) for way, r in ways.items()), key=lambda pair: pair[1])
    said = f"{worst} moves a reward by {off:.2g} times what is tolerated (tried: {', '.join(ways)})"
    if off > 1:
        remedy = "pad on the right; look for positions that depend on the batch (dynamic or longrope), experts, dropout"
        return "FAIL", said, remedy
    return "good", said, ""


@contextmanager
def reading(model: PreTrainedModel, wanted: Mode) -> Iterator[bool]:
    """The model in a mode, if it gets that right: else it would never be used in it."""
    own = model.config._attn_implementation or "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode that it falls back to is among those tried
        attention.use(model, wanted)
    try:
        yield attention.mode(model) == wanted
    finally:
        model.set_attn_implementation(own)


def padded(model: PreTrainedModel, talks: Sequence[Conversation], side: str) -> Tensor:
    """(n,) rewards by transformers' own forward, read where it reads."""
    ids = [talk.ids for talk in talks]
    width = max(map(len, ids))
    pad = model.config.get_text_config().pad_token_id
    fill = [[pad] * (width - len(i)) for i in ids]
    made = [i + f if side == "right" else f + i for i, f in zip(ids, fill, strict=True)]
    masks = [[1] * len(i) for i in ids]
    there = [m + [0] * len(f) if side == "right" else [0] * len(f) + m for m, f in zip(masks, fill, strict=True)]
    return by_own_forward(model, {"input_ids": made, "attention_mask": there}, talks)


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest, as a share of what is tolerated in fp32."""
    return float(np.abs(got - expected).max() / (contract.TOLERANCE["fp32"] * max(1.0, np.abs(expected).max())))


def length(p: Patient) -> Seen:
    limit = scoring.max_length(p.model, p.tokenizer)
    found = scoring.conversations(p.tokenizer, p.sample, range(len(p.sample)), limit)
    cuts = [t.truncated for talks in found for t in talks for _ in t.of]
    said = f"{limit:,} tokens; {sum(cuts)} of {len(cuts)} conversations of the sample are longer"
    if sum(cuts) > MOST_TRUNCATED * len(cuts):
        return "FAIL", said, "take a model that reads more, or leave long rows out and say so"
    return "good", said, ""


def kept_contract(p: Patient) -> Seen:
    if not (p.folder / contract.NAME).exists():
        return "good", f"none: no {contract.NAME} in the folder, so it was not made here", ""
    try:
        off = contract.replay(p.folder, p.model, p.tokenizer)
    except ConfigError as e:
        return "FAIL", str(e), "put back what changed: weights, tokenizer, template or the library's version"
    return "good", f"its canaries score as when it was saved: off by {off:.2g} times what is tolerated", ""
