"""Rewards of a reward model that counts as gold: one that loads like any other, ArmoRM, or one that needs its own code.

The latter is refused unless `trust_remote_code` says otherwise at a pinned revision, and then says what it runs. Its
folder is read as a whole: what it would fetch from elsewhere is refused. It scores conversations as they are, equally
long ones together, so that no padding is seen; what it makes of a batch otherwise is its own business.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from pipeline import armorm, contract, dist, external, hub, rows, scoring
from pipeline.conversations import Asked, Prompt
from pipeline.errors import check
from pipeline.experiment import COMMIT, Gold, Judge
from pipeline.rows import Row
from pipeline.store import sync

CODE = "trust_remote_code"


class RunsForeignCode(UserWarning):
    """Code that came with a model is run."""


Scorer = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]


def scorer(named: Gold | Judge, tokens: int, root: str | None = None) -> Scorer:
    """What gives (n,) fp32 rewards in input order, `tokens` in one forward pass."""
    assert named.id is not None, "its section checks it"
    folder = hub.model(named.id, named.revision, root, bool(named.trust_remote_code)).folder
    config = json.loads((folder / "config.json").read_text())
    if armorm.is_one(config):
        model, tokenizer = armorm.load(folder)
    elif own_code(config):
        model, tokenizer = load(folder, named, config)
    else:
        model, tokenizer = contract.load(folder)
        labels = model.config.num_labels
        check(labels == 1, "id", named.id, f"gives {labels} numbers to a conversation; a gold reward is one")
        return lambda prompts, responses: scoring.score(model, tokenizer, prompts, responses, tokens)[0]
    model.to(dist.device())  # type: ignore[arg-type]  # a device
    return lambda prompts, responses: of_equal_length(model, tokenizer, prompts, responses, tokens)


def keep(path: Path, some: Sequence[Row], reward: Scorer) -> None:
    """The rewards of these rows' responses, there as a whole or not at all."""
    prompts = [rows.prompt_of(row) for row in some for _ in row["responses"]]
    found = iter(reward(prompts, [text for row in some for text in row["responses"]]))
    rows.write(path.parent, [{"gold": [float(next(found)) for _ in row["responses"]]} for row in some], "staged")
    staged = path.with_name("staged.parquet")
    sync(staged)
    staged.rename(path)
    sync(path.parent)


def own_code(config: dict[str, Any]) -> dict[str, str]:
    """{what: the file and class that it is}, of a model's config.json."""
    return {name: str(value) for name, value in config.get("auto_map", {}).items()}


def load(folder: Path, named: Gold | Judge, config: dict[str, Any]) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model by the code beside its weights."""
    code = own_code(config)
    files = ", ".join(sorted({value.split(".")[0] + ".py" for value in code.values()}))
    remedy = f"{named.id} needs its own code ({files}): read it, then set {CODE}=true and revision to that commit"
    check(bool(named.trust_remote_code), CODE, named.trust_remote_code, remedy)
    elsewhere = [value for value in code.values() if "--" in value]
    check(not elsewhere, CODE, True, f"its code lies in another repository, at no revision: {elsewhere}; not supported")
    if Path(named.id or "").is_dir():
        found = fingerprint(folder)
        check(
            found == named.revision, "revision", named.revision, f"the folder's files have {found}; look what changed"
        )
    else:
        pinned = COMMIT.fullmatch(named.revision or "")
        check(bool(pinned), "revision", named.revision, "of a hub model is a commit, 40 hex digits")
    warnings.warn(f"running code of {named.id} at {named.revision}: {files}", RunsForeignCode, stacklevel=2)
    kind: Any = AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def fingerprint(folder: Path) -> str:
    """Of all files that make up the model, its code included."""
    lines = [external.fingerprint(folder)]
    lines += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@torch.no_grad()
def of_equal_length(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], responses: Sequence[str], tokens: int
) -> np.ndarray:
    """The model's own `logits`, one for a conversation."""
    asked = [Asked(prompt, [response]) for prompt, response in zip(prompts, responses, strict=True)]
    limit = scoring.max_length(model, tokenizer)
    found = scoring.conversations(tokenizer, asked, range(len(asked)), limit)
    talks = sorted((talk for of_prompt in found for talk in of_prompt), key=lambda talk: len(talk.ids))
    made = np.full(len(asked), np.nan, np.float32)
    for length, same in groupby(talks, key=lambda talk: len(talk.ids)):
        same = list(same)
        step = max(1, tokens // length)
        for batch in (same[i : i + step] for i in range(0, len(same), step)):
            ids = torch.tensor([talk.ids for talk in batch], device=dist.device())
            with dist.autocast():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            for talk, reward in zip(batch, logits.float().reshape(len(batch)).tolist(), strict=True):
                made[[row for row, _ in talk.of]] = reward
    return made
