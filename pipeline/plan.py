"""The graph of what is wanted, what of it is there, and why the rest is not. Reads manifests; runs nothing; no torch."""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline import store
from pipeline.config import PROJECT, Experiment, leaves
from pipeline.stage import Stage, find, identity, plain

State = Literal["reuse", "run", "blocked", "idle"]  # idle: below something that is done


@dataclass(eq=False)
class Node:
    """One artefact of the graph."""

    stage: Stage
    key: str
    slug: str
    folder: Path
    sections: dict[str, Any]  # what is hashed
    around: dict[str, Any]  # run and log: go along with the job, never hashed
    inputs: dict[str, "Node"]
    blocked_by: str | None  # what the stage itself says cannot work here
    state: State = "idle"
    why: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.stage.name}/{self.slug}"

    @property
    def lock_seconds(self) -> float:
        return self.around["run"]["lock_seconds"]


Graph = dict[str, Node]  # by key, inputs before their users


class Builder:
    """Turns wanted (stage, experiment) pairs into one graph without duplicates."""

    def __init__(self, stages: Mapping[str, Stage], root: Path):
        self.stages, self.root = stages, root
        self.graph: Graph = {}
        self._seen: dict[tuple[str, int], Node] = {}
        self._plain: dict[int, Any] = {}
        self._alive: list[Experiment] = []  # ids stay unique while their objects live

    def add(self, stage_name: str, x: Experiment) -> Node:
        if (stage_name, id(x)) in self._seen:
            return self._seen[stage_name, id(x)]
        self._alive.append(x)
        stage = find(self.stages, stage_name)
        inputs = {name: self.add(*need) for name, need in stage.needs(x).items()}
        sections = {name: self.plain(getattr(x, name)) for name in stage.reads if getattr(x, name) is not None}
        key = identity(stage, sections, {name: node.key for name, node in inputs.items()})
        if key not in self.graph:
            slug = stage.slug(x)
            folder = self.root / stage.name / f"{slug}-{key}"
            around = {name: self.plain(getattr(x, name)) for name in ("run", "log")}
            self.graph[key] = Node(stage, key, slug, folder, sections, around, inputs, stage.ready(x))
        self._seen[stage_name, id(x)] = self.graph[key]
        return self.graph[key]

    def plain(self, value: Any) -> Any:
        if not hasattr(value, "__dataclass_fields__"):
            return plain(value)
        if id(value) not in self._plain:
            self._plain[id(value)] = plain(value)
        return self._plain[id(value)]


def build(stages: Mapping[str, Stage], root: Path, wanted: Iterable[tuple[str, Experiment]]) -> tuple[Graph, list[Node]]:
    """The graph and the nodes that were asked for."""
    builder = Builder(stages, root)
    targets = list({node.key: node for node in (builder.add(*want) for want in wanted)}.values())
    return builder.graph, targets


def judge(graph: Graph, targets: Sequence[Node], explain: bool = True) -> None:
    """Sets every node's state, and with `explain` the reasons in words."""
    done = {key: node for key, node in graph.items() if is_done(node)}
    wanted: set[str] = set()
    stack = list(targets)
    while stack:
        node = stack.pop()
        if node.key not in wanted:
            wanted.add(node.key)
            if node.key not in done:
                stack.extend(node.inputs.values())
    for key, node in graph.items():  # inputs first
        stuck = [name for name, n in node.inputs.items() if n.state == "blocked"]
        if key not in wanted:
            node.state = "idle"
        elif key in done:
            node.state = "reuse"
        elif node.blocked_by or stuck:
            node.state = "blocked"
            node.why = [node.blocked_by] if node.blocked_by else [f"input {name} is blocked" for name in stuck]
        else:
            node.state = "run"
    if explain:
        explain_all([n for n in graph.values() if n.state == "run"])


def is_done(node: Node) -> bool:
    found = store.manifest(node.folder)
    return found is not None and store.missing_file(node.folder, found["files"]) is None


# --- why ---------------------------------------------------------------------------------------------------------------------


def explain_all(nodes: Sequence[Node]) -> None:
    """Why each has to run: compared with the nearest artefact of its stage that exists."""
    if not nodes:
        return
    past = Past(nodes[0].folder.parent.parent)
    for node in nodes:
        node.why = explain(node, past)


