"""Samples, their gold rewards and what a reward model picks among them: by hand, and as a graph."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pipeline import config, models, plan, rows, world
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment
from pipeline.rows import Row
from pipeline.stage import Inputs, plain, view
from pipeline.stages import STAGES
from pipeline.stages.best_of_n import run as pick
from pipeline.stages.generate import run as generate
from pipeline.stages.gold import run as judge

ONE, OTHER = ({"id": f"p{i}", "prompt": f"q{i}", "cluster": f"c{i}", "family": "math"} for i in range(2))
SAID = (("It is 78.", True), ("It is 78.", False), ("Sure!", True))


def with_ns(*ns: int) -> Any:
    return view("best_of_n", {"best_of_n": {"samples": max(ns), "temperature": 1.0, "ns": list(ns)}})


def picked(folder: Path, golds: list[list[float]], rewards: list[list[float]], *ns: int) -> dict[str, float]:
    """The stage on these rewards, of as many prompts."""
    names = ("gold", "score", "out")
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    data = [{**row, "gold": own} for row, own in zip((ONE, OTHER), golds, strict=False)]
    scored = [
        {"set": "best_of_n", "id": row["id"], "response": i, "reward": r}
        for row, own in zip(data, rewards, strict=True)
        for i, r in enumerate(own)
    ]
    rows.write(folder / "gold", data)
    rows.write(folder / "score", scored, "scores")
    return pick(with_ns(*ns), Inputs({name: folder / name for name in names[:2]}), folder / "out")


def test_the_choice_by_hand(tmp_path: Path) -> None:
    """Three samples, all pairs: the reward model likes the second most and the first least."""
    made = picked(tmp_path, [[3.0, 0.0, 1.0]], [[-1.0, 5.0, 2.0]], 1, 2, 3)
    assert made["gold@1"] == pytest.approx(4 / 3)
    assert made["gold@2"] == pytest.approx((0 + 0 + 1) / 3)  # of {1,2}, {2,3}, {1,3}
    assert made["gold@3"] == 0.0
    assert [made[f"proxy@{n}"] for n in (1, 2, 3)] == pytest.approx([2.0, (5 + 5 + 2) / 3, 5.0])
    assert [made[f"oracle@{n}"] for n in (1, 2, 3)] == pytest.approx([4 / 3, (3 + 1 + 3) / 3, 3.0])
    assert [made[f"kl@{n}"] for n in (1, 2, 3)] == pytest.approx([0.0, math.log(2) - 1 / 2, math.log(3) - 2 / 3])
    assert made["bon/alpha"] < 0 and made["bon/n"] == 2


def test_rewards_go_to_their_prompts_and_examples_are_kept(tmp_path: Path) -> None:
    """Two prompts of opposite taste; whoever mixes them up gets another mean."""
    made = picked(tmp_path, [[1.0, 0.0], [0.0, 5.0]], [[9.0, 8.0], [2.0, 1.0]], 1, 2)
    assert (made["gold@2"], made["oracle@2"], made["proxy@2"]) == (0.5, 3.0, 5.5)
    kept = rows.read(tmp_path / "out", "examples")
    assert [(row["id"], row["n"], row["gold"], row["proxy"], row["oracle"]) for row in kept] == [
        ("p0", 1, 0.5, 8.5, 0.5),
        ("p0", 2, 1.0, 9.0, 1.0),
        ("p1", 1, 2.5, 1.5, 2.5),
        ("p1", 2, 0.0, 2.0, 5.0),
    ]
    assert {(row["cluster"], row["subset"]) for row in kept} == {("c0", "math"), ("c1", "math")}


def test_a_curve_that_turns_has_a_turning_point(tmp_path: Path) -> None:
    """Gold falls with the proxy at the top only: more choice helps at first, then hurts."""
    n = 64
    golds = [[float(i if i < top else -i) for i in range(n)] for top in (60, 62)]
    made = picked(tmp_path, golds, [[float(i) for i in range(n)]] * 2, 1, 2, 4, 8, 16, 32, 64)
    assert made["gold@1"] < made["gold@4"] > made["gold@64"]
    assert 0 < made["bon/turning_point"] < math.sqrt(made["kl@64"])


def test_samples_are_answers_to_one_prompt_after_the_other(tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", "best_of_n", 3)
    policy, out = tmp_path / "policy", tmp_path / "samples"
    out.mkdir()
    models.save(tiny.lm(), tiny.tokenizer(), policy)
    x = tiny.experiment("generate.policy=sft", "generate.max_new=4", "generate.temperature=1.0")
    sections = {name: plain(getattr(x, name)) for name in ("seed", "generate", "compute", "run", "log")}
    sections["generate"]["samples"] = 5
    generate(view("generate", sections), Inputs({"policy": policy, "data": data}), out)
    made = rows.read(out)
    assert [row["id"] for row in made] == [row["id"] for row in rows.read(data) for _ in range(5)]
    assert len({row["output"] for row in made[:5]}) > 1


def test_gold_rewards_of_samples_are_the_worlds(tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", "best_of_n", 2)
    out, folder = tmp_path / "gold", tmp_path / "samples"
    samples: list[Row] = [
        {"id": row["id"], "prompt": row["prompt"], "output": text, "ended": ended, "tokens": 3}
        for row in reversed(rows.read(data))
        for text, ended in SAID
    ]
    for each in (out, folder):
        each.mkdir()
    rows.write(folder, samples)
    metrics = judge(view("gold", {}), Inputs({"samples": folder, "data": data}), out)
    for row, before in zip(rows.read(out), rows.read(data), strict=True):
        assert row["responses"] == [text for text, _ in SAID]
        assert row["gold"] == [world.gold(row["prompt"], text, ended) for text, ended in SAID]
        assert {name: row[name] for name in before} == before
    assert (metrics["prompts"], metrics["responses"], metrics["different"]) == (2, 6, pytest.approx(2 / 3))


# --- the graph ---


def graph(*wanted: tuple[str, Experiment]) -> dict[str, list[str]]:
    """{stage: keys}."""
    nodes, _ = plan.build(STAGES, Path(), list(wanted))
    found: dict[str, list[str]] = {}
    for node in nodes.values():
        found.setdefault(node.stage.name, []).append(node.key)
    return found


def test_all_losses_pick_among_the_same_samples_and_benchmarks_are_not_scored_again() -> None:
    x = [config.experiment((), {"loss": loss}) for loss in ("bt", "norm_bt")]
    alone = graph(*(("best_of_n", each) for each in x))
    assert {name: len(keys) for name, keys in alone.items() if name != "data"} == {
        "sft": 1,
        "generate": 1,
        "gold": 1,
        "rm": 2,
        "score": 2,
        "best_of_n": 2,
    }
    both = graph(*(("best_of_n", each) for each in x), *(("bench", each) for each in x))
    assert set(both["score"]) == {*graph(*(("bench", each) for each in x))["score"], *alone["score"]}
    assert not {*graph(*(("bench", each) for each in x))["score"]} & {*alone["score"]}


def test_samples_do_not_depend_on_the_policy_that_is_judged() -> None:
    one, other = (config.experiment((), {"generate.policy": policy}) for policy in ("sft", "rloo"))
    assert graph(("gold", one)) == graph(("gold", other))
    greedy = config.experiment((), {"generate.temperature": 0.0})
    assert graph(("gold", one)) == graph(("gold", greedy))


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_where_nobody_knows_the_gold_reward_it_is_blocked(scale: str) -> None:
    nodes, wanted = plan.build(STAGES, Path(), [("best_of_n", config.experiment((f"scale={scale}",)))])
    plan.judge(nodes, wanted)
    assert any(node.stage.name == "best_of_n" and node.state == "blocked" for node in nodes.values())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ns", [1, 500], "must not exceed samples=405"),
        ("ns", [2, 1], "must be rising"),
        ("ns", [0, 1], "must be rising"),
        ("ns", [], "must be rising"),
        ("samples", 1, "must be at least 2"),
        ("temperature", 0.0, "needs a positive temperature"),
    ],
)
def test_what_makes_no_sense_is_refused(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"best_of_n\.{key} = .*{words}"):
        config.experiment((), {f"best_of_n.{key}": value})


def test_numbers_of_the_stage_are_those_of_the_metric(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    golds, rewards = draw.normal(size=(2, 2, 40))
    made = picked(tmp_path, golds.tolist(), rewards.tolist(), 1, 5, 40)
    assert made["gold@40"] == pytest.approx(np.mean([g[r.argmax()] for g, r in zip(golds, rewards, strict=True)]))
