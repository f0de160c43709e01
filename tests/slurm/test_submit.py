"""Submitting, leaving, dying half-way, coming back: what is missing is made once, and nothing is submitted twice."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import toys
from toys import CLUSTER, Bench, all_done, named, until

from pipeline import job, store
from pipeline.plan import Graph
from pipeline.slurm import arrays, client, transport, watch
from pipeline.slurm.ledger import Ledger


def submitter(bench: Bench, seeds: int) -> subprocess.Popen[str]:
    """Another process that submits what `spread` describes."""
    words = [sys.executable, toys.__file__, "submit", str(bench.folder), str(seeds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def starts(graph: Graph) -> Counter[str]:
    """How often each artefact's job was started, by its own log."""
    logs = {node.key: node.folder / "log" / "console.log" for node in graph.values()}
    return Counter({key: path.read_text().count("--- job") if path.exists() else 0 for key, path in logs.items()})


def made_once(bench: Bench, graph: Graph, seconds: float = 60) -> None:
    until(lambda: all_done(graph), seconds)
    until(lambda: not bench.queued(), 20)
    assert set(starts(graph).values()) == {1}


def test_a_graph_is_made_after_its_submitter_has_gone(bench: Bench):
    process = submitter(bench, 3)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    graph, _ = bench.graph(*toys.spread(3))
    assert not all_done(graph)
    assert [len(record.keys) for record in Ledger(bench.home).read()] == [3, 3, 3]
    made_once(bench, graph)
    assert bench.outputs() == toys.unbroken(bench.folder, *toys.spread(3))


def test_a_second_submit_adopts(bench: Bench):
    bench.behave(alpha={"steps": 20, "seconds": 0.1})
    built = bench.graph(*toys.spread(2))
    first = bench.submit(built)
    again = bench.submit(built)
    assert (first.submitted, first.adopted, again.submitted, again.adopted) == (6, 0, 0, 6)
    more = bench.submit(bench.graph(*toys.spread(3)))  # those that are there already keep their jobs
    assert (more.submitted, more.adopted, more.cancelled) == (3, 6, 0)
    made_once(bench, bench.graph(*toys.spread(3))[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_submitter_killed_half_way(bench: Bench, seed: int):
    graph, targets = bench.graph(*toys.spread(4))
    process = submitter(bench, 4)
    until(lambda: any(Ledger(bench.home).read()) or process.poll() is not None, 30)
    time.sleep(random.Random(seed).uniform(0.0, 0.08))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    outcome = bench.submit((graph, targets))
    assert outcome.submitted + outcome.adopted + sum(store.is_done(n.folder) for n in graph.values()) >= 12
    made_once(bench, graph)


def test_a_submitter_killed_between_question_and_answer(bench: Bench):
    """SLURM has the jobs; neither their number nor what they are to do is written down."""
    built = bench.graph(*toys.spread(2))
    bench.submit(built)
    book = Ledger(bench.home)
    for record in book.read():
        for index in record.keys:
            (bench.home / "submitit" / f"{record.element(index)}_submitted.pkl").unlink(missing_ok=True)
        book.write(replace(record, job=None))
    outcome = bench.submit(built)
    assert outcome.submitted == 0 and all(record.job for record in book.read())
    made_once(bench, built[0])


def test_two_submitters_at_once(bench: Bench):
    both = [submitter(bench, 4), submitter(bench, 4)]
    outs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    graph, _ = bench.graph(*toys.spread(4))
    assert len(Ledger(bench.home).read()) == 3
    made_once(bench, graph)


def test_a_failure_takes_what_waits_for_it_along_and_nothing_else(bench: Bench):
    bench.behave(beta={"fails": True}, delta={"steps": 20, "seconds": 0.1})
    built = bench.graph(targets=("gamma", "delta"))
    bench.submit(built)
    nodes = named(built[0])
    until(lambda: not bench.queued(), 60)
    assert [name for name, node in nodes.items() if store.is_done(node.folder)] == ["alpha", "delta"]
    status = "\n".join(watch.status_lines(bench.graph(targets=("gamma", "delta"))[0], bench.home))
    assert f"failed   beta/b-s0                       {nodes['beta'].key}  ValueError: no luck (job " in status
    assert f"missing  gamma/g-s0                      {nodes['gamma'].key}  beta/b-s0 failed" in status
    bench.behave()
    again = bench.submit(built)
    assert (again.submitted, again.adopted) == (2, 0)
    until(lambda: all_done(built[0]), 60)
    assert starts(built[0]) == {
        nodes["alpha"].key: 1,
        nodes["beta"].key: 2,
        nodes["gamma"].key: 1,
        nodes["delta"].key: 1,
    }


def test_a_failed_seed_stops_only_its_own_line(bench: Bench):
    """Element by element: of an array that waits for another only those go whose inputs failed."""
    bench.behave(beta={"fails_for": 0.11})
    built = bench.graph(*toys.spread(3))
    bench.submit(built)
    until(lambda: not bench.queued(), 60)
    done = sorted(node.name for node in built[0].values() if store.is_done(node.folder))
    assert done == ["alpha/a-s0", "alpha/a-s1", "alpha/a-s2", "beta/b-s0", "beta/b-s2", "gamma/g-s0", "gamma/g-s2"]
    failed = next(r.element(1) for r in Ledger(bench.home).read() if r.name.startswith("beta/"))
    said = "\n".join(watch.log_lines(built[0], bench.home, "beta/b-s1"))
    assert set(re.findall(r"job_id=(\w+)", said)) == {failed}
    assert "ValueError: no luck" in said


@pytest.mark.parametrize("after", ["", "afterok:999999_0"])  # SLURM starts a child whose parent it has forgotten
def test_a_job_without_its_inputs_makes_nothing(bench: Bench, after: str):
    bench.behave(alpha={"fails": True})
    built = bench.graph()
    bench.submit(built)
    until(lambda: not bench.queued(), 60)
    beta, needs = named(built[0])["beta"], CLUSTER.default
    record = next(r for r in Ledger(bench.home).read() if beta.key in r.keys.values())
    code = Path(record.code)
    number = transport.submit(bench.home, "beta", "by-hand", after, record.calls, code, CLUSTER, needs)
    until(lambda: f"{number}_0" in client.ended([f"{number}_0"])[0], 30)
    until(lambda: client.ended([f"{number}_0"])[0][f"{number}_0"].state == "FAILED", 30)
    assert client.ended([f"{number}_0"])[0][f"{number}_0"].exit_code == f"{job.DAMAGED}:0"
    assert not store.is_done(beta.folder) and "is not there" in (beta.folder / "log" / "console.log").read_text()


def test_a_table_of_arrays(bench: Bench):
    """What fans out is one array; what all share is waited for by all."""
    many = [{"seed": s, "loss.coef": c} for c in (0.1, 0.2, 0.3) for s in (0, 1)]
    graph, _ = bench.graph(*many)
    made = arrays.lay_out(list(graph.values()), {}, 1001)
    assert [(a.title, sorted(a.nodes), len(a.same), len(a.others)) for a in made] == [
        ("alpha/a-s*", [0, 1], 0, 0),
        *[("beta/b-s*", [0, 1, 2], 0, 1)] * 2,
        *[("gamma/g-s*", [0, 1, 2], 1, 1)] * 2,
    ]
