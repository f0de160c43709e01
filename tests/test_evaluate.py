"""An existing reward model is examined, then benchmarked, in the place of a trained one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import actions, config, evaluate, external
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "config.json").write_text(json.dumps({}))
    return tmp_path / "rm"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the doctor and the planner were asked, instead of asking them; `health` is the doctor's answer."""
    seen: dict[str, Any] = {"health": 0}

    def doctor(command: list[Any]) -> SimpleNamespace:
        seen["doctor"] = command[2]
        return SimpleNamespace(returncode=seen["health"])

    def stages(wanted: list[tuple[str, Experiment]], action: set[str]) -> int:
        seen["wanted"] = wanted
        return 0

    monkeypatch.setattr(evaluate.subprocess, "run", doctor)
    monkeypatch.setattr(actions, "stages", stages)
    monkeypatch.setattr(evaluate, "tell", lambda x: 0)
    return seen


@pytest.mark.parametrize("health", [0, 1])
def test_a_doctors_word_is_the_exit_code_and_stops_no_benchmark(
    folder: Path, asked: dict[str, Any], health: int
) -> None:
    asked["health"] = health
    assert evaluate.run([f"rm={folder}", "scale=smoke", "seed=3"]) == health
    assert asked["doctor"] == f"rm={folder}"
    [(stage, x)] = asked["wanted"]
    assert (stage, x.size, x.seed, x.run.external) == ("bench", "smoke", 3, str(folder))
    assert x.external.sha256 == external.fingerprint(folder)
    assert x.data.benchmarks == config.experiment(["scale=smoke"]).data.benchmarks


def test_what_cannot_be_loaded_is_not_benchmarked(folder: Path, asked: dict[str, Any]) -> None:
    asked["health"] = 2
    assert evaluate.run([f"rm={folder}", "scale=smoke"]) == 2
    assert "wanted" not in asked


def test_some_benchmarks(folder: Path, asked: dict[str, Any]) -> None:
    evaluate.run([f"rm={folder}", "scale=smoke", "bench=rm_bench,in_domain"])
    assert set(asked["wanted"][0][1].data.benchmarks) == {"rm_bench", "in_domain"}


def test_best_of_n_is_measured_where_it_is_named(folder: Path, asked: dict[str, Any]) -> None:
    evaluate.run([f"rm={folder}", "scale=smoke", "bench=best_of_n"])
    assert [(stage, x.external.sha256) for stage, x in asked["wanted"]] == [("best_of_n", external.fingerprint(folder))]
    evaluate.run([f"rm={folder}", "scale=smoke", "bench=best_of_n,verdicts"])
    assert [stage for stage, _ in asked["wanted"]] == ["bench", "best_of_n"]
    assert set(asked["wanted"][0][1].data.benchmarks) == {"verdicts"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scale=smoke"], "rm = None: required"),
        (["rm=nowhere/there", "sclae=smoke"], "sclae = 'smoke': unknown key"),
        (["rm=nowhere/there", "bench=rmbench"], "bench = 'rmbench': did you mean 'rm_bench'"),
    ],
)
def test_typing_errors_are_told_before_anything_runs(asked: dict[str, Any], arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        evaluate.run(arguments)
    assert "doctor" not in asked


# --- what is printed ---


def test_a_draw_of_all_rows_is_the_benchmark_itself() -> None:
    data = [{"id": "a", "chosen": "yes", "rejected": "no"}, {"id": "b", "chosen": "x", "rejected": "yy"}]
    measure = evaluate.drawn_from("in_domain", data, [[2.0, 1.0], [0.0, 3.0]])
    assert measure([0, 1]) == {"accuracy": 0.5}
    assert measure([0, 0, 0])["accuracy"] == 1.0 and measure([1, 1, 0])["accuracy"] == pytest.approx(1 / 3)


def test_every_benchmark_of_the_world_has_intervals_about_its_metrics(tmp_path: Path) -> None:
    from pipeline import rows, world
    from pipeline.stages import bench

    x = config.experiment(["scale=smoke"])
    found: dict[str, Any] = {"metrics": {}, "inputs": {}}
    examples = []
    for name, source in x.data.benchmarks.items():
        assert source is not None and x.world is not None
        data = world.rows(source.part, source.n, 0, x.world)
        (tmp_path / name / "out").mkdir(parents=True)
        rows.write(tmp_path / name / "out", data)
        found["inputs"][name] = {"folder": name}
        rewards = [[float(len(text) % 7) for text in rows.responses_of(row)] for row in data]
        examples += [{"set": name, "id": row["id"], "rewards": r} for row, r in zip(data, rewards, strict=True)]
        scored = {row["id"]: bench.Answers(r, [[0.0] * len(r)] * len(r)) for row, r in zip(data, rewards, strict=True)}
        found["metrics"] |= {f"{name}/{key}": value for key, value in bench.BENCHMARKS[name](data, scored).items()}
    rows.write(tmp_path, examples, "examples")
    (tmp_path / "bench").mkdir()
    (tmp_path / "examples.parquet").rename(tmp_path / "bench" / "examples.parquet")
    spread = evaluate.intervals(tmp_path, tmp_path / "bench", found, draws=40)
    shown = {name for name in found["metrics"] if evaluate.shown(name) and not name.endswith(("/n", "/ties"))}
    assert spread.keys() == shown and {"rm_bench/total_avg_acc", "scenarios/mutual/tau"} <= shown
    for name in ("in_domain/accuracy", "reward_bench/average", "rm_bench/total_avg_acc", "scenarios/mutual/tau"):
        low, high = spread[name]
        assert low < found["metrics"][name] < high
