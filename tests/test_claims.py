"""Claims: specs that mean one thing, effects by hand, verdicts, and a harness that finds what is there and no more."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artefacts import fail, finish, toy
from scipy import stats as scipy_stats

from pipeline import actions, claims, plan
from pipeline.claims import Claim, Finding, formats, verdicts
from pipeline.claims import spec as spec_module
from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.plan import Builder, Node
from pipeline.stage import Stage
from pipeline.stages import STAGES
from pipeline.stats import estimate

Golden = Callable[[str, str], None]
Metrics = Callable[[Node], Mapping[str, float] | None]

TOYS: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        toy("bench", ("seed", "replicas"), slug=lambda x: f"{x.replicas}-s{x.seed}"),
        toy("eval", ("seed", "replicas"), ("bench",), slug=lambda x: f"{x.replicas}-s{x.seed}"),
    )
}


def term(replicas: int, metric: str = "tau", **more: Any) -> dict[str, Any]:
    """Rows are told apart by a whole number, so that no file of conf/ moves a key."""
    return {"stage": "bench", "metric": metric, "set": {"replicas": replicas}, **more}


NEW, OLD = 5, 6  # two rows; up to five seeds have an SFT model each
CLAIM: dict[str, Any] = {
    "statement": "New is better than old",
    "source": "Table 1",
    "mark": "paper",
    "role": "secondary",
    "quantity": [term(NEW)],
    "baseline": [term(OLD)],
    "seeds": [0, 1, 2, 3, 4],
}


def claim(**changed: Any) -> Claim:
    return build(Claim, {**CLAIM, **changed}, "claim")


def found(root: Path, metrics: Metrics, *all_claims: Claim) -> list[Finding]:
    asked = claims.ask({str(i): one for i, one in enumerate(all_claims)}, [], TOYS)
    return list(claims.judge(asked, Builder(TOYS, root), metrics).values())


def table(values: Mapping[int, Sequence[float]], metric: str = "tau") -> Metrics:
    """{row: a value for each seed}; seeds beyond are not made."""

    def metrics(node: Node) -> dict[str, float] | None:
        row, seed = node.sections["replicas"], node.sections["seed"]
        return {metric: values[row][seed]} if seed < len(values.get(row, ())) else None

    return metrics


# --- specs ---


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spec_module, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("scale", ["micro", "paper"])  # the others ask for the same in other sizes
def test_every_claim_can_be_planned_at_every_scale(scale: str, tmp_path: Path):
    asked = claims.ask(claims.load(), [f"scale={scale}"], STAGES)
    graph, targets = plan.build(STAGES, tmp_path, claims.wanted(asked, STAGES))
    assert targets and set(targets) <= set(graph.values())
    assert all(one.off_scale or one.claim.untested or one.made for one in asked.values())


def test_claims_are_about_35_and_few_are_primary():
    known = claims.load()
    roles = [c.role for c in known.values()]
    assert len(roles) - roles.count("control") >= 35 and 1 <= roles.count("primary") <= 6
    assert {c.control for c in known.values() if c.role == "control"} == {"must be found", "must not be found"}
    assert not [c for c in known.values() if c.role == "primary" and c.mark == "ours"]


PUBLISHED = {"value": 0.1, "mark": "paper", "source": "Table 2"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quantity": []}, "claim.x.quantity = None: say either quantity or untested"),
        ({"untested": "no data"}, "claim.x.quantity = None: say either quantity or untested"),
        ({"role": "control"}, "claim.x.control = None: goes with role=control"),
        ({"control": "must be found"}, "claim.x.control = 'must be found': goes with role=control"),
        ({"seeds": []}, "claim.x.seeds"),
        ({"seeds": [1, 1]}, "claim.x.seeds"),
        ({"minimum": -0.1}, "claim.x.minimum = -0.1: is a size"),
        ({"direction": "same"}, "claim.x.minimum = 0.0: direction=same needs a size"),
        ({"constant": 1.0}, "claim.x.constant = 1.0: has no meaning beside baseline"),
        ({"baseline": None, "relative": True}, "claim.x.relative = True: needs a baseline"),
        ({"direction": "lower", "published": PUBLISHED}, "claim.x.published.value = 0.1: does not fit direction=lower"),
        ({"published": {"value": 0.1, "mark": "paper"}}, "claim.x.published.source = None: missing"),
        ({"mark": "sure"}, "claim.x.mark = 'sure': must be one of paper"),
        ({"source": None}, "claim.x.source = None: expected text"),
        ({"verdict": "reproduced"}, "claim.x.verdict = 'reproduced': unknown key"),
        ({"table": "plantd"}, "claim.x.table = 'plantd': no such table; did you mean 'planted'?"),
    ],
    ids=str,
)
def test_a_wrong_claim_is_refused(folder: Path, changed: dict[str, Any], message: str):
    (folder / "mine.yaml").write_text(json.dumps({"x": {**CLAIM, **changed}}))
    with pytest.raises(ConfigError) as caught:
        claims.load()
    assert str(caught.value).startswith(message)


def test_names_are_unique_over_files_and_the_family_is_small(folder: Path):
    (folder / "a.yaml").write_text(json.dumps({"x": CLAIM}))
    (folder / "b.yaml").write_text(json.dumps({"x": CLAIM}))
    with pytest.raises(ConfigError, match="another file has a claim of this name"):
        claims.load()
    (folder / "b.yaml").unlink()
    (folder / "c.yaml").write_text(json.dumps({f"y{i}": {**CLAIM, "role": "primary"} for i in range(7)}))
    with pytest.raises(ConfigError, match="at most 6 can be primary"):
        claims.load()


def test_what_claims_set_cannot_be_set_from_outside():
    for override in ("replicas=2", "seed=3"):
        with pytest.raises(ConfigError, match="claims set it"):
            claims.ask({"x": claim()}, [override], TOYS)
    (asked,) = claims.ask({"x": claim()}, ["rm.batch=8"], TOYS).values()
    assert {x.rm.batch for x in asked.made.values()} == {8}


def test_a_claim_can_have_the_settings_of_a_table():
    asked = claims.ask({"x": claim(table="planted")}, [], TOYS, [3])["x"]
    assert {(x.data.preferences.part, x.replicas, x.seed) for x in asked.made.values()} == {
        ("opener_control", NEW, 3),
        ("opener_control", OLD, 3),
    }


def test_claims_want_what_they_read_and_no_stage_that_is_not_there():
    asked = claims.ask({"x": claim(quantity=[term(NEW), {**term(NEW), "stage": "later"}])}, [], TOYS)
    assert {stage for stage, _ in claims.wanted(asked, TOYS)} == {"bench"}
    assert len(claims.wanted(asked, TOYS)) == 2 * 5


# --- effects ---


def test_an_effect_is_paired_by_seed(tmp_path: Path):
    (one,) = found(tmp_path, table({NEW: [1, 3, 2, 5, 4], OLD: [0, 1, 1, 1, 1]}), claim())
    assert one.effects == (1, 2, 1, 4, 3) and one.seeds == (0, 1, 2, 3, 4) and len(one.keys) == 10
    assert one.estimate == estimate([1, 2, 1, 4, 3], range(5))


def test_seeds_of_one_sft_model_count_once(tmp_path: Path):
    """The SFT model of a seed is that of its experiment."""
    values = table({3: [1, 2, 3, 4, 5, 7]})
    (one,) = found(tmp_path, values, claim(quantity=[term(3)], baseline=None, seeds=[0, 1, 2, 3, 4, 5]))
    assert one.estimate and one.estimate.means == (2.5, 3.5, 5)


@pytest.mark.parametrize(
    ("changed", "effects"),
    [
        ({"baseline": None}, (3, 6, 9)),
        ({"baseline": None, "constant": 2.0}, (1, 4, 7)),
        ({"quantity": [term(NEW, weight=0.5), term(OLD)], "baseline": [term(OLD, weight=2.0)]}, (0.5, 2, 2.5)),
        ({"relative": True}, (2, 5, 3.5)),
    ],
    ids=str,
)
def test_terms_are_weighed_added_and_compared(tmp_path: Path, changed: dict[str, Any], effects: tuple[float, ...]):
    values = {NEW: [3, 6, 9], OLD: [1, 1, 2]}
    (one,) = found(tmp_path, table(values), claim(seeds=[0, 1, 2], **changed))
    assert one.effects == effects


@pytest.mark.parametrize(
    ("values", "changed", "why"),
    [
        ({NEW: [1, 1], OLD: [0] * 5}, {}, "2 of 5 seeds: bench/5-s2 is not made yet; 3 are needed"),
        ({}, {}, "0 of 5 seeds: bench/5-s0 is not made yet; 3 are needed"),
        (
            {NEW: [1] * 5},
            {"quantity": [term(NEW, "taw")], "baseline": None},
            "0 of 5 seeds: bench/5-s0 has no metric taw",
        ),
        ({}, {"quantity": [{**term(NEW), "stage": "later"}]}, "there is no stage later yet"),
        ({}, {"scales": ["paper"]}, "has a meaning at paper only"),
        ({}, {"quantity": None, "baseline": None, "untested": "nobody knows"}, "nobody knows"),
        ({NEW: [1] * 5, OLD: [0] * 5}, {"relative": True}, "0 of 5 seeds: the baseline is 0; 3 are needed"),
        ({NEW: [1] * 5, OLD: [0] * 5}, {"test": "bootstrap_t"}, "5 units have too few resamples; 8 are needed"),
    ],
    ids=str,
)
def test_what_cannot_be_tested_says_why(
    tmp_path: Path, values: dict[int, list[float]], changed: dict[str, Any], why: str
):
    (one,) = found(tmp_path, table(values), claim(**changed))
    assert one.verdict == "not tested" and one.why is not None and one.why.startswith(why)


def test_seeds_that_are_there_are_used_and_the_others_named(tmp_path: Path):
    (one,) = found(tmp_path, table({NEW: [1, 2, 3], OLD: [0] * 5}), claim())
    assert one.verdict == "reproduced" or one.estimate
    assert one.seeds == (0, 1, 2) and one.why == "3 of 5 seeds: bench/5-s3 is not made yet"


def test_manifests_are_read_where_nothing_else_is_said(tmp_path: Path):
    asked = claims.ask({"x": claim()}, [], TOYS)
    nodes, _ = plan.build(TOYS, tmp_path, claims.wanted(asked, TOYS))
    for i, node in enumerate(list(nodes.values())[:-1]):
        finish(node, {"tau": float(i)})
    fail(list(nodes.values())[-1], "FloatingPointError: nan")
    (one,) = claims.judge(asked, Builder(TOYS, tmp_path)).values()
    assert one.effects == (-5, -5, -5, -5) and one.why == "4 of 5 seeds: FloatingPointError: nan"


# --- verdicts ---


@pytest.mark.parametrize(
    ("changed", "interval", "verdict"),
    [
        ({}, (0.01, 0.2), "reproduced"),
        ({}, (-0.01, 0.2), "underpowered"),
        ({}, (-0.2, -0.01), "contradicted"),
        ({"minimum": 0.05}, (0.01, 0.2), "underpowered"),
        ({"minimum": 0.05}, (0.06, 0.2), "reproduced"),
        ({"published": PUBLISHED}, (-0.05, 0.09), "paper-sized effect excluded"),
        ({"published": PUBLISHED}, (0.01, 0.09), "reproduced"),  # smaller than published, and yet there
        ({"published": PUBLISHED}, (-0.2, -0.01), "contradicted"),
        ({"published": PUBLISHED, "minimum": 0.05}, (0.01, 0.09), "paper-sized effect excluded"),
        ({"published": PUBLISHED}, (-0.05, 0.11), "underpowered"),
        ({"direction": "lower"}, (-0.2, -0.01), "reproduced"),
        ({"direction": "lower"}, (0.01, 0.2), "contradicted"),
        ({"direction": "lower", "minimum": 0.05}, (-0.2, -0.01), "underpowered"),
        (
            {"direction": "lower", "published": {**PUBLISHED, "value": -0.1}},
            (-0.09, 0.2),
            "paper-sized effect excluded",
        ),
        ({"direction": "same", "minimum": 0.1}, (-0.09, 0.09), "reproduced"),
        ({"direction": "same", "minimum": 0.1}, (-0.11, 0.09), "underpowered"),
        ({"direction": "same", "minimum": 0.1}, (0.11, 0.2), "contradicted"),
        ({"direction": "same", "minimum": 0.1}, (-0.2, -0.11), "contradicted"),
        ({"direction": "same", "minimum": 0.1}, (-0.2, 0.2), "underpowered"),
    ],
    ids=str,
)
def test_a_verdict_follows_from_the_interval(changed: dict[str, Any], interval: tuple[float, float], verdict: str):
    mean = sum(interval) / 2
    e = estimate([mean - 1, mean + 1], range(2))
    e = type(e)(mean, *interval, e.error, e.means, e.unit)
    assert verdicts.verdict(claim(**changed), e, None) == verdict


def test_a_primary_claim_must_stand_among_its_family(tmp_path: Path):
    """p is 0.02 alone: enough for a secondary claim, not for the first of six."""
    values = {NEW: [0.1, 0.5, 0.6, 1.0, 0.5], OLD: [0] * 5}
    (alone,) = found(tmp_path, table(values), claim())
    assert alone.p and 0.01 < alone.p < 0.05 and alone.verdict == "reproduced" and alone.adjusted is None
    family = found(tmp_path, table(values), claim(role="primary"), *[claim(role="primary", scales=["paper"])] * 5)
    assert family[0].adjusted == pytest.approx(6 * alone.p) and family[0].verdict == "underpowered"
    assert {one.verdict for one in family[1:]} == {"not tested"}
    (only,) = found(tmp_path, table(values), claim(role="primary"))
    assert only.verdict == "reproduced"


def test_a_minimum_is_tested_and_not_zero(tmp_path: Path):
    values = {NEW: [-1.0, -1.2, -0.8, -1.1, -0.9], OLD: [0] * 5}
    (one,) = found(tmp_path, table(values), claim(direction="lower", minimum=0.9))
    assert one.p == pytest.approx(scipy_stats.ttest_1samp(values[NEW], -0.9).pvalue)  # type: ignore[attr-defined]  # SciPy's
    assert one.verdict == "underpowered"


def test_power_says_whether_the_published_effect_would_be_seen(tmp_path: Path):
    values = {NEW: [0.1, -0.1, 0.05, -0.05, 0.0], OLD: [0] * 5}
    sizes = [{**PUBLISHED, "value": value} for value in (0.5, 0.05)]
    sure, blind, none = found(tmp_path, table(values), *(claim(published=p) for p in (*sizes, None)))
    assert (sure.powered, blind.powered, none.powered) == (True, False, None)
    assert sure.detectable == blind.detectable and sure.seeds_needed and blind.seeds_needed
    assert sure.seeds_needed <= 5 < blind.seeds_needed and none.seeds_needed is None


# --- text ---


def all_kinds(root: Path) -> dict[str, Finding]:
    """A finding for each part of the page."""
    values = table({NEW: [3, 4, 5, 4], OLD: [2, 2, 2, 2], 7: [2, 2.5, 1.5, 2]})
    kinds = {
        "seen": claim(published={**PUBLISHED, "value": 9.0}, role="primary"),
        "blind": claim(quantity=[term(7)], published=PUBLISHED, statement="Seven is better"),
        "unsized": claim(relative=True),
        "same": claim(quantity=[term(7)], direction="same", minimum=1.0),
        "absent": claim(scales=["paper"]),
        "plant": claim(role="control", control="must be found"),
        "null": claim(role="control", control="must not be found", statement="Nothing is there"),
    }
    return claims.judge(claims.ask(kinds, [], TOYS), Builder(TOYS, root), values)


def test_findings_are_pinned(tmp_path: Path, golden: Golden):
    kinds = all_kinds(tmp_path)
    golden("claims.md", claims.text(kinds, "micro"))
    golden("claims.json", formats.as_json(kinds, "micro"))


def test_rendering_writes_both_and_again_the_same(tmp_path: Path):
    kinds = all_kinds(tmp_path)
    paths = claims.render(kinds, "micro", tmp_path / "claims")
    assert [p.name for p in paths] == ["micro.md", "micro.json"]
    before = [p.read_bytes() for p in paths]
    assert [p.read_bytes() for p in claims.render(kinds, "micro", tmp_path / "claims")] == before


def test_a_control_that_fails_is_shouted(tmp_path: Path):
    text = claims.text(all_kinds(tmp_path), "micro")
    assert "| held | New is better than old: must be found |" in text
    assert "| **FAILED** | Nothing is there: must not be found |" in text


# --- the harness itself, on simulated artefacts ---

# What the two controls did when they were measured, at 24 and 8 seeds: the effect of a loss, and the standard deviation
# of a seed's difference, by the metric that each is read from.
PLANTED = {"norm_bt": 0.315, "bsr": 0.162}
SPREAD = {"in_domain/accuracy": 0.141, "scenarios/in_domain/tau": 0.048}


def trained(node: Node) -> Node:
    """The reward model that an artefact comes from."""
    while node.stage.name != "rm":
        node = next(node.inputs[name] for name in ("rm", "score") if name in node.inputs)
    return node


class World:
    """Metrics of any artefact: a seed and an SFT model do the same to all losses, and something to each. A planted
    effect comes on top."""

    def __init__(self, seed: int, effects: Mapping[str, float], spread: Mapping[str, float]):
        self.rng, self.effects, self.spread = np.random.default_rng([7, seed]), effects, spread
        self.drawn: dict[tuple[Any, ...], float] = {}

    def draw(self, *what: object) -> float:
        return self.drawn.setdefault(what, float(self.rng.standard_normal()))

    def value(self, node: Node, metric: str) -> float:
        rm = trained(node)
        seed, replica = rm.sections["seed"], rm.inputs["sft"].slug
        loss = rm.sections["loss"]["name"], rm.sections["rm"].get("draw")
        own = self.spread.get(metric, 0.1) / 2  # half of a difference's variance is the SFT model's, half the seed's
        common = 0.2 * (self.draw("seed", seed, metric) + self.draw("sft", replica, metric))
        apart = own * (self.draw(loss, seed, metric) + self.draw(loss, replica, metric))
        return 10.0 + common + apart + self.effects.get(loss[0], 0.0)

    def metrics(self, node: Node) -> Mapping[str, float]:
        world = self

        class Every(dict[str, float]):
            def __contains__(self, key: object) -> bool:
                return True

            def __missing__(self, key: str) -> float:
                return world.value(node, key)

        return Every()


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Callable[[World], dict[str, Finding]]:
    """The project's own primary claims and controls, on whatever world."""
    known = {name: c for name, c in claims.load().items() if c.role != "secondary"}
    asked = claims.ask(known, [], STAGES)
    builder = Builder(STAGES, tmp_path_factory.mktemp("runs"))
    return lambda world: claims.judge(asked, builder, world.metrics)


