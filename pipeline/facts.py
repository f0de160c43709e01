"""Facts that must hold at any size, checked on the artefacts of a table: no ranking of losses is among them."""

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import dispatch, job, store
from pipeline.forkserver import Server
from pipeline.plan import Graph, Node

IDENTITY_ERROR = 1e-6  # relative; the loss is fp32


@dataclass(frozen=True)
class Fact:
    holds: bool
    text: str


def check(graph: Graph) -> Iterator[Fact]:
    """Only of what is there and was trained; a table without reward models has nothing to say."""
    models = [n for n in graph.values() if n.stage.name == "rm" and trained(n) and store.manifest(n.folder)]
    if models:
        yield head_gradient(models)
        yield from batch_means(models)
        yield resumed(models[-1])


def trained(node: Node) -> bool:
    """The whole model; the floors are not."""
    return node.sections["rm"]["epochs"] > 0 and node.sections["rm"]["trains"] == "model"


def head_gradient(models: Sequence[Node]) -> Fact:
    worst = max(metric(n, "head_gradient_error") for n in models)
    text = (
        f"the head's gradient is σ(−Δ)(h_l − h_w): largest relative error {worst:.1e} over {len(models)} reward models"
    )
    return Fact(worst <= IDENTITY_ERROR, text)


def batch_means(models: Sequence[Node]) -> Iterator[Fact]:
    """BSR holds the mean reward of a batch near zero; nothing in BT does."""
    means = {
        loss: [metric(n, "batch_mean") for n in models if n.sections["loss"]["name"] == loss] for loss in ("bt", "bsr")
    }
    if all(means.values()):
        bt, bsr = statistics.fmean(means["bt"]), statistics.fmean(means["bsr"])
        yield Fact(bsr < bt, f"BSR holds the batch mean of rewards nearer to zero: {bsr:.2f}, BT {bt:.2f}")


def resumed(node: Node) -> Fact:
    """Makes the artefact once more elsewhere, stopped half-way and resumed, and compares every byte."""
    steps = json.loads((node.folder / "log" / "progress.json").read_text())["total"]
    root = node.folder.parent.parent
    with tempfile.TemporaryDirectory() as temporary:
        for stage in {i.stage.name for i in node.inputs.values()}:
            (Path(temporary) / stage).symlink_to(root / stage)
        folder = Path(temporary) / node.stage.name / node.folder.name
        (folder / "log").mkdir(parents=True)
        spec = json.loads((node.folder / "spec.json").read_text())
        server = Server([node.stage.code])
        codes = [make(server, folder, spec, stop) for stop in (max(1, steps // 2), None)]
        server.close()
        again = store.manifest(folder)
    before = store.manifest(node.folder)
    same = (
        codes == [job.STOPPED, job.DONE]
        and before is not None
        and again is not None
        and again["files"] == before["files"]
    )
    return Fact(
        same, f"stopped after {max(1, steps // 2)} of {steps} steps and resumed, {node.name} has the same bytes"
    )


def make(server: Server, folder: Path, spec: dict[str, Any], stop_after: int | None) -> int:
    spec["around"]["run"] = {**spec["around"]["run"], "stop_after_steps": stop_after}
    store.write_atomically(folder / "spec.json", json.dumps(spec))
    server.start(folder)
    while not (ended := server.ended(dispatch.LOOK_SECONDS)):
        pass
    return ended[0][1]


def metric(node: Node, name: str) -> float:
    found = store.manifest(node.folder)
    assert found is not None, "checked by the caller"
    return found["metrics"][name]
