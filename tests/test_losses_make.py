"""From a section of config to a loss: how parts stand on each other, and what is refused with key, value, remedy."""

from typing import Any

import pytest
import torch
from scores import CASES, YAML, pairs, section, value

from pipeline import losses
from pipeline.constants import RULES, check_constants
from pipeline.errors import ConfigError
from pipeline.losses import Loss, NormBT, make


def test_constants_are_those_of_the_yaml() -> None:
    s = pairs(5)
    mean = torch.cat([s.chosen, s.rejected]).mean()
    penalty = value(make(**YAML["bsr"]), s) - value(make("bt"), s)
    assert penalty == pytest.approx(float(YAML["bsr"]["coef"] * mean.square()), rel=1e-4)
    weight = make(**YAML["norm_bt"]).weight
    assert isinstance(weight, NormBT)
    assert (weight.decay, weight.eps) == (YAML["norm_bt"]["decay"], YAML["norm_bt"]["eps"]) == (0.9, 1e-6)


def test_the_defaults_are_the_papers_and_no_control() -> None:
    """A control is on only where it is asked for."""
    usual = {"distance": "l2", "mu": "ema", "power": 1, "cap": None, "mean_one": False, "of": {"name": "bt"}}
    assert usual.items() <= YAML["norm_bt"].items()
    assert {"group": None, "times_group": False, "of": {"name": "bt"}}.items() <= YAML["bsr"].items()


def test_a_name_stands_for_a_loss_without_constants() -> None:
    s = pairs(4)
    for term in ("bt", "dr", "margin_out"):
        by_name = make(**{**YAML["norm_bt"], "of": term})
        assert torch.equal(by_name(s), make(**section("norm_bt", term))(s))


def test_what_is_null_may_be_left_out() -> None:
    """An identity has no nulls, so neither has what a stage gets."""
    s = pairs(4)
    for name in ("norm_bt", "bsr"):
        short = {key: constant for key, constant in YAML[name].items() if constant is not None}
        assert short != YAML[name] and torch.equal(make(**short)(s), make(**YAML[name])(s))


def test_parts_of_a_stack() -> None:
    made = make(**CASES["center of bsr of norm_bt of hinge"])
    assert isinstance(made, Loss) and isinstance(made.weight, NormBT) and len(made.penalties) == 2


