"""Submitting all that is missing as one dependency graph. Then nobody has to wait for it: SLURM starts what can start,
and cancels what waits for something that failed.

Whoever submits may die at any moment, and two may submit at once: what is in the queue is found again by the ledger and
by the tokens in the jobs' comments, and adopted; nothing is submitted twice.
"""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import dispatch, lock, plan, source, store
from pipeline.experiment import Cluster, Resources
from pipeline.plan import Graph, Node
from pipeline.slurm import arrays, client, snapshot, transport
from pipeline.slurm.arrays import Array, Place
from pipeline.slurm.check import check_cluster
from pipeline.slurm.client import Job
from pipeline.slurm.ledger import Ledger, Record

LOCK_SECONDS = 60  # without a heartbeat, another host's submitter is dead
COMPLETING_SECONDS = 60  # for jobs that are just ending
SETTLE_SECONDS = 3  # for an sbatch that outlived its submitter
NEVER = ("DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "PartitionTimeLimit", "BadConstraints")
SHOWN = 4  # keys in the comment of an array


@dataclass
class Submission:
    submitted: int = 0  # artefacts
    adopted: int = 0  # artefacts that were queued already
    cancelled: int = 0  # jobs that waited for something that will not come
    arrays: list[str] = field(default_factory=list)
    report: str | None = None


def submit(
    graph: Graph, targets: Sequence[Node], x: Cluster, home: Path, report: Sequence[str] | None = None
) -> Submission:
    """Submits what is missing for the targets. `report`: arguments of the table to render when all has ended."""
    plan.judge(graph, targets)
    todo = [node for node in graph.values() if node.state == "run"]
    if not todo:
        return Submission()
    check_cluster(x, {node.stage.name for node in todo})
    taken = snapshot.take(home, x.dirty)
    with alone(home):
        return Submitter(home, x, taken, todo).submit(report)


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One submitter at a time."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    told = False
    while isinstance(held := lock.acquire(home, LOCK_SECONDS), lock.Owner):
        if not told:
            print(f"{held} is submitting; waiting for it", flush=True)
        told = True
        time.sleep(0.2)
    try:
        yield
    finally:
        held.release()


class Submitter:
    """Holds the lock, and knows what is in the queue."""

    def __init__(self, home: Path, x: Cluster, taken: snapshot.Snapshot, todo: Sequence[Node]):
        self.home, self.x, self.taken = home, x, taken
        self.book = Ledger(home)
        self.sources = {code: source.of(code) for code in sorted({node.stage.code for node in todo})}
        self.records, self.queue = find(self.book, home)
        # Only now: what is neither in the queue nor, after that, done will not come by itself.
        self.todo = [node for node in todo if not store.is_whole(node.folder)]
        self.places: dict[str, Place] = {}  # of artefacts that are queued
        self.new: set[str] = set()  # tokens of what was submitted now

    def submit(self, report: Sequence[str] | None) -> Submission:
        useless = self.adopt()
        client.cancel(useless)
        outcome = Submission(adopted=len(self.places), cancelled=len(useless))
        left = [node for node in self.todo if node.key not in self.places]
        size = int(client.settings()["MaxArraySize"])
        numbers: dict[str, str] = {}
        for array in arrays.lay_out(left, self.places, size):
            numbers[array.name] = self.hand_over(array, numbers)
            self.places |= {node.key: (numbers[array.name], index) for index, node in array.nodes.items()}
            outcome.submitted += len(array.nodes)
        outcome.arrays = list(numbers.values())
        if report is not None and self.places:
            outcome.report = self.report(list(report), new=bool(left))
        self.tidy()
        return outcome

    def adopt(self) -> list[str]:
        """Takes over what is queued already; returns jobs that wait for something that will not come."""
        queued: dict[str, list[str]] = {}
        for record in self.records:
            for index, key in record.keys.items():
                if waits(record, index, self.queue):
                    queued.setdefault(key, []).append(record.element(index))
        useless = []
        missing = {node.key for node in self.todo}
        for node in self.todo:  # inputs first
            comes = all(need.key in self.places or need.key not in missing for need in node.inputs.values())
            for element in queued.get(node.key, ()):
                job = self.queue[element]
                sound = job.state != "PENDING" or (comes and job.reason not in NEVER)
                if sound and node.key not in self.places:
                    array, _, index = element.partition("_")
                    self.places[node.key] = (array, int(index))
                else:
                    useless.append(element)
        return useless

    def hand_over(self, array: Array, numbers: Mapping[str, str]) -> str:
        """Submits one array, whose parents have been; returns SLURM's number."""
        needs = self.x.resources(array.stage)
        assert needs.minutes is not None, "checked by Cluster"
        common = {
            "code": str(self.taken.folder),
            "seconds": needs.minutes * 60 - self.x.signal_seconds,
            "restarts": self.x.restarts,
        }
        calls = {}
        for index, node in array.nodes.items():
            made_by = {"commit": self.taken.commit, "dirty": self.taken.dirty, "source": self.sources[node.stage.code]}
            dispatch.prepare(node, made_by)
            calls[index] = ("artefact", {"folder": str(node.folder), **common})
        keys = {index: node.key for index, node in array.nodes.items()}
        same = [f"aftercorr:{numbers.get(name, name)}" for name in sorted(array.same)]
        others = [f"afterok:{numbers.get(name, name)}_{index}" for name, index in sorted(array.others)]
        return self.record(array.title, keys, calls, ",".join(same + others), needs)

    def report(self, arguments: list[str], new: bool) -> str:
        """One job that renders the table when all others have ended, well or not."""
        for record in self.records:
            if record.report == tuple(arguments) and waits(record, 0, self.queue):
                if not new:
                    return record.element(0)
                client.cancel([record.element(0)])
        after = ":".join(sorted({array for array, _ in self.places.values()}, key=int))
        needs = replace(self.x.default, nodes=1, tasks=1, gpus=0)
        calls = {0: ("report", {"arguments": arguments, "code": str(self.taken.folder)})}
        return self.record(f"report/{arguments[0]}", {}, calls, f"afterany:{after}", needs, tuple(arguments)) + "_0"

    def record(
        self,
        title: str,
        keys: dict[int, str],
        calls: dict[int, Any],
        after: str,
        needs: Resources,
        report: tuple[str, ...] | None = None,
    ) -> str:
        """Writes down what will be asked of SLURM, asks, and writes down the answer."""
        token = secrets.token_hex(6)
        record = self.book.write(Record(token, title, str(self.taken.folder), keys, calls, report))
        shown = [*list(keys.values())[:SHOWN], *([f"+{len(keys) - SHOWN}"] if len(keys) > SHOWN else [])]
        comment = f"{token} {','.join(shown)}".strip()
        try:
            number = transport.submit(self.home, title, comment, after, calls, self.taken.folder, self.x, needs)
        except client.SlurmError:
            self.book.drop(record)
            raise
        self.records.append(self.book.took(record, number))
        self.new.add(token)
        return number

    def tidy(self) -> None:
        """Forgets arrays that have ended and say nothing about any artefact that is still missing."""
        latest = {key: record.token for record in self.records for key in record.keys.values()}
        kept = {str(self.taken.folder)}
        for record in self.records:
            queued = any(waits(record, index, self.queue) for index in record.calls)
            mine = [i for i, key in record.keys.items() if latest[key] == record.token]
            tells = any(not store.is_done(record.folder(i)) for i in mine)
            if queued or tells or record.token in self.new:
                kept.add(record.code)
            else:
                self.book.drop(record)
                for path in (self.home / "submitit").glob(f"{record.job}_*"):
                    path.unlink()
        snapshot.forget(self.home, kept)


def find(book: Ledger, home: Path) -> tuple[list[Record], dict[str, Job]]:
    """All arrays that SLURM took, and its queue. Finds those whose submitter died before it had written down the
    number, or had told the elements what to do."""
    records = book.read()
    if any(record.job is None for record in records):
        time.sleep(SETTLE_SECONDS)
    queue = settled(home)
    by_token = {job.token: name.partition("_")[0] for name, job in queue.items()}
    found = []
    for record in records:
        if record.job is None and record.token not in by_token:
            book.drop(record)
            continue
        if record.job is None:
            record = book.took(record, by_token[record.token])
        if record.token in by_token:
            transport.place(home, by_token[record.token], record.calls)
        found.append(record)
    return found, queue


def settled(home: Path) -> dict[str, Job]:
    """The queue, when no job is just ending: it may be about to be queued again."""
    deadline = time.monotonic() + COMPLETING_SECONDS
    while True:
        queue = client.queue()
        ending = [job for job in queue.values() if job.state == "COMPLETING"]
        if not any((home / "jobs" / f"{job.token}.json").exists() for job in ending) or time.monotonic() > deadline:
            return queue
        time.sleep(1)


def waits(record: Record, index: int, queue: Mapping[str, Job]) -> bool:
    """Is this element in the queue? By its token too: SLURM may have begun to count anew."""
    job = queue.get(record.element(index))
    return job is not None and job.token == record.token
