"""Benchmark numbers from stored rewards."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny

from pipeline import plan, rows
from pipeline.rows import Row
from pipeline.stage import Inputs
from pipeline.stages import STAGES, bench


def run(
    tmp_path: Path,
    sets: dict[str, list[Row]],
    rewards: dict[str, list[list[float]]],
    *overrides: str,
    frozen: dict[str, list[float]] | None = None,
) -> Any:
    """The stage on these rows and on the rewards of their responses. `frozen`: distances in the SFT model."""
    scored = [
        {"set": name, "id": row["id"], "response": i, "reward": reward, "norm": 1.0, "distances": apart(len(own), i)}
        for name, data in sets.items()
        for row, own in zip(data, rewards[name], strict=True)
        for i, reward in enumerate(own)
    ]
    for folder in ("score", *sets, "out"):
        (tmp_path / folder).mkdir(exist_ok=True)
    rows.write(tmp_path / "score", scored, "scores")
    for name, data in sets.items():
        rows.write(tmp_path / name, data)
    inputs = Inputs({name: tmp_path / name for name in ("score", *sets)})
    if frozen:
        (tmp_path / "frozen").mkdir(exist_ok=True)
        before = [
            {"set": name, "id": row["id"], "response": i, "distances": [d, 0.0] if i else [0.0, d]}
            for name, apart in frozen.items()
            for row, d in zip(sets[name], apart, strict=True)
            for i in (0, 1)
        ]
        rows.write(tmp_path / "frozen", before, "scores")
        inputs = Inputs({**inputs, "frozen": tmp_path / "frozen"})
    return bench.run(tiny.view_of("bench", tiny.experiment(*overrides)), inputs, tmp_path / "out")


def apart(k: int, i: int) -> list[float]:
    """As if responses were points on a line."""
    return [float(abs(i - j)) for j in range(k)]


def test_pairs_are_broken_down_and_kept(tmp_path: Path) -> None:
    texts = [("aaaa", "b"), ("a", "bb"), ("aaa", "b"), ("a", "bbbb")]
    data = [
        {"id": str(i), "prompt": "q", "cluster": "c", "chosen": chosen, "rejected": rejected, "subset": "s"}
        for i, (chosen, rejected) in enumerate(texts)
    ]
    metrics = run(tmp_path, {"in_domain": data}, {"in_domain": [[2, 1], [1, 2], [2, 1], [1, 1]]})
    assert metrics["in_domain/accuracy"] == 0.5 and metrics["in_domain/ties"] == 1
    quarters = [metrics[f"in_domain/accuracy/length_difference/q{q}"] for q in (1, 2, 3, 4)]
    assert quarters == [0.0, 0.0, 1.0, 1.0]  # -3, -1, 2, 3
    assert [row["correct"] for row in rows.read(tmp_path / "out", "examples")] == [True, False, True, False]
    assert [row["lengths"] for row in rows.read(tmp_path / "out", "examples")] == [[len(a), len(b)] for a, b in texts]
    assert [row["distance"] for row in rows.read(tmp_path / "out", "examples")] == [1.0] * 4


def test_accuracy_by_distance_in_the_sft_model_has_bins_that_no_loss_moved(tmp_path: Path) -> None:
    data = [
        {"id": str(i), "prompt": "q", "cluster": "c", "chosen": "a", "rejected": "b", "subset": "s"} for i in range(4)
    ]
    rewards = {"in_domain": [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]}
    metrics = run(tmp_path, {"in_domain": data}, rewards, frozen={"in_domain": [4.0, 3.0, 2.0, 1.0]})
    assert [metrics[f"in_domain/accuracy/frozen_distance/q{q}"] for q in (1, 2, 3, 4)] == [0.0, 1.0, 0.0, 1.0]
    assert [row["frozen_distance"] for row in rows.read(tmp_path / "out", "examples")] == [4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(("kind", "accuracy"), [("longer", 2 / 3), ("shorter", 1 / 3)])
def test_who_sees_length_alone_ranks_by_it(kind: str, accuracy: float, tmp_path: Path) -> None:
    data = [
        {"id": str(i), "prompt": "q", "cluster": "c", "chosen": chosen, "rejected": rejected, "subset": "s"}
        for i, (chosen, rejected) in enumerate([("aaa", "b"), ("a", "bb"), ("aaaa", "bb")])
    ]
    metrics = run(tmp_path, {"in_domain": data}, {"in_domain": [[0.0, 1.0]] * 3}, f"bench.blind={kind}")
    assert metrics["in_domain/accuracy"] == accuracy


def test_who_sees_nothing_is_right_half_the_time(tmp_path: Path) -> None:
    data = [
        {"id": str(i), "prompt": "q", "cluster": "c", "chosen": "a", "rejected": "b", "subset": "s"} for i in range(400)
    ]
    metrics = run(tmp_path, {"in_domain": data}, {"in_domain": [[1.0, 0.0]] * 400}, "bench.blind=random")
    assert 0.42 < metrics["in_domain/accuracy"] < 0.58 and metrics["in_domain/ties"] == 0


def test_every_loss_shares_one_scoring_of_the_sft_model() -> None:
    asked = [
        STAGES["bench"].needs(tiny.experiment(*overrides)).get("frozen")
        for overrides in (("loss=bt",), ("loss=norm_bt", "rm.optim.lr=1", "rm.epochs=2"), ("bench.frozen=false",))
    ]
    keys = [None if node is None else plan.Builder(STAGES, Path()).add(*node).key for node in asked]
    assert keys[0] == keys[1] != keys[2] is None


def test_rm_bench_has_rows_for_those_who_see_length_alone(tmp_path: Path) -> None:
    data = list(tiny.rows_of("rm_bench", 16))
    metrics = run(tmp_path, {"rm_bench": data}, {"rm_bench": [[1, 1, 1, 0, 0, 0]] * 16})
    assert metrics["rm_bench/total_avg_acc"] == 1.0
    assert metrics["rm_bench/baseline/longer/easy_acc"] > 0.9 > 0.1 > metrics["rm_bench/baseline/longer/hard_acc"]
    assert metrics["rm_bench/accuracy/distance/q1"] == 1.0


def answer(i: int, side: str, right: bool) -> Row:
    return {"id": f"v{i}", "side": side, "responses": ["…"], "right": right, "cluster": str(i)}


def test_verdicts_by_hand(tmp_path: Path) -> None:
    data = [answer(i, side, i % 2 == 0) for i, side in enumerate(["train"] * 4 + ["valid"] * 4)]
    rewards = [[r] for r in (2.0, 1.0, -1.0, -2.0, 0.5, 0.5, 3.0, -1.0)]
    metrics = run(tmp_path, {"verdicts": data}, {"verdicts": rewards})
    assert metrics == {
        "verdicts/train/accuracy": 0.5,
        "verdicts/train/auc": 0.75,  # 2 > 1, 2 > -2, -1 > -2 but -1 < 1
        "verdicts/valid/accuracy": 0.75,
        "verdicts/valid/auc": 0.875,  # a tie counts half
    }


def test_outlier_norms_scale_rewards_and_so_upset_a_ranking_only_where_rewards_have_an_offset(tmp_path: Path) -> None:
    data = [row for row in tiny.rows_of("scenarios", 40) if row["set"] == "in_domain"]
    perfect = [list(row["gold"]) for row in data]

    def tau(offset: float, *overrides: str) -> float:
        rewards = [[gold + offset for gold in own] for own in perfect]
        return run(tmp_path, {"scenarios": data}, {"scenarios": rewards}, *overrides)["scenarios/in_domain/tau"]

    assert tau(0.0) == tau(12.0) == pytest.approx(1.0)
    assert tau(12.0, "bench.outliers=1") < 0.2 < 0.5 < tau(-1.0, "bench.outliers=1")


def test_an_outlier_depends_on_the_name_of_the_response_alone() -> None:
    names = [{"set": "scenarios", "id": f"r{i}", "response": j} for i in range(200) for j in range(4)]
    logs = [math.log(bench.outlier(1.0, name)) for name in names]
    assert logs == [math.log(bench.outlier(1.0, name)) for name in names] and len(set(logs)) == len(logs)
    assert abs(sum(logs) / len(logs)) < 0.15 and abs(sum(v * v for v in logs) / len(logs) - 1) < 0.2
    assert bench.outlier(0.5, names[0]) == pytest.approx(bench.outlier(1.0, names[0]) ** 0.5)


def test_reward_bench_2_is_its_subsets_and_the_ties(tmp_path: Path) -> None:
    """Math: right alone at the top, then at a tie with two others; Ties: right, by more than right ones differ."""
    best = [{"id": str(i), "name": str(i), "subset": "Math", "chosen": ["a"], "num_correct": 1} for i in range(2)]
    ties = [
        {"id": "r", "name": "ref:0", "subset": "Ties", "chosen": ["a"], "num_correct": 1},
        {"id": "t", "name": "tied:0", "subset": "Ties", "chosen": ["a", "b"], "num_correct": 2},
    ]
    data = [{**row, "prompt": "q", "cluster": "c", "rejected": ["x", "y", "z"]} for row in (*best, *ties)]
    rewards = [[2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [3.0, 0.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0, 0.0]]
    metrics = run(tmp_path, {"reward_bench_2": data}, {"reward_bench_2": rewards})
    assert metrics["reward_bench_2/Math"] == pytest.approx((1 + 1 / 3) / 2)
    # gaps 3 and 2, spread 1: all of 0.3 + 0.3 + 0.2 + 0.2, and 0.01 tanh(2 / 1 - 1)
    assert metrics["reward_bench_2/Ties"] == pytest.approx(1 + 0.01 * math.tanh(1))


def test_the_prior_sets_are_accuracies_and_their_mean(tmp_path: Path) -> None:
    labels = ["shp", "shp", "summarize", "summarize", "anthropic_hhh"]
    data = [
        {"id": str(i), "prompt": "q", "cluster": "c", "chosen": "a", "rejected": "b", "subset": name}
        for i, name in enumerate(labels)
    ]
    rewards = [[2.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [0.0, 1.0]]
    metrics = run(tmp_path, {"prior_sets": data}, {"prior_sets": rewards})
    assert {name: metrics[f"prior_sets/{name}"] for name in ("shp", "summarize", "anthropic_hhh", "average")} == {
        "shp": 0.5,
        "summarize": 1.0,
        "anthropic_hhh": 0.0,
        "average": 0.5,
    }
