"""Graphs, artefacts and the store as text for people."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline import live, lock, source, store
from pipeline.errors import ConfigError
from pipeline.plan import Graph, Node
from pipeline.why import flat, read_error


def plan_lines(graph: Graph) -> Iterator[str]:
    """What would happen to each artefact, and why."""
    shown = [n for n in graph.values() if n.state != "idle"]
    for node in shown:
        yield f"{node.state:8}{node.name:32}{node.key}  {'; '.join(node.why)}".rstrip()
    counts = Counter(n.state for n in shown)
    yield f"{counts['run']} to run, {counts['reuse']} to reuse, {counts['blocked']} blocked"
    for (stage, name), artefacts in source.drifted(graph).items():
        yield (
            f"warning: {name} has changed since {artefacts} artefact(s) of stage {stage} were made, and the stage's"
            f" version has not; if it now computes something else, raise it in pipeline/stages/__init__.py"
        )


def status_lines(graph: Graph, of: Callable[[Node], tuple[str, str]] | None = None) -> Iterator[str]:
    """Where each artefact stands at this moment. `of`: who says it where more than the store is known."""
    counts: Counter[str] = Counter()
    failed: dict[str, Node | None] = {}
    for node in graph.values():
        if node.state != "idle":
            state, text = of(node) if of else standing(node, failed)
            counts[state] += 1
            yield f"{state:9}{node.name:32}{node.key}  {text}".rstrip()
    yield ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))


def standing(node: Node, known: dict[str, Node | None] | None = None) -> tuple[str, str]:
    """`known`: what `first_failed` has found so far."""
    if node.state == "reuse":
        return "done", ""
    begun = node.folder.is_dir()
    owner = lock.holder(node.folder, node.lock_seconds) if begun else None
    if owner:
        return "running", f"{live.doing(node).removeprefix(node.name).strip()} ({owner})"
    if node.state == "blocked":
        return "blocked", "; ".join(node.why)
    error = read_error(node.folder) if begun else None
    if error:
        return "failed", error
    if begun and any((node.folder / "checkpoint").glob("step-*")):
        return "stopped", "will resume from its checkpoint"
    failed = first_failed(node, {} if known is None else known)
    return "missing", f"{failed.name} failed" if failed else "; ".join(node.why)


def first_failed(node: Node, known: dict[str, Node | None]) -> Node | None:
    """The artefact above this one whose failure keeps it from being made. `known`, by key, is filled: many paths lead
    to the same artefact."""
    if node.key not in known:
        known[node.key] = None
        for need in node.inputs.values():
            if need.state == "run" and known[node.key] is None:
                known[node.key] = first_failed(need, known) or (need if read_error(need.folder) else None)
    return known[node.key]


def explain_lines(root: Path, graph: Graph, key: str) -> Iterator[str]:
    """Everything about one artefact; the key may be shortened."""
    planned = [n for k, n in graph.items() if k.startswith(key)]
    folders = [f for f in root.glob(f"*/*-{key}*") if f.is_dir() and f.name.rpartition("-")[2].startswith(key)]
    if len({n.folder for n in planned} | set(folders)) > 1:
        raise ConfigError("key", key, "fits several artefacts; give more of it")
    if not planned and not folders:
        raise ConfigError("key", key, "no such artefact in this table's plan or in the store; keys are in the plan")
    folder = planned[0].folder if planned else folders[0]
    yield f"{folder.parent.name}/{folder.name}"
    if planned:
        state, text = standing(planned[0])
        yield f"  state     {state} {text}".rstrip()
        for reason in planned[0].why:
            yield f"  why       {reason}"
        for name, value in flat(planned[0].sections).items():
            yield f"  setting   {name} = {value}"
        for name, node in planned[0].inputs.items():
            yield f"  input     {name}: {node.name} {node.key}"
    found = store.manifest(folder)
    if found:
        yield from manifest_lines(found, settings=not planned)


def manifest_lines(found: dict, settings: bool) -> Iterator[str]:
    if settings:
        for name, value in flat(found["sections"]).items():
            yield f"  setting   {name} = {value}"
        for name, entry in found["inputs"].items():
            yield f"  input     {name}: {entry['folder']}"
    changes = f" + changes {found['dirty']}" if found["dirty"] else ""
    yield f"  made      commit {found['commit']}{changes} on {found['host']}"
    yield f"  cost      {found['cpu_seconds']:.1f} CPU s, {found['peak_memory_bytes'] / 2**20:.0f} MiB"
    for name, value in found["metrics"].items():
        yield f"  metric    {name} = {json.dumps(value)}"
    for name, entry in found["files"].items():
        yield f"  file      out/{name} {entry['size']} bytes {entry['sha256'][:12]}"


def gc_lines(folders: Iterable[tuple[Path, int]], deleted: bool) -> Iterator[str]:
    """A line for each as it comes."""
    n = total = 0
    for folder, size in folders:
        yield f"{size / 2**20:8.1f} MiB  {folder.parent.name}/{folder.name}"
        n, total = n + 1, total + size
    text = f"{n} folder(s), {total / 2**20:.1f} MiB"
    if deleted:
        yield f"deleted {text}"
    else:
        yield f"{text}, are reached by no table" + ("; yes=true deletes them" if n else "")


def released_lines(folders: Iterable[tuple[Path, int]], deleted: bool) -> Iterator[str]:
    """The same of weights alone."""
    n = total = 0
    for folder, size in folders:
        yield f"{size / 2**20:8.1f} MiB  {folder.parent.name}/{folder.name}: weights"
        n, total = n + 1, total + size
    text = f"weights of {n} artefact(s), {total / 2**20:.1f} MiB"
    if deleted:
        yield f"deleted {text}; they are made again if they are needed again"
    else:
        yield f"{text}, are needed no more (run.retention)" + ("; yes=true deletes them" if n else "")
