"""Conversations in a file of one's own. No torch.

It is JSON lines (or JSON, CSV, Parquet) with `prompt` and `response`, with `prompt`, `chosen` and `rejected`, or with
`messages` that end with the assistant. Chosen and rejected may be lists of messages too: what comes before their
answers is the prompt; or lists of texts, as in RM-Bench's files. Nothing is repaired: a row that cannot be read is
refused by file, row, column and remedy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline import formats, given
from pipeline.conversations import Asked, Messages, Prompt

ROLES = ("system", "user", "assistant")
SHAPES = "expected prompt and response; prompt, chosen and rejected; or messages"


@dataclass(frozen=True)
class Own:
    """What a file holds: its rows as they are, and what each asks. Pairs are chosen, rejected; several of each are all
    chosen ones, then all rejected ones."""

    rows: Sequence[given.Row]
    asked: Sequence[Asked]
    pairs: bool
    several: bool = False

    @property
    def scores(self) -> tuple[str, ...]:
        """What the rewards of a row are called; lists of them as RM-Bench's own tool does."""
        if self.several:
            return ("score_chosen", "score_rejected")
        return ("reward_chosen", "reward_rejected") if self.pairs else ("reward",)

    def rewards(self, at: int, rewards: Sequence[float]) -> dict[str, Any]:
        """Those of a row's responses, under their names."""
        if not self.several:
            return dict(zip(self.scores, rewards, strict=True))
        n = len(self.rows[at]["chosen"])
        return dict(zip(self.scores, (list(rewards[:n]), list(rewards[n:])), strict=True))


def read(path: Path) -> Own:
    table = given.table(path.name, formats.read(path, "data"))
    if "id" in table.columns:
        table.once("id")
    for column in table.columns:
        table.each(column, _finite)
    pairs = table.first("chosen", "rejected") is not None
    if pairs:
        for column in ("chosen", "rejected"):
            table.need(column, remedy="a pair has both")
    elif "messages" not in table.columns:
        for column in ("prompt", "response"):
            table.need(column, remedy=SHAPES)
    several = pairs and _are_texts(table.rows[0].get("chosen"))
    one = _several if several else _pair if pairs else _talk if "messages" in table.columns else _answer
    asked = [one(table, at, row) for at, row in enumerate(table.rows, start=1)]
    return Own(table.rows, asked, pairs and not several, several)


def _are_texts(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and isinstance(cell[0], str)


def _several(table: given.Table, at: int, row: given.Row) -> Asked:
    """Texts after one prompt."""
    responses = []
    for column in ("chosen", "rejected"):
        if not _are_texts(row.get(column)):
            table.refuse(at, column, row.get(column), "expected a list of texts, as in row 1")
        responses += [_text(table, at, column, text) for text in row[column]]
    return Asked(_prompt(table, at, row), responses)


def _pair(table: given.Table, at: int, row: given.Row) -> Asked:
    """Two texts after one prompt, or two conversations that differ in their last turn."""
    if not isinstance(row.get("chosen"), list):
        answers = [_text(table, at, column, row.get(column)) for column in ("chosen", "rejected")]
        return Asked(_prompt(table, at, row), answers)
    chosen, rejected = (_turns(table, at, column, row.get(column)) for column in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        table.refuse(at, "rejected", rejected[:-1], "has other turns before the answer than chosen: a pair shares them")
    return Asked(chosen[:-1], [chosen[-1]["content"], rejected[-1]["content"]])


def _talk(table: given.Table, at: int, row: given.Row) -> Asked:
    turns = _turns(table, at, "messages", row.get("messages"))
    return Asked(turns[:-1], [turns[-1]["content"]])


def _answer(table: given.Table, at: int, row: given.Row) -> Asked:
    return Asked(_prompt(table, at, row), [_text(table, at, "response", row.get("response"))])


def _prompt(table: given.Table, at: int, row: given.Row) -> Prompt:
    """A text, or the turns before the answer."""
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        return [_turn(table, at, "prompt", turn) for turn in prompt] or _refuse_empty(table, at, "prompt", prompt)
    return _text(table, at, "prompt", prompt)


def _turns(table: given.Table, at: int, column: str, cell: Any) -> Messages:
    if not isinstance(cell, list) or len(cell) < 2:
        table.refuse(at, column, cell, "expected a list of messages: the user's, and last the assistant's")
    turns = [_turn(table, at, column, turn) for turn in cell]
    if turns[-1]["role"] != "assistant":
        table.refuse(at, column, turns[-1]["role"], "the last message must be the assistant's: it is what is scored")
    return turns


def _turn(table: given.Table, at: int, column: str, turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES:
        table.refuse(at, column, turn, f"a message is {{role, content}} with a role of {', '.join(ROLES)}")
    return {"role": turn["role"], "content": _text(table, at, column, turn.get("content"))}


def _text(table: given.Table, at: int, column: str, cell: Any) -> str:
    if not isinstance(cell, str):
        table.refuse(at, column, cell, "missing" if cell is None else "expected text, in quotes")
    if not cell.strip():
        _refuse_empty(table, at, column, cell)
    return str(cell)


def _refuse_empty(table: given.Table, at: int, column: str, cell: object) -> NoReturn:
    table.refuse(at, column, cell, "empty: nothing was said; take the row out")


def _finite(cell: Any) -> None:
    """Numbers are carried along as they are; one that is none says that something before went wrong."""
    if isinstance(cell, float) and not math.isfinite(cell):
        raise ValueError("not a finite number: compute it again, or write null")
