"""The store: one folder per artefact, and the only meaning of "done".

    <root>/<stage>/<slug>-<key>/
        out/            what was computed: deterministic, hashed, read downstream
        log/            what happened: times, rates, console, error; never hashed, never read downstream
        checkpoint/     while unfinished
        manifest.json   written last, by rename, after everything else is on disk

Weights that nobody needs any more may be released: the artefact stays done for whoever reads its numbers, and is made
again once somebody reads its weights.

Each attempt writes into a folder of its own, so that a second writer can waste time but never mix files. A lock
with owner and heartbeat makes even that rare.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
DAMAGED_MANIFEST = "manifest.damaged.json"
RELEASED = "released"  # in a manifest: files that were there
WEIGHTS = "*.safetensors"


class Damaged(RuntimeError):
    """An artefact's files are not what its manifest says."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(f"{folder.parent.name}/{folder.name}: {reason}")
        self.folder = folder


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None: not done."""
    return read_json(folder / MANIFEST)


def read_json(path: Path) -> dict[str, Any] | None:
    """None if there is none, or the machine stopped while it was written."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
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


def done(folder: Path) -> dict[str, Any] | None:
    """The manifest of what is done as far as sizes tell; content is checked by whoever opens the artefact, and by
    verify."""
    found = manifest(folder)
    return found if found is not None and missing_file(folder, found["files"]) is None else None


def is_done(folder: Path) -> bool:
    return done(folder) is not None


def is_whole(folder: Path) -> bool:
    """Done, with its weights."""
    found = done(folder)
    return found is not None and RELEASED not in found


def weights(folder: Path) -> int:
    """Bytes of weights that are there."""
    return sum(path.stat().st_size for path in (folder / "out").rglob(WEIGHTS))


def release(folder: Path) -> None:
    """Deletes the weights of a finished artefact; its manifest says so first."""
    found = manifest(folder)
    assert found is not None, "only what is done can be released"
    gone = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob(WEIGHTS)}
    released = {name: entry for name, entry in found["files"].items() if name in gone}
    files = {name: entry for name, entry in found["files"].items() if name not in gone}
    write_atomically(folder / MANIFEST, manifest_text({**found, "files": files, RELEASED: released}))
    for name in gone:
        (folder / "out" / name).unlink()


def damage(folder: Path, files: Mapping[str, Any]) -> str | None:
    """The first file whose content is not what was written, by hash."""
    reason = missing_file(folder, files)
    if reason:
        return reason
    for name, entry in files.items():
        if sha256(folder / "out" / name) != entry["sha256"]:
            return f"out/{name} has another content than when it was made"
    return None


def open_intact(folder: Path, weightless: bool = False) -> dict[str, Any]:
    """The manifest of an input whose every byte was checked; a damaged artefact is no longer done, and says so.
    `weightless`: released weights are not missed."""
    found = manifest(folder)
    if found is None:
        raise Damaged(folder, "is not there")
    missed = RELEASED in found and not weightless
    reason = "its weights were released" if missed else damage(folder, found["files"])
    if reason:
        retract(folder)
        raise Damaged(folder, reason)
    return found


def retract(folder: Path) -> None:
    """The artefact is no longer done. Its manifest stays, under another name, for whoever asks why."""
    with suppress(FileNotFoundError):  # somebody else has found it too
        (folder / MANIFEST).rename(folder / DAMAGED_MANIFEST)


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
    write_atomically(folder / MANIFEST, manifest_text({**entry, "files": files}))


def manifest_text(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, indent=1, sort_keys=True)


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
