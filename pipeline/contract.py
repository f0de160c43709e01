"""How a reward model's scores come about, in `scoring.json` beside its weights: what the template writes, where the
reward is read, how long a conversation may be, and 16 canary texts with the rewards they got right after saving.

Whoever loads the folder scores the canaries again and goes no further if a reward or the policy differs: another
template, tokenizer, PAD or library version shows here and not in a table. A folder made elsewhere has no contract and
loads unchecked; `make doctor` looks at that one.
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import attention, chat, dist, models, scoring
from pipeline.errors import ConfigError, check
from pipeline.packing import Mode
from pipeline.store import write_atomically

NAME = "scoring.json"
# Times the largest canary reward, if that is over 1. Mixed: saved in one precision, scored in the other; micro reward
# models are off by up to 0.016 then [ours, measured on 12].
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "mixed": 5e-2}
TOKENS = 4096  # of one forward pass over canaries
TRUNCATION = "end of the response, not what the template writes after it"
RECORDED = ("attention", "precision")  # may be others: canaries, not names, tell whether it matters

# One prompt in another script, one with white space at its end; answers with code, Markdown, an emoji, and one so long
# that most small models cut it.
PROMPTS = (
    "What is 2 + 3?",
    "Write a Python function that returns the largest of three numbers.",
    "Wie heißt die Hauptstadt von Frankreich? 法国的首都是哪里?",
    "Tell me how to boil an egg.\n\nKeep it short. ",
)
ANSWERS = (
    "5",
    "def largest(a, b, c):\n    return max(a, b, c)",
    "It is **Paris** 🗼:\n\n1. 巴黎\n2. Paris\n\nAsk again if you need more!",
    " ".join(f"Step {i}: wait a minute, then look whether the water boils." for i in range(1, 41)),
)


def load(folder: Path, packing: Mode = "padded") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A reward model that still scores as it did when it was saved, in the mode in which it will be used."""
    model, tokenizer = models.load_rm(folder, packing)
    model.to(dist.device())  # type: ignore[arg-type]  # a device
    if (folder / NAME).exists():
        replay(folder, model, tokenizer)
    return model, tokenizer


def write(folder: Path) -> None:
    """The contract of the model that was saved here, from a new object: what is on disk counts."""
    model, tokenizer = models.load_rm(folder)
    model.to(dist.device())  # type: ignore[arg-type]  # a device
    canaries = [
        {"prompt": prompt, "response": response, "reward": float(reward)}
        for (prompt, response), reward in zip(texts(), rewards(model, tokenizer, texts()), strict=True)
    ]
    made = {**policy(model, tokenizer), "tolerance": TOLERANCE, "canaries": canaries}
    write_atomically(folder / NAME, json.dumps(made, indent=1, ensure_ascii=False))


def replay(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """The largest difference of a canary's reward as a share of what is tolerated. ConfigError if that is over 1, or
    if the policy is another."""
    path = folder / NAME
    written = read(path)
    for key, value in policy(model, tokenizer).items():
        remedy = f"the folder was saved with {written.get(key)!r}: put its tokenizer and config.json back"
        check(key in RECORDED or written.get(key) == value, f"{path}, {key}", value, remedy)
    said = [(canary["prompt"], canary["response"]) for canary in written["canaries"]]
    then, now = np.array([canary["reward"] for canary in written["canaries"]]), rewards(model, tokenizer, said)
    kind = written["precision"] if written["precision"] == precision(model) else "mixed"
    tolerated = written["tolerance"][kind] * max(1.0, float(np.abs(then).max()))
    worst = int(np.abs(now - then).argmax())
    off = float(np.abs(now - then)[worst])
    check(
        off <= tolerated,
        f"{path}, canary {worst + 1}",
        float(now[worst]),
        f"it was {then[worst]:.6g} when the model was saved; put back what has changed, or train the model again",
    )
    return off / tolerated


def read(path: Path) -> dict[str, Any]:
    try:
        written = json.loads(path.read_text())
    except json.JSONDecodeError as e:
        raise ConfigError(str(path), str(e), "not whole: make the folder again") from e
    wanted = ("template", "bos", "eos", "pad", "ending", "read", "max_length", "truncation", "head_dtype", "tolerance")
    for key in (*wanted, *RECORDED, "canaries"):
        check(key in written, f"{path}, {key}", None, "missing: make the folder again")
    return written


def policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a reward depends on beside the weights."""
    (ids,) = chat.ids(tokenizer, [scoring.talk("?", "!")])
    kept, beta = scoring.ending(tokenizer), getattr(model.config, "implicit_beta", None)
    place = "first" if attention.is_encoder(model.config) else "last"
    last: Any = model.get_output_embeddings() if beta else models.head(model)
    return {
        "template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
        "bos": {**token(tokenizer, "bos"), "times": leading(ids, tokenizer.bos_token_id)},
        "eos": token(tokenizer, "eos"),
        "pad": token(tokenizer, "pad"),
        "ending": tokenizer.convert_ids_to_tokens(ids[len(ids) - kept :]),
        "read": "all tokens of the response" if beta else f"{place} token of the conversation",
        "max_length": scoring.max_length(model, tokenizer),
        "truncation": TRUNCATION,
        **({"head": "mlp"} if isinstance(last, models.Mlp) else {}),  # else linear
        **({"implicit": beta} if beta else {}),  # β, of a reward without a score head
        "head_dtype": str(last.weight.dtype).removeprefix("torch."),
        "precision": precision(model),
        "attention": model.config._attn_implementation,
    }


def precision(model: PreTrainedModel) -> str:
    """Of the body. The head is in fp32 whatever it is."""
    with dist.autocast():
        half = torch.is_autocast_enabled(dist.device().type)
    return "bf16" if half or model.dtype == torch.bfloat16 else "fp32"


def token(tokenizer: PreTrainedTokenizerBase, role: str) -> dict[str, Any]:
    id = getattr(tokenizer, f"{role}_token_id")
    return {"id": id, "token": None if id is None else tokenizer.convert_ids_to_tokens(id)}


def leading(ids: list[int], id: object) -> int:
    """How often a conversation begins with this token, in a row."""
    return sum(1 for _ in itertools.takewhile(lambda i: i == id, ids))


def texts() -> list[tuple[str, str]]:
    return list(itertools.product(PROMPTS, ANSWERS))


def rewards(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, said: list[tuple[str, str]]) -> np.ndarray:
    prompts, responses = zip(*said, strict=True)
    return scoring.score(model, tokenizer, prompts, responses, TOKENS)[0].astype(float)
