"""The stage that breaks down what training left: the right rows of the right files, and numbers by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from pipeline import config, plan, rows
from pipeline.experiment import External
from pipeline.metrics import mechanisms
from pipeline.rows import Row
from pipeline.stage import Inputs
from pipeline.stages import STAGES, dynamics

STEPS, BATCH = 8, 12
PAIRS = [row for row in tiny.rows_of("preferences", 40) if not row["flipped"]][:12]


def recorded() -> dict[str, np.ndarray]:
    rng, n = np.random.default_rng(0), STEPS * BATCH
    columns = {name: rng.uniform(-1, 1, n) for name in ("r_w", "r_l")}
    columns |= {name: rng.uniform(1, 9, n) for name in ("norm_w", "norm_l", "distance", "weight")}
    ids = np.array([row["id"] for row in PAIRS] * STEPS, object)
    return {"step": np.repeat(np.arange(STEPS), BATCH), "id": ids, **columns}


def scored(data: dict[str, tuple[Row, ...]]) -> list[Row]:
    """Rewards and norms that say which response they are of; its row's responses lie on a line."""
    return [
        {
            "set": name,
            "id": row["id"],
            "response": i,
            "reward": -i * (n + 1) / 4,
            "norm": 10.0 * n + i,
            "distances": [abs(i - j) * (n + 1.0) for j in range(len(rows.responses_of(row)))],
        }
        for name, of_set in data.items()
        for n, row in enumerate(of_set)
        for i in range(len(rows.responses_of(row)))
    ]


DATA = {name: tiny.rows_of(name, 4) for name in ("in_domain", "scenarios", "reward_bench")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("rm", "score", "data", *DATA):
        (folder / name).mkdir()
    steps = {"step": np.arange(STEPS), "head_norm": np.linspace(1.0, 0.9, STEPS)}
    looks = {"step": [0, 0, 9, 9], "set": ["mutual"] * 4, "norm": [1.0, 3.0, 5.0, 6.0]}
    for name, columns in {"dynamics": recorded(), "steps": steps, "probe": looks}.items():
        pq.write_table(pa.table({key: pa.array(v) for key, v in columns.items()}), folder / "rm" / f"{name}.parquet")
    rows.write(folder / "score", scored(DATA), "scores")
    for name, data in {"data": PAIRS, **DATA}.items():
        rows.write(folder / name, data)
    return Inputs({name: folder / name for name in ("rm", "score", "data", *DATA)})


def run(inputs: Inputs, out: Path) -> dict[str, float]:
    out.mkdir()
    return dynamics.run(tiny.view_of("dynamics", tiny.experiment()), inputs, out)


@pytest.fixture(scope="module")
def made(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], Path]:
    out = tmp_path_factory.mktemp("made") / "out"
    return run(inputs, out), out


def test_training_is_told_from_its_records(made: tuple[dict[str, float], Path]):
    metrics, out = made
    assert metrics["head_norm/start"] == 1.0 and metrics["head_norm/largest_change"] == pytest.approx(0.1)
    assert metrics["norm_growth/mutual"] == pytest.approx(0.5)
    pairs = dynamics.read(out, "pairs")
    late = {name: values[pairs["part"] == 4] for name, values in pairs.items() if name != "id"}
    assert set(late["step"]) == {6, 7}
    assert rows.read(out, "errors") == mechanisms.by_error(late)
    ratio = mechanisms.far_over_near(mechanisms.by_error(late), "weighted")
    assert metrics["weighted_far_over_near"] == pytest.approx(ratio) != metrics["far_over_near"]
    assert sum(metrics[f"unweighted_gradient_share_q{i}"] for i in (1, 2, 3, 4)) == pytest.approx(1.0)
    assert metrics["distance_median/part4"] == pytest.approx(np.median(late["distance"]))


