"""The families of tasks: drawing a task, and reading a prompt text back into the task that it states."""

from functools import cache
from itertools import accumulate

from pipeline.world.draw import Draw
from pipeline.world.families import facts, functions, harm, howto, lists, sums
from pipeline.world.families.task import SIDES, Side, Task

FAMILIES = {"facts": facts, "harm": harm, "howto": howto, "list": lists, "math": sums, "code": functions}
SHARES = {"facts": 0.21, "harm": 0.09, "howto": 0.15, "list": 0.19, "math": 0.18, "code": 0.18}
_NAMES = tuple(SHARES)
_CUMULATIVE = tuple(accumulate(SHARES.values()))


def draw_task(draw: Draw, side: Side, family: str | None = None) -> Task:
    """A task of the family, or of any by SHARES. Its kind is drawn first: kinds with few prompts weigh the same."""
    family = family or draw.weighted(_NAMES, _CUMULATIVE)
    return draw.pick(draw.pick(tasks(family, side)))


@cache
def tasks(family: str, side: Side) -> tuple[tuple[Task, ...], ...]:
    """All tasks of a family on one side, by kind."""
    kinds = (tuple(task for task in kind if task.side == side) for kind in FAMILIES[family].kinds())
    return tuple(kind for kind in kinds if kind)


@cache
def _by_prompt() -> dict[str, Task]:
    return {task.prompt: task for family in FAMILIES for side in SIDES for kind in tasks(family, side) for task in kind}


def read_task(prompt: str) -> Task:
    """The task that a prompt states; ValueError if it is none of this world's."""
    if prompt not in _by_prompt():
        raise ValueError(f"not a prompt of this world, so it has no gold reward: {prompt[:200]!r}")
    return _by_prompt()[prompt]
