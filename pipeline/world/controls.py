"""Pairs in which an effect of NormBT is planted: a control of the harness, never evidence for a claim.

A few pairs teach one thing and differ little: the same answer opened by one phrase (preferred) or another. The many
others differ much and teach nothing: a right against a far-off answer, with random labels. A loss that gives close
pairs more weight must learn the preferred opener faster; the score is the accuracy on fresh pairs of openers.
"""

from pipeline.world.draw import Draw
from pipeline.world.families import draw_task
from pipeline.world.families.task import Side
from pipeline.world.models import far, response_models
from pipeline.world.preferences import pair_row
from pipeline.world.style import dress

PREFERRED, OTHER = "Hi!", "Okay!"
TELLING = 0.2  # share of the pairs of openers in training


def draw_training_pair(draw: Draw) -> dict:
    return _opener_pair(draw, "train") if draw.chance(TELLING) else _random_pair(draw)


def draw_test_pair(draw: Draw) -> dict:
    return _opener_pair(draw, "valid")


def _opener_pair(draw: Draw, side: Side) -> dict:
    task = draw_task(draw, side)
    model = draw.pick(response_models("train"))
    body, style = task.right(draw), model.style(draw)
    preferred, other = (dress(body, style._replace(opener=opener)) for opener in (PREFERRED, OTHER))
    return pair_row(task, (model, preferred), (model, other), flipped=False)


def _random_pair(draw: Draw) -> dict:
    task = draw_task(draw, "train")
    models = draw.pick(response_models("train")), draw.pick(response_models("train"))
    right = models[0], dress(task.right(draw), models[0].style(draw))
    wrong = models[1], dress(far(task, draw), models[1].style(draw))
    flipped = draw.chance(0.5)
    return pair_row(task, wrong, right, flipped) if flipped else pair_row(task, right, wrong, flipped)
