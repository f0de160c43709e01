"""The local runner with its real fork server: same bytes as a fresh interpreter, and every way in which a stage, the
server, an input, a lock or the runner itself can fail.

Real stages where bytes matter. Elsewhere stages of a few lines that misbehave on purpose and start without torch.
"""

import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

from pipeline import dispatch, forkserver, job, lock, plan, store
from pipeline.config import PROJECT
from pipeline.dispatch import Outcome
from pipeline.plan import Graph, Node

RUN = str(PROJECT / "scripts" / "run.py")
SIZES = (
    *tiny.OVERRIDES,
    *("data.sft.n=64", "data.preferences.n=16", "sft.steps=300", "loss=norm_bt"),
)


# --- a real chain: data, SFT, reward model ---


@dataclass(frozen=True)
class Chain:
    root: Path  # the results folder

    def command(self, stage: str, *more: str) -> list[str]:
        return [sys.executable, RUN, f"stage={stage}", *SIZES, f"run.root={self.root}", *more]

    def run(self, stage: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(stage, *more), capture_output=True, text=True, timeout=120)

    def folder(self, stage: str) -> Path:
        (folder,) = (self.root / "runs" / stage).iterdir()
        return folder

    def outputs(self, stage: str) -> dict[str, str]:
        return tiny.hashes(self.folder(stage) / "out")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A reward model with what it needs, made by the fork server without a break."""
    made = Chain(tmp_path_factory.mktemp("chain"))
    done = made.run("rm")
    assert done.returncode == 0, done.stderr
    return made


def test_the_fork_server_gives_the_bytes_of_a_fresh_interpreter(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.root, tmp_path / "fresh")
    fresh = Chain(tmp_path / "fresh")
    folder = fresh.folder("rm")
    shutil.rmtree(folder / "out")
    (folder / "manifest.json").unlink()
    command = [sys.executable, "-m", "pipeline.job", folder]
    assert subprocess.run(command, cwd=PROJECT, timeout=120).returncode == job.DONE
    assert fresh.outputs("rm") == chain.outputs("rm")


def test_a_finished_chain_is_not_run_again(chain: Chain) -> None:
    """The second time nothing runs, and no torch is imported to find out."""
    before = (chain.folder("rm") / "manifest.json").read_bytes()
    done = chain.run("rm")
    assert done.returncode == 0 and "nothing to run" in done.stdout
    assert (chain.folder("rm") / "manifest.json").read_bytes() == before


def wait_for(there: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_terminated_runner_saves_and_its_rerun_resumes(chain: Chain, tmp_path: Path) -> None:
    halves = Chain(tmp_path)
    command = halves.command("sft")
    runner = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: bool(list(tmp_path.glob("runs/sft/*/log/progress.json"))))
    runner.terminate()
    _, errors = runner.communicate(timeout=60)
    assert runner.returncode == 1
    assert "stopped; running stages saved their state" in errors
    folder = halves.folder("sft")
    (saved,) = folder.glob("checkpoint/step-*.pt")
    assert not (folder / "manifest.json").exists()
    assert not list(folder.glob("attempt-*")) and not (folder / "lock").exists()
    assert f"will resume at {saved.stem}" in halves.run("sft", "action=plan").stdout
    assert halves.run("sft").returncode == 0
    assert halves.outputs("sft") == chain.outputs("sft")
    assert not (folder / "checkpoint").exists()


# --- stages that misbehave ---

CODE = {
    "good": """
def run(x, inputs, out):
    (out / "made.txt").write_text(f"good {x.seed}")
    return {"n": 1}
""",
    "user": """
def run(x, inputs, out):
    (out / "made.txt").write_text("".join((folder / "made.txt").read_text() for folder in inputs.values()))
    return {}
""",
    "raises": """
def run(x, inputs, out):
    (out / "half.txt").write_text("half")
    print("the last words")
    raise RuntimeError("no such luck\\nsecond line")
""",
    "dies": """
