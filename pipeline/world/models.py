"""Response models: how often they are right, how wordy they are, how they go wrong.

On the train side wordiness goes with being right, both between models and from answer to answer; on the valid side it
goes with being wrong. Length is thus the honest spurious cue of this world.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from pipeline.world.draw import Draw
from pipeline.world.families import draw_task
from pipeline.world.families.task import SIDES, Side, Task
from pipeline.world.style import PHRASES, Style, dress

COUNT: dict[Side, int] = {"train": 17, "valid": 4}
VALID_VERBOSITY = (0.95, 0.70, 0.25, 0.05)
TELL: dict[Side, float] = {"train": 0.2, "valid": -0.2}
MARKDOWN_RATES = (0.0, 0.0, 0.3, 0.8)
FAR_KINDS: tuple[Literal["elsewhere", "loop", "cut"], ...] = ("elsewhere", "loop", "cut")
FAR_SHARES = (0.5, 0.8, 1.0)  # cumulative


@dataclass(frozen=True)
class ResponseModel:
    name: str
    side: Side
    skill: float  # probability of a right answer
    verbosity: float
    tell: float  # added to the verbosity of a right response, taken off that of a wrong one
    markdown: float  # probability of markdown
    near: float  # share of the wrong answers that are one slip rather than far off
    openers: tuple[str, ...]
    fillers: tuple[str, ...]
    closers: tuple[str, ...]

    def style(self, draw: Draw, tell: float = 0.0) -> Style:
        verbosity = self.verbosity + tell
        return Style(
            opener=draw.pick(self.openers) if draw.chance(0.2 + 0.7 * verbosity) else "",
            fillers=tuple(filler for filler in self.fillers if draw.chance(0.8 * verbosity)),
            closer=draw.pick(self.closers) if draw.chance(verbosity) else "",
            markdown=draw.chance(self.markdown),
        )

    def respond(self, task: Task, draw: Draw, skill: float | None = None) -> str:
        if draw.chance(self.skill if skill is None else skill):
            return dress(task.right(draw), self.style(draw, self.tell))
        body = task.slip(draw) if draw.chance(self.near) else far(task, draw)
        return dress(body, self.style(draw, -self.tell))


def far(task: Task, draw: Draw) -> str:
    """A body that is visibly off: the answer to another family's prompt, or one that loops or is cut short."""
    while True:
        kind = draw.weighted(FAR_KINDS, FAR_SHARES)
        if kind == "elsewhere":
            other = draw_task(draw, task.side)
            if other.family == task.family:
                continue
            body = other.right(draw)
        else:
            words = task.right(draw).split(" ")
            half = words[: max(1, len(words) // 2)]
            body = " ".join((half * 3)[:12] if kind == "loop" else words[: max(1, len(words) // 3)])
        if task.grade(body).content < 0.5:
            return body


@cache
def response_models(side: Side) -> tuple[ResponseModel, ...]:
    """The models of one side by rising skill; always the same."""
    draw = Draw(seed=SIDES.index(side))
    return tuple(_make(side, i, draw) for i in range(COUNT[side]))


def _make(side: Side, i: int, draw: Draw) -> ResponseModel:
    level = (i + 0.5) / COUNT[side]
    phrases = PHRASES[side]
    return ResponseModel(
        name=f"{side}-{i:02d}",
        side=side,
        skill=0.1 + 0.85 * level,
        verbosity=0.05 + 0.9 * level if side == "train" else VALID_VERBOSITY[i],
        tell=TELL[side],
        markdown=draw.pick(MARKDOWN_RATES),
        near=0.6 + 0.3 * level,
        openers=tuple(draw.sample(phrases.openers, 2)),
        fillers=tuple(draw.sample(phrases.fillers, 2)),
        closers=tuple(draw.sample(phrases.closers, 2)),
    )
