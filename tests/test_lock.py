"""One artefact, one maker: a living owner keeps the lock, a dead one's is taken over, and only by one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import lock
from pipeline.lock import Lock, Owner

LONG = 3600.0  # no heartbeat is missed within a test

HOLD = """
import sys
from pathlib import Path
from pipeline import lock
held = lock.acquire(Path(sys.argv[1]), 3600)
print(type(held).__name__, flush=True)
sys.stdin.read()
"""

# Each waits for the lock, and writes down when it has it and when it lets go.
RACE = """
import os, sys
from pathlib import Path
from pipeline import lock
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
for _ in range(3):
    while isinstance(held := lock.acquire(folder, 3600), lock.Owner):
        pass
    diary = os.open(folder / "diary", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(diary, f"{os.getpid()} in\\n".encode())
    os.sched_yield()
    os.write(diary, f"{os.getpid()} out {held.mine()}\\n".encode())
    held.release()
"""

Child = Callable[[str, Path], subprocess.Popen[str]]


@pytest.fixture
def child() -> Iterator[Child]:
    """Starts processes; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, folder: Path) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, "-c", code, str(folder)], text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        with process:  # closes its pipes and waits
            pass


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def elsewhere(folder: Path, beat: float) -> Owner:
    """A lock of another host whose last heartbeat was so many seconds ago."""
    owner = Owner("another-host", 1, "1", "token")
    path = folder / "lock"
    path.write_text(json.dumps(owner.__dict__))
    os.utime(path, (time.time() - beat, time.time() - beat))
    return owner


def test_a_free_lock_is_taken_and_given_back(tmp_path: Path):
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock) and held.mine()
    assert lock.holder(tmp_path, LONG) == held.owner
    held.release()
    assert lock.holder(tmp_path, LONG) is None
    assert list(tmp_path.iterdir()) == []


def test_nobody_gets_it_twice(tmp_path: Path):
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock)
    assert lock.acquire(tmp_path, LONG) == held.owner
    held.release()


def test_an_owner_is_named_for_people():
    assert str(Owner("node7", 123, "9", "t")) == "process 123 on node7"


def test_a_living_process_keeps_its_lock_without_a_heartbeat(tmp_path: Path, child: Child):
    """On the same host the process is asked, not the clock: a laptop may sleep."""
    process = child(HOLD, tmp_path)
    assert said(process) == "Lock"
    os.utime(tmp_path / "lock", (0, 0))
    owner = lock.acquire(tmp_path, 0.001)
    assert isinstance(owner, Owner) and owner.pid == process.pid


def test_a_dead_owners_lock_is_taken_over(tmp_path: Path, child: Child):
    process = child(HOLD, tmp_path)
    assert said(process) == "Lock"
    process.kill()
    process.wait()
    assert lock.holder(tmp_path, LONG) is None
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock) and held.mine()
    held.release()


def test_a_zombies_lock_is_taken_over(tmp_path: Path, child: Child):
    """Killed, but its parent has not looked yet: that is dead enough."""
    process = child(HOLD, tmp_path)
    assert said(process) == "Lock"
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock)
    held.release()


def test_a_stopped_process_still_lives(tmp_path: Path, child: Child):
    process = child(HOLD, tmp_path)
    assert said(process) == "Lock"
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert isinstance(lock.acquire(tmp_path, LONG), Owner)


def test_a_reused_process_number_is_another_process(tmp_path: Path):
    me = Owner(socket.gethostname(), os.getpid(), "0", "token")  # this number, but started at another time
    (tmp_path / "lock").write_text(json.dumps(me.__dict__))
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock)
    held.release()


def test_another_hosts_fresh_lock_is_respected(tmp_path: Path):
    owner = elsewhere(tmp_path, beat=5)
    assert lock.acquire(tmp_path, 60) == owner == lock.holder(tmp_path, 60)


def test_another_hosts_stale_lock_is_taken_over(tmp_path: Path):
    elsewhere(tmp_path, beat=65)
    assert lock.holder(tmp_path, 60) is None
    held = lock.acquire(tmp_path, 60)
    assert isinstance(held, Lock)
    held.release()


def test_the_heartbeat_keeps_a_lock_fresh(tmp_path: Path):
    """Six beats in the time after which others would think it dead."""
    held = lock.acquire(tmp_path, 0.12)
    assert isinstance(held, Lock)
    os.utime(tmp_path / "lock", (0, 0))
    deadline = time.monotonic() + 5
    while (tmp_path / "lock").stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert time.time() - (tmp_path / "lock").stat().st_mtime < 5
    held.release()


def test_a_lock_that_was_lost_is_neither_warmed_nor_removed(tmp_path: Path):
    held = lock.acquire(tmp_path, 0.06)
    assert isinstance(held, Lock)
    thief = elsewhere(tmp_path, beat=0)
    assert not held.mine()
    os.utime(tmp_path / "lock", (1, 1))
    time.sleep(0.03)  # three beats
    held.release()
    assert lock.read_owner(tmp_path / "lock") == thief and (tmp_path / "lock").stat().st_mtime == 1


def test_releasing_ends_the_heartbeat(tmp_path: Path):
    before = threading.active_count()
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock) and threading.active_count() == before + 1
    held.release()
    assert threading.active_count() == before


def dead(folder: Path) -> Owner:
    owner = Owner(socket.gethostname(), os.getpid(), "0", "dead")
    (folder / "lock").write_text(json.dumps(owner.__dict__))
    return owner


@pytest.mark.parametrize("text", ["", "{"])
def test_an_unreadable_lock_is_a_dead_owners(tmp_path: Path, text: str):
    """A machine that stopped can leave a file without its content."""
    (tmp_path / "lock").write_text(text)
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock)
    held.release()


def test_who_comes_late_to_a_dead_owners_lock_does_not_disturb_the_new_owner(tmp_path: Path):
    old = dead(tmp_path)
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock)
    lock.take_away(tmp_path / "lock", old)  # of a process that looked before
    assert held.mine()
    held.release()


def test_who_comes_late_leaves_no_moment_without_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Were the new owner's lock away for a moment, a third could take it, and two would make the same artefact."""
    old = dead(tmp_path)
    held = lock.acquire(tmp_path, LONG)
    assert isinstance(held, Lock)
    thirds: list[Lock | Owner] = []
    for name in ("rename", "unlink"):
        real = getattr(Path, name)

        def then_a_third_comes(path: Path, *args: Path, real: Callable[..., None] = real) -> None:
            real(path, *args)
            if path.name == "lock":
                monkeypatch.undo()
                thirds.append(lock.acquire(tmp_path, LONG))

        monkeypatch.setattr(Path, name, then_a_third_comes)
    lock.take_away(tmp_path / "lock", old)
    monkeypatch.undo()
    owners = [held, *(third for third in thirds if isinstance(third, Lock))]
    for owner in owners:
        owner.release()
    assert len(owners) == 1


def test_eight_that_race_for_a_dead_owners_lock_have_it_one_after_the_other(tmp_path: Path, child: Child):
    dead(tmp_path)
    racers = [child(RACE, tmp_path) for _ in range(8)]
    assert [said(racer) for racer in racers] == ["ready"] * 8
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    assert [racer.wait(timeout=60) for racer in racers] == [0] * 8
    lines = (tmp_path / "diary").read_text().splitlines()
    assert len(lines) == 8 * 3 * 2
    for came, left in zip(lines[::2], lines[1::2], strict=True):
        assert left == f"{came.split()[0]} out True"
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["diary"]