def test_planted_effects_are_found(harness: Callable[[World], dict[str, Finding]]):
    runs = [harness(World(seed, PLANTED, SPREAD)) for seed in range(20)]
    for control in ("planted-normbt", "planted-bsr"):
        assert sum(run[control].verdict == "reproduced" for run in runs) >= 18
        assert all(run[control].estimate is not None for run in runs)


def false_alarms(harness: Callable[[World], dict[str, Finding]], families: int) -> tuple[int, float]:
    """How many null families have a primary claim reproduced, and how often a claim alone lies above zero."""
    runs = [harness(World(seed, {}, {})) for seed in range(families)]
    primary = [name for name, f in runs[0].items() if f.claim.role == "primary" and f.estimate]
    assert len(primary) >= 3
    beyond = [f.estimate.low > 0 for run in runs for f in map(run.get, primary) if f and f.estimate]
    return sum(any(run[name].verdict == "reproduced" for name in primary) for run in runs), float(np.mean(beyond))


def test_a_null_world_reproduces_next_to_nothing_primary(harness: Callable[[World], dict[str, Finding]]):
    assert scipy_stats.binom.sf(false_alarms(harness, 50)[0] - 1, 50, 0.05) > 0.01


@pytest.mark.slow
def test_a_null_world_reproduces_nothing_primary_beyond_the_family_wise_rate(
    harness: Callable[[World], dict[str, Finding]],
):
    """In at most 5 % of families: the upper 99 % limit of what is counted is at most 7.5 %."""
    false, beyond = false_alarms(harness, 500)
    assert scipy_stats.beta.ppf(0.99, false + 1, 500 - false) <= 0.075
    assert 0.015 <= beyond <= 0.035  # 2.5 % alone: the simulated null is not narrower than what an interval allows