HINGE = {"name": "hinge", "margin": 1.0}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "bst"}, "loss.name = 'bst': no such loss; known: bt, margin, "),
    ({"name": "hinge"}, "loss.margin = None: hinge needs it; conf/loss/hinge.yaml has a value"),
    ({"name": "bt", "coef": 0.5}, "loss.coef = 0.5: bt has no such constant; it has: none"),
    ({"name": "bt", "of": "hinge"}, "loss.of = 'hinge': bt has no such constant"),
    ({**YAML["bsr"], "cof": 0.5}, "loss.cof = 0.5: bsr has no such constant; it has: coef, group, times_group"),
    ({"name": "bsr", "coef": 0.5, "times_group": False}, "loss.of = None: bsr stands on another loss; say which"),
    ({**YAML["bsr"], "of": None}, "loss.of = None: expected a loss: its name, or a section"),
    ({**YAML["bsr"], "of": 3}, "loss.of = 3: expected a loss: its name, or a section"),
    ({**YAML["bsr"], "of": "hing"}, "loss.of.name = 'hing': no such loss; known: bt, "),
    ({**YAML["bsr"], "of": {}}, "loss.of.name = None: no such loss; known: bt, "),
    ({**YAML["bsr"], "of": "hinge"}, "loss.of.margin = None: hinge needs it; conf/loss/hinge.yaml has a value"),
    ({**YAML["bsr"], "of": {**HINGE, "decay": 0.5}}, "loss.of.decay = 0.5: hinge has no such constant; it has: margin"),
    ({**YAML["bsr"], "of": {**HINGE, "margin": "wide"}}, "loss.of.margin = 'wide': expected a number, not negative"),
    (section("norm_bt", "norm_bt"), "loss.of.name = 'norm_bt': stands twice in one loss"),
    (section("bsr", section("norm_bt", "bsr")), "loss.of.of.name = 'bsr': stands twice in one loss"),
    (
        section("norm_bt", decay=0),
        "loss.decay = 0: expected a number between 0 and 1; NormBT without a moving average: loss.mu=",
    ),
    (section("norm_bt", decay=1.0), "loss.decay = 1.0: expected a number between 0 and 1"),
    (section("norm_bt", eps=0.0), "loss.eps = 0.0: expected a number above 0"),
    (section("norm_bt", eps=float("nan")), "loss.eps = nan: expected a number above 0"),
    (section("norm_bt", power=0), "loss.power = 0: expected a number above 0"),
    (section("norm_bt", cap=0), "loss.cap = 0: expected a number above 0, or null for no cap"),
    (section("norm_bt", mean_one=1), "loss.mean_one = 1: expected true or false"),
    (section("norm_bt", distance="cos"), "loss.distance = 'cos': expected l2 or cosine"),
    (section("norm_bt", mu=1.0), "loss.mu = 1.0: expected ema, batch or one"),
    (section("bsr", group=0), "loss.group = 0: expected a number of pairs, or null for a whole step"),
    (section("bsr", group=2.0), "loss.group = 2.0: expected a number of pairs"),
    (section("bsr", group=True), "loss.group = True: expected a number of pairs"),
    (section("bsr", times_group="yes"), "loss.times_group = 'yes': expected true or false"),
    (section("bsr", coef=-0.1), "loss.coef = -0.1: expected a number, not negative"),
    (section("center", coef=True), "loss.coef = True: expected a number"),
    (section("center", coef=float("inf")), "loss.coef = inf: expected a number"),
    (section("bsr_var", coef=-1), "loss.coef = -1: expected a number, not negative"),
    (section("bsr_schedule", start=-1), "loss.start = -1: expected a number, not negative: λ at the first step"),
    (section("bsr_schedule", end=None), "loss.end = None: expected a number, not negative: λ in the end"),
    (section("bsr_schedule", share=0), "loss.share = 0: expected a share of the steps: 0 < share <= 1"),
    (
        section("bsr_schedule", coef=0.1),
        "loss.coef = 0.1: bsr_schedule has no such constant; it has: start, end, share",
    ),
    (section("bsr_adaptive", target=0), "loss.target = 0: expected a number above 0"),
    (section("bsr_adaptive", rate=2), "loss.rate = 2: expected a number, 0 < rate <= 1"),
    (section("bsr_adaptive", factor=1), "loss.factor = 1: expected a number above 1"),
    ({"name": "bsr_adaptive", "of": "bt"}, "loss.coef = None: bsr_adaptive needs it; conf/loss/bsr_adaptive.yaml"),
    (section("label_smoothing", alpha=0.5), "loss.alpha = 0.5: expected a number, 0 <= alpha < 0.5"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED, ids=[message.split(": ")[0] for _, message in REFUSED])
def test_what_is_wrong_is_refused_with_key_value_and_remedy(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**wrong)
    assert str(caught.value).startswith(message)


def test_every_value_of_a_yaml_passes_its_rule() -> None:
    for values in CASES.values():
        check_constants(values)
    constants = {key for values in YAML.values() for key in values} - {"name"}
    assert RULES.keys() == constants  # a rule nobody needs, or a constant that may be anything


def test_a_constant_without_a_rule_is_a_number() -> None:
    check_constants({"name": "new", "temperature": 2})
    with pytest.raises(ConfigError, match=r"^loss\.temperature = 'hot': expected a number$"):
        check_constants({"name": "new", "temperature": "hot"})


def test_a_new_term_needs_nothing_but_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def squared(s: losses.PairScores, *, target: float) -> torch.Tensor:
        return (s.delta - target).square()

    for registry in (losses.TERMS, losses.LOSSES):
        monkeypatch.setitem(registry, "squared", squared)
    s = pairs(6)
    assert value(make("squared", target=2.0), s) == pytest.approx(float((s.delta - 2).square().mean()))
    stacked = make(**{**YAML["norm_bt"], "of": {"name": "squared", "target": 2.0}})
    weights = stacked.weights(s)
    assert value(stacked, s) == pytest.approx(float((weights * (s.delta - 2).square()).mean()), rel=1e-6)
