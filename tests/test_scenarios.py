"""The four generalization sets: rows dropped, sides, pairs and labels by hand; what a draw may depend on; the graph."""

import hashlib
import importlib
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from pipeline import config, models, plan, rows, scenarios, scoring
from pipeline.errors import ConfigError
from pipeline.experiment import Counts, Experiment, Source, Split
from pipeline.plan import Node
from pipeline.rows import Row
from pipeline.stage import Inputs, plain, view
from pipeline.stages import STAGES, bench, rm
from pipeline.stages import scenarios as sets

MODELS = ["m0", "m1", "m2", "m3"]


def row(n: int, prompt: str | None = None, responses: list[str] | None = None) -> Row:
    said = [f"{n}{letter}" for letter in "abcd"] if responses is None else responses
    asked = {"id": f"r{n}", "prompt": prompt or f"question {n}", "cluster": f"c{n}"}
    return {**asked, "responses": said, "models": MODELS[: len(said)]}


# 20 rows, of which 4, 9, 12 and 17 go.
ROWS = [row(n) for n in range(20)]
ROWS[4] = row(4, "question 1")  # asked before
ROWS[9] = row(9, responses=["same", "b", "same", "d"])
ROWS[12] = row(12, responses=["a", "b", "c"])  # three
ROWS[17] = row(17, "question 9")  # asked before, by a row that goes as well
LEFT = [n for n in range(20) if n not in (4, 9, 12, 17)]
HOW = Split(seed=7, train=10, counts=Counts(rows=19, distinct=16, train=10, valid=6))

# By hand: sha256("7/scenarios/split/question N") in rising order; the first ten are trained on.
TRAIN = [5, 11, 14, 18, 13, 6, 2, 7, 15, 10]
VALID = [16, 0, 8, 1, 19, 3]
# sha256("7/scenarios/pair/question N") modulo 24 as digits in bases 4, 3, 2, 1: each picks of the responses left.
ORDER = {2: [2, 1, 0, 3], 5: [3, 2, 0, 1], 6: [1, 2, 0, 3], 7: [3, 1, 2, 0]}


def number(*tags: Any) -> int:
    """The draw of these tags, from its definition."""
    digest = hashlib.sha256("/".join(map(str, tags)).encode()).digest()
    return int.from_bytes(digest[:8], "big") // 2


def divided(**changed: Any) -> list[Row]:
    return scenarios.split(ROWS, replace(HOW, counts=None, **changed))[0]


def judged(data: list[Row], gold: list[float]) -> list[Row]:
    return [{**one, "gold": gold} for one in data]


# --- by hand ---


def test_rows_that_repeat_a_prompt_or_a_response_or_lack_one_go():
    kept, counts = scenarios.distinct(ROWS)
    assert [int(one["id"][1:]) for one in kept] == LEFT
    assert counts == {"read": 20, "rows": 19, "prompts": 17, "distinct": 16}


def test_the_split_and_the_pairs_by_hand():
    made, counts = scenarios.split(ROWS, HOW)
    by = {int(one["id"][1:]): one for one in made}
    assert list(by) == TRAIN + VALID
    assert [one["side"] for one in made] == ["train"] * 10 + ["valid"] * 6
    assert {n: by[n]["order"] for n in ORDER} == ORDER
    assert (counts["train"], counts["valid"]) == (10, 6)


def test_the_tables_above_follow_from_the_definition():
    drawn = sorted(LEFT, key=lambda n: number(7, "scenarios", "split", f"question {n}"))
    assert (drawn[:10], drawn[10:]) == (TRAIN, VALID)
    for n, expected in ORDER.items():
        drawn_pair = number(7, "scenarios", "pair", f"question {n}") % 24
        left, made = [0, 1, 2, 3], []
        for base in (4, 3, 2, 1):
            made.append(left.pop(drawn_pair % base))
            drawn_pair //= base
        assert made == expected


