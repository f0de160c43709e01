"""However a job is stopped, it goes on where it was, and what comes out is bitwise what an unbroken run makes."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import start_slurm
from toys import Bench, all_done, control, named, unbroken, until

from pipeline import store
from pipeline.plan import Graph, Node
from pipeline.slurm import client, watch
from pipeline.slurm.client import Job

SLOW = {"steps": 25, "seconds": 0.1}


def under_way(bench: Bench, **cluster: Any) -> tuple[Graph, Node, Job]:
    """A graph whose first stage has begun and is far from its end; with the stage's job."""
    bench.behave(alpha=SLOW)
    built = bench.graph()
    bench.submit(built, **cluster)
    alpha = named(built[0])["alpha"]
    until(lambda: (alpha.folder / "checkpoint" / "step-1.json").exists(), 30)
    (job,) = (j for j in client.queue().values() if j.name in bench.queued() and j.state == "RUNNING")
    return built[0], alpha, job


def console(node: Node) -> str:
    return (node.folder / "log" / "console.log").read_text()


def resumed(node: Node) -> list[int]:
    """At which step each start of the stage began."""
    return [int(step) for step in re.findall(r"^from step (\d+)$", console(node), re.MULTILINE)]


def goes_on(bench: Bench, graph: Graph, alpha: Node, seconds: float = 60) -> None:
    until(lambda: all_done(graph), seconds)
    first, *later = resumed(alpha)
    assert first == 0 and later and all(0 < step <= SLOW["steps"] for step in later)
    assert bench.outputs() == unbroken(bench.folder, alpha=SLOW)


@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_user_signal(bench: Bench, name: str):
    graph, alpha, job = under_way(bench)
    client.command("scancel", f"--signal={name}", job.name)
    goes_on(bench, graph, alpha)
    assert "saved; this job goes back to the queue" in console(alpha)


def test_requeued_by_hand(bench: Bench):
    graph, alpha, job = under_way(bench)
    control("requeue", job.name)
    goes_on(bench, graph, alpha)


def test_cancelled_and_submitted_again(bench: Bench):
    graph, alpha, job = under_way(bench)
    client.cancel([job.name])
    until(lambda: not bench.queued(), 30)
    assert not store.is_done(alpha.folder)
    text = "\n".join(watch.status_lines(bench.graph()[0], bench.home))
    assert re.search(rf"failed +alpha.*cancelled \(job {job.name}\); will resume from its checkpoint", text)
    assert "missing  gamma/g-s0" in text and "alpha/a-s0 failed" in text
    assert bench.submit(bench.graph()).submitted == 3
    goes_on(bench, graph, alpha)


@contextmanager
def without_user_signal(cluster: Path) -> Iterator[None]:
    """As on many clusters: who is preempted gets SIGTERM alone."""
    path = cluster / "etc" / "slurm.conf"
    before = path.read_text()
    path.write_text(re.sub(r"(?m)^(SlurmctldParameters|PreemptParameters)=.*\n", "", before))
    control("reconfigure")
    try:
        yield
    finally:
        path.write_text(before)
        control("reconfigure")


def preempt(bench: Bench) -> None:
    """Somebody more important needs everything for a moment."""
    words = ["sbatch", "--parsable", "-o", "/dev/null", "-p", "main", "-N", "2", "--exclusive", "--wrap", "sleep 1"]
    subprocess.run(words, check=True, capture_output=True, cwd=bench.folder)


def test_preempted_with_the_user_signal(bench: Bench):
    graph, alpha, _job = under_way(bench, partition="low")
    preempt(bench)
    goes_on(bench, graph, alpha)


def test_preempted_without_the_user_signal(bench: Bench):
    with without_user_signal(bench.cluster):
        graph, alpha, _job = under_way(bench, partition="low")
        preempt(bench)
        goes_on(bench, graph, alpha)
    assert "asked to stop by SIGTERM" in console(alpha)


def test_a_node_fails(bench: Bench):
    """Its slurmd dies and the node is given up; the stage's process may live on there, and then holds the lock."""
    graph, _alpha, job = under_way(bench)
    node = job.nodes
    start_slurm("node-kill", node, "--dir", str(bench.cluster))
    try:
        control("update", f"nodename={node}", "state=down", "reason=test")
        until(lambda: all_done(graph), 60)
    finally:
        start_slurm("node-up", node, "--dir", str(bench.cluster))
    assert bench.outputs() == unbroken(bench.folder, alpha=SLOW)
    until(lambda: not bench.queued(), 60)


def test_stopped_too_often_is_a_failure(bench: Bench):
    _graph, _alpha, job = under_way(bench, restarts=0)
    client.command("scancel", "--signal=USR2", job.name)
    until(lambda: not bench.queued(), 30)
    text = "\n".join(watch.status_lines(bench.graph()[0], bench.home))
    assert re.search(r"failed +alpha.*stopped more often than cluster.restarts allows", text)
