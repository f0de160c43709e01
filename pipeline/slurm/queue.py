"""The commands: submit, status, wait, logs, cancel, retry. What needs submitit is loaded by those that submit."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import plan, show
from pipeline.errors import check
from pipeline.experiment import Cluster, Experiment
from pipeline.plan import Graph, Node


def act(
    action: str,
    graph: Graph,
    targets: Sequence[Node],
    x: Experiment,
    results: Path,
    key: str | None,
    report: Sequence[str] | None = None,
) -> int:
    """One of them; returns the exit code. `report`: the arguments of the table that is wanted."""
    from pipeline.slurm import watch

    home = results / "slurm"
    plan.judge(graph, targets)
    if action == "wait":
        return watch.wait(graph, targets, home, x.cluster.poll_seconds)
    if action == "cancel":
        check(key is not None, "key", None, "say which artefact, or key=all")
        print(f"{watch.cancel(graph, home, None if key == 'all' else key)} jobs cancelled")
        return 0
    if action == "logs":
        check(key is not None, "key", None, "say which artefact; keys are in the plan and in the status")
        for line in watch.log_lines(graph, home, str(key)):
            print(line)
        return 0
    if action == "retry":
        check(x.cluster.kind == "slurm", "cluster", x.cluster.kind, "say on which cluster, e.g. cluster=slurm")
        print(f"{watch.cancel_stuck(graph, home, key)} jobs cancelled")
    arguments = None if report is None else [*report, f"run.root={results}"]
    return submit(graph, targets, x.cluster, home, arguments)


def submit(graph: Graph, targets: Sequence[Node], x: Cluster, home: Path, report: Sequence[str] | None) -> int:
    from pipeline.slurm.submit import submit

    done = submit(graph, targets, x, home, report)
    blocked = [node for node in graph.values() if node.state == "blocked"]
    for node in blocked:
        print(f"blocked: {node.name}: {'; '.join(node.why)}")
    if not done.submitted and not done.adopted:
        print(f"nothing to submit: {sum(n.state == 'reuse' for n in graph.values())} artefacts are there")
        return 1 if blocked else 0
    cancelled = f", {done.cancelled} hopeless jobs cancelled" if done.cancelled else ""
    print(f"{done.submitted} submitted in {len(done.arrays)} arrays, {done.adopted} queued before{cancelled}")
    if done.report:
        print(f"job {done.report} will render the table")
    return 1 if blocked else 0


def status_lines(graph: Graph, results: Path) -> Iterator[str]:
    """Where each artefact stands; with what SLURM says, if something was ever submitted to it."""
    if not (results / "slurm" / "jobs").is_dir():
        return show.status_lines(graph)
    from pipeline.slurm import watch

    return watch.status_lines(graph, results / "slurm")