def test_labels_by_hand():
    """The third response is best, the first worst; the second and the fourth are equally good."""
    data = judged(divided(), [0.0, 1.0, 2.5, 1.0])
    first = {one["id"]: one for one in scenarios.pairs(data, "first")}
    second = {one["id"]: one for one in scenarios.pairs(data, "second")}
    assert list(first) == [f"r{n}-first" for n in TRAIN] and list(second) == [f"r{n}-second" for n in TRAIN]
    # Row 2: order 2 1 | 0 3.
    assert first["r2-first"] == {
        "id": "r2-first",
        "prompt": "question 2",
        "cluster": "c2",
        "chosen": "2c",
        "rejected": "2b",
        "gold_chosen": 2.5,
        "gold_rejected": 1.0,
        "margin": 1.5,
        "chosen_model": "m2",
        "rejected_model": "m1",
    }
    # Row 5: 3 2 | 0 1. Row 6: 1 2 | 0 3. Row 7: 3 1 | 2 0, of which the first pair ties and stays as drawn.
    assert [(first[f"r{n}-first"]["chosen"], first[f"r{n}-first"]["rejected"]) for n in (5, 6, 7)] == [
        ("5c", "5d"),
        ("6c", "6b"),
        ("7d", "7b"),
    ]
    assert [second[f"r{n}-second"]["chosen"] for n in (2, 5, 6, 7)] == ["2d", "5b", "6d", "7c"]


def test_sets_of_ranked_responses_by_hand():
    own, theirs = judged(divided(), [1.0, 2.0, 3.0, 4.0]), judged(divided(), [4.0, 3.0, 2.0, 1.0])
    made = list(scenarios.ranked(own, theirs))
    sides = {"in_domain": TRAIN[:6], "prompt": VALID, "response": TRAIN, "mutual": VALID}
    assert [one["id"] for one in made] == [f"{name}-r{n}" for name, side in sides.items() for n in side]
    assert {one["set"]: one["gold"][0] for one in made[6:]} == {"prompt": 1.0, "response": 4.0, "mutual": 4.0}
    assert made[0] == {  # its order: 3 2 | 0 1
        "set": "in_domain",
        "id": "in_domain-r5",
        "prompt": "question 5",
        "cluster": "c5",
        "responses": ["5a", "5b"],
        "models": ["m0", "m1"],
        "gold": [1.0, 2.0],
    }
    assert made[6] == {
        "set": "prompt",
        "id": "prompt-r16",
        "prompt": "question 16",
        "cluster": "c16",
        "responses": ["16a", "16b", "16c", "16d"],
        "models": MODELS,
        "gold": [1.0, 2.0, 3.0, 4.0],
    }
    assert scenarios.prompts(own) == [{"id": f"r{n}", "prompt": f"question {n}", "cluster": f"c{n}"} for n in VALID]


def test_answers_of_valid_models_take_the_responses_place():
    data = divided()
    said = {by: [{"prompt": one["prompt"], "output": f"{by} to {one['id']}"} for one in data] for by in ("x", "y")}
    made = scenarios.answered(data, said)
    assert made[1] == {**data[1], "responses": ["x to r11", "y to r11"], "models": ["x", "y"]}
    said["y"] = said["y"][::-1]
    with pytest.raises(AssertionError, match="in the rows' order"):
        scenarios.answered(data, said)


@pytest.mark.parametrize("name", ["rows", "distinct", "train", "valid"])
def test_another_number_of_rows_than_the_papers_is_refused(name: str):
    assert HOW.counts is not None
    wrong = replace(HOW.counts, **{name: 12_800})
    with pytest.raises(ValueError, match=rf"^{name}: \d+ rows, 12,800 expected .*'distinct': 16.*counts=null"):
        scenarios.split(ROWS, replace(HOW, counts=wrong))


