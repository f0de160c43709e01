"""However a job is stopped, it goes on where it was, and what comes out is bitwise what an unbroken run makes."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import toys
from toys import Bench, all_done, control, named, unbroken, until

from pipeline import store
from pipeline.plan import Graph, Node
from pipeline.slurm import client, watch
from pipeline.slurm.client import Job

SLOW: dict[str, Any] = {"steps": 25, "seconds": 0.1}


def under_way(bench: Bench, steps: int = SLOW["steps"], **cluster: Any) -> tuple[Graph, Node, Job]:
    """A graph whose first stage has begun and is far from its end; with the stage's job."""
    bench.behave(alpha={**SLOW, "steps": steps})
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


WAYS = {
    "USR1": lambda job: client.command("scancel", "--signal=USR1", job.name),
    "USR2": lambda job: client.command("scancel", "--signal=USR2", job.name),
    "by hand": lambda job: control("requeue", job.name),
}


@pytest.fixture(scope="module")
def stopped(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Bench, Graph, Node]]]:
    """A graph for each way to stop its first stage, stopped at about the same time: what follows takes SLURM a
    while."""
    made = {}
    for way, stop in WAYS.items():
        bench = Bench(tmp_path_factory.mktemp("stopped"), cluster)
        graph, alpha, job = under_way(bench)
        stop(job)
        made[way] = bench, graph, alpha
    yield made
    for bench, _, _ in made.values():
        bench.clear()


@pytest.mark.parametrize("way", WAYS)
def test_sent_back_to_the_queue(stopped: dict[str, tuple[Bench, Graph, Node]], way: str):
    bench, graph, alpha = stopped[way]
    goes_on(bench, graph, alpha)
    assert ("saved; this job goes back to the queue" in console(alpha)) is (way != "by hand")


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
def configured(cluster: Path, pattern: str, text: str) -> Iterator[None]:
    """With a line of slurm.conf replaced."""
    path = cluster / "etc" / "slurm.conf"
    before = path.read_text()
    changed = re.sub(rf"(?m)^{pattern}$", text, before)
    assert changed != before, f"no line {pattern}"
    path.write_text(changed)
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
    """As on many clusters: who is preempted gets SIGTERM alone."""
    with configured(bench.cluster, r"(SlurmctldParameters|PreemptParameters)=.*", ""):
        graph, alpha, _job = under_way(bench, partition="low")
        preempt(bench)
        goes_on(bench, graph, alpha)
    assert "asked to stop by SIGTERM" in console(alpha)


def waiter(bench: Bench) -> subprocess.Popen[str]:
    """Another process that waits for the graph."""
    words = [sys.executable, toys.__file__, "wait", str(bench.folder)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_node_is_lost_with_all_that_runs_there(bench: Bench, lose: Callable[..., None]):
    """`wait` is not deceived by NODE_FAIL: SLURM queues the job again, and it goes on elsewhere."""
    graph, alpha, job = under_way(bench)
    process = waiter(bench)
    lose(job.nodes, "--jobs")
    try:
        out, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0 and out.endswith("all 1 there\n"), out
    goes_on(bench, graph, alpha)
    assert f"--- job {job.name} on {other(job.nodes)}, start 2" in console(alpha)


def test_what_lives_on_where_slurm_has_given_up_is_waited_for(bench: Bench, lose: Callable[..., None]):
    """The node cannot be reached, and what ran there runs on: the job's next start lets it finish."""
    graph, alpha, job = under_way(bench, steps=150)
    lose(job.nodes)
    until(lambda: all_done(graph), 90)
    assert resumed(alpha) == [0] and f"--- job {job.name} on {other(job.nodes)}, start 2" in console(alpha)
    assert "is making this artefact; waiting for it" in console(alpha)
    assert bench.outputs() == unbroken(bench.folder, alpha={**SLOW, "steps": 150})
    until(lambda: not bench.queued(), 30)


def other(node: str) -> str:
    return {"n1": "n2", "n2": "n1"}[node]


def test_stopped_too_often_is_a_failure(bench: Bench):
    _graph, _alpha, job = under_way(bench, restarts=0)
    client.command("scancel", "--signal=USR2", job.name)
    until(lambda: not bench.queued(), 30)
    text = "\n".join(watch.status_lines(bench.graph()[0], bench.home))
    assert re.search(r"failed +alpha.*stopped more often than cluster.restarts allows", text)
