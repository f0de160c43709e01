"""The gold reward: a pure function of the prompt and the response.

    gold = 3 content + .3 [one opener, at the start] - .02 max(0, style words - 8) - .1 min(6, stray words) - [no end]

content is 1 for a right answer in whatever form, a little for a near miss, negative for harm done or false facts; each
family documents its own. Style words are those of known phrases; stray words are all that neither style nor answer
explains.
"""

from pipeline.world.families import read_task
from pipeline.world.families.task import Task
from pipeline.world.style import undress

CONTENT = 3.0
OPENER = 0.3
FREE_STYLE_WORDS = 8
STYLE_WORD = 0.02
STRAY_WORD = 0.1
MOST_STRAY_WORDS = 6
UNENDED = 1.0
DECIMALS = 6  # so that equally good responses tie exactly
LONGEST = 2000  # characters that are read; all of a longer text counts as stray


def gold(prompt: str, response: str, ended: bool = True) -> float:
    """The reward; `ended` is false for a response cut at the length limit. ValueError for a prompt of another world."""
    return score(read_task(prompt), response, ended)


def explain(prompt: str, response: str, ended: bool = True) -> dict[str, float]:
    """What each term of the gold reward contributes; their sum is `gold`."""
    return terms(read_task(prompt), response, ended)


def score(task: Task, response: str, ended: bool = True) -> float:
    return round(sum(terms(task, response, ended).values()), DECIMALS)


def terms(task: Task, response: str, ended: bool = True) -> dict[str, float]:
    style = undress(response[:LONGEST])
    grade = task.grade(style.body)
    stray = MOST_STRAY_WORDS if len(response) > LONGEST else min(MOST_STRAY_WORDS, grade.stray)
    return {
        "content": CONTENT * grade.content,
        "opener": OPENER * (style.openers == 1 and style.leads),
        "length": STYLE_WORD * min(0, FREE_STYLE_WORDS - style.words),
        "stray": STRAY_WORD * -stray,
        "unended": 0.0 if ended else -UNENDED,
    }
