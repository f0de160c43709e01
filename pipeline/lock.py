"""A lock for each artefact in the making: it names its owner, who keeps it warm. A dead owner's lock is taken over."""

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    host: str
    pid: int
    started: str  # by the kernel's clock, so that a reused pid is told apart
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """Held while one process makes one artefact."""

    def __init__(self, path: Path, owner: Owner, seconds: float):
        self.path, self.owner = path, owner
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(seconds / 6,), daemon=True)
        self._thread.start()

    def _beat(self, every: float) -> None:
        while not self._stop.wait(every):
            if self.mine():
                os.utime(self.path)

    def mine(self) -> bool:
        owner = read_owner(self.path)
        return owner is not None and owner.token == self.owner.token

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.mine():
            self.path.unlink()


def acquire(folder: Path, seconds: float) -> Lock | Owner:
    """The lock of an artefact, or the living owner who has it. A dead owner's lock is taken over.

    Dead: its process is gone (same host), or no heartbeat for `seconds` (another host)."""
    path = folder / "lock"
    me = Owner(socket.gethostname(), os.getpid(), process_start(os.getpid()) or "", secrets.token_hex(8))
    mine = folder / f".lock.{me.token}"
    mine.write_text(json.dumps(asdict(me)))
    try:
        while True:
            try:
                os.link(mine, path)
                return Lock(path, me, seconds)
            except FileExistsError:
                owner = read_owner(path)
                if owner is None:
                    continue  # released in between
                if alive(owner, path, mine, seconds):
                    return owner
                take_away(path, owner)
    finally:
        mine.unlink()


def take_away(path: Path, dead: Owner) -> None:
    """Removes a dead owner's lock, unless it is somebody else's by now: one at a time looks and removes."""
    with path.with_name(".lock.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if read_owner(path) == dead:
            path.unlink()


def holder(folder: Path, seconds: float) -> Owner | None:
    """The living owner of an artefact's lock, if any."""
    path = folder / "lock"
    owner = read_owner(path)
    return owner if owner and alive(owner, path, None, seconds) else None


def read_owner(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError):  # the machine stopped while it was written
        return Owner(socket.gethostname(), 0, "", "")


def alive(owner: Owner, path: Path, touched: Path | None, seconds: float) -> bool:
    if owner.host == socket.gethostname():
        return process_start(owner.pid) == owner.started
    try:
        now = touched.stat().st_mtime if touched else time.time()  # the file system's own clock, where we can have it
        return now - path.stat().st_mtime < seconds
    except FileNotFoundError:
        return False


def process_start(pid: int) -> str | None:
    """When a process of this host started; None if there is none, or it is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else after_name[19]
