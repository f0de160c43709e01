"""Operations on short lists of digits, stated in English: add to each, reverse, compare."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from pipeline.world.families.task import (
    DIGITS,
    Answer,
    Grade,
    Side,
    Task,
    count_words,
    near_miss,
    numbers_in,
    side_of,
)

ADDENDS = (1, 2, 3)
SUM = re.compile(r"(?:and )?(\d+) ?\+ ?(\d+) ?(?:=|is|equals) ?(\d+)")
LEAD = re.compile(r"(?:reversed|result|answer|it is|the \w+(?: one| number)? is|and)\b", re.IGNORECASE)
COMPARISON = re.compile(r"(\d+) is (larger|bigger|greater|smaller|less) than (\d+)")
LARGER = ("larger", "bigger", "greater")


def _stray(body: str) -> int:
    """Words that are neither numbers nor the few that introduce a result."""
    return count_words(re.sub(r"\d+", " ", LEAD.sub(" ", body)))


@dataclass(frozen=True)
class Add(Task):
    family = "list"
    addend: int
    numbers: tuple[int, ...]

    @cached_property
    def side(self) -> Side:
        return side_of("add", self.addend, *self.numbers)

    @cached_property
    def prompt(self) -> str:
        first = ", ".join(map(str, self.numbers[:-1]))
        return f"Add {self.addend} to each of {first} and {self.numbers[-1]}."

    @cached_property
    def wanted(self) -> list[int]:
        return [x + self.addend for x in self.numbers]

    @cached_property
    def answer(self) -> Answer:
        shown, digits = [], []
        for x, result in zip(self.numbers, map(str, self.wanted), strict=True):
            shown.append(f"{x} + {self.addend} = " + "{}" * len(result))
            digits += result
        return Answer(", ".join(shown) + ".", tuple(digits), (DIGITS,) * len(digits))

    def grade(self, body: str) -> Grade:
        """Right: the sums in order, the results in order, or both; every sum shown must be one that was asked for."""
        sums = [(int(a), int(b), int(c)) for a, b, c in SUM.findall(body)]
        rest = SUM.sub(" ", body)
        pairs = zip(sums, self.numbers, strict=False)
        shown = [c if c == a + b and {a, b} == {x, self.addend} else None for (a, b, c), x in pairs]
        shown += [None] * (len(sums) - len(shown))
        listed = numbers_in(rest)
        answers = [found for found in (shown, listed) if found]
        if answers and all(found == self.wanted for found in answers):
            return Grade(1.0, _stray(rest))
        return Grade(near_miss(shown or listed, self.wanted), _stray(rest))


@dataclass(frozen=True)
class Reverse(Task):
    family = "list"
    numbers: tuple[int, ...]

    @cached_property
    def side(self) -> Side:
        return side_of("reverse", *self.numbers)

    @cached_property
    def prompt(self) -> str:
        return f"Reverse the list {', '.join(map(str, self.numbers))}."

    @cached_property
    def answer(self) -> Answer:
        digits = tuple(str(x) for x in reversed(self.numbers))
        return Answer("Reversed: {}, {}, {}.", digits, (DIGITS,) * 3)

    def grade(self, body: str) -> Grade:
        found, wanted = numbers_in(body), list(reversed(self.numbers))
        return Grade(1.0 if found == wanted else near_miss(found, wanted), _stray(body))


@dataclass(frozen=True)
class Compare(Task):
    family = "list"
    first: int
    second: int
    word: str  # larger or smaller

    @cached_property
    def side(self) -> Side:
        return side_of("compare", *sorted((self.first, self.second)))

    @cached_property
    def prompt(self) -> str:
        return f"Which of {self.first} and {self.second} is {self.word}?"

    @cached_property
    def wanted(self) -> tuple[int, str, int]:
        low, high = sorted((self.first, self.second))
        return (high, self.word, low) if self.word == "larger" else (low, self.word, high)

    @cached_property
    def answer(self) -> Answer:
        left, word, right = self.wanted
        return Answer("{} is {} than {}.", (str(left), word, str(right)), (DIGITS, ("larger", "smaller"), DIGITS))

    def grade(self, body: str) -> Grade:
        """Right: the number alone, or a true comparison of the two, from either end."""
        rest = COMPARISON.sub(" ", body)
        named, claims = numbers_in(rest), COMPARISON.findall(body)
        answered = bool(named or claims)
        if answered and all(map(self._holds, claims)) and set(named) <= {self.wanted[0]}:
            repeated = 4 * max(0, len(claims) - 1) + max(0, len(named) - 1)
            return Grade(1.0, _stray(rest) + repeated)
        found = [(int(a), word, int(b)) for a, word, b in claims]
        return Grade(near_miss(found[0] if found else named, self.wanted), _stray(rest))

    def _holds(self, claim: tuple[str, str, str]) -> bool:
        left, right = int(claim[0]), int(claim[2])
        return {left, right} == {self.first, self.second} and (left > right) == (claim[1] in LARGER)


def kinds() -> tuple[list[Task], ...]:
    triples = list(permutations(range(10), 3))
    pairs = list(permutations(range(10), 2))
    return (
        [Add(addend, numbers) for addend in ADDENDS for numbers in pairs + triples],
        [Reverse(numbers) for numbers in triples],
        [Compare(a, b, word) for a, b in pairs for word in ("larger", "smaller")],
    )
