"""The code that jobs run: a copy taken when they are submitted, so that what is edited meanwhile does not reach them.
Named by its content; staged, then renamed."""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from pipeline import source
from pipeline.config import PROJECT
from pipeline.errors import check

PARTS = ("pipeline", "conf", "scripts")


@dataclass(frozen=True)
class Snapshot:
    folder: Path
    commit: str | None
    dirty: str | None  # hash of what differs from the commit; code.diff in the folder says what


def take(home: Path, dirty: bool, project: Path = PROJECT) -> Snapshot:
    """Refuses code that is not committed, unless told that this is meant."""
    commit = git(project, "rev-parse", "HEAD").strip() or None if (project / ".git").exists() else None
    changed = git(project, "status", "--porcelain", "--", *PARTS).splitlines() if commit else []
    names = ", ".join(line[3:] for line in changed[:3]) + (", ..." if changed[3:] else "")
    check(not changed or dirty, "cluster.dirty", dirty, f"not committed: {names}; commit, or say cluster.dirty=true")
    diff = git(project, "diff", "HEAD", "--binary", "--", *PARTS) if changed else ""
    files = tracked(project) if commit else walked(project)
    texts = {path: (project / path).read_bytes() for path in files}
    hashes = [(path, hashlib.sha256(text).hexdigest()) for path, text in texts.items()]
    digest = source.short(json.dumps(hashes).encode())
    folder = home / "code" / f"{(commit or 'no-commit')[:9]}-{digest}"
    if not folder.exists():
        write(folder, texts, {"commit": commit, "not committed": changed}, diff)
    return Snapshot(folder, commit, source.short((diff + "\n".join(changed)).encode()) if changed else None)


def write(folder: Path, texts: dict[str, bytes], about: dict, diff: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder.parent))
    for path, text in texts.items():
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        (staged / path).write_bytes(text)
    (staged / "about.json").write_text(json.dumps(about, indent=1))
    (staged / "code.diff").write_text(diff)
    try:
        staged.rename(folder)
    except OSError:  # another submitter's is there
        shutil.rmtree(staged)


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", project, *words], capture_output=True, text=True, check=True).stdout


def tracked(project: Path) -> list[str]:
    """With what is new and not ignored: a change that is submitted is submitted whole."""
    listed = git(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS).split("\0")
    return sorted(path for path in listed if path and (project / path).is_file())


def walked(project: Path) -> list[str]:
    files = (path for part in PARTS for path in (project / part).rglob("*") if path.is_file())
    return sorted(str(path.relative_to(project)) for path in files if "__pycache__" not in path.parts)


def forget(home: Path, used: Container[str]) -> None:
    """Deletes snapshots that no job needs any more."""
    for folder in (home / "code").glob("[!.]*"):
        if str(folder) not in used:
            shutil.rmtree(folder)
