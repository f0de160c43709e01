"""How a job of SLURM ends: what it says to SLURM after each way in which a stage can end. SLURM is made up here; that
it draws the right conclusions is tested in tests/slurm."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from artefacts import planned, prepared

from pipeline import job, lock, store
from pipeline.config import PROJECT
from pipeline.plan import Node
from pipeline.slurm import client, inside

TERM, USR1, USR2, ALRM = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM


class Ended(BaseException):
    """SLURM has ended this process."""


@pytest.fixture
def node(root: Path) -> Node:
    made = planned(root)["alpha"]
    prepared(made)
    return made


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was requeued. Who sleeps is ended."""
    said: list[str] = []

    def sleep(seconds: float) -> None:
        raise Ended(f"after {seconds} s")

    monkeypatch.setattr(client, "requeue", said.append)
    monkeypatch.setattr(inside, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    before = {number: signal.getsignal(number) for number in (TERM, USR1, USR2, ALRM)}
    yield said
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("ended", [job.DONE, job.THERE])
@pytest.mark.parametrize("came", [set(), {ALRM}], ids=str)
def test_what_is_there_is_a_success(node: Node, slurm: list[str], ended: int, came: set[signal.Signals]):
    inside.leave(node.folder, ended, came, restarts=5)
    assert slurm == []


@pytest.mark.parametrize("ended", [job.FAILED, job.DAMAGED])
def test_a_failure_is_a_failure_for_slurm_too(node: Node, slurm: list[str], ended: int):
    with pytest.raises(SystemExit) as end:
        inside.leave(node.folder, ended, set(), restarts=5)
    assert (end.value.code, slurm) == (ended, [])


@pytest.mark.parametrize("ended", [job.STOPPED, job.DONE, job.FAILED])
@pytest.mark.parametrize("number", [USR1, USR2])
def test_who_is_signalled_goes_back_to_the_queue(node: Node, slurm: list[str], ended: int, number: signal.Signals):
    """Even when done: SLURM may take who leaves after the signal for timed out. The next start finds it done."""
    with pytest.raises(Ended, match=str(inside.KILL_SECONDS)):
        inside.leave(node.folder, ended, {number}, restarts=1)
    assert slurm == ["12_3"]


@pytest.mark.parametrize(("ended", "came"), [(job.STOPPED, {ALRM}), (job.HELD, set())], ids=str)
def test_who_has_not_finished_goes_back_to_the_queue(
    node: Node, slurm: list[str], ended: int, came: set[signal.Signals]
):
    with pytest.raises(Ended):
        inside.leave(node.folder, ended, came, restarts=1)
    assert slurm == ["12_3"]


@pytest.mark.parametrize("ended", [job.STOPPED, job.DONE])
def test_after_sigterm_slurm_decides(node: Node, slurm: list[str], ended: int, capsys: pytest.CaptureFixture[str]):
    """Who leaves by himself in the time of grace counts as timed out."""
    with pytest.raises(Ended):
        inside.leave(node.folder, ended, {TERM, USR2}, restarts=0)
    assert slurm == [] and "asked to stop by SIGTERM" in capsys.readouterr().out


def test_stopped_once_too_often_is_a_failure_that_says_why(node: Node, slurm: list[str]):
    with pytest.raises(SystemExit) as end:
        inside.leave(node.folder, job.STOPPED, {USR2}, restarts=0)
    assert (end.value.code, slurm) == (job.STOPPED, [])
    error = json.loads((node.folder / "log" / "error.json").read_text())["error"]
    assert error.startswith("it was stopped more often than cluster.restarts allows")


def test_who_makes_the_same_artefact_is_waited_for(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    held = lock.acquire(node.folder, 60)
    assert isinstance(held, lock.Lock)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            held.release()

    monkeypatch.setattr(inside, "time", SimpleNamespace(sleep=sleep))
    inside.let_finish(node.folder)
    assert looks == [inside.LOOK_SECONDS] * 3
    assert capsys.readouterr().out == f"{held.owner} is making this artefact; waiting for it\n"


def test_a_dead_owner_is_not_waited_for(node: Node):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    owner = {"host": os.uname().nodename, "pid": int(dead.stdout), "started": "1", "token": "x"}
    (node.folder / "lock").write_text(json.dumps(owner))
    inside.let_finish(node.folder)


@pytest.mark.parametrize(
    ("mode", "routed"), [("online", False), ("online", True), ("offline", False), ("disabled", False)]
)
def test_wandb_goes_offline_where_there_is_no_route(
    node: Node, monkeypatch: pytest.MonkeyPatch, mode: str, routed: bool
):
    path = node.folder / "spec.json"
    spec = json.loads(path.read_text())
    spec["around"]["log"]["mode"] = mode
    store.write_atomically(path, json.dumps(spec))
    asked = []
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.site.example:8443")
    monkeypatch.setattr(inside, "routed", lambda *where: asked.append(where) or routed)
    inside.go_offline(node.folder)
    expected = "offline" if mode == "online" and not routed else mode
    assert json.loads(path.read_text())["around"]["log"]["mode"] == expected
    assert asked == ([("wandb.site.example", 8443)] if mode == "online" else [])


def test_a_job_makes_its_artefact_and_says_where_it_ran(node: Node):
    """A process as SLURM starts it, alone of its kind, told the snapshot's folder."""
    started = start(node, str(PROJECT))
    assert started.returncode == 0, started.stderr
    assert store.is_done(node.folder)
    log = (node.folder / "log" / "console.log").read_text()
    assert log.startswith("--- job 12_3 on n7, start 3\n")
    assert start(node, str(PROJECT)).returncode == 0  # it is there: a success at once


def test_a_job_that_finds_other_code_than_was_submitted_makes_nothing(node: Node):
    assert start(node, "/elsewhere").returncode == 1
    assert not store.is_done(node.folder)
    assert "found the code of" in (node.folder / "log" / "console.log").read_text()


def start(node: Node, code: str) -> subprocess.CompletedProcess[str]:
    told = {"SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "n7", "PYTHONPATH": str(Path(__file__).parent)}
    call = f"from pipeline.slurm import inside; inside.artefact({str(node.folder)!r}, {code!r}, 60.0, 5)"
    words = [sys.executable, "-c", call]
    return subprocess.run(words, env={**os.environ, **told}, capture_output=True, text=True, timeout=60)
