"""Graphs of toys, and what the tests do with them and with SLURM."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import dispatch, plan, store
from pipeline.config import experiment
from pipeline.experiment import Cluster, Resources
from pipeline.plan import Graph, Node
from pipeline.slurm import client, submit, watch
from pipeline.stage import Stage

SMALL = Resources(minutes=2, cpus=1, memory_gb=0.25, nodes=1, gpus=0)
CLUSTER = Cluster("slurm", default=SMALL, dirty=True, signal_seconds=30, poll_seconds=0.5)
BSR = {"loss": "bsr"}


class Toy(Stage):
    """A stage whose code is step_stage.py."""

    @property
    def code(self) -> str:
        return "step_stage"


def toy(name: str, reads: tuple[str, ...], *needs: str, slug: str = "") -> Toy:
    letter = slug or name[0]
    return Toy(name, 1, reads, lambda x: {n: (n, x) for n in needs}, lambda x: f"{letter}-s{x.seed}")


STAGES = {
    stage.name: stage
    for stage in (
        toy("alpha", ("seed",)),
        toy("beta", ("loss",), "alpha"),
        toy("gamma", ("judge",), "alpha", "beta"),
        toy("delta", ("bench",), "alpha"),
    )
}


def graph_of(root: Path, *settings: Mapping[str, Any], targets: tuple[str, ...]) -> tuple[Graph, list[Node]]:
    xs = [experiment((), {**BSR, **more}) for more in settings or ({},)]
    graph, wanted = plan.build(STAGES, root, [(name, x) for x in xs for name in targets])
    plan.judge(graph, wanted)
    return graph, wanted


class Bench:
    """One test's store, and its jobs."""

    def __init__(self, folder: Path, cluster: Path):
        self.folder, self.cluster = folder, cluster
        self.root, self.home = folder / "results" / "runs", folder / "results" / "slurm"
        self.behave()

    def behave(self, **told: Mapping[str, Any]) -> None:
        path = self.root.parent / "behaviour.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))

    def graph(self, *settings: Mapping[str, Any], targets: tuple[str, ...] = ("gamma",)) -> tuple[Graph, list[Node]]:
        return graph_of(self.root, *settings, targets=targets)

    def submit(self, built: tuple[Graph, list[Node]], **cluster: Any) -> submit.Submission:
        return submit.submit(*built, replace(CLUSTER, **cluster), self.home)

    def queued(self) -> list[str]:
        """What of this test is in the queue."""
        return [name for name, job in client.queue().items() if (self.home / "jobs" / f"{job.token}.json").exists()]

    def clear(self) -> None:
        client.cancel(self.queued())
        until(lambda: not self.queued(), 30)

    def outputs(self) -> dict[str, str]:
        """{artefact: hashes of its files}, of all that is there."""
        return {f"{f.parent.name}/{f.name}": json.dumps(m["files"]) for f, m in store.scan(self.root)}


def spread(seeds: int) -> list[dict[str, Any]]:
    """As many lines of three, each its own."""
    return [{"seed": seed, "loss.coef": round(0.1 + 0.01 * seed, 2)} for seed in range(seeds)]


def unbroken(
    folder: Path, *settings: Mapping[str, Any], targets: tuple[str, ...] = ("gamma",), **told: Any
) -> dict[str, str]:
    """What the same graph is when it runs here without a break, at full speed."""
    fast = {name: {**what, "seconds": 0.0} for name, what in told.items()}
    made = Bench(folder / "unbroken", folder)
    made.behave(**fast)
    outcome = dispatch.run(*made.graph(*settings, targets=targets), experiment().run, 2, io.StringIO())
    assert outcome.good
    return made.outputs()


def named(graph: Graph) -> dict[str, Node]:
    """By stage, of a graph with one artefact of each."""
    return {node.stage.name: node for node in graph.values()}


def until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s; queue: {client.queue()}"
        time.sleep(0.2)


def all_done(graph: Graph) -> bool:
    return all(store.is_done(node.folder) for node in graph.values())


def control(*words: str) -> None:
    subprocess.run(["scontrol", *words], check=True, capture_output=True)


if __name__ == "__main__":  # toys.py submit FOLDER N; toys.py wait FOLDER: both can be killed
    here = Bench.__new__(Bench)
    folder = Path(sys.argv[2])
    here.root, here.home = folder / "results" / "runs", folder / "results" / "slurm"
    if sys.argv[1] == "wait":
        sys.exit(watch.wait(*here.graph(), here.home, CLUSTER.poll_seconds))
    print(here.submit(here.graph(*spread(int(sys.argv[3])))), flush=True)
