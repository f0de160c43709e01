"""The graph of what is wanted, what of it is there, and why the rest is not. Reads manifests; runs nothing; no
torch."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline import store
from pipeline.config import Experiment
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
    def read_whole(self) -> list["Node"]:
        """Inputs whose weights it reads, if they have any."""
        return [need for name, need in self.inputs.items() if name not in self.stage.weightless]

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
        self._keys: dict[tuple[Any, ...], str] = {}  # by objects that make up an identity
        self._alive: list[Experiment] = []  # ids stay unique while their objects live

    def add(self, stage_name: str, x: Experiment) -> Node:
        if (stage_name, id(x)) in self._seen:
            return self._seen[stage_name, id(x)]
        self._alive.append(x)
        stage = find(self.stages, stage_name)
        inputs = {name: self.add(*need) for name, need in stage.needs(x).items()}
        sections = {name: self.plain(getattr(x, name)) for name in stage.reads if getattr(x, name) is not None}
        keys = {name: node.key for name, node in inputs.items()}
        same = (stage_name, *(id(getattr(x, name)) for name in stage.reads), *keys.items())
        key = self._keys[same] = self._keys.get(same) or identity(stage, sections, keys)
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


def build(
    stages: Mapping[str, Stage], root: Path, wanted: Iterable[tuple[str, Experiment]]
) -> tuple[Graph, list[Node]]:
    """The graph and the nodes that were asked for."""
    builder = Builder(stages, root)
    targets = list({node.key: node for node in (builder.add(*want) for want in wanted)}.values())
    return builder.graph, targets


def was_made(node: Node) -> bool:
    """What was made and is damaged is made again, even if nothing missing needs it; what was collected is not."""
    return any((node.folder / name).exists() for name in (store.MANIFEST, store.DAMAGED_MANIFEST))


def judge(graph: Graph, targets: Sequence[Node]) -> None:
    """Sets every node's state. Why the missing ones are missing is told by why.explain_all."""
    found = {key: entry for key, node in graph.items() if (entry := store.done(node.folder)) is not None}
    done, released = set(found), {key for key, entry in found.items() if store.RELEASED in entry}
    del found  # much, with ten thousand artefacts
    wanted: set[str] = set()
    stack = [*targets, *(node for key, node in graph.items() if key not in done and was_made(node))]
    while stack:
        node = stack.pop()
        if node.key not in wanted:
            wanted.add(node.key)
            if node.key not in done:
                again = {need.key for need in node.read_whole} & released & done
                done -= again
                wanted -= again
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


def places(graph: Graph) -> set[str]:
    """What the graph's folders are called in the store."""
    return {f"{node.stage.name}/{node.folder.name}" for node in graph.values()}


def unreachable(root: Path, kept: Collection[str]) -> Iterator[tuple[Path, int]]:
    """Folders of the store that are not among these places, with their sizes in bytes, one after the other."""
    for stage in sorted(p for p in root.glob("*") if p.is_dir()):
        for folder in sorted(p for p in stage.iterdir() if p.is_dir()):
            if f"{stage.name}/{folder.name}" not in kept:
                yield folder, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def spent(graph: Graph, stages: Collection[str]) -> Iterator[tuple[Path, int]]:
    """Of a judged graph what is done of these stages and has weights that nothing still to be made reads, with their
    sizes in bytes."""
    needed = {need.key for node in graph.values() if node.state in ("run", "blocked") for need in node.read_whole}
    for node in graph.values():
        if node.stage.name in stages and node.key not in needed and store.is_whole(node.folder):
            size = store.weights(node.folder)
            if size:
                yield node.folder, size


def verify(root: Path) -> Iterable[tuple[Path, str | None]]:
    """Re-reads every artefact; yields each with its damage, and takes the damaged ones back."""
    for folder, found in store.scan(root):
        reason = store.damage(folder, found["files"])
        if reason:
            store.retract(folder)
        yield folder, reason
