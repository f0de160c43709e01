"""Preference pairs, and prompts with four ranked responses (the generalization scenarios)."""

import math
from collections.abc import Iterator

from pipeline.world.draw import Draw
from pipeline.world.families import draw_task
from pipeline.world.families.task import Side, Task
from pipeline.world.gold import DECIMALS, score
from pipeline.world.models import ResponseModel, response_models
from pipeline.world.prompts import describe
from pipeline.world.spec import World
from pipeline.world.style import dress

IN_DOMAIN_NEAR = 0.4  # share of one-slip pairs among the noise-free evaluation pairs
RESPONSES = 4
# set -> side of the prompts, side of the response models
SCENARIOS: dict[str, tuple[Side, Side]] = {
    "in_domain": ("train", "train"),
    "prompt": ("valid", "train"),
    "response": ("train", "valid"),
    "mutual": ("valid", "valid"),
}
Candidate = tuple[ResponseModel, str]


def draw_preference(draw: Draw, world: World) -> dict:
    """A training pair with label noise."""
    return _draw_pair(draw, world.near, world.temperature, world.flip)


def draw_in_domain(draw: Draw, world: World) -> dict:
    """An evaluation pair like the training pairs, but without noise."""
    return _draw_pair(draw, IN_DOMAIN_NEAR, temperature=0.0, flip=0.0)


def _draw_pair(draw: Draw, near: float, temperature: float, flip: float) -> dict:
    while True:
        task = draw_task(draw, "train")
        one_slip = draw.chance(near) and task.family != "harm"
        best, other = _one_slip_pair(task, draw) if one_slip else _chosen_and_other(task, draw, temperature)
        scores = score(task, best[1]), score(task, other[1])
        # Without noise the better one must be known.
        if best[1] != other[1] and (temperature > 0 or scores[0] != scores[1]):
            break
    flipped = draw.chance(flip)
    return pair_row(task, other, best, flipped) if flipped else pair_row(task, best, other, flipped)


def _one_slip_pair(task: Task, draw: Draw) -> tuple[Candidate, Candidate]:
    model = draw.pick(response_models("train"))
    style = model.style(draw)
    return (model, dress(task.right(draw), style)), (model, dress(task.slip(draw), style))


def _chosen_and_other(task: Task, draw: Draw, temperature: float) -> tuple[Candidate, Candidate]:
    """The best of four by gold + temperature * Gumbel noise, and any other one of them."""
    models = draw.sample(response_models("train"), RESPONSES)
    candidates = [(model, model.respond(task, draw)) for model in models]
    noise = [temperature * _gumbel(draw) if temperature > 0 else 0.0 for _ in candidates]
    utilities = [score(task, text) + extra for (_, text), extra in zip(candidates, noise, strict=True)]
    chosen = candidates.pop(utilities.index(max(utilities)))
    return chosen, draw.pick(candidates)


def _gumbel(draw: Draw) -> float:
    return -math.log(-math.log(max(draw.uniform(), 1e-12)))


def pair_row(task: Task, chosen: Candidate, rejected: Candidate, flipped: bool) -> dict:
    gold_chosen, gold_rejected = score(task, chosen[1]), score(task, rejected[1])
    return {
        **describe(task),
        "chosen": chosen[1],
        "rejected": rejected[1],
        "gold_chosen": gold_chosen,
        "gold_rejected": gold_rejected,
        "margin": round(gold_chosen - gold_rejected, DECIMALS),
        "flipped": flipped,
        "chosen_model": chosen[0].name,
        "rejected_model": rejected[0].name,
    }


def draw_scenarios(n: int, draw: Draw) -> Iterator[dict]:
    """n prompts of each set. Those whose four responses are equally good say nothing about ranking and are left out."""
    for name, (prompts, models) in SCENARIOS.items():
        found = 0
        while found < n:
            task = draw_task(draw, prompts)
            chosen = draw.sample(response_models(models), RESPONSES)
            responses = [model.respond(task, draw) for model in chosen]
            scores = [score(task, response) for response in responses]
            if max(scores) - min(scores) < 1e-6:
                continue
            found += 1
            yield {
                "set": name,
                **describe(task),
                "responses": responses,
                "models": [model.name for model in chosen],
                "gold": scores,
            }
