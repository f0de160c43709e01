"""Where each artefact of a graph stands, from its manifest, the ledger and SLURM, in this order; waiting for them,
cancelling, logs. Holds no state: it can be stopped and started at will."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import dispatch, live, plan, show, why
from pipeline.errors import ConfigError, check
from pipeline.plan import Graph, Node
from pipeline.slurm import client
from pipeline.slurm.client import Ended, Job
from pipeline.slurm.ledger import Ledger, Record
from pipeline.slurm.submit import waits

QUIET_SECONDS = 30  # with nothing in the queue, until `wait` believes that nothing more will come
PATIENCE_SECONDS = 900  # with a SLURM that does not answer
REASONS = {
    "None": "about to be looked at",
    "Dependency": "waits for its inputs",
    "DependencyNeverSatisfied": "an input failed; SLURM will cancel it",
    "Priority": "others are ahead in the queue",
    "Resources": "first in the queue; waits for free resources",
    "BeginTime": "queued again; may start in a moment",
    "PartitionTimeLimit": "never: asks for more time than the partition allows; lower cluster...minutes",
    "PartitionNodeLimit": "never: asks for more nodes than the partition allows; lower cluster...nodes",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs to its nodes now",
    "PartitionConfig": "never: asks for more than the partition has",
    "BadConstraints": "never: no node has what it asks for",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved",
    "JobHeldUser": "held; say scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "JobArrayTaskLimit": "the array may not run more at once",
    "InvalidAccount": "never: no such account; set cluster.account",
    "InvalidQOS": "never: no such qos; set cluster.qos",
    "launch failed requeued held": "its node could not start it; look at the node, then scontrol release",
}
ENDINGS = {
    "TIMEOUT": "ran into its time limit of {limit}; raise minutes in cluster.stages",
    "OUT_OF_MEMORY": "out of memory; raise memory_gb in cluster.stages",
    "NODE_FAIL": "its node failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted and not queued again",
    "BOOT_FAIL": "its node did not start",
}


@dataclass
class Look:
    """What SLURM said at one moment."""

    queue: dict[str, Job]
    latest: dict[str, tuple[Record, int]]  # artefact: its last element
    over: dict[str, Ended]
    remark: str | None = None
    failed: dict[str, Node | None] = field(default_factory=dict)  # what first_failed has found so far

    def job(self, node: Node) -> Job | None:
        record, index = self.latest.get(node.key, (None, 0))
        return self.queue[record.element(index)] if record and waits(record, index, self.queue) else None

    def element(self, node: Node) -> str | None:
        record, index = self.latest.get(node.key, (None, 0))
        return record.element(index) if record and record.job else None


def look(graph: Graph, home: Path) -> Look:
    """SLURM is asked only if something of this graph was ever submitted."""
    latest: dict[str, tuple[Record, int]] = {}
    for record in Ledger(home).read():
        latest |= {key: (record, index) for index, key in record.keys.items() if key in graph}
    seen = Look({}, latest, {})
    missing = [node for node in graph.values() if node.state in ("run", "blocked") and node.key in latest]
    if missing and client.here():
        seen.queue = client.queue()
        gone = [name for node in missing if seen.job(node) is None and (name := seen.element(node))]
        seen.over, seen.remark = client.ended(gone)
    return seen


def status_lines(graph: Graph, home: Path) -> Iterator[str]:
    """Like show.status_lines, with what SLURM says."""
    seen = look(graph, home)
    yield from show.status_lines(graph, lambda node: standing(node, seen))
    if seen.remark:
        yield seen.remark


def standing(node: Node, seen: Look) -> tuple[str, str]:
    job = None if node.state == "reuse" else seen.job(node)
    if job is not None:
        return ("queued", waiting(job)) if job.state in ("PENDING", "REQUEUED") else ("running", running(node, job))
    state, text = show.standing(node)
    failed = first_failed(node, seen)
    if state in ("failed", "stopped", "missing"):
        told = how_it_ended(node, seen)
        if state == "failed":
            return state, f"{text} (job {seen.element(node)})" if told else text
        if failed is not None:
            return "missing", f"{failed.name} failed"
        if told:
            return "failed", f"{told}; {text}" if state == "stopped" else told
    return state, text


def waiting(job: Job) -> str:
    restarts = f", {job.restarts} restarts" if job.restarts else ""
    code = job.reason.strip("()")
    known = REASONS.get(code) or next((text for name, text in REASONS.items() if code.startswith(f"{name},")), code)
    return f"job {job.name}: {known}{restarts}"


def running(node: Node, job: Job) -> str:
    restarts = f", {job.restarts} restarts" if job.restarts else ""
    doing = live.doing(node).removeprefix(node.name).strip()
    last = dispatch.last_lines(node, 1)
    told = doing or (last[0] if last else "")
    state = "" if job.state == "RUNNING" else f" {job.state.lower()}"
    return f"job {job.name} on {job.nodes} {job.elapsed}/{job.limit}{state}{restarts}; {told}".rstrip("; ")


def how_it_ended(node: Node, seen: Look) -> str | None:
    """The last job of an artefact that is not there; None if there was none, or it ended as it should."""
    name = seen.element(node)
    if name is None or name not in seen.over:
        return None
    end = seen.over[name]
    if end.state == "COMPLETED":
        return None
    text = ENDINGS.get(end.state, f"{end.state.lower()}, exit code {end.exit_code}").format(limit=end.limit)
    return f"{text} (job {name})"


def first_failed(node: Node, seen: Look) -> Node | None:
    """The artefact above this one whose failure keeps it from being made."""
    if node.key not in seen.failed:
        seen.failed[node.key] = None
        for need in node.inputs.values():
            if need.state == "run" and seen.failed[node.key] is None and seen.job(need) is None:
                ended = why.read_error(need.folder) or how_it_ended(need, seen)
                seen.failed[node.key] = first_failed(need, seen) or (need if ended else None)
    return seen.failed[node.key]


def wait(graph: Graph, targets: Sequence[Node], home: Path, seconds: float) -> int:
    """Returns when all is there (0), or nothing that is missing is on its way any more (1). Goes through node failures
    and requeues: only who has left the queue for good has failed."""
    shown, answered, moved = "", time.monotonic(), time.monotonic()
    while True:
        plan.judge(graph, targets)
        if all(node.state in ("reuse", "idle") for node in graph.values()):
            print(f"all {len(targets)} there")
            return 0
        try:
            seen = look(graph, home)
            answered = time.monotonic()
        except client.SlurmError as e:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
            print(f"{e}; asking again", flush=True)
            time.sleep(seconds)
            continue
        if any(node.state == "run" and seen.job(node) for node in graph.values()):
            moved = answered
        counts = Counter(standing(node, seen)[0] for node in graph.values() if node.state != "idle")
        text = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        if text != shown:
            print(text, flush=True)
        shown = text
        if answered - moved > QUIET_SECONDS:
            report(graph, seen)
            return 1
        time.sleep(seconds)


def report(graph: Graph, seen: Look) -> None:
    """What failed, with the end of its log."""
    for node in graph.values():
        state, text = standing(node, seen) if node.state == "run" else ("", "")
        if state == "failed":
            print(f"FAILED {node.name} ({node.key}): {text}")
            for line in dispatch.last_lines(node):
                print(f"    {line}")


def cancel(graph: Graph, home: Path, key: str | None) -> int:
    """Takes an artefact, or all, out of the queue, with what waits for it; returns how many."""
    seen = look(graph, home)
    gone = {node.key for node in (graph.values() if key is None else [find(graph, key)])}
    for node in graph.values():  # inputs first
        if any(need.key in gone for need in node.inputs.values()):
            gone.add(node.key)
    names = [job.name for node in graph.values() if node.key in gone and (job := seen.job(node))]
    client.cancel(names)
    return len(names)


def cancel_stuck(graph: Graph, home: Path, key: str | None) -> int:
    """Takes what waits out of the queue, so that it can be submitted as it is configured now; what runs, runs on."""
    seen = look(graph, home)
    nodes = graph.values() if key is None else [find(graph, key)]
    names = [job.name for node in nodes if (job := seen.job(node)) and job.state == "PENDING"]
    client.cancel(names)
    return len(names)


def log_lines(graph: Graph, home: Path, key: str) -> Iterable[str]:
    """The whole console of an artefact, and what its job said before the stage began."""
    node = find(graph, key)
    name = look(graph, home).element(node)
    around = sorted(path for end in (".out", "_*.out") for path in (home / "submitit").glob(f"{name}{end}"))
    for path in [*around, *sorted((node.folder / "log").glob("console*.log"))]:
        text = path.read_text(errors="replace").splitlines()
        if text:
            yield f"==> {path}"
            yield from text


def find(graph: Graph, key: str) -> Node:
    """By key, or by its beginning, or by name."""
    found = [node for node in graph.values() if node.key.startswith(key) or node.name == key]
    check(len(found) <= 1, "key", key, "fits several artefacts; give more of it")
    if not found:
        raise ConfigError("key", key, "no such artefact in this plan")
    return found[0]
