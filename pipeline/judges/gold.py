"""A judge that reads a reward: the world's gold reward, or that of a reward model.

    P(the other answer is preferred) = sigmoid((reward_2 - reward_1) / temperature)

`length_bias` is a control, never evidence: it plants a liking for long answers, which length control must take out.
"""

import math
from collections.abc import Sequence

from pipeline import world
from pipeline.experiment import Judge
from pipeline.judges.pair import DRAW, Pair
from pipeline.rows import Row
from pipeline.stage import Sections

BIAS_WORDS = 10  # more words than the baseline by which the planted bias reaches tanh(1) of its size


def compare(x: Sections, pairs: Sequence[Pair]) -> list[Row]:
    first, second = rewards(x, pairs)
    return [
        {"preference": preference(x.judge, at, one, two), "gold_1": one, "gold_2": two}
        for at, one, two in zip(pairs, first, second, strict=True)
    ]


def preference(judge: Judge, at: Pair, first: float, second: float) -> float:
    if at.output_1 == at.output_2:
        return DRAW
    assert judge.temperature is not None, "Judge checks it"
    longer = len(at.output_2.split()) - len(at.output_1.split())
    planted = (judge.length_bias or 0.0) * math.tanh(longer / BIAS_WORDS)
    return 1.5 + 0.5 * math.tanh(((second - first) / judge.temperature + planted) / 2)  # 1 + sigmoid, without overflow


def rewards(x: Sections, pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    """Of every pair's first and second answer."""
    if x.judge.id is None:
        return (
            [world.gold(p.instruction, p.output_1, p.ended_1) for p in pairs],
            [world.gold(p.instruction, p.output_2, p.ended_2) for p in pairs],
        )
    from pipeline import gold_model  # torch

    prompts = [p.instruction for p in pairs] * 2
    answers = [*(p.output_1 for p in pairs), *(p.output_2 for p in pairs)]
    both = gold_model.scorer(x.judge, x.run.micro_tokens, x.hub.root)(prompts, answers).tolist()
    return both[: len(pairs)], both[len(pairs) :]