def test_more_prompts_than_there_are_cannot_be_split():
    for how in (Split(seed=0, train=16), Split(seed=0, train=10, valid=7)):
        with pytest.raises(ValueError, match="16 prompts are left, 17 asked for"):
            scenarios.split(ROWS, how)


# --- what a draw depends on ---


def many(n: int) -> list[Row]:
    return [row(i) for i in range(n)]


def test_neither_order_nor_number_of_rows_moves_a_prompts_pair():
    one = {r["id"]: r for r in scenarios.split(many(300), Split(seed=1, train=200))[0]}
    turned = {r["id"]: r for r in scenarios.split(many(300)[::-1], Split(seed=1, train=200))[0]}
    assert one == turned
    some = scenarios.split(many(300)[50:], Split(seed=1, train=200))[0]
    assert all(r["order"] == one[r["id"]]["order"] for r in some)


def test_smaller_sets_are_parts_of_larger_ones():
    def train(n: int) -> set[str]:
        made, _ = scenarios.split(many(300), Split(seed=1, train=n, valid=50))
        assert Counter(r["side"] for r in made) == {"train": n, "valid": 50}
        return {r["id"] for r in made if r["side"] == "train"}

    assert train(20) < train(100) < train(200)


def test_pairs_of_a_prompt_share_no_response_and_seeds_draw_others():
    made, _ = scenarios.split(many(300), Split(seed=1, train=200))
    data = [{**r, "gold": [3.0, 1.0, 2.0, 0.0]} for r in made]
    for a, b in zip(scenarios.pairs(data, "first"), scenarios.pairs(data, "second"), strict=True):
        assert sorted((a["chosen"], a["rejected"], b["chosen"], b["rejected"])) == [
            f"{a['id'][1:-6]}{letter}" for letter in "abcd"
        ]
        assert min(a["margin"], b["margin"]) > 0
    one, other = ({r["id"]: r for r in scenarios.split(many(300), Split(seed=n, train=200))[0]} for n in (1, 2))
    assert 100 < sum(one[id]["side"] == other[id]["side"] == "train" for id in one) < 170
    assert sum(one[id]["order"] == other[id]["order"] for id in one) < 40


def test_every_order_is_as_likely_and_has_nothing_to_do_with_the_side():
    made, _ = scenarios.split(many(4800), Split(seed=3, train=2400))
    for side in ("train", "valid"):
        found = Counter(tuple(r["order"]) for r in made if r["side"] == side)
        assert set(found) == set(itertools.permutations(range(4)))
        assert sum((n - 100) ** 2 / 100 for n in found.values()) < 49.7  # χ² of 23 degrees of freedom, p = 0.001


# --- config and graph ---


def scratch(folder: Path | None = None, **changed: Any) -> Experiment:
    """The micro world's own ranked responses for UltraFeedback's, a little reward model for ArmoRM."""
    x = tiny.experiment()
    generators = {name: tiny.settings(layers=1, hidden=size) for name, size in (("one", 16), ("two", 32))}
    own = config.build(
        type_of("scratch"),
        {
            "source": {"kind": "world", "part": "scenarios", "n": 6},
            "split": {"seed": 0, "train": 12, "valid": 6, **changed},
            "generators": {name: plain(model) for name, model in generators.items()},
            "generate": {**plain(x.generate), "policy": "sft", "max_new": 4},
        },
    )
    parts = {name: Source("scratch", name) for name in ("preferences", "in_domain", "prompts", "scenarios")}
    benchmarks = {name: parts[name] for name in ("in_domain", "scenarios")}
    gold = config.build(type_of("gold"), {"id": str(folder), "revision": "1"})
    uses = {name: parts[name] for name in ("preferences", "prompts")}
    data = replace(x.data, benchmarks=benchmarks, scratch=own, gold=gold, probe=None, best_of_n=None, **uses)
    return replace(x, data=data)


def type_of(name: str) -> Any:
    hint = config.hints(type(tiny.experiment().data))[name]
    return next(t for t in hint.__args__ if t is not type(None))


