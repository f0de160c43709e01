"""Missing artefacts as arrays: what fans out over seeds or settings is one array, and each element waits for exactly
what it needs, by SLURM's means: `aftercorr` for the element of the same index, `afterok` for all others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.plan import Node

Place = tuple[str, int]  # array (SLURM's number, or a name of ours until it has one) and index


@dataclass
class Array:
    name: str
    stage: str
    same: frozenset[str]  # arrays of which the element of the same index must have ended well
    others: frozenset[Place]  # elements that all of this array wait for
    nodes: dict[int, Node] = field(default_factory=dict)  # by index

    @property
    def title(self) -> str:
        """For people, in the queue."""
        slugs = [node.slug for node in self.nodes.values()]
        return f"{self.stage}/{slugs[0] if len(slugs) == 1 else stem(slugs[0]) + '*'}"


def lay_out(todo: Sequence[Node], there: Mapping[str, Place], size: int) -> list[Array]:
    """Arrays in an order in which parents come first. `todo`: inputs before their users; `there`: what is queued
    already; `size`: every index is below it."""
    depth: dict[str, int] = {}
    children: Counter[tuple[str, str, str, int]] = Counter()
    missing: dict[str, list[str]] = {}
    keys = {node.key for node in todo}
    for node in todo:
        missing[node.key] = [key for key in needs(node) if key in keys or key in there]
        depth[node.key] = 1 + max((depth.get(key, -1) for key in missing[node.key]), default=-1)
        for key in missing[node.key]:
            children[(key, *kind(node, depth))] += 1
    places = dict(there)
    arrays: list[Array] = []
    alike: dict[object, list[Array]] = {}
    for node in sorted(todo, key=lambda n: depth[n.key]):
        waits = [places[key] for key in missing[node.key]]
        own = [places[key] for key in missing[node.key] if children[(key, *kind(node, depth))] == 1]
        index = most_common([i for _, i in own])
        same = frozenset(array for array, i in own if i == index)
        others = frozenset(place for place in waits if place[0] not in same or place[1] != index)
        group = alike.setdefault((kind(node, depth), same, others), [])
        array, index = fit(node, index, group, size)
        if array is None:
            array = Array(f"new-{len(arrays)}", node.stage.name, same, others)
            arrays.append(array)
            group.append(array)
        array.nodes[index] = node
        places[node.key] = (array.name, index)
    return arrays


def needs(node: Node) -> list[str]:
    return list(dict.fromkeys(need.key for need in node.inputs.values()))


def kind(node: Node, depth: Mapping[str, int]) -> tuple[str, str, int]:
    """Artefacts of one kind can share an array."""
    return node.stage.name, stem(node.slug), depth[node.key]


def stem(slug: str) -> str:
    """Without the seed: `bt-s12` -> `bt-s`."""
    return slug.rstrip("0123456789")


def most_common(indices: Sequence[int]) -> int | None:
    """The lowest of those that occur most often."""
    counts = Counter(indices)
    return min(counts, key=lambda i: (-counts[i], i)) if counts else None


def fit(node: Node, index: int | None, group: Sequence[Array], size: int) -> tuple[Array | None, int]:
    """An array of the group with room for the node, and the index there. Free to choose, the seed if it can be."""
    for array in group:
        if index is not None and index not in array.nodes:
            return array, index
        if index is None and len(array.nodes) < size:
            seed = seed_of(node, size)
            return array, seed if seed not in array.nodes else next(i for i in range(size) if i not in array.nodes)
    return None, seed_of(node, size) if index is None else index


def seed_of(node: Node, size: int) -> int:
    digits = node.slug[len(stem(node.slug)) :]
    return int(digits) if digits and int(digits) < size else 0