def test_norms_are_of_the_last_quarter_of_training_and_of_each_set(made: tuple[dict[str, float], Path]):
    metrics, out = made
    found = rows.read(out, "norms")
    late = recorded()["step"] >= 6
    expected = [*recorded()["norm_w"][late], *recorded()["norm_l"][late]]
    assert [row["norm"] for row in found if row["set"] == "train"] == pytest.approx(expected)
    mutual = [n for n, row in enumerate(DATA["scenarios"]) if row["set"] == "mutual"]
    expected = [10.0 * n + i for n in mutual for i in range(4)]
    assert [row["norm"] for row in found if row["set"] == "mutual"] == expected
    assert metrics["scenarios/mutual/norm_mean"] == pytest.approx(np.mean(expected))


def test_pairs_of_a_section_are_told_apart(made: tuple[dict[str, float], Path]):
    metrics, out = made
    found = rows.read(out, "categories")
    assert [row["category"] for row in found] == [row["section"] for row in DATA["reward_bench"]]
    for n, row in enumerate(found):  # Δ = (n + 1) / 4, distance n + 1
        assert row["distance"] == n + 1 and row["gradient"] == pytest.approx((n + 1) / (1 + math.exp((n + 1) / 4)))
    chat = [row["distance"] for row in found if row["category"] == "Chat"]
    assert metrics["reward_bench/distance/Chat"] == np.median(chat)


def test_official_rows_name_their_subset_alone():
    assert dynamics.section({"subset": "hep-go"}) == "Reasoning"


def test_what_is_not_defined_is_left_out(made: tuple[dict[str, float], Path]):
    """No in-domain pair is ranked wrongly."""
    assert not [name for name in made[0] if name.startswith("misranked")]
    assert not any(map(math.isnan, made[0].values()))


def test_examples_come_with_their_texts(made: tuple[dict[str, float], Path]):
    found = json.loads((made[1] / "examples.json").read_text())
    by_id = {row["id"]: row for row in PAIRS}
    assert found["near"]["distance"] < found["far"]["distance"]
    for pair in found.values():
        assert abs(pair["error"] - 0.5) <= 0.1 and pair["chosen"] == by_id[pair["id"]]["chosen"]
        of_step = recorded()["distance"][recorded()["step"] == pair["step"]]
        assert pair["batch_distance"] == pytest.approx(of_step.mean())


def test_swapped_pairs_are_no_examples(inputs: Inputs, tmp_path: Path):
    (tmp_path / "data").mkdir()
    rows.write(tmp_path / "data", [{**row, "flipped": True} for row in PAIRS])
    run(Inputs({**inputs, "data": tmp_path / "data"}), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "examples.json").read_text()) == {}


def test_the_same_bytes_twice_and_only_what_is_there(inputs: Inputs, tmp_path: Path, made: tuple[dict, Path]):
    run(inputs, tmp_path / "again")
    assert tiny.hashes(tmp_path / "again") == tiny.hashes(made[1])
    less = Inputs({name: inputs[name] for name in ("rm", "score", "data")})
    assert set(run(less, tmp_path / "less")) < set(made[0])


def test_without_training_there_is_nothing_of_training(inputs: Inputs, tmp_path: Path):
    (tmp_path / "rm").mkdir()
    empty = {name: values[:0] for name, values in recorded().items()}
    for name, columns in {"dynamics": empty, "steps": {"step": np.arange(0), "head_norm": np.empty(0)}}.items():
        kinds = pa.table({key: pa.array(v, pa.string() if key == "id" else None) for key, v in columns.items()})
        pq.write_table(kinds, tmp_path / "rm" / f"{name}.parquet")
    metrics = run(Inputs({**inputs, "rm": tmp_path / "rm"}), tmp_path / "out")
    assert "scenarios/mutual/norm_mean" in metrics and not any(name.startswith("head_norm") for name in metrics)


def test_it_reads_the_model_trained_here(tmp_path: Path):
    x = config.experiment(("scale=smoke",))
    _, (node,) = plan.build(STAGES, tmp_path, [("dynamics", x)])
    assert set(node.inputs) == {"rm", "data", "score", "in_domain", "scenarios", "reward_bench"}
    assert (
        node.inputs["score"].inputs["rm"] is node.inputs["rm"]
        and node.inputs["rm"].inputs["data"] is node.inputs["data"]
    )
    assert node.blocked_by is None
    external = replace(x, external=External(sha256="0" * 64))
    assert STAGES["dynamics"].ready(external) == "how an external reward model was trained was not recorded"