class Past:
    """Manifests of the store by stage and slug, read when first asked for."""

    def __init__(self, root: Path):
        self.root = root
        self._stages: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def nearest(self, stage: str, slug: str, sections: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any] | None:
        """Of the same slug the one with the fewest other settings and inputs; without one, none: it is simply new."""
        same = self.stage(stage).get(slug, [])
        mine = {*flat(sections).items(), *inputs.items()}
        return min(same, key=lambda m: len(mine ^ {*flat(m["sections"]).items(), *input_keys(m).items()}), default=None)

    def stage(self, stage: str) -> dict[str, list[dict[str, Any]]]:
        if stage not in self._stages:
            by_slug: dict[str, list[dict[str, Any]]] = {}
            for path in sorted((self.root / stage).glob(f"*/{store.MANIFEST}")):
                found = store.manifest(path.parent)
                if found:
                    by_slug.setdefault(found["slug"], []).append(found)
            self._stages[stage] = by_slug
        return self._stages[stage]


def flat(sections: Mapping[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in leaves(sections).items()}


def input_keys(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: entry["key"] for name, entry in found["inputs"].items()}


def explain(node: Node, past: Past) -> list[str]:
    broken = store.manifest(node.folder)
    if broken:
        return [f"damaged: {store.missing_file(node.folder, broken['files'])}"]
    if (node.folder / "manifest.damaged.json").exists():
        return ["damaged: its content had changed"]
    reasons = changes(node, past)
    checkpoint = sorted((node.folder / "checkpoint").glob("step-*"))
    if checkpoint:
        reasons.append(f"will resume at {checkpoint[-1].stem}")
    error = read_error(node.folder)
    if error:
        reasons.append(f"the last attempt failed: {error}")
    return reasons


def changes(node: Node, past: Past) -> list[str]:
    """What differs from the nearest artefact: its own settings first, then inputs, each with its own reasons."""
    old = past.nearest(node.stage.name, node.slug, node.sections, {n: i.key for n, i in node.inputs.items()})
    if old is None:
        return ["never made"]
    reasons = []
    if old["version"] != node.stage.version:
        reasons.append(f"stage {node.stage.name} version {old['version']} → {node.stage.version}")
    reasons += setting_changes(old["sections"], node.sections)
    keys = input_keys(old)
    for name, child in node.inputs.items():
        if keys.get(name) != child.key:
            reasons.append(f"input {name} changed because " + "; ".join(changes(child, past)))
    return reasons or ["no longer in the store"]


def setting_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = leaves(old), leaves(new)
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [f"{k} {before.get(k, '(unset)')} → {after.get(k, '(unset)')}" for k in keys]


def read_error(folder: Path) -> str | None:
    try:
        return json.loads((folder / "log" / "error.json").read_text())["error"]
    except FileNotFoundError:
        return None


# --- source code behind an artefact ------------------------------------------------------------------------------------------


PLUMBING = {"config.py", "stage.py", "track.py", "checkpoint.py", "stopping.py", "store.py"}  # carries values and records; computes nothing of a result


def source_of(module: str) -> dict[str, str]:
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
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
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
                now[name] = source_state(PROJECT / name)
            bytes_then, meaning_then = hashes.split(":")
            bytes_now, meaning_now = now[name].split(":")
            if bytes_then != bytes_now:
                meaning_now = meaning_now or meaning(PROJECT / name) if bytes_now else "gone"
                now[name] = f"{bytes_now}:{meaning_now}"
                if meaning_then != meaning_now:
                    count[node.stage.name, name] = count.get((node.stage.name, name), 0) + 1
    return count


def source_state(path: Path) -> str:
    return f"{short(path.read_bytes())}:" if path.is_file() else ":"


# --- upkeep ------------------------------------------------------------------------------------------------------------------


def unreachable(root: Path, graph: Graph) -> list[tuple[Path, int]]:
    """Folders of the store that no wanted artefact needs, with their sizes in bytes."""
    kept = {node.folder for node in graph.values()}
    folders = sorted(p for p in root.glob("*/*") if p.is_dir() and p not in kept)
    return [(p, sum(f.stat().st_size for f in p.rglob("*") if f.is_file())) for p in folders]


def verify(root: Path) -> Iterable[tuple[Path, str | None]]:
    """Re-reads every artefact; yields each with its damage, and takes the damaged ones back."""
    for folder, found in store.scan(root):
        reason = store.damage(folder, found["files"])
        if reason:
            store.retract(folder)
        yield folder, reason

