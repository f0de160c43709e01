"""Killed with −9 at random moments and run again, a store ends with the bytes of an unbroken run.

pytest -m slow tests/test_kill.py      three kills, or as many as the environment variable KILLS says
python tests/test_kill.py 10           ten, and tells what it does; a second number is the seed
"""

import hashlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import store
from pipeline.config import PROJECT
from pipeline.seeds import derive

ARGUMENTS = ("table=coupling", "scale=smoke", "seed=0", "run.checkpoint_steps=5", "run.checkpoint_seconds=1")
MARK = "KILL_TEST"  # an environment variable that all processes of one run inherit
KINDS = ("runner", "everyone", "stage")  # who is killed, in turn
SPREAD = 0.9  # of the work is where kills may fall: the last one should not come too late
RUN_SECONDS = 600
CALM_SECONDS = 90  # until nobody is left; a fork server gives its children 60 seconds to save


# --- processes ---


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int


def marked(mark: str) -> list[Process]:
    """Living processes of the run, found by their environment: a child's is its parent's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()  # empty for a zombie
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:  # it has just ended, or is not ours
                continue
            if f"{MARK}={mark}".encode() in environment.split(b"\0"):
                found.append(Process(int(entry.name), int(parent)))
    return found


def stages(mark: str, runner: int) -> list[Process]:
    """Children of the fork server, which is the runner's child."""
    processes = marked(mark)
    servers = {p.pid for p in processes if p.parent == runner}
    return [p for p in processes if p.parent in servers]


def kill(processes: list[Process]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def wait(until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# --- a chain, unbroken and broken ---


@dataclass
class Chain:
    root: Path
    log: Path

    def __post_init__(self) -> None:
        self.mark = secrets.token_hex(8)

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROJECT / "scripts" / "reproduce.py"), *ARGUMENTS, f"run.root={self.root}"]
        with self.log.open("ab") as log:
            environment = {**os.environ, MARK: self.mark}
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def finish(self) -> int:
        process = self.start()
        try:
            return process.wait(RUN_SECONDS)
        finally:
            kill(marked(self.mark))
            process.wait()

    def done(self) -> int:
        return len(list(self.root.glob(f"runs/*/*/{store.MANIFEST}")))

    def outputs(self) -> dict[str, str]:
        """{path of every output file: SHA-256}."""
        paths = sorted(p for p in self.root.glob("runs/*/*/out/**/*") if p.is_file())
        return {str(p.relative_to(self.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}

    def litter(self) -> list[str]:
        """What only an unfinished or a careless run leaves."""
        patterns = ("attempt-*", "lock", ".lock.[0-9a-f]*", "checkpoint", "manifest.damaged.json", "log/error.json")
        return [str(p.relative_to(self.root)) for name in patterns for p in self.root.glob(f"runs/*/*/{name}")]


def weights(chain: Chain) -> dict[Path, float]:
    """{artefact: seconds it took} of a finished chain."""
    made = store.scan(chain.root / "runs")
    return {folder.relative_to(chain.root): found["ended"] - found["began"] for folder, found in made}


def progress(chain: Chain, weight: dict[Path, float]) -> float:
    """The share of the work that is done, unfinished stages included: time on the clock would count lost work too."""
    return sum(seconds * share_of(chain.root / name) for name, seconds in weight.items()) / sum(weight.values())


def share_of(folder: Path) -> float:
    if (folder / store.MANIFEST).exists():
        return 1.0
    try:
        at = json.loads((folder / "log" / "progress.json").read_text())
    except FileNotFoundError:
        return 0.0
    return at["step"] / at["total"]


def break_once(chain: Chain, kind: str, here: Callable[[], bool], draw: random.Random) -> str:
    """Starts the chain and kills when it is `here`; says what happened."""
    process = chain.start()

    def running() -> list[Process]:
        return stages(chain.mark, process.pid)

    def ended() -> bool:
        return process.poll() is not None

    try:
        wait(lambda: ended() or (here() and bool(running())), RUN_SECONDS)
        wait(ended, draw.uniform(0, 0.5))  # not only where something has just been written
        wait(lambda: ended() or bool(running()), RUN_SECONDS)
        there, done = running(), chain.done()
        if ended():
            return "it had ended before"
        victims = {
            "runner": [Process(process.pid, 0)],
            "everyone": marked(chain.mark),
            "stage": draw.sample(there, min(1, len(there))),
        }[kind]
        kill(victims)
        code = process.wait(RUN_SECONDS)
        return f"killed {len(victims)} with {done} artefacts done and {len(there)} stages running; exit code {code}"
    finally:
        if not ended():
            kill(marked(chain.mark))
            process.wait()


def break_and_mend(folder: Path, kills: int, seed: int, say: Callable[[str], None] = print) -> tuple[Chain, Chain, int]:
    """The unbroken chain, the broken one, and how many kills met a running chain. The kills are spread over the work:
    each has a random place in its own share of it."""
    whole = Chain(folder / "whole", folder / "whole.log")
    broken = Chain(folder / "broken", folder / "broken.log")
    began = time.monotonic()
    assert whole.finish() == 0, whole.log.read_text()[-10_000:]
    say(f"unbroken: {whole.done()} artefacts in {time.monotonic() - began:.0f} s")
    weight, met = weights(whole), 0
    try:
        for i in range(kills):
            draw = random.Random(derive(seed, "kill", i))
            kind, place = KINDS[i % len(KINDS)], SPREAD * (i + draw.random()) / kills
            said = break_once(broken, kind, lambda place=place: progress(broken, weight) >= place, draw)
            met += said.startswith("killed")
            say(f"kill {i + 1}: {kind} at {place:.0%} of the work: {said}")
        code = broken.finish()
        say(f"mended: exit code {code}, {broken.done()} artefacts")
        assert code == 0, broken.log.read_text()[-10_000:]
    finally:
        calm = wait(lambda: not marked(broken.mark), CALM_SECONDS)
        kill(marked(broken.mark))
    assert calm, "somebody was left behind"
    return whole, broken, met


def differences(whole: Chain, broken: Chain) -> list[str]:
    there, here = whole.outputs(), broken.outputs()
    return sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))


@pytest.mark.slow
def test_a_chain_killed_at_random_moments_ends_in_the_same_bytes(tmp_path: Path) -> None:
    kills = int(os.environ.get("KILLS", "3"))
    whole, broken, met = break_and_mend(tmp_path, kills, seed=int(os.environ.get("KILL_SEED", "0")))
    assert met == kills, "a kill came too late"
    assert whole.outputs() and differences(whole, broken) == []
    assert broken.litter() == whole.litter() == []


def main(arguments: list[str]) -> int:
    kills, seed = (int(a) for a in [*arguments, *("10", "0")[len(arguments) :]])
    with tempfile.TemporaryDirectory() as folder:
        whole, broken, met = break_and_mend(Path(folder), kills, seed, lambda text: print(text, flush=True))
        wrong, litter = differences(whole, broken), broken.litter()
    print(f"{met} of {kills} kills met a running chain; {len(wrong)} files differ, {len(litter)} left over")
    print("\n".join([*wrong, *litter]))
    return 1 if wrong or litter else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