def test_controls_hold_on_a_store_of_manifests(tmp_path: Path):
    """As above, but through the store and into files: effects are found, a null is not."""
    controls = {name: c for name, c in claims.load().items() if c.role == "control"}
    asked = claims.ask(controls, [], STAGES, range(4))
    world = World(0, PLANTED, {metric: sd / 4 for metric, sd in SPREAD.items()})
    nodes = plan.build(STAGES, tmp_path / "runs", claims.wanted(asked, STAGES))[1]
    for node in nodes:
        finish(node, {name: world.value(node, name) for name in ("in_domain/accuracy", "scenarios/in_domain/tau")})
    judged = claims.judge(asked, Builder(STAGES, tmp_path / "runs"))
    page, data = claims.render(judged, "micro", tmp_path / "claims")
    assert page.read_text().count("| held |") == 3 and "FAILED" not in page.read_text()
    record = next(c for c in json.loads(data.read_text())["claims"] if c["name"] == "planted-bsr")
    assert record["held"] == "held" and record["interval"]["unit"] == "seeds" and len(record["keys"]) == 8
    assert set(record["keys"]) <= {node.key for node in nodes}


# --- the command ---


def test_one_claim_is_shown_and_not_written(results: Path, capsys: pytest.CaptureFixture[str]):
    assert actions.judge_claims(["only=planted-null", f"run.root={results}", "seeds=[0,1,2]"]) == 0
    assert "not tested: 0 of 3 seeds: bench/bt-s0 is not made yet; 3 are needed" in capsys.readouterr().out
    assert not results.exists()


def test_a_plan_of_claims_names_what_they_lack(results: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["only=planted-null", f"run.root={results}", "seeds=[0]"]
    assert actions.judge_claims([*arguments, "action=plan"]) == 0
    plan_of = capsys.readouterr().out
    assert plan_of.count("run     bench/bt-s0") == 2 and "0 to reuse" in plan_of
    assert actions.judge_claims([*arguments, "action=status"]) == 0
    assert "missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("only=planted", "only = 'planted': did you mean 'planted-"),
        ("action=rn", "action = 'rn': did you mean 'run'?"),
        ("loss.coef=1", "overrides = 'loss.coef=1': "),
        ("seed=1", "seed = '1': claims set it"),
    ],
)
def test_a_wrong_argument_is_refused(argument: str, message: str):
    with pytest.raises(ConfigError) as caught:
        actions.judge_claims([argument])
    assert str(caught.value).startswith(message)