def graph(x: Experiment, *wanted: str) -> dict[str, Node]:
    nodes, _ = plan.build(STAGES, Path(), [(name, x) for name in wanted])
    return {f"{node.name}-{node.key}": node for node in nodes.values()}


def keys(x: Experiment, *wanted: str) -> dict[str, set[str]]:
    """{stage, for scenarios its part: keys}."""
    found: dict[str, set[str]] = {}
    for node in graph(x, *wanted).values():
        found.setdefault(node.name if node.stage.name in ("scenarios", "gold") else node.stage.name, set()).add(
            node.key
        )
    return found


def test_pairs_need_no_answers_of_valid_models():
    assert not {"generate", "scenarios/answered"} & set(keys(scratch(), "rm"))
    assert {name: len(own) for name, own in keys(scratch(), "score").items() if name not in ("data", "rm")} == {
        "scenarios/split": 1,
        "scenarios/answered": 1,
        "scenarios/preferences": 1,
        "scenarios/in_domain": 1,
        "scenarios/scenarios": 1,
        "gold/split": 1,
        "gold/answered": 1,
        "generate": 2,
        "sft": 3,
        "score": 1,
    }


def test_sets_depend_on_what_they_are_made_of_and_on_nothing_else():
    x = scratch()
    of_sets = {"scenarios/split", "scenarios/scenarios", "gold/split", "gold/answered", "generate"}

    def moved(other: Experiment) -> set[str]:
        before, after = keys(x, "score"), keys(other, "score")
        return {name for name in of_sets if before[name] != after[name]}

    assert moved(replace(x, loss={"name": "bt"}, seed=x.seed, rm=replace(x.rm, epochs=2))) == set()
    assert moved(replace(x, seed=5)) == set()  # sets are what they are, whichever seed trains
    assert moved(replace(x, sft=replace(x.sft, steps=3))) == set()
    assert moved(scratch(seed=1)) == of_sets
    assert x.data.gold is not None
    gold = replace(x.data.gold, revision="2")
    assert moved(replace(x, data=replace(x.data, gold=gold))) == of_sets - {"scenarios/split", "generate"}
    assert moved(replace(x, compute=replace(x.compute, precision="bf16"))) == of_sets - {"scenarios/split"}


@pytest.mark.parametrize("missing", ["scratch", "gold"])
def test_a_source_of_scratch_says_of_what_and_by_whom(missing: str):
    with pytest.raises(ConfigError, match=rf"^{missing} = None: a source has kind=scratch"):
        replace(scratch().data, **{missing: None})


def test_the_papers_route_composes():
    x = config.experiment(["scale=paper", "data=ultra_scratch"])
    assert x.data.scratch is not None and x.data.scratch.split.counts == Counts(63966, 62282, 51200, 11082)
    assert {"scenarios/split", "scenarios/scenarios", "gold/answered"} <= set(keys(x, "bench", "rloo"))
    assert len(keys(x, "bench")["generate"]) == 4


# --- the whole, small ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, under_contract: Path) -> dict[str, Path]:
    """Every part by the stages' own code: {scenarios/part: folder}."""
    root = tmp_path_factory.mktemp("scratch")
    x = scratch(under_contract)
    wanted = [("scenarios", replace(x, source=source)) for source in x.data.benchmarks.values()]
    wanted += [("scenarios", replace(x, source=s)) for s in (x.data.preferences, x.data.prompts)]
    nodes, _ = plan.build(STAGES, root, [*wanted])
    found = {}
    for node in nodes.values():
        out = node.folder / "out"
        out.mkdir(parents=True)
        code = importlib.import_module(node.stage.code)
        inputs = Inputs({name: need.folder / "out" for name, need in node.inputs.items()})
        code.run(view(node.stage.name, {**node.sections, **node.around}), inputs, out)
        found[node.name] = out
    return found


