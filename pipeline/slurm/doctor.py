"""Does a cluster do what the pipeline needs of it? Two jobs of seconds tell: one is signalled and requeued, one starts
two tasks that talk to each other. Nothing of the store is touched."""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.errors import ConfigError
from pipeline.experiment import Cluster, Resources
from pipeline.finding import Finding
from pipeline.slurm import client, snapshot, transport
from pipeline.slurm.check import check_cluster
from pipeline.stages import STAGES

START_SECONDS = 90  # for a job to begin, or to answer
LOOK_SECONDS = 0.5
GONE_LOOKS = 6  # that do not find a job in the queue; a file may be seen later than its job's end


def examine(x: Cluster, home: Path) -> Iterator[Finding]:
    try:
        check_cluster(x, STAGES)
    except (ConfigError, client.SlurmError) as e:
        yield Finding("settings", "FAIL", str(e), "a job that asks for this never starts", "correct conf/cluster/")
        return
    yield Finding("settings", "good", "every stage fits the partition")
    yield accounting()
    folder = home / "doctor" / secrets.token_hex(4)
    folder.mkdir(parents=True, mode=0o700)
    jobs: list[str] = []
    try:
        code = snapshot.take(home, dirty=True).folder
        yield from one_task(x, home, folder, code, jobs)
        yield talk(x, home, folder, code, jobs)
    except client.SlurmError as e:
        yield Finding("sbatch", "FAIL", str(e), "nothing can be submitted", "ask as sbatch says")
    finally:
        client.cancel(jobs)
        shutil.rmtree(folder, ignore_errors=True)


def accounting() -> Finding:
    try:
        client.command("sacct", "-XnP", "-o", "JobID")
    except client.SlurmError as e:
        why = "how a job ended is known only while slurmctld remembers it"
        return Finding("sacct", "warn", str(e), why, "none needed: status says so where it matters")
    return Finding("sacct", "good", "answers")


def one_task(x: Cluster, home: Path, folder: Path, code: Path, jobs: list[str]) -> Iterator[Finding]:
    gpus = max(x.resources(stage).gpus or 0 for stage in STAGES)
    size = replace(x.default, minutes=max(5, x.signal_seconds // 15), nodes=1, tasks=1, gpus=min(gpus, 1))
    number = submit(x, home, "probe", {"folder": str(folder)}, code, size, jobs)
    yield Finding("sbatch", "good", f"took job {number}")
    told = until(number, lambda: store.read_json(folder / "probe.json"))
    if told is None:
        yield unseen(home, number)
        return
    yield Finding("shared files", "good", f"{told['node']} sees {home}")
    if gpus:
        state = "good" if told["gpus"] else "FAIL"
        yield Finding(
            "GPU",
            state,
            f"{told['gpus']} visible to torch",
            "stages would run on the CPU",
            "set cluster.gres as the site names its GPUs; install torch for its CUDA",
        )
    client.command("scancel", "--signal=USR2", f"{number}_0")
    came = until(number, lambda: (folder / "signal").exists() or None)
    yield Finding(
        "signals",
        "good" if came else "warn",
        "USR2 arrives" if came else "USR2 did not arrive",
        "preemption then costs what came after the last checkpoint",
        "lower run.checkpoint_seconds",
    )
    if not came:
        return
    back = until(number, lambda: restarts(number) or None)
    yield Finding(
        "requeue",
        "good" if back else "FAIL",
        "allowed" if back else "the job did not come back",
        "a stage that runs out of time would not go on",
        "ask for JobRequeue, and scontrol on nodes",
    )


def unseen(home: Path, number: str) -> Finding:
    """Nothing of a job has come into the folder that it was told."""
    job = client.queue().get(f"{number}_0")
    if job is None:
        found, why = f"job {number} has ended and left nothing", "its node does not see this folder, or has no pipeline"
        remedy = f"put run.root and .venv where all nodes see them; see {home / 'submitit'}/{number}_0*.out"
    else:
        found = f"nothing of job {number} within {START_SECONDS} s: {job.state} {job.reason}"
        why, remedy = "nothing can be said of the nodes before it begins", "try again when the queue is short"
    return Finding("shared files", "FAIL", found, why, remedy)


def talk(x: Cluster, home: Path, folder: Path, code: Path, jobs: list[str]) -> Finding:
    found = client.partitions()
    partition = found[x.partition] if x.partition else next(p for p in found.values() if p.default)
    nodes = min(2, partition.nodes)
    size = replace(x.default, minutes=max(5, x.signal_seconds // 15), nodes=nodes, tasks=2 // nodes, gpus=0)
    number = submit(x, home, "hello", {"folder": str(folder)}, code, size, jobs)
    told = until(number, lambda: store.read_json(folder / "hello.json"))
    if told == {"sum": 2}:
        return Finding("two tasks", "good", f"torch.distributed over {nodes} node(s)")
    why = "a model on several GPUs could not be trained"
    return Finding(
        "two tasks",
        "FAIL",
        f"job {number} did not answer",
        why,
        f"see {home / 'submitit'}/{number}_0*.out; nodes must reach each other by name",
    )


def submit(x: Cluster, home: Path, name: str, told: Any, code: Path, size: Resources, jobs: list[str]) -> str:
    title = f"doctor/{name}"
    jobs.append(transport.submit(home, title, title, "", {0: (name, told)}, code, x, size))
    return jobs[-1]


def restarts(number: str) -> int:
    job = client.queue().get(f"{number}_0")
    return job.restarts if job else 0


def until(number: str, look: Callable[[], Any]) -> Any:
    """What it finds, as soon as that is something; None if the job has ended without, or takes too long."""
    deadline, gone = time.monotonic() + START_SECONDS, 0
    while (found := look()) is None and time.monotonic() < deadline and gone < GONE_LOOKS:
        gone = 0 if f"{number}_0" in client.queue() else gone + 1
        time.sleep(LOOK_SECONDS)
    return found
