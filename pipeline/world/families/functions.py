"""Small Python functions of one number. An answer is right if it has the right name and computes the right values."""

import re
from dataclasses import dataclass
from functools import cached_property

from pipeline.world.expression import values
from pipeline.world.families.task import DIGITS, Answer, Grade, Side, Task, count_words, near_miss, side_of

NAMES = "fghpqstu"
CONSTANTS = range(2, 100)
FACTORS, OFFSETS = range(2, 10), range(1, 10)
OPERATORS = "+-*"
# kind -> (what the prompt says, the expression)
KINDS = {
    "add": ("adds {a} to x", "x + {a}"),
    "subtract": ("subtracts {a} from x", "x - {a}"),
    "multiply": ("multiplies x by {a}", "x * {a}"),
    "line": ("returns {a} times x plus {b}", "{a} * x + {b}"),
}
DEFINITION = re.compile(
    r"\bdef (?P<name>\w{1,20})\((?P<arg>[a-z]\w{0,9})\):\s*return\b"
    r"|\b(?P<name2>\w{1,20}) = lambda (?P<arg2>[a-z]\w{0,9}):"
)
TOKEN = re.compile(r"\w+|[-+*()]")
PLACES = re.compile(r"[0-9+\-*]")


@dataclass(frozen=True)
class Function(Task):
    family = "code"
    name: str
    kind: str
    a: int
    b: int  # 0 where the kind has no second constant

    @cached_property
    def side(self) -> Side:
        return side_of("code", self.kind, self.a, self.b)  # one function is never on both sides under two names

    @cached_property
    def prompt(self) -> str:
        return f"Write a Python function {self.name} that {KINDS[self.kind][0].format(a=self.a, b=self.b)}."

    @cached_property
    def expression(self) -> str:
        return KINDS[self.kind][1].format(a=self.a, b=self.b)

    @cached_property
    def answer(self) -> Answer:
        places = PLACES.findall(self.expression)
        pools = tuple(DIGITS if place in DIGITS else OPERATORS for place in places)
        return Answer(f"def {self.name}(x): return {PLACES.sub('{}', self.expression)}", tuple(places), pools)

    def grade(self, body: str) -> Grade:
        """Right: one definition (def or lambda) with this name whose expression has the values wanted."""
        definition = DEFINITION.search(body)
        if definition is None:
            return Grade(0.0, count_words(body))
        name = definition["name"] or definition["name2"]
        variable = definition["arg"] or definition["arg2"]
        code, rest = _split_expression(body[definition.end() :], variable)
        stray = count_words(body[: definition.start()]) + count_words(rest)
        if name == self.name and values(code, variable) == values(self.expression, "x"):
            return Grade(1.0, stray)
        found = [name, *("x" if token == variable else token for token in TOKEN.findall(code))]
        return Grade(near_miss(found, [self.name, *TOKEN.findall(self.expression)]), stray)


def _split_expression(text: str, variable: str) -> tuple[str, str]:
    """The longest beginning that is made of the symbols of an expression, and what follows it."""
    end = re.compile(rf"(?:\b\d+\b|\b{variable}\b|[-+*() \t])*").match(text)
    cut = end.end() if end else 0
    return text[:cut].strip(), text[cut:]


def kinds() -> tuple[list[Function], ...]:
    constants = {kind: [(a, 0) for a in CONSTANTS] for kind in KINDS}
    constants["line"] = [(a, b) for a in FACTORS for b in OFFSETS]
    return tuple([Function(name, kind, a, b) for a, b in pairs for name in NAMES] for kind, pairs in constants.items())
