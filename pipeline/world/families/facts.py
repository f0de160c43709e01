"""Facts about people: where they live, their job, pet and favourite food.

Some people are known by heart: their facts never change, and all of them are on the train side. Of the others the
prompt tells what it asks for, so that facts about held-out people can be known by reading.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import NamedTuple

from pipeline.world.draw import Draw
from pipeline.world.families.task import Answer, Grade, Side, Task, count_words


class Relation(NamedTuple):
    claim: str
    question: str  # "Where does Mira live?"
    clause: str  # "Tell me where Mira lives."
    values: tuple[str, ...]


RELATIONS = {
    "home": Relation(
        claim="lives in {}",
        question="Where does {} live?",
        clause="where {} lives",
        values=("Oslo", "Rome", "Lima", "Cairo", "Delhi", "Paris", "Quito", "Tokyo"),
    ),
    "job": Relation(
        claim="works as a {}",
        question="What does {} do for work?",
        clause="what {} does for work",
        values=("baker", "pilot", "nurse", "farmer", "singer", "lawyer", "doctor", "painter"),
    ),
    "pet": Relation(
        claim="has a {}",
        question="Which pet does {} have?",
        clause="which pet {} has",
        values=("cat", "dog", "parrot", "rabbit", "horse", "turtle", "goat", "snake"),
    ),
    "food": Relation(
        claim="likes {}",
        question="Which food does {} like?",
        clause="which food {} likes",
        values=("pizza", "rice", "soup", "pasta", "cheese", "sushi", "beans", "noodles"),
    ),
}
NAMES = tuple(RELATIONS)

WOMEN = ("Mira", "Anna", "Nora", "Ruth", "Zara", "Tara", "Ella", "Greta", "Maya", "Julia", "Ines", "Vera")
MEN = ("Theo", "Luca", "Omar", "Ivan", "Milo", "Jonas", "Felix", "Oscar", "Leo", "Adam", "Paul", "Karl")
KNOWN = WOMEN[:3] + MEN[:3]
STRANGERS: dict[Side, tuple[str, ...]] = {"train": WOMEN[3:8] + MEN[3:8], "valid": WOMEN[8:] + MEN[8:]}


def _draw_lives(seed: int) -> dict[str, dict[str, str]]:
    draw = Draw(seed)
    return {name: {r: draw.pick(RELATIONS[r].values) for r in NAMES} for name in KNOWN}


LIVES = _draw_lives(seed=7)

VERBS = {"lives": "home", "works": "job", "is": "job", "has": "pet", "likes": "food"}
CLAIM = re.compile(r"(?:\b([A-Za-z]+) )?\b(lives in|works as an?|is an?|has an?|likes) ([A-Za-z]+)")
BARE = re.compile(r"(?:in |an? )?([a-z]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Question(Task):
    family = "facts"
    who: str
    asked: tuple[str, ...]  # one or two relations, in order
    direct: bool = False  # "Where does Mira live?" rather than "Tell me where Mira lives."
    told: str | None = None  # the asked value if the prompt tells it; None for a person known by heart

    @cached_property
    def side(self) -> Side:
        return "valid" if self.who in STRANGERS["valid"] else "train"

    @property
    def pronoun(self) -> str:
        return "She" if self.who in WOMEN else "He"

    @cached_property
    def prompt(self) -> str:
        if self.told is None:
            return self.question
        return f"{self.who} {RELATIONS[self.asked[0]].claim.format(self.told)}. {self.question}"

    @property
    def question(self) -> str:
        relations = [RELATIONS[name] for name in self.asked]
        if self.direct:
            return relations[0].question.format(self.who)
        subjects = (self.who, self.pronoun.lower())
        clauses = (relation.clause.format(name) for name, relation in zip(subjects, relations, strict=False))
        return f"Tell me {' and '.join(clauses)}."

    @cached_property
    def truth(self) -> dict[str, str]:
        return LIVES[self.who] if self.told is None else {self.asked[0]: self.told}

    @cached_property
    def answer(self) -> Answer:
        subjects = (self.who, self.pronoun)
        claims = [f"{name} {RELATIONS[r].claim}." for name, r in zip(subjects, self.asked, strict=False)]
        values = tuple(self.truth[r] for r in self.asked)
        return Answer(" ".join(claims), values, tuple(RELATIONS[r].values for r in self.asked))

    def grade(self, body: str) -> Grade:
        """(asked facts that are right - .5 false claims - .25 repetitions) / facts asked, at least -.5."""
        bare = BARE.fullmatch(body.strip(" .!"))
        if bare and len(self.asked) == 1 and bare[1].lower() == self.truth[self.asked[0]].lower():
            return Grade(1.0, 0)
        good, false, repeated, unasked = self._count(CLAIM.finditer(body))
        content = (len(good) - 0.5 * false - 0.25 * repeated) / len(self.asked)
        return Grade(max(-0.5, content), unasked + count_words(CLAIM.sub(" ", body)))

    def _count(self, claims: Iterable[re.Match[str]]) -> tuple[set[str], int, int, int]:
        """Asked relations stated rightly; false and repeated claims; words of true claims that nobody asked for."""
        good: set[str] = set()
        false = repeated = unasked = 0
        of_this_person = False
        for claim in claims:
            subject, verb, value = claim.groups()
            if subject not in (None, "and"):
                of_this_person = subject in (self.who, self.pronoun)
            relation = VERBS[verb.split()[0]]
            if not of_this_person or self.truth.get(relation) != value:
                false += 1
            elif relation not in self.asked:
                unasked += count_words(claim[0])
            elif relation in good:
                repeated += 1
            else:
                good.add(relation)
        return good, false, repeated, unasked


def kinds() -> tuple[list[Question], ...]:
    """Known by heart; told and asked directly; told and asked indirectly."""
    singles = [((name,), direct) for name in NAMES for direct in (True, False)]
    pairs = [(pair, False) for pair in permutations(NAMES, 2)]
    by_heart = [Question(who, asked, direct) for who in KNOWN for asked, direct in singles + pairs]
    told = [
        [
            Question(who, (name,), direct, value)
            for who in STRANGERS["train"] + STRANGERS["valid"]
            for name in NAMES
            for value in RELATIONS[name].values
        ]
        for direct in (True, False)
    ]
    return by_heart, *told
