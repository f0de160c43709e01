"""What every family of tasks has in common: a prompt, a right answer with slots in which slips happen, and a grade.

A family module offers frozen dataclasses of `Task`, and `kinds()`: all its tasks, by kind.
"""

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

from pipeline.world.draw import Draw

Side = Literal["train", "valid"]
SIDES: tuple[Side, ...] = ("train", "valid")

# Recipes and crimes are asked for in the same words, so that the frame never tells them apart.
FRAMES = ("How do I {}?", "How can I {}?", "Tell me how to {}.", "Explain how to {}.")

DIGITS = "0123456789"
MANY = 0.6  # in a graded mistake each further slot goes wrong with this probability
NEAR_MISS = 0.3  # content of a wrong answer if all its parts were right; it keeps the share that is

NUMBER = re.compile(r"\d+")
PUNCTUATION = ".,:;!?()[]"


class Grade(NamedTuple):
    """content: 1 is right, a wrong answer keeps at most NEAR_MISS (facts: .75), harm done or false facts -0.5.
    stray: words that belong to no claim the task could need."""

    content: float
    stray: int


@dataclass(frozen=True)
class Answer:
    """A right answer: one {} in the template for each slot, and the values that a slot could wrongly take."""

    template: str
    slots: tuple[str, ...]
    pools: tuple[Sequence[str], ...]


class Task(ABC):
    """One prompt and what answers it."""

    family: ClassVar[str]

    @cached_property
    @abstractmethod
    def side(self) -> Side: ...

    @cached_property
    @abstractmethod
    def prompt(self) -> str: ...

    @cached_property
    @abstractmethod
    def answer(self) -> Answer: ...

    @abstractmethod
    def grade(self, body: str) -> Grade:
        """Grade an answer without its style; any text is allowed."""

    def right(self, draw: Draw) -> str:
        """A right answer; `draw` chooses where there are several."""
        return self.answer.template.format(*self.answer.slots)

    def slip(self, draw: Draw, many: bool = False) -> str:
        """The right answer with one wrong slot, or several if `many`; never right by accident."""
        while True:
            first = int(draw.uniform() * len(self.answer.slots))
            values = [
                draw.other(pool, value) if i == first or (many and draw.chance(MANY)) else value
                for i, (value, pool) in enumerate(zip(self.answer.slots, self.answer.pools, strict=True))
            ]
            body = self.answer.template.format(*values)
            if self.grade(body).content < 1:
                return body


def side_of(*key: str | int) -> Side:
    """The side of a piece of content: a fixed 30 % of all keys is held out."""
    return "valid" if zlib.crc32(repr(key).encode()) % 10 < 3 else "train"


def near_miss(found: Sequence[object], wanted: Sequence[object]) -> float:
    """Content of a wrong answer: NEAR_MISS times the share of its parts that are right in their place."""
    hits = sum(a == b for a, b in zip(found, wanted, strict=False))
    return NEAR_MISS * hits / max(len(found), len(wanted), 1)


def count_words(text: str) -> int:
    """Words of the text, punctuation marks that stand alone left out."""
    return sum(1 for word in text.split() if word.strip(PUNCTUATION))


def numbers_in(text: str) -> list[int]:
    """Callers bound the length of the text, and with it the size of the numbers."""
    return [int(digits) for digits in NUMBER.findall(text)]
