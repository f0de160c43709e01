"""Which of our files an artefact was computed by, and whether they mean the same today."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from pipeline import store
from pipeline.config import PROJECT
from pipeline.plan import Graph

PLUMBING = {
    "config.py",
    "experiment.py",
    "errors.py",
    "stage.py",
    "track.py",
    "checkpoint.py",
    "stopping.py",
    "store.py",
}  # carries values and records; computes nothing of a result


def of(module: str) -> dict[str, str]:
    """{file: "bytes:meaning"} of a stage's module and every module of ours that it reaches.

    The second hash ignores comments, docstrings and layout: only its change is worth a warning."""
    files = {}
    for path in sorted(p for p in reached(module) if p.name not in PLUMBING):
        text = path.read_bytes()
        files[path.relative_to(PROJECT).as_posix()] = f"{short(text)}:{meaning(path)}"
    return files


@cache
def reached(module: str) -> frozenset[Path]:
    """Files of our own modules that importing `module` runs, by reading import statements."""
    found: set[Path] = set()
    stack = [module]
    while stack:
        path = file_of(stack.pop())
        if path is None or path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline"):
                stack += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                stack += [alias.name for alias in node.names if alias.name.startswith("pipeline")]
    return frozenset(found)


def file_of(module: str) -> Path | None:
    base = PROJECT.joinpath(*module.split("."))
    options = (base.with_suffix(".py"), base / "__init__.py")
    return next((p for p in options if p.is_file()), None)


def short(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]


def meaning(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return short(ast.dump(tree).encode())


def drifted(graph: Graph) -> dict[tuple[str, str], int]:
    """{(stage, file): artefacts to be reused that were made by other code of the same stage version}."""
    now: dict[str, str] = {}
    count: dict[tuple[str, str], int] = {}
    for node in graph.values():
        if node.state != "reuse":
            continue
        found = store.manifest(node.folder)
        assert found is not None
        for name, hashes in found["source"].items():
            if name not in now:
                now[name] = bytes_of(PROJECT / name)
            bytes_then, meaning_then = hashes.split(":")
            bytes_now, meaning_now = now[name].split(":")
            if bytes_then != bytes_now:
                meaning_now = meaning_now or meaning(PROJECT / name) if bytes_now else "gone"
                now[name] = f"{bytes_now}:{meaning_now}"
                if meaning_then != meaning_now:
                    count[node.stage.name, name] = count.get((node.stage.name, name), 0) + 1
    return count


def bytes_of(path: Path) -> str:
    return f"{short(path.read_bytes())}:" if path.is_file() else ":"
