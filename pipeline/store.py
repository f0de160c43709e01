"""The store: one folder per artefact, and the only meaning of "done".

    <root>/<stage>/<slug>-<key>/
        out/            what was computed: deterministic, hashed, read downstream
        log/            what happened: times, rates, console, error; never hashed, never read downstream
        checkpoint/     while unfinished
        manifest.json   written last, by rename, after everything else is on disk

Each attempt writes into a folder of its own, so that a second writer can waste time but never mix files. A lock with owner and
heartbeat makes even that rare.
"""

import hashlib
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class Damaged(RuntimeError):
    """An artefact's files are not what its manifest says."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(f"{folder.parent.name}/{folder.name}: {reason}")
        self.folder = folder


# --- manifests ---------------------------------------------------------------------------------------------------------------


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None: not done."""
    try:
        return json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None


def scan(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every finished artefact of the store, by stage and name."""
    for path in sorted(root.glob(f"*/*/{MANIFEST}")):
        found = manifest(path.parent)
        if found is not None:
            yield path.parent, found


def missing_file(folder: Path, files: Mapping[str, Any]) -> str | None:
    """The first file that is not there or has another size: cheap enough for every plan."""
    for name, entry in files.items():
        try:
            size = os.stat(folder / "out" / name).st_size
        except FileNotFoundError:
            return f"out/{name} is missing"
        if size != entry["size"]:
            return f"out/{name} has {size} bytes instead of {entry['size']}"
    return None


def damage(folder: Path, files: Mapping[str, Any]) -> str | None:
    """The first file whose content is not what was written, by hash."""
    reason = missing_file(folder, files)
    if reason:
        return reason
    for name, entry in files.items():
        if sha256(folder / "out" / name) != entry["sha256"]:
            return f"out/{name} has another content than when it was made"
    return None


def open_intact(folder: Path) -> dict[str, Any]:
    """The manifest of an input whose every byte was checked; a damaged artefact is no longer done, and says so."""
    found = manifest(folder)
    if found is None:
        raise Damaged(folder, "is not there")
    reason = damage(folder, found["files"])
    if reason:
        retract(folder)
        raise Damaged(folder, reason)
    return found


def retract(folder: Path) -> None:
    """The artefact is no longer done. Its manifest stays, under another name, for whoever asks why."""
    (folder / MANIFEST).rename(folder / "manifest.damaged.json")


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def publish(folder: Path, attempt: Path, entry: Mapping[str, Any]) -> None:
    """Makes an attempt the artefact: files, hashes, folder, manifest, in this order, each on disk before the next."""
    files = {}
    for path in sorted(p for p in attempt.rglob("*") if p.is_file()):
        files[path.relative_to(attempt).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
        sync(path)
    for path in (*(p for p in attempt.rglob("*") if p.is_dir()), attempt):
        sync(path)
    out = folder / "out"
    if out.exists():  # of a damaged artefact, or of a crash between the two renames
        shutil.rmtree(out)
    attempt.rename(out)
    write_atomically(folder / MANIFEST, json.dumps({**entry, "files": files}, indent=1, sort_keys=True))


def write_atomically(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    staged.write_text(text)
    sync(staged)
    staged.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- locks -------------------------------------------------------------------------------------------------------------------


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
    """Removes a dead owner's lock; if somebody else's came in between, that one is put back."""
    aside = path.with_name(f".lock.dead.{secrets.token_hex(4)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    taken = read_owner(aside)
    if taken is not None and taken.token != dead.token:
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # a third took it meanwhile; the second's attempt folder is its own, so nothing mixes
    aside.unlink()


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
