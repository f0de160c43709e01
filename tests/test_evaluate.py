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