import os, signal
def run(x, inputs, out):
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "kills_server": """
import os, signal, time
def run(x, inputs, out):
    root = out.parent.parent.parent
    while not list(root.glob("patient/*/log/began")):
        time.sleep(0.02)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
""",
    "patient": """
import time
from pathlib import Path
from pipeline import stopping
def run(x, inputs, out):
    log = out.parent / "log"
    (log / "began").write_text("")
    with stopping.stops_between_steps():
        while not stopping.requested():
            time.sleep(0.02)
            if (log / "enough").exists():
                return {}
    (log / "saved").write_text("")
    raise stopping.Stopped
""",
    "threads": """
import torch
def run(x, inputs, out):
    (out / "made.txt").write_text(f"{torch.get_num_threads()} {torch.are_deterministic_algorithms_enabled()}")
    return {}
""",
    "exits": """
import sys
def run(x, inputs, out):
    sys.exit(3)
""",
    "after": """
def run(x, inputs, out):
    raise AssertionError("its input is not there")
""",
    "unimportable": "import a_library_that_is_not_installed\n",
}
STAGES = {
    stage.name: stage
    for stage in (
        *(tiny.fake(name) for name in ("good", "raises", "dies", "kills_server", "patient", "exits", "unimportable")),
        tiny.fake("user", "good"),
        tiny.Fake("threads", 1, reads=("compute",), needs=lambda x: {}, slug=lambda x: "all"),
        tiny.Fake("after", 1, reads=("seed",), needs=lambda x: {"raises": ("raises", x)}, slug=lambda x: f"s{x.seed}"),
    )
}


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(tmp_path / "code", CODE, monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def wanted(root: Path, *names: str, seed: int = 0) -> tuple[Graph, list[Node]]:
    x = tiny.experiment(f"seed={seed}")
    return plan.build(STAGES, root, [(name, x) for name in names])


def run(graph: Graph, targets: list[Node], jobs: int = 2) -> Outcome:
    return dispatch.run(graph, targets, tiny.experiment().run, jobs, io.StringIO())


def names(nodes: list[Node]) -> list[str]:
    return sorted(node.stage.name for node in nodes)


def failures(outcome: Outcome) -> dict[str, str]:
    return {node.stage.name: why for node, why in outcome.failed.values()}


def test_what_was_asked_for_is_made_with_its_inputs(root: Path) -> None:
    outcome = run(*wanted(root, "user"))
    assert outcome.good and names(outcome.made) == ["good", "user"]
    assert [p.read_text() for p in root.glob("*/*/out/made.txt")] == ["good 0", "good 0"]
    assert not list(root.glob("*/*/attempt-*")) and not list(root.glob("*/*/lock"))


def test_a_stage_computes_with_the_threads_of_its_config(root: Path) -> None:
    """Whatever the environment says: the fork server's says one."""
    x = tiny.experiment("compute.threads=2")
    outcome = run(*plan.build(STAGES, root, [("threads", x)]))
    assert outcome.good
    assert (outcome.made[0].folder / "out" / "made.txt").read_text() == "2 True"


def test_a_stage_that_raises_is_named_and_the_others_go_on(root: Path) -> None:
    outcome = run(*wanted(root, "raises", "after", "user"))
    assert names(outcome.made) == ["good", "user"]
    assert list(failures(outcome)) == ["raises"] and names(outcome.unreached) == ["after"]
    (folder,) = (root / "raises").iterdir()
    assert json.loads((folder / "log" / "error.json").read_text())["error"] == "RuntimeError: no such luck"
    assert not (folder / "manifest.json").exists()
    text = "\n".join(dispatch.summary(outcome))
    for part in ("FAILED raises/s0", "RuntimeError: no such luck", "the last words", "console.log", "after/s0"):
        assert part in text


def test_a_failure_is_forgotten_once_the_artefact_is_made(root: Path, tmp_path: Path) -> None:
    run(*wanted(root, "raises"))
    (tmp_path / "code" / "raises.py").write_text(CODE["good"])
    outcome = run(*wanted(root, "raises"))
    assert outcome.good
    (folder,) = (root / "raises").iterdir()
    assert not (folder / "log" / "error.json").exists()
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["made.txt"]  # nothing of the failed attempt


@pytest.mark.parametrize(("name", "why"), [("dies", "killed by SIGKILL"), ("exits", "exit code 1")])
def test_a_child_that_ends_in_no_proper_way_is_reported(root: Path, name: str, why: str) -> None:
    outcome = run(*wanted(root, name, "good"))
    assert failures(outcome) == {name: why}
    assert names(outcome.made) == ["good"]
    assert any(f"FAILED {name}/s0" in line and why in line for line in dispatch.summary(outcome))


def test_an_artefact_whose_maker_was_killed_is_made_by_the_next_run(root: Path, tmp_path: Path) -> None:
    """The dead child left its lock and its attempt."""
    run(*wanted(root, "dies"))
    assert list(root.glob("dies/*/lock")) and list(root.glob("dies/*/attempt-*"))
    (tmp_path / "code" / "dies.py").write_text(CODE["good"])
    assert run(*wanted(root, "dies")).good
    assert not list(root.glob("dies/*/attempt-*")) and not list(root.glob("dies/*/lock"))


# --- the server ---


def test_a_killed_server_is_reported_and_leaves_nobody_behind(root: Path) -> None:
    began = time.monotonic()
    outcome = run(*wanted(root, "kills_server", "patient"))
    assert time.monotonic() - began < 30
    assert not outcome.good and not outcome.made
    assert all("the process that starts stages was killed" in why for why in failures(outcome).values())
    assert set(failures(outcome)) | set(names(outcome.unreached)) == {"kills_server", "patient"}
    folders = list(root.glob("*/*"))
    wait_for(lambda: all(lock.holder(folder, 60) is None for folder in folders))


def test_a_child_that_is_asked_to_stop_at_once_stops(root: Path) -> None:
    """The request comes right after the fork, before the stage has begun."""
    _, (node,) = wanted(root, "patient")
    dispatch.prepare(node, {"commit": None, "dirty": None, "source": {}})
    server = forkserver.Server(["patient"])
    server.start(node.folder)
    began = time.monotonic()
    ended = server.close()
    assert ended == [(node.folder, job.STOPPED)]
    assert time.monotonic() - began < forkserver.GRACE_SECONDS / 2


@pytest.mark.parametrize("when", ["before the first stage", "at once"])
def test_a_server_that_is_not_there_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    class Mortal(forkserver.Server):
        def start(self, folder: Path) -> None:
            self.process.kill()
            if when == "before the first stage":
                self.process.wait()
            super().start(folder)

    monkeypatch.setattr(dispatch, "Server", Mortal)
    outcome = run(*wanted(root, "good"))
    assert not outcome.good and not outcome.made
    assert "the process that starts stages was killed" in " ".join(dispatch.summary(outcome))


def test_what_a_dead_server_had_reported_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage is made and its end is told, unread, when the server dies and the second is to start."""

    class Mortal(forkserver.Server):
        def start(self, folder: Path) -> None:
            if folder.parent.name == "raises":
                select.select([self.process.stdout], [], [], 60)
                self.process.kill()
                self.process.wait()
            super().start(folder)

    monkeypatch.setattr(dispatch, "Server", Mortal)
    outcome = run(*wanted(root, "good", "raises"), jobs=2)
    assert names(outcome.made) == ["good"]
    assert list(failures(outcome)) == ["raises"]


def test_a_stage_that_cannot_be_imported_fails_alone(root: Path) -> None:
    outcome = run(*wanted(root, "unimportable", "good"))
    assert names(outcome.made) == ["good"]
    assert list(failures(outcome)) == ["unimportable"]
    assert "a_library_that_is_not_installed" in "\n".join(dispatch.summary(outcome))


RUNNER = """
import sys
from pathlib import Path
from pipeline import config, dispatch, plan
from pipeline.stage import Stage
class Fake(Stage):
    code = "patient"
x = config.experiment({overrides!r})
stage = Fake("patient", 1, reads=("seed",), needs=lambda x: {{}}, slug=lambda x: f"s{{x.seed}}")
graph, targets = plan.build({{"patient": stage}}, Path({root!r}), [("patient", x)])
sys.exit(not dispatch.run(graph, targets, x.run, 1).good)
"""


@pytest.fixture
def runner(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A runner in a process of its own, in the middle of a stage that waits."""
    program = RUNNER.format(overrides=tiny.OVERRIDES, root=str(root))
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_for(lambda: bool(list(root.glob("patient/*/log/began"))))
    yield process
    process.kill()
    process.wait()


def test_a_killed_runner_leaves_nobody_behind(root: Path, runner: subprocess.Popen[bytes]) -> None:
    """Server and child end by themselves, the child after it has saved."""
    (folder,) = (root / "patient").iterdir()
    owner = lock.holder(folder, 60)
    assert owner is not None
    server = int(Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()[1])
    runner.kill()
    wait_for(lambda: lock.process_start(owner.pid) is None and lock.process_start(server) is None)
    assert (folder / "log" / "saved").exists() and not (folder / "lock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_runner_that_is_asked_to_stop_lets_its_stages_save(
    root: Path, runner: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    """Sent to the whole group, as Ctrl-C in a terminal is."""
    (folder,) = (root / "patient").iterdir()
    os.killpg(runner.pid, number)
    assert runner.wait(30) == 1
    assert (folder / "log" / "saved").exists()


# --- locks: somebody else makes it ---


def test_an_artefact_that_is_being_made_elsewhere_is_waited_for(root: Path, runner: subprocess.Popen[bytes]) -> None:
    """The first runner's stage ends while the second waits: the second makes nothing and is content."""
    (folder,) = (root / "patient").iterdir()
    enough = threading.Timer(1, lambda: (folder / "log" / "enough").write_text(""))
    enough.start()
    outcome = run(*wanted(root, "patient", "good"))
    assert outcome.good and names(outcome.made) == ["good"]
    assert (folder / "manifest.json").exists() and runner.wait(30) == 0


def test_an_artefact_whose_maker_gives_up_is_made_here(root: Path, runner: subprocess.Popen[bytes]) -> None:
    (folder,) = (root / "patient").iterdir()

    def give_up() -> None:
        runner.terminate()
        runner.wait()
        (folder / "log" / "enough").write_text("")

    threading.Timer(1, give_up).start()
    outcome = run(*wanted(root, "patient"))
    assert outcome.good and names(outcome.made) == ["patient"]


def test_two_runners_at_once_make_one_set_of_artefacts(tmp_path: Path) -> None:
    """The command line, side by side on one store: rows of all data sets."""
    command = [sys.executable, RUN, "stage=data", *SIZES, f"run.root={tmp_path}", "run.jobs=1"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    folders = sorted((tmp_path / "runs" / "data").iterdir())
    assert len(folders) == 11
    assert all(store.open_intact(folder) for folder in folders)
    assert not list(tmp_path.glob("runs/*/*/attempt-*")) and not list(tmp_path.glob("runs/*/*/lock"))
    made = [next(line for line in out.splitlines() if line.startswith("made")) for out, _ in said]
    assert sum(int(line.split()[1]) for line in made) >= 8


# --- damage ---


def flip(path: Path) -> None:
    """Another content of the same size: no look at sizes can tell."""
    first, *rest = path.read_bytes()
    path.write_bytes(bytes([first ^ 1, *rest]))


def test_a_damaged_input_is_made_again_and_the_run_succeeds(root: Path) -> None:
    run(*wanted(root, "good"))
    (folder,) = (root / "good").iterdir()
    flip(folder / "out" / "made.txt")
    outcome = run(*wanted(root, "user"))
    assert outcome.good and names(outcome.made) == ["good", "user"]
    assert [p.read_text() for p in root.glob("*/*/out/made.txt")] == ["good 0", "good 0"]
    assert not (folder / "manifest.damaged.json").exists()


def test_a_missing_file_is_made_again_before_anything_opens_it(root: Path) -> None:
    run(*wanted(root, "user"))
    for path in root.glob("*/*/out/made.txt"):
        path.unlink()
    outcome = run(*wanted(root, "user"))
    assert outcome.good and names(outcome.made) == ["good", "user"]


def test_an_input_that_stays_damaged_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something spoils it each time before its user opens it: no endless loop."""

    class Spoiling(forkserver.Server):
        def start(self, folder: Path) -> None:
            if folder.parent.name == "user":
                flip(next(root.glob("good/*/out/made.txt")))
            super().start(folder)

    monkeypatch.setattr(dispatch, "Server", Spoiling)
    outcome = run(*wanted(root, "user"))
    assert not outcome.good
    assert failures(outcome) == {"user": "an input stays damaged"}
