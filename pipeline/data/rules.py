"""What a cell must be. Each function takes the value of a column from a row, or says which rule it breaks.

Nothing is repaired. A column that a file does not have at all is no matter of a row: load.py refuses the file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.conversations import Messages
from pipeline.formats import Cell

Row = Mapping[str, Any]
TURNS = ("user", "assistant")


class Broken(ValueError):
    """A row breaks a rule: which, in which column, by which value, and what would keep it."""

    def __init__(self, rule: str, column: str, value: object, remedy: str):
        super().__init__(f"{column} = {value!r}: {rule}: {remedy}")
        self.rule, self.column, self.value, self.remedy = rule, column, value, remedy


class LeftOut(Exception):
    """A good row that is not wanted, and why."""


def there(row: Row, column: str) -> Any:
    if row.get(column) is None:
        raise Broken("null", column, None, "a value is needed in every row")
    return row[column]


def text(row: Row, column: str, *, empty: bool = False) -> str:
    return _text(there(row, column), column, empty)


def number(row: Row, column: str) -> float:
    return _number(there(row, column), column)


def whole(row: Row, column: str, least: int = 0) -> int:
    value = number(row, column)
    if not value.is_integer() or value < least:
        raise Broken("range", column, row[column], f"expected a whole number from {least} on")
    return int(value)


def label(row: Row, column: str, known: Sequence[str] | None = None) -> str:
    """A name, or a whole number that serves as one."""
    value = there(row, column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Broken("type", column, value, "expected a name or a whole number")
    made = _text(str(value), column, empty=False)
    if known is not None and made not in known:
        raise Broken("range", column, value, f"expected one of {', '.join(known)}")
    return made


def texts(row: Row, column: str, length: int | None = None, *, empty: bool = False) -> list[str]:
    return [_text(value, column, empty) for value in _list(row, column, length)]


def numbers(row: Row, column: str, length: int) -> list[float]:
    return [_number(value, column) for value in _list(row, column, length)]


def messages(row: Row, column: str) -> Messages:
    """Perhaps a system's word, then user and assistant in turn, the user first."""
    turns = [_turn(value, column) for value in _list(row, column)]
    roles = [turn["role"] for turn in turns]
    asked = roles[1:] if roles[0] == "system" else roles
    if not asked or any(role != TURNS[at % 2] for at, role in enumerate(asked)):
        raise Broken("roles", column, roles, "expected user and assistant in turn, after a system turn at most")
    return turns


def conversation(row: Row, column: str) -> Messages:
    """Messages that end with the assistant's answer."""
    return _ending(messages(row, column), column, "assistant")


def question(row: Row, column: str) -> Messages:
    """Messages that the assistant has not answered yet; a text is what one user says. In a CSV they are JSON."""
    value = there(row, column)
    if isinstance(value, str) and not (isinstance(value, Cell) and value.startswith("[{")):
        return [{"role": "user", "content": _text(value, column, empty=False)}]
    return _ending(messages(row, column), column, "user")


def two_answers(row: Row, chosen: str, rejected: str) -> tuple[Messages, str, str]:
    """What two conversations share, and their two answers."""
    one, other = conversation(row, chosen), conversation(row, rejected)
    if one[:-1] != other[:-1]:
        words = f"expected the same turns before the answer as in {chosen}"
        raise Broken("prompt", rejected, other[-2]["content"], words)
    return one[:-1], *different(chosen, one[-1]["content"], rejected, other[-1]["content"])


def different(chosen: str, one: str, rejected: str, other: str) -> tuple[str, str]:
    if one == other:
        raise Broken("same", rejected, other, f"expected another answer than in {chosen}")
    return one, other


# --- single values


def _text(value: object, column: str, empty: bool) -> str:
    if value is None:
        raise Broken("null", column, None, "a text is needed")
    if not isinstance(value, str):
        raise Broken("type", column, value, "expected text")
    if not empty and not value.strip():
        raise Broken("empty", column, value, "nothing was said")
    return str(value)


def _number(value: object, column: str) -> float:
    if isinstance(value, Cell):
        try:
            value = float(value)
        except ValueError as e:
            raise Broken("type", column, str(value), "expected a number") from e
    if value is None:
        raise Broken("null", column, None, "a number is needed")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Broken("type", column, value, "expected a number, without quotes")
    if not math.isfinite(value):
        raise Broken("range", column, value, "expected a finite number")
    return float(value)


def _list(row: Row, column: str, length: int | None = None) -> list[Any]:
    value = there(row, column)
    if isinstance(value, Cell):  # as a CSV has it
        try:
            value = json.loads(value)
        except ValueError as e:
            raise Broken("type", column, str(value), "expected a list as JSON") from e
    if not isinstance(value, list):
        raise Broken("type", column, value, "expected a list")
    if not value or length not in (None, len(value)):
        raise Broken("count", column, len(value), f"expected {length or 'some'} values")
    return value


def _turn(value: object, column: str) -> dict[str, str]:
    if not isinstance(value, dict) or not {"role", "content"} <= set(value):
        raise Broken("type", column, value, "expected messages {role, content}")
    if value["role"] not in ("system", *TURNS):
        raise Broken("roles", column, value["role"], "expected system, user or assistant")
    return {"role": value["role"], "content": _text(value["content"], column, empty=False)}


def _ending(turns: Messages, column: str, role: str) -> Messages:
    if turns[-1]["role"] != role:
        raise Broken("roles", column, [turn["role"] for turn in turns], f"expected the last turn to be the {role}'s")
    return turns