def test_the_parts_are_rows_that_others_read(made: dict[str, Path]):
    preferences = rows.read(made["scenarios/preferences"])
    second = rows.read(made["scenarios/in_domain"])
    for one, other in zip(preferences, second, strict=True):
        assert (one["id"][-6:], other["id"][-7:], one["prompt"]) == ("-first", "-second", other["prompt"])
        assert not {one["chosen"], one["rejected"]} & {other["chosen"], other["rejected"]}
    assert len(preferences) == 12 and len(rows.read(made["scenarios/prompts"])) == 6
    groups, kept, dropped = rm.encode(tiny.tokenizer(), preferences, 160)
    assert len(groups) == len(kept) == 12 and dropped["dropped"] == 0
    assert rm.margins(kept) is not None
    ranked = rows.read(made["scenarios/scenarios"])
    assert Counter(one["set"] for one in ranked) == {"in_domain": 6, "prompt": 6, "response": 12, "mutual": 6}
    assert {len(one["responses"]) for one in ranked if one["set"] == "mutual"} == {2}
    assert {tuple(one["models"]) for one in ranked if one["set"] in ("response", "mutual")} == {("one", "two")}


def test_fewer_rows_are_the_first_of_each_set_which_are_a_draw(made: dict[str, Path], tmp_path: Path):
    for part, of in (("scenarios", ("gold", "gold_answered")), ("preferences", ("gold",)), ("prompts", ("split",))):
        names = {"gold": "gold/split", "gold_answered": "gold/answered", "split": "scenarios/split"}
        inputs = Inputs({name: made[names[name]] for name in of})
        (tmp_path / part).mkdir()
        source = plain(Source("scratch", part, n=4))
        counts = sets.run(view("scenarios", {"source": source}), inputs, tmp_path / part)
        few, whole = rows.read(tmp_path / part), rows.read(made[f"scenarios/{part}"])
        by_set = {one.get("set") for one in whole}
        assert all(one in few for name in by_set for one in [w for w in whole if w.get("set") == name][:4])
        assert Counter(one.get("set") for one in few) == dict.fromkeys(by_set, 4)
        assert [one for one in whole if one in few] == few and counts["rows"] == len(few)


def test_whoever_agrees_with_gold_is_right_everywhere(made: dict[str, Path], tmp_path: Path):
    """Ties apart, which nobody can rank."""
    sets = {name: rows.read(made[f"scenarios/{name}"]) for name in ("in_domain", "scenarios")}
    sets["in_domain"] = [one for one in sets["in_domain"] if one["margin"] > 0]
    scored = [
        {"set": name, "id": one["id"], "response": i, "reward": reward, "distances": [0.0] * 4}
        for name, data in sets.items()
        for one in data
        for i, reward in enumerate(one["gold"] if "gold" in one else (one["gold_chosen"], one["gold_rejected"]))
    ]
    for name, data in {**sets, "score": scored, "out": []}.items():
        (tmp_path / name).mkdir()
        rows.write(tmp_path / name, data, "scores" if name == "score" else "rows")
    inputs = Inputs({name: tmp_path / name for name in ("score", *sets)})
    metrics = bench.run(tiny.view_of("bench", tiny.experiment()), inputs, tmp_path / "out")
    assert metrics["in_domain/accuracy"] == 1.0
    assert all(
        metrics[f"scenarios/{name}/tau"] == pytest.approx(1.0) for name in ("in_domain", "prompt", "response", "mutual")
    )


def test_gold_rewards_are_the_models(made: dict[str, Path], under_contract: Path):
    model, words = models.load_rm(under_contract)
    data = rows.read(made["gold/answered"])
    prompts = [one["prompt"] for one in data for _ in one["responses"]]
    said = [text for one in data for text in one["responses"]]
    expected = scoring.score(model, words, prompts, said, 4096)[0]
    assert [g for one in data for g in one["gold"]] == pytest.approx(expected.tolist(), abs=1e-5)
