"""What SLURM's own commands say. Job names here are `array_index`, e.g. `12_3`: every job of ours is an element."""

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

SECONDS = 60  # until a command counts as unanswered
OURS = ("SLURM_CONF",)  # of SLURM's variables the one that says where the cluster is
LEAKS = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")  # what a job hands down to whatever it submits
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
ACTIVE = ("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING")
FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "Reason", "TimeUsed", "TimeLimit", "RestartCnt", "NodeList", "Comment")


class SlurmError(RuntimeError):
    """A command of SLURM failed, or did not answer."""


@dataclass(frozen=True)
class Job:
    """An element that is in the queue."""

    name: str
    state: str
    reason: str
    elapsed: str
    limit: str
    restarts: int
    nodes: str
    token: str  # of our record


@dataclass(frozen=True)
class Ended:
    """An element that has left the queue."""

    state: str  # TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, FAILED, COMPLETED
    exit_code: str
    elapsed: str
    limit: str


def command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise SlurmError(f"{words[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} has not answered for {SECONDS} s") from None
    if done.returncode:
        raise SlurmError(f"{words[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def here() -> bool:
    return shutil.which("sbatch") is not None


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Submitting from a job: what describes that job must not describe the new one."""
    leaked = {k: v for k, v in os.environ.items() if (k.startswith(LEAKS) or k in LAUNCHED) and k not in OURS}
    for name in leaked:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(leaked)


def queue() -> dict[str, Job]:
    """Our elements that wait or run, by name."""
    words = ("squeue", "--noheader", "--array", "--user", getpass.getuser(), "--Format")
    found = {}
    for line in command(*words, ",".join(f"{f}:|" for f in FIELDS)).splitlines():
        array, index, state, reason, elapsed, limit, restarts, nodes, comment = line.strip().split("|")[: len(FIELDS)]
        if state in ACTIVE and index.isdecimal():
            token = comment.partition(" ")[0]
            name = f"{array}_{index}"
            found[name] = Job(name, state, reason, elapsed, limit, int(restarts), nodes, token)
    return found


def ended(names: Iterable[str]) -> tuple[dict[str, Ended], str | None]:
    """How elements ended, as far as SLURM remembers, and a remark if that is not far."""
    names = set(names)
    if not names:
        return {}, None
    found, remark = {}, None
    try:
        text = command("sacct", "-XnP", "-j", ",".join(arrays(names)), "-o", "JobID,State,ExitCode,Elapsed,Timelimit")
        rows = (line.split("|") for line in text.splitlines())
        found = {row[0]: Ended(row[1].partition(" ")[0], *row[2:5]) for row in rows}
    except SlurmError:
        remark = "no accounting here (sacct): how a job ended is known only while slurmctld remembers it"
    # Accounting hears of an end some time after slurmctld, which still remembers it then.
    late = [name for name in names if name not in found or found[name].state in ACTIVE]
    return found | dict(remembered(arrays(late))), remark


def arrays(names: Iterable[str]) -> list[str]:
    return sorted({name.partition("_")[0] for name in names}, key=int)


def remembered(jobs: Iterable[str]) -> Iterator[tuple[str, Ended]]:
    """As slurmctld knows it, which forgets a job some minutes after its end."""
    for array in jobs:
        try:
            text = command("scontrol", "show", "job", "--oneliner", array)
        except SlurmError:  # forgotten
            continue
        for line in text.splitlines():
            values = dict(re.findall(r"(\w+)=(\S*)", line))
            if "ArrayTaskId" in values:
                told = (values[name] for name in ("JobState", "ExitCode", "RunTime", "TimeLimit"))
                yield f"{array}_{values['ArrayTaskId']}", Ended(*told)


def cancel(names: Iterable[str]) -> None:
    """Names of elements, or of whole arrays."""
    words = sorted(names)
    if words:
        with outside_of_a_job():
            command("scancel", "--quiet", *words)


def requeue(name: str) -> None:
    command("scontrol", "requeue", name)


@dataclass(frozen=True)
class Partition:
    minutes: float | None  # the longest time limit; None: no limit
    cpus: int  # of its largest node, like memory
    memory_gb: float
    gpus: bool  # has any
    nodes: int
    default: bool


def partitions() -> dict[str, Partition]:
    found: dict[str, Partition] = {}
    for line in command("sinfo", "--noheader", "--all", "--format", "%P|%l|%c|%m|%G|%D").splitlines():
        name, limit, cpus, memory, gres, nodes = line.strip().split("|")
        default, name = name.endswith("*"), name.rstrip("*")
        old = found.get(name, Partition(minutes(limit), 0, 0.0, False, 0, default))
        size = float(memory.rstrip("+")) / 1024
        found[name] = Partition(
            old.minutes,
            max(old.cpus, int(cpus.rstrip("+"))),
            max(old.memory_gb, size),
            old.gpus or "gpu" in gres,
            old.nodes + int(nodes),
            default,
        )
    return found


def minutes(limit: str) -> float | None:
    """SLURM's `1-02:03:04`, `02:03:04` or `03:04` in minutes."""
    if limit.lower() in ("infinite", "unlimited", "n/a"):
        return None
    days, _, clock = limit.rpartition("-")
    hours, mins, seconds = ([0, 0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def settings() -> Mapping[str, str]:
    """SLURM's configuration."""
    lines = command("scontrol", "show", "config").splitlines()
    return {k.strip(): v.strip() for k, sep, v in (line.partition("=") for line in lines) if sep}
