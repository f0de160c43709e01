"""Conversations to token ids by the tokenizer's own template: once, the same way for every stage.

The boundary between prompt and response is the longest common prefix of token ids, never of strings: merges and
templates shift.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, Any]]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ids(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Messages], cue: bool = False) -> list[list[int]]:
    """Token ids of each conversation; with `cue` up to the point where the assistant speaks."""
    if not chats:
        return []
    texts = tokenizer.apply_chat_template([list(c) for c in chats], tokenize=False, add_generation_prompt=cue)
    return tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]  # a batch gives lists


def eos(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a turn."""
    token = tokenizer.eos_token_id
    if not isinstance(token, int):
        raise ValueError("the tokenizer has no end-of-sequence token; a response could never end")
    return token


def prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return ids(tokenizer, [user(t) for t in texts], cue=True)


def answered(tokenizer: PreTrainedTokenizerBase, asked: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
    """One question, one answer, ended by the template's own end of turn."""
    return ids(
        tokenizer, [[*user(q), {"role": "assistant", "content": a}] for q, a in zip(asked, answers, strict=True)]
    )


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of the longest common prefix; lexicographically the first and the last sequence differ earliest."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(map(len, sequences)))
