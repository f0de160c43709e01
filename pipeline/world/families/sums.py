"""Arithmetic with shown steps: a two-digit number plus or minus one digit, without a carry."""

import re
from dataclasses import dataclass
from functools import cached_property

from pipeline.world.families.task import DIGITS, Answer, Grade, Side, Task, count_words, near_miss, numbers_in, side_of

EQUATION = re.compile(r"(\d+) ?([+-]) ?(\d+) ?(?:=|is|equals) ?(\d+)")
LEAD = re.compile(r"\b(?:so it is|it is|so|the answer is|the result is)\b|\d+", re.IGNORECASE)
ENOUGH = 2  # equations; any more are stray


def _apply(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b


@dataclass(frozen=True)
class Sum(Task):
    family = "math"
    a: int
    sign: str
    b: int

    @cached_property
    def side(self) -> Side:
        return side_of("math", self.sign, self.a, self.b)

    @cached_property
    def prompt(self) -> str:
        return f"What is {self.a} {self.sign} {self.b}?"

    @cached_property
    def result(self) -> int:
        return _apply(self.a, self.sign, self.b)

    @cached_property
    def answer(self) -> Answer:
        unit = str(_apply(self.a % 10, self.sign, self.b))
        return Answer(
            f"{self.a % 10} {self.sign} {self.b} = {{}}, so it is {{}}{{}}.",
            (unit, *str(self.result)),
            (DIGITS,) * 3,
        )

    def grade(self, body: str) -> Grade:
        """Right: the result and no other number is named as such, and all equations shown are true."""
        equations = [(int(a), sign, int(b), int(c)) for a, sign, b, c in EQUATION.findall(body)]
        true = [c for a, sign, b, c in equations if _apply(a, sign, b) == c]
        rest = EQUATION.sub(" ", body)
        named = numbers_in(rest) or true[-1:]
        stray = count_words(LEAD.sub(" ", rest)) + 5 * max(0, len(equations) - ENOUGH)
        if len(true) == len(equations) and set(named) == {self.result}:
            return Grade(1.0, stray + len(named) - 1)
        steps = (bool(true) and len(true) == len(equations), named[-1:] == [self.result])
        return Grade(near_miss(steps, (True, True)), stray)


def kinds() -> tuple[list[Sum], ...]:
    sums = (Sum(a, sign, b) for sign in "+-" for a in range(10, 100) for b in range(1, 10))
    return ([s for s in sums if 0 <= _apply(s.a % 10, s.sign, s.b) < 10],)
