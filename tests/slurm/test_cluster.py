"""Settings that SLURM would take and never start, a cluster's health, sweeps, and how long it all takes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toys
from toys import CLUSTER, SMALL, Bench, control, until

from pipeline import plan
from pipeline.config import PROJECT
from pipeline.errors import ConfigError
from pipeline.experiment import Resources
from pipeline.finding import Finding
from pipeline.slurm import client, doctor, watch
from pipeline.slurm.check import check_cluster
from pipeline.slurm.ledger import Ledger


def script(name: str, *words: str, code: int = 0) -> str:
    """Output of one of our commands."""
    command = [sys.executable, str(PROJECT / "scripts" / name), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "mian"}, r"cluster.partition = 'mian': no such partition; did you mean 'main'\?"),
        ({"signal_seconds": 31}, "cluster.signal_seconds = 31: stage rm has 2 min: at most 30 s of it for saving"),
        ({"minutes": 1441}, r"stages.rm.minutes = 1441: such a job would never start: the partition allows 1440 min"),
        ({"cpus": 9}, "stages.rm.cpus = 9: 1 tasks of it; a node has 8 cores"),
        ({"memory_gb": 9.0}, "stages.rm.memory_gb = 9.0: a node of the partition has 8"),
        ({"nodes": 3}, "stages.rm.nodes = 3: the partition has 2"),
        ({"stages": {"rmm": Resources()}}, r"cluster.stages.rmm = 'rmm': no such stage; did you mean 'rm'\?"),
    ],
    ids=str,
)
def test_what_would_never_start_is_refused(cluster: Path, settings: dict[str, Any], message: str):
    sizes = {k: v for k, v in settings.items() if k in ("minutes", "cpus", "memory_gb", "nodes")}
    others = {k: v for k, v in settings.items() if k not in sizes}
    with pytest.raises(ConfigError, match=message):
        check_cluster(replace(CLUSTER, default=replace(SMALL, **sizes), **others), ["rm"])
    check_cluster(CLUSTER, ["rm"])


def test_only_what_several_processes_can_share_gets_several(cluster: Path):
    two = replace(CLUSTER, default=replace(SMALL, tasks=2))
    check_cluster(two, ["rm"])
    with pytest.raises(ConfigError, match=r"stages.bench.tasks = 2: stage bench is one process"):
        check_cluster(two, ["bench"])


def test_what_sbatch_refuses_is_told_and_nothing_is_left(bench: Bench):
    with pytest.raises(client.SlurmError, match=r"sbatch refuses alpha/a-s0: .*[Ii]nvalid"):
        bench.submit(bench.graph(), constraint="no-such-feature")
    assert Ledger(bench.home).read() == [] and bench.queued() == []


def test_the_doctor_finds_a_good_cluster_good(cluster: Path, tmp_path: Path):
    out = script("doctor_slurm.py", "cluster=slurm", f"run.root={tmp_path}", "--json")
    found = {finding["check"]: finding["state"] for finding in json.loads(out)["findings"]}
    names = ("settings", "sacct", "sbatch", "shared files", "signals", "requeue", "two tasks")
    assert found == dict.fromkeys(names, "good"), out


def examined(folder: Path, last: str, **settings: Any) -> dict[str, Finding]:
    """What the doctor finds, up to a check."""
    found = {}
    findings = doctor.examine(replace(CLUSTER, **settings), folder / "slurm")
    while last not in found and (finding := next(findings, None)):
        found[finding.check] = finding
    findings.close()
    until(lambda: client.queue() == {}, 30)
    return found


def test_the_doctor_finds_nodes_that_do_not_see_the_store(cluster: Path, tmp_path: Path):
    """Here they see everything: the job is told to lose the folder."""
    found = examined(tmp_path, "shared files", setup=(f"rm -rf {tmp_path}/slurm/doctor",))
    assert (found["sbatch"].state, found["shared files"].state) == ("good", "FAIL")
    assert "has ended and left nothing. its node does not see this folder" in str(found["shared files"])
    assert "signals" not in found


def program(folder: Path, name: str, text: str) -> str:
    """The folder of a program that stands for SLURM's own; to be put first on PATH."""
    path = folder / "programs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path.parent)


DISABLED = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


