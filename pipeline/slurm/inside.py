"""What a job does: one artefact, or one report. Started by submitit (see transport.py) with plain arguments.

A stage is told to stop by SLURM's user signal or SIGTERM, or by the end of its own time budget, which also serves where
the cluster sends no signal. It saves; then the job is queued again and goes on from there. No torch here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

from pipeline import config, job, lock, stopping, store
from pipeline.forkserver import redirect
from pipeline.launch import launched
from pipeline.slurm import client

KILL_SECONDS = 600  # SLURM ends a job that it has asked to stop well within
ROUTE_SECONDS = 5
LOOK_SECONDS = 1  # at who makes the same artefact


def artefact(folder: str, code: str, seconds: float, restarts: int) -> None:
    """Makes the artefact of this folder. Returns if it is there; else this process ends with another exit code than 0,
    or SLURM ends it. `code`: the snapshot that was to run; `seconds`: until it stops by itself."""
    rank = launched()[0]
    log = Path(folder, "log", "console.log" if rank == 0 else f"console-{rank}.log")
    redirect(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    began = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    print(f"--- job {name()} on {node()}, start {began + 1}", flush=True)
    if str(config.PROJECT) != code:
        sys.exit(f"this job found the code of {config.PROJECT} instead of {code}")
    came: set[signal.Signals] = set()
    try:
        came = stopping.listen(max(1.0, seconds - since_start()))
        if rank == 0:
            go_offline(Path(folder))
            let_finish(Path(folder))
        ended = job.main(Path(folder))
    except stopping.Stopped:
        ended = job.STOPPED
    with stopping.stops_between_steps():  # from here on a signal is noted, no more
        signal.setitimer(signal.ITIMER_REAL, 0)
        if rank == 0:
            leave(Path(folder), ended, came, restarts - began)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)


def let_finish(folder: Path) -> None:
    """Waits while another process makes this artefact: an earlier start of this job may live on where SLURM has lost
    the node. To requeue instead would cost a start and the site's delay each time."""
    seconds = json.loads((folder / "spec.json").read_text())["around"]["run"]["lock_seconds"]
    told = False
    while (owner := lock.holder(folder, seconds)) is not None:
        if not told:
            print(f"{owner} is making this artefact; waiting for it", flush=True)
        told = True
        time.sleep(LOOK_SECONDS)


def leave(folder: Path, ended: int, came: set[signal.Signals], restarts: int) -> None:
    """Ends in the way from which SLURM draws the right conclusion for those who wait for this artefact."""
    there = ended in (job.DONE, job.THERE)
    if signal.SIGTERM in came:
        # Cancelled, or preempted: SLURM decides. Who leaves by himself now counts as timed out, even if he succeeded,
        # and takes all that wait for him along; who is preempted and stays is queued again.
        print("asked to stop by SIGTERM; waiting for SLURM to end or to requeue this job", flush=True)
        time.sleep(KILL_SECONDS)
        sys.exit(job.STOPPED)
    signalled = came & {signal.SIGUSR1, signal.SIGUSR2}
    if there and not signalled:
        return
    if not signalled and ended not in (job.HELD, job.STOPPED):
        sys.exit(ended)
    if restarts <= 0:
        give_up(folder)
    print("saved; this job goes back to the queue", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    client.requeue(name())  # ends this process
    time.sleep(KILL_SECONDS)
    sys.exit(job.STOPPED)


def give_up(folder: Path) -> None:
    why = "it was stopped more often than cluster.restarts allows; its time limit may be too short"
    print(why, flush=True)
    store.write_atomically(folder / "log" / "error.json", json.dumps({"error": why, "trace": ""}))
    sys.exit(job.STOPPED)


def since_start() -> float:
    """Seconds since SLURM's clock for this job began, as far as it says."""
    began = os.environ.get("SLURM_JOB_START_TIME")
    return max(0.0, time.time() - float(began)) if began else 0.0


def name() -> str:
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def go_offline(folder: Path) -> None:
    """W&B keeps its records here where there is no route to its server; `make wandb-sync` brings them up."""
    spec = json.loads((folder / "spec.json").read_text())
    url = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    if spec["around"]["log"]["mode"] == "online" and not routed(url.hostname or "", url.port or 443):
        print(f"W&B: no route to {url.hostname}; offline", flush=True)
        spec["around"]["log"]["mode"] = "offline"
        store.write_atomically(folder / "spec.json", json.dumps(spec, indent=1, sort_keys=True))


def routed(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), ROUTE_SECONDS).close()
    except OSError:
        return False
    return True


def report(arguments: list[str], code: str) -> None:
    """Renders what is there."""
    words = [sys.executable, str(Path(code, "scripts", "reproduce.py")), *arguments, "action=render"]
    sys.exit(subprocess.run(words, stdin=subprocess.DEVNULL).returncode)


def probe(folder: str) -> None:
    """For the doctor: says where it is, waits for a signal, goes back to the queue."""
    from torch import cuda

    signal.signal(signal.SIGUSR2, lambda *_: Path(folder, "signal").touch())
    store.write_atomically(Path(folder, "probe.json"), json.dumps({"node": node(), "gpus": cuda.device_count()}))
    deadline = time.monotonic() + KILL_SECONDS
    while not Path(folder, "signal").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    client.requeue(name())


def hello(folder: str) -> None:
    """For the doctor: tasks that find each other."""
    import torch

    from pipeline import dist

    with dist.together():
        total = int(dist.over_all(torch.tensor(1)))
        if dist.first():
            store.write_atomically(Path(folder, "hello.json"), json.dumps({"sum": total}))
