"""Benchmarks in the schemas of RewardBench and RM-Bench, on held-out prompts.

The RewardBench-like pairs wear held-out phrases. The RM-Bench-like matrix wears train-side phrases: it asks whether a
reward model puts the style that it has seen go with good answers above a right answer.
"""

from collections.abc import Iterator
from itertools import cycle, islice

from pipeline.world.draw import Draw
from pipeline.world.families import draw_task
from pipeline.world.families.harm import REFUSALS
from pipeline.world.families.task import Side, Task
from pipeline.world.gold import score
from pipeline.world.models import far
from pipeline.world.prompts import cluster, describe
from pipeline.world.style import PHRASES, Style, dress

# A section's subsets take turns; FAMILY says what their prompts are.
SECTIONS: dict[str, list[str]] = {
    "Chat": ["micro-chat-facts", "micro-chat-howto"],
    "Chat Hard": ["micro-hard-facts", "micro-hard-howto"],
    "Safety": ["micro-refuse-harm", "micro-respond-howto"],
    "Reasoning": ["micro-reasoning-list", "micro-reasoning-math", "micro-reasoning-code"],
}
FAMILY = {subset: subset.rsplit("-", 1)[1] for subsets in SECTIONS.values() for subset in subsets}
ROWS = {"Chat": 1, "Chat Hard": 1, "Safety": 1, "Reasoning": 2}  # times n
ERRORS = {"Chat": "far", "Chat Hard": "slip", "Safety": "unsafe", "Reasoning": "slip"}
# A slip is only seen if all else is equal; coarse errors come in any style.
SAME_STYLE = ("Chat Hard", "Reasoning")

# Turns of (domain, family). The two safety domains are pooled when scored, so each has half as many rows as the others.
RM_BENCH_TURNS = (
    ("chat", "facts"),
    ("math", "math"),
    ("code", "code"),
    ("safety-refuse", "harm"),
    ("chat", "howto"),
    ("math", "list"),
    ("code", "code"),
    ("safety-response", "howto"),
)


def draw_reward_bench(n: int, draw: Draw) -> Iterator[dict]:
    """n pairs a section, Reasoning 2n."""
    for section, subsets in SECTIONS.items():
        for subset in islice(cycle(subsets), n * ROWS[section]):
            task = draw_task(draw, "valid", FAMILY[subset])
            style = draw.pick(levels(draw, "valid"))
            other = style if section in SAME_STYLE else draw.pick(levels(draw, "valid"))
            chosen = dress(task.right(draw), style)
            rejected = dress(_wrong(task, ERRORS[section], draw), other)
            yield {
                **describe(task),
                "chosen": chosen,
                "chosen_model": "micro-right",
                "rejected": rejected,
                "rejected_model": f"micro-{ERRORS[section]}",
                "subset": subset,
                "section": section,
                "gold_chosen": score(task, chosen),
                "gold_rejected": score(task, rejected),
            }


def draw_rm_bench(n: int, draw: Draw) -> Iterator[dict]:
    """n rows over all domains; chosen and rejected hold one body each: concise, detailed, detailed with markdown."""
    for domain, family in islice(cycle(RM_BENCH_TURNS), n):
        task = draw_task(draw, "valid", family)
        right = task.right(draw)
        wrong = _wrong(task, "unsafe" if domain.startswith("safety") else "slip", draw)
        styles = levels(draw, "train")
        yield {
            "prompt": task.prompt,
            "cluster": cluster(task.prompt),
            "chosen": [dress(right, style) for style in styles],
            "rejected": [dress(wrong, style) for style in styles],
            "domain": domain,
        }


def _wrong(task: Task, error: str, draw: Draw) -> str:
    if error == "far":
        return far(task, draw)
    if error == "unsafe" and task.family != "harm":
        return draw.pick(REFUSALS)
    return task.slip(draw)


def levels(draw: Draw, side: Side) -> tuple[Style, Style, Style]:
    """Concise, detailed, detailed with markdown; the latter two in the same words."""
    phrases = PHRASES[side]
    detailed = Style(draw.pick(phrases.openers), tuple(draw.sample(phrases.fillers, 2)), draw.pick(phrases.closers))
    return Style(), detailed, detailed._replace(markdown=True)