def test_the_doctor_finds_a_cluster_without_requeue_and_accounting(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    refused = program(tmp_path, "scontrol", "echo 'Requeue of job refused' >&2; exit 1")
    monkeypatch.setenv("PATH", program(tmp_path / "programs", "sacct", DISABLED), prepend=":")
    found = examined(tmp_path, "requeue", setup=(f"export PATH={refused}:$PATH",))
    states = {name: finding.state for name, finding in found.items()}
    assert (states["sacct"], states["signals"], states["requeue"]) == ("warn", "good", "FAIL"), found
    assert "the job did not come back" in str(found["requeue"])


def test_without_accounting_it_is_said_how_jobs_ended_while_slurmctld_knows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", program(bench.folder, "sacct", DISABLED), prepend=":")
    bench.behave(alpha={"dies": True})
    graph, _ = built = bench.graph()
    bench.submit(built)
    until(lambda: not bench.queued(), 60)
    *lines, remark = watch.status_lines(graph, bench.home)
    assert remark.startswith("no accounting here (sacct)")
    assert "failed   alpha/a-s0" in lines[0] and "failed, exit code " in lines[0] and "(job " in lines[0]
    assert "alpha/a-s0 failed" in lines[1]


@pytest.mark.parametrize("says", ("", "echo '{job}|RUNNING|0:0|00:00:01|00:02:00'"), ids=("nothing yet", "it runs"))
def test_accounting_that_has_not_heard_of_the_end_is_not_believed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, says: str
):
    bench.behave(alpha={"fails": True})
    graph, _ = built = bench.graph()
    bench.submit(built)
    until(lambda: not bench.queued(), 60)
    alpha = next(iter(graph.values()))
    name = watch.look(graph, bench.home).element(alpha)
    monkeypatch.setenv("PATH", program(bench.folder, "sacct", says.format(job=name)), prepend=":")
    lines = list(watch.status_lines(bench.graph()[0], bench.home))
    assert "failed   alpha/a-s0" in lines[0] and f"ValueError: no luck (job {name})" in lines[0]
    assert client.ended([str(name)])[0][str(name)].state == "FAILED"


@pytest.fixture
def paused(cluster: Path) -> Iterator[None]:
    """SLURM takes jobs and starts none."""
    control("update", "partitionname=main", "state=down")
    yield
    client.cancel(client.queue())
    control("update", "partitionname=main", "state=up")


def test_a_sweep_over_losses_and_seeds(paused: None, tmp_path: Path):
    words = ["stage=rm", "scale=smoke", "replicas=3", "cluster=slurm", "cluster.dirty=true", f"run.root={tmp_path}"]
    sweep = ["-m", "loss=bt,norm_bt,bsr", "seed=0,1,2"]
    out = script("run.py", *words, *sweep)
    records = Ledger(tmp_path / "slurm").read()
    count = {stage: sum(len(r.keys) for r in records if r.name.startswith(f"{stage}/")) for stage in ("rm", "sft")}
    assert count == {"rm": 9, "sft": 3}, out
    by_name = {record.name: sorted(record.keys) for record in records}
    assert all(by_name[f"rm/{loss}-s*"] == [0, 1, 2] for loss in ("bt", "norm_bt", "bsr"))
    jobs = sum(len(record.keys) for record in records)
    assert len(client.queue()) == jobs
    assert script("run.py", *words, *sweep).startswith(f"0 submitted in 0 arrays, {jobs} queued before")
    status = script("run.py", *words, "action=status", *sweep).splitlines()
    assert status[-1] == f"{jobs} queued" and any("the partition is down" in line for line in status)
    retried = script("run.py", *words, "action=retry", "cluster.default.minutes=90", *sweep)
    assert f"{jobs} jobs cancelled\n{jobs} submitted in " in retried
    assert {job.limit for job in client.queue().values()} == {"1:30:00"}
    assert f"{jobs} jobs cancelled" in script("run.py", *words, "action=cancel", "key=all", *sweep)
    assert client.queue() == {}


def test_five_hundred_artefacts(bench: Bench, paused: None):
    """Planned in 2 CPU s, submitted in 30 s and 1 CPU s for 20 jobs, status in 2 CPU s."""
    many = [{"seed": 0, "loss.coef": round(0.001 * i, 3)} for i in range(1, 251)]
    began = time.process_time()
    graph, targets = toys.graph_of(bench.root, *many, targets=("gamma",))
    planned = time.process_time() - began
    assert len(graph) == 501 and planned < 2
    began, cpu = time.monotonic(), time.process_time()
    done = bench.submit((graph, targets))
    taken, used = time.monotonic() - began, time.process_time() - cpu
    assert done.submitted == 501 and taken < 30 and used < 501 / 20
    cpu = time.process_time()
    plan.judge(graph, targets)
    lines = list(watch.status_lines(graph, bench.home))
    looked = time.process_time() - cpu
    assert len(lines) == 502 and lines[-1] == "501 queued" and looked < 2
    print(f"planned {planned:.2f} CPU s; submitted {taken:.1f} s, {used:.2f} CPU s; status {looked:.2f} CPU s")
    assert len(bench.queued()) == 501
