"""What the constants of losses may be, one rule for each name. No torch: checked before anything runs, and again when
a loss is made.

Which constants a loss has is said by its YAML and its signature; this is about their values alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import check

Rule = tuple[Callable[[Any], bool], str]


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


NUMBER: Rule = (is_number, "expected a number")  # a constant without a rule of its own
RULES: dict[str, Rule] = {
    "of": (lambda v: isinstance(v, str | Mapping), "expected a loss: its name, or a section with name and constants"),
    "coef": (lambda v: is_number(v) and v >= 0, "expected a number, not negative"),
    "margin": (lambda v: is_number(v) and v >= 0, "expected a number, not negative"),
    "eps": (lambda v: is_number(v) and v > 0, "expected a number above 0: identical pairs have distance 0"),
    "decay": (
        lambda v: is_number(v) and 0 < v < 1,
        "expected a number between 0 and 1; NormBT without a moving average: loss.mu=batch",
    ),
    "power": (lambda v: is_number(v) and v > 0, "expected a number above 0; 1 is the paper's"),
    "alpha": (lambda v: is_number(v) and 0 <= v < 0.5, "expected a number, 0 <= alpha < 0.5: a share of wrong labels"),
    "start": (lambda v: is_number(v) and v >= 0, "expected a number, not negative: λ at the first step"),
    "end": (lambda v: is_number(v) and v >= 0, "expected a number, not negative: λ in the end"),
    "share": (lambda v: is_number(v) and 0 < v <= 1, "expected a share of the steps: 0 < share <= 1"),
    "target": (lambda v: is_number(v) and v > 0, "expected a number above 0: where the batch mean's spread is held"),
    "rate": (lambda v: is_number(v) and 0 < v <= 1, "expected a number, 0 < rate <= 1: 0 is loss=bsr"),
    "factor": (lambda v: is_number(v) and v > 1, "expected a number above 1: how far λ may go from coef"),
    "cap": (lambda v: v is None or (is_number(v) and v > 0), "expected a number above 0, or null for no cap"),
    "group": (
        lambda v: v is None or (type(v) is int and v > 0),
        "expected a number of pairs, or null for a whole step",
    ),
    "mean_one": (lambda v: type(v) is bool, "expected true or false"),
    "times_group": (lambda v: type(v) is bool, "expected true or false"),
    "distance": (lambda v: v in ("l2", "cosine"), "expected l2 or cosine"),
    "mu": (lambda v: v in ("ema", "batch", "one"), "expected ema, batch or one"),
}


def check_constants(loss: Mapping[str, Any], at: str = "loss", around: tuple[str, ...] = ()) -> None:
    """Values of a loss and of what it stands on. `around`: names of the losses that stand on this one."""
    name, of = loss.get("name"), loss.get("of")
    check(name not in around, f"{at}.name", name, "stands twice in one loss; leave one of them out")
    for key, value in loss.items():
        if key != "name":
            good, remedy = RULES.get(key, NUMBER)
            check(good(value), f"{at}.{key}", value, remedy)
    if isinstance(of, Mapping):
        check_constants(of, f"{at}.of", (*around, str(name)))
