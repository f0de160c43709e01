"""Why an artefact has to be made, in words: compared with the nearest one of its stage that exists."""

import json
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.config import leaves
from pipeline.plan import Graph, Node


def explain_all(graph: Graph, root: Path) -> None:
    """Writes into each node that has to run why it has to."""
    past = Past(root)
    for node in graph.values():
        if node.state == "run":
            node.why = explain(node, past)


class Alike:
    """Manifests of one slug. Which is nearest is found without comparing all: a grid of settings gives thousands."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.shortest = 0
        self.having: dict[tuple[str, str], list[int]] = {}  # which of them have a setting, or an input

    def add(self, found: dict[str, Any]) -> None:
        says = {*flat(found["sections"]).items(), *input_keys(found).items()}
        for each in says:
            self.having.setdefault(each, []).append(len(self.made))
        self.made.append(found)
        self.sizes.append(len(says))
        self.shortest = min(self.shortest, len(self.made) - 1, key=lambda i: (self.sizes[i], i))

    def nearest(self, mine: set[tuple[str, str]]) -> dict[str, Any]:
        """The one with the fewest other settings and inputs, the first of several. What all of them have, or none,
        tells nothing; who has none of the rest is as near as it is short."""
        telling = (self.having.get(each, ()) for each in mine)
        shared = Counter(chain.from_iterable(at for at in telling if len(at) < len(self.made)))
        return self.made[min({self.shortest, *shared}, key=lambda i: (self.sizes[i] - 2 * shared[i], i))]


class Past:
    """Manifests of the store by stage and slug, read when first asked for."""

    def __init__(self, root: Path):
        self.root = root
        self._stages: dict[str, dict[str, Alike]] = {}
        self._by_key: dict[tuple[str, str | None], dict[str, Any]] = {}
        self.causes: dict[tuple[str, str | None], list[str]] = {}  # a cause is told for everything below it

    def nearest(self, node: Node) -> dict[str, Any] | None:
        """Of the same slug; without one, none: it is simply new."""
        same = self.stage(node.stage.name).get(node.slug)
        mine = {*flat(node.sections).items(), *((name, need.key) for name, need in node.inputs.items())}
        return same.nearest(mine) if same else None

    def made(self, stage: str, key: str | None) -> dict[str, Any] | None:
        """The manifest with this key."""
        self.stage(stage)
        return self._by_key.get((stage, key))

    def stage(self, stage: str) -> dict[str, Alike]:
        if stage not in self._stages:
            by_slug: dict[str, Alike] = {}
            for path in sorted((self.root / stage).glob(f"*/{store.MANIFEST}")):
                found = store.manifest(path.parent)
                if found:
                    by_slug.setdefault(found["slug"], Alike()).add(found)
                    self._by_key[stage, found["key"]] = found
            self._stages[stage] = by_slug
        return self._stages[stage]


def flat(sections: Mapping[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in leaves(sections).items()}


def input_keys(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: entry["key"] for name, entry in found["inputs"].items()}


def explain(node: Node, past: Past) -> list[str]:
    if not node.folder.is_dir():
        return changes(node, past)
    broken = store.manifest(node.folder) or store.read_json(node.folder / store.DAMAGED_MANIFEST)
    if broken and store.RELEASED in broken:
        reasons = ["its weights were released (run.retention), and are needed again"]
    elif broken:
        found = store.missing_file(node.folder, broken["files"])
        reasons = [f"damaged: {found or 'its content had changed'}"]
    else:
        reasons = changes(node, past)
    checkpoint = sorted((node.folder / "checkpoint").glob("step-*"))
    if checkpoint:
        reasons.append(f"will resume at {checkpoint[-1].stem}")
    error = read_error(node.folder)
    if error:
        reasons.append(f"the last attempt failed: {error}")
    return reasons


def changes(node: Node, past: Past) -> list[str]:
    """What differs from the nearest artefact: its own settings first, then inputs with their causes."""
    old = past.nearest(node)
    if old is None:
        return ["never made"]
    reasons = own_changes(node, old)
    by_cause: dict[str, list[str]] = {}
    for name, (child, before) in changed_inputs(node, old).items():
        by_cause.setdefault("; ".join(causes(child, before, past)), []).append(name)
    for cause, names in by_cause.items():
        reasons.append(f"input{'s' * (len(names) > 1)} {', '.join(names)} changed because {cause}")
    return reasons or ["no longer in the store"]


def causes(node: Node, before: str | None, past: Past) -> list[str]:
    """Where the change began: settings and versions of this artefact and all above it, each once. `before`: the key
    of what stood in its place."""
    if (node.key, before) not in past.causes:
        old = past.made(node.stage.name, before) or past.nearest(node)
        found = own_changes(node, old) if old else [f"{node.name} was never made"]
        for child, its_before in changed_inputs(node, old).values() if old else ():
            found += causes(child, its_before, past)
        past.causes[node.key, before] = list(dict.fromkeys(found)) or [f"{node.name} is no longer in the store"]
    return past.causes[node.key, before]


def own_changes(node: Node, old: Mapping[str, Any]) -> list[str]:
    version = node.stage.version
    raised = [f"stage {node.stage.name} version {old['version']} → {version}"] if old["version"] != version else []
    return raised + setting_changes(old["sections"], node.sections)


def changed_inputs(node: Node, old: Mapping[str, Any]) -> dict[str, tuple[Node, str | None]]:
    """{input: (what it is now, the key of what it was)}."""
    keys = input_keys(old)
    return {name: (child, keys.get(name)) for name, child in node.inputs.items() if keys.get(name) != child.key}


def setting_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = leaves(old), leaves(new)
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [f"{k} {before.get(k, '(unset)')} → {after.get(k, '(unset)')}" for k in keys]


def read_error(folder: Path) -> str | None:
    try:
        return json.loads((folder / "log" / "error.json").read_text())["error"]
    except FileNotFoundError:
        return None
