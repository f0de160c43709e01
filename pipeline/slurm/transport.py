"""Handing an array to SLURM: submitit writes the batch script and starts our function inside the job. Only plain
arguments travel; its own requeueing and its results are not used (see inside.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths
from submitit.helpers import Checkpointable
from submitit.slurm.slurm import SlurmExecutor

from pipeline.experiment import Cluster, Resources
from pipeline.forkserver import QUIET
from pipeline.slurm import client, inside

ALWAYS = 10**6  # submitit's own count of time-outs: ours is cluster.restarts


class Call(Checkpointable):
    """One of inside.py's functions with plain arguments. If a signal comes before that function listens itself,
    submitit queues the job again."""

    def __call__(self, function: str, arguments: Mapping[str, Any]) -> None:
        getattr(inside, function)(**arguments)


def submit(
    home: Path, title: str, comment: str, after: str, calls: Mapping[int, Any], code: Path, x: Cluster, needs: Resources
) -> str:
    """Submits one array, one element for each index; returns SLURM's number of it."""
    folder = home / "submitit"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    executor = SlurmExecutor(folder, max_num_timeout=ALWAYS)
    executor.update_parameters(
        job_name=title,
        comment=comment,
        signal_delay_s=x.signal_seconds,
        stderr_to_stdout=True,
        setup=[*(f"export {k}={v}" for k, v in QUIET.items()), *x.setup],
        # submitit would name a task's output by SLURM's own number of the element, which is another element's name.
        srun_args=[f"--cpus-per-task={needs.cpus}", f"--output={folder / '%A_%a_%t.out'}"],
        additional_parameters={
            "array": ",".join(map(str, sorted(calls))),
            "output": str(folder / "%A_%a.out"),
            "chdir": str(code),
            "requeue": True,
            **({"dependency": after, "kill-on-invalid-dep": "yes"} if after else {}),
            **x.flags,
        },
        **size(needs, x.gres),
        **{k: v for k in ("account", "partition", "qos", "constraint") if (v := getattr(x, k)) is not None},
    )
    first = min(calls)
    try:
        with client.outside_of_a_job():
            number = executor.submit(Call(), *calls[first]).job_id
    except (FailedJobError, FailedSubmissionError) as e:
        raise client.SlurmError(f"sbatch refuses {title}: {last_line(str(e))}") from e
    place(home, number, calls)
    return number


def size(needs: Resources, gres: str | None) -> dict[str, Any]:
    assert needs.cpus and needs.nodes and needs.minutes and needs.memory_gb, "checked by Cluster"
    gpus = needs.gpus or 0
    asked: dict[str, Any] = {"gres": f"{gres}:{gpus}"} if gres else {"gpus_per_node": gpus}
    return {
        "time": needs.minutes,
        "nodes": needs.nodes,
        "ntasks_per_node": needs.tasks or max(1, gpus),
        "cpus_per_task": needs.cpus,
        "mem": f"{round(needs.memory_gb * 1024)}M",
        **(asked if gpus else {}),
    }


def place(home: Path, number: str, calls: Mapping[int, Sequence[Any]]) -> None:
    """What each element is to do, where submitit looks for it: a started job waits a minute for it."""
    for index, arguments in calls.items():
        path = JobPaths(home / "submitit", f"{number}_{index}").submitted_pickle
        if not path.exists():
            call = DelayedSubmission(Call(), *arguments)
            call.set_timeout(0, ALWAYS)
            staged = path.with_name(f".{path.name}")
            call.dump(staged)
            staged.rename(path)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("sbatch:")]
    return (told or lines)[-1]
