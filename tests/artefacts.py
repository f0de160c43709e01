"""Artefacts without the work: what a job would leave behind, written by the job's own functions. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import dispatch, job, plan, source, store, why
from pipeline.config import experiment
from pipeline.plan import Node
from pipeline.stage import Stage

NO_CODE = "nothing"  # a module that is not there: nothing to hash


def finish(
    node: Node,
    metrics: Mapping[str, float] | None = None,
    files: Mapping[str, str] | None = None,
    code: str = NO_CODE,
) -> None:
    """Publishes the node as if its job had run; `code` is the module whose sources the manifest records."""
    spec = prepared(node)
    folders = {name: f"{need.stage.name}/{need.folder.name}" for name, need in node.inputs.items()}
    inputs = {
        name: {"stage": need.stage.name, "key": need.key, "folder": folders[name]} for name, need in node.inputs.items()
    }
    attempt = node.folder / "attempt-by-hand"
    attempt.mkdir()
    for name, text in (files or {"rows.txt": f"rows of {node.name}\n"}).items():
        (attempt / name).write_text(text)
    store.publish(
        node.folder, attempt, job.entry({**spec, "source": source.of(code)}, inputs, metrics or {}, began=0.0)
    )


def prepared(node: Node) -> dict[str, Any]:
    """The spec that the node's job finds in its folder."""
    dispatch.prepare(node, {"commit": None, "dirty": None, "source": {}})
    return json.loads((node.folder / "spec.json").read_text())


def fail(node: Node, error: str, log: str = "") -> None:
    """Leaves the node as a failed attempt would."""
    prepared(node)
    store.write_atomically(node.folder / "log" / "error.json", json.dumps({"error": error, "trace": error}))
    (node.folder / "log" / "console.log").write_text(log)


def damage(folder: Path, name: str = "rows.txt") -> None:
    """Changes a file's content, not its size: only its hash can tell."""
    path = folder / "out" / name
    text = path.read_bytes()
    path.write_bytes(bytes([text[0] ^ 1]) + text[1:])


# --- a graph of three: alpha feeds beta, both feed gamma ---


class Toy(Stage):
    """A stage whose code is tests/toy_stage.py."""

    @property
    def code(self) -> str:
        return "toy_stage"


def toy(name: str, reads: tuple[str, ...], needs: tuple[str, ...] = (), **more: Any) -> Stage:
    values = {"version": 1, "slug": lambda x: name[0], **more}
    return Toy(name, reads=reads, needs=lambda x: {need: (need, x) for need in needs}, **values)


def toys(**changed: Mapping[str, Any]) -> dict[str, Stage]:
    """Toy stages by name; `beta={"version": 2}` changes one."""
    made = (
        toy("alpha", ("seed",), **changed.get("alpha", {})),
        toy("beta", ("loss",), ("alpha",), **changed.get("beta", {})),
        toy("gamma", ("judge",), ("alpha", "beta"), **changed.get("gamma", {})),
    )
    return {stage.name: stage for stage in made}


def planned(
    root: Path,
    settings: Mapping[str, Any] | None = None,
    stages: Mapping[str, Stage] | None = None,
    targets: tuple[str, ...] = ("gamma",),
) -> dict[str, Node]:
    """{stage: its judged node}, with reasons, for one experiment."""
    x = experiment((), {"loss": "bsr", **(settings or {})})
    graph, wanted = plan.build(stages or toys(), root, [(name, x) for name in targets])
    plan.judge(graph, wanted)
    why.explain_all(graph, root)
    return {node.stage.name: node for node in graph.values()}


def states(nodes: Mapping[str, Node]) -> dict[str, str]:
    return {name: node.state for name, node in nodes.items()}
