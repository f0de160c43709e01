"""Running a graph for real, with stages that cost nothing: order, failures, damage, and artefacts that others make."""

import io
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from artefacts import damage, fail, finish, toys
from toy_stage import DIES, FAILS

from pipeline import dispatch, lock, plan, store
from pipeline.config import experiment
from pipeline.dispatch import Outcome, Schedule
from pipeline.plan import Graph, Node

ALL = ("alpha", "beta", "gamma")
BSR = {"name": "bsr", "of": {"name": "bt"}, "coef": 0.01, "times_group": False}
Built = tuple[Graph, list[Node]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store; stages find the toys' code."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return tmp_path / "runs"


def build(root: Path, *settings: Mapping[str, Any], targets: tuple[str, ...] = ALL) -> Built:
    """One graph of toys for each experiment, together."""
    xs = [experiment((), {"loss": "bsr", **more}) for more in settings or ({},)]
    graph, wanted = plan.build(toys(), root, [(name, x) for x in xs for name in targets])
    plan.judge(graph, wanted)
    return graph, wanted


def run(built: Built, jobs: int = 2) -> Outcome:
    return dispatch.run(*built, experiment().run, jobs, io.StringIO())


def names(nodes: list[Node]) -> list[str]:
    return [node.stage.name for node in nodes]


def by_name(built: Built) -> dict[str, Node]:
    return {node.stage.name: node for node in built[0].values()}


# --- what can start next ---


def started(schedule: Schedule) -> list[str]:
    """Order of start, if each ends before the next begins."""
    order = []
    while node := schedule.pop():
        order.append(node.stage.name)
        schedule.done(node)
    return order


def test_inputs_start_before_their_users(root: Path):
    schedule = Schedule(*build(root))
    assert started(schedule) == ["alpha", "beta", "gamma"] and schedule.remaining() == []


def test_the_longest_chain_starts_first(root: Path):
    """A short branch that could wait must not hold a core that the long one needs."""
    short = experiment((), {"seed": 1})
    long = experiment((), {"seed": 2})
    schedule = Schedule(*plan.build(toys(), root, [("alpha", short), ("gamma", long)]))
    assert [node.sections for node in (schedule.pop(), schedule.pop()) if node] == [{"seed": 2}, {"seed": 1}]


def test_nothing_starts_before_its_last_input_is_done(root: Path):
    schedule = Schedule(*build(root))
    alpha = schedule.pop()
    assert alpha and schedule.pop() is None
    schedule.done(alpha)
    beta = schedule.pop()
    assert beta and beta.stage.name == "beta" and schedule.pop() is None


def test_a_failed_one_keeps_its_users_waiting_and_nobody_else(root: Path):
    schedule = Schedule(*build(root, {"loss.coef": 0.25}, {"loss.coef": 0.5}))
    alpha = schedule.pop()
    assert alpha
    schedule.done(alpha)
    beta = schedule.pop()
    assert beta
    schedule.fail(beta)
    assert started(schedule) == ["beta", "gamma"] and names(schedule.remaining()) == ["gamma"]


def test_what_is_there_is_not_started(root: Path):
    built = build(root)
    finish(by_name(built)["alpha"])
    assert started(Schedule(*built)) == ["beta", "gamma"]


# --- running ---


def test_everything_is_made_from_its_inputs(root: Path):
    built = build(root)
    outcome = run(built)
    assert outcome.good and names(outcome.made) == ["alpha", "beta", "gamma"]
    alpha = (by_name(built)["alpha"].folder / "out" / "rows.txt").read_text()
    assert json.loads(alpha) == [{"seed": 0}, {}]
    beta = json.loads((by_name(built)["beta"].folder / "out" / "rows.txt").read_text())
    assert beta == [{"loss": BSR}, {"alpha": alpha}]
    for node in built[0].values():
        found = store.open_intact(node.folder)
        assert found["key"] == node.key and found["metrics"] == {"inputs": len(node.inputs)}
        assert {name: entry["key"] for name, entry in found["inputs"].items()} == {
            name: need.key for name, need in node.inputs.items()
        }
        left = {path.name for path in node.folder.iterdir()}
        assert left == {"log", "manifest.json", "out", "spec.json"}


def test_nothing_is_made_twice(root: Path):
    run(build(root))
    again = run(build(root))
    assert again.good and again.made == []


def test_a_failing_branch_does_not_stop_the_others(root: Path):
    built = build(root, {"loss.coef": FAILS}, {"loss.coef": 0.5})
    outcome = run(built, jobs=1)  # so that the failure comes first
    assert not outcome.good and sorted(names(outcome.made)) == ["alpha", "beta", "gamma"]
    assert [node.stage.name for node, _ in outcome.failed.values()] == ["beta"] and names(outcome.unreached) == [
        "gamma"
    ]


def test_the_end_names_a_failure_with_the_last_lines_of_its_log(root: Path):
    built = build(root, {"loss.coef": FAILS})
    lines = dispatch.summary(run(built))
    beta = by_name(built)["beta"]
    assert lines[0] == f"FAILED beta/b ({beta.key}): ValueError: no luck"
    assert lines[1] == "    about to fail" and "    ValueError: no luck" in lines
    assert lines[-2:] == [
        f"    whole log: {beta.folder / 'log' / 'console.log'}",
        "not reached because of that: gamma/g",
    ]


def test_a_wrong_setting_is_said_without_a_log(root: Path):
    built = build(root, {"loss.coef": FAILS})
    outcome = run(built)
    error = by_name(built)["beta"].folder / "log" / "error.json"
    error.write_text(json.dumps({"error": "ConfigError: x = 1: say 2"}))
    first, where, _ = dispatch.summary(outcome)
    assert first.endswith(": x = 1: say 2") and where.startswith("    whole log: ")


def test_a_stage_that_was_killed_is_told_apart(root: Path):
    built = build(root, {"loss.coef": DIES}, targets=("beta",))
    lines = dispatch.summary(run(built))
    assert lines[0] == f"FAILED beta/b ({by_name(built)['beta'].key}): killed by SIGKILL"
    assert lock.holder(by_name(built)["beta"].folder, 60) is None


def test_a_success_forgets_the_failure_before_it(root: Path):
    built = build(root, targets=("alpha",))
    alpha = by_name(built)["alpha"]
    fail(alpha, "ValueError: last time")
    (alpha.folder / "attempt-dead").mkdir()
    (alpha.folder / "checkpoint").mkdir()
    assert run(built).good
    assert {path.name for path in alpha.folder.iterdir()} == {"log", "manifest.json", "out", "spec.json"}
    assert not (alpha.folder / "log" / "error.json").exists()


def test_an_input_that_is_damaged_when_opened_is_made_again(root: Path):
    built = build(root)
    run(built)
    nodes = by_name(built)
    store.retract(nodes["gamma"].folder)
    damage(nodes["beta"].folder)
    outcome = run(build(root))
    assert outcome.good and names(outcome.made) == ["beta", "gamma"]
    assert store.damage(nodes["beta"].folder, store.open_intact(nodes["beta"].folder)["files"]) is None


def test_a_damaged_input_may_need_what_was_long_gone(root: Path):
    built = build(root)
    run(built)
    nodes = by_name(built)
    store.shutil.rmtree(nodes["alpha"].folder)
    store.retract(nodes["gamma"].folder)
    damage(nodes["beta"].folder)
    outcome = run(build(root, targets=("beta", "gamma")))
    assert outcome.good and names(outcome.made) == ["alpha", "beta", "gamma"]


def meanwhile(act: Callable[[], None]) -> threading.Timer:
    """Does something else while a graph runs."""
    timer = threading.Timer(0.7, act)
    timer.start()
    return timer


def test_what_another_process_makes_is_waited_for_and_used(root: Path):
    built = build(root)
    alpha = by_name(built)["alpha"]
    alpha.folder.mkdir(parents=True)
    held = lock.acquire(alpha.folder, 60)
    assert isinstance(held, lock.Lock)

    def finished_there() -> None:
        finish(alpha)
        held.release()

    other = meanwhile(finished_there)
    outcome = run(built)
    other.join()
    assert outcome.good and names(outcome.made) == ["beta", "gamma"]


def test_what_another_process_gives_up_is_made_here(root: Path):
    built = build(root, targets=("alpha",))
    alpha = by_name(built)["alpha"]
    alpha.folder.mkdir(parents=True)
    held = lock.acquire(alpha.folder, 60)
    assert isinstance(held, lock.Lock)
    other = meanwhile(held.release)
    outcome = run(built)
    other.join()
    assert outcome.good and names(outcome.made) == ["alpha"]


# --- smaller parts ---


def test_a_job_is_told_everything_it_needs(root: Path):
    built = build(root)
    beta = by_name(built)["beta"]
    dispatch.prepare(beta, {"commit": "c", "dirty": None, "source": {}})
    alpha = by_name(built)["alpha"]
    assert json.loads((beta.folder / "spec.json").read_text()) == {
        "stage": "beta",
        "version": 1,
        "code": "toy_stage",
        "slug": "b",
        "key": beta.key,
        "sections": {"loss": BSR},
        "around": beta.around,
        "inputs": {"alpha": {"key": alpha.key, "folder": f"alpha/a-{alpha.key}", "weightless": False}},
        "commit": "c",
        "dirty": None,
        "source": {},
    }


def test_outside_of_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatch.shutil, "which", lambda name: None)
    assert dispatch.commit() == {"commit": None, "dirty": None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_asks_and_the_second_is_not_ours(number: signal.Signals):
    seen: list[int] = []
    before = signal.signal(number, lambda n, _: seen.append(n))
    try:
        with dispatch.interrupts() as asked:
            assert not asked()
            os.kill(os.getpid(), number)
            assert asked() and seen == []
            os.kill(os.getpid(), number)
            assert seen == [number]
        os.kill(os.getpid(), number)
        assert seen == [number] * 2
    finally:
        signal.signal(number, before)
