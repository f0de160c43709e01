"""Response models: skill shows in the gold reward, length is a cue that turns round, phrases belong to one side."""

from itertools import combinations
from math import sqrt

import pytest

from pipeline.world.draw import Draw
from pipeline.world.families import draw_task
from pipeline.world.families.task import SIDES
from pipeline.world.gold import score
from pipeline.world.models import COUNT, response_models
from pipeline.world.style import PHRASES


def _sign(x):
    return (x > 0) - (x < 0)


def _tau_b(xs, ys):
    signs = [(_sign(a - b), _sign(c - d)) for (a, c), (b, d) in combinations(zip(xs, ys, strict=True), 2)]
    untied = sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs)
    return sum(x * y for x, y in signs) / sqrt(untied) if untied else None


def _tau_length_gold(side, prompts=1200):
    draw = Draw(8)
    taus = []
    for _ in range(prompts):
        task = draw_task(draw, side)
        responses = [model.respond(task, draw) for model in draw.sample(response_models(side), 4)]
        taus.append(_tau_b([len(r) for r in responses], [score(task, r) for r in responses]))
    known = [tau for tau in taus if tau is not None]
    return sum(known) / len(known)


def test_length_goes_with_gold_on_the_train_side_and_against_it_on_the_other():
    assert 0.25 <= _tau_length_gold("train") <= 0.35
    assert _tau_length_gold("valid") <= -0.2


@pytest.mark.parametrize("side", SIDES)
def test_skill_raises_gold(side):
    draw = Draw(9)
    tasks = [draw_task(draw, side) for _ in range(500)]
    golds = [sum(score(task, m.respond(task, draw)) for task in tasks) / 500 for m in response_models(side)]
    skills = [model.skill for model in response_models(side)]
    assert skills == sorted(skills)
    tau = _tau_b(skills, golds)
    assert tau is not None
    assert tau > 0.9
    assert golds[-1] - golds[0] > 1.5


def test_phrases_belong_to_one_side():
    train, valid = ({phrase for kind in PHRASES[side] for phrase in kind} for side in SIDES)
    assert len(train) == sum(map(len, PHRASES["train"]))
    assert not train & valid
    for side in SIDES:
        models = response_models(side)
        assert len(models) == len({model.name for model in models}) == COUNT[side]
        for model in models:
            for mine, all_of_kind in zip((model.openers, model.fillers, model.closers), PHRASES[side], strict=True):
                assert set(mine) <= set(all_of_kind)


def test_no_phrase_contains_another():
    phrases = [phrase for side in SIDES for kind in PHRASES[side] for phrase in kind]
    assert not [(a, b) for a in phrases for b in phrases if a != b and a in b]
