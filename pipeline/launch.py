"""Which of how many processes this one is. No torch: most stages are one process, and many never load it."""

import os
import re


def launched() -> tuple[int, int, int]:
    """Rank, number of processes, rank on this host, as torchrun or SLURM's srun says; alone if neither started us."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    if "RANK" in os.environ:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_STEP_NUM_TASKS" in os.environ:  # a batch script's own shell does not have it: it is alone
        os.environ.setdefault("MASTER_ADDR", first_host(os.environ["SLURM_STEP_NODELIST"]))
        os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000))
    place, processes, local = (int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True))
    return place, processes, local


def first_host(nodes: str) -> str:
    """Of SLURM's list of hosts: `gpu[03-05,9],x1` -> `gpu03`."""
    found = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    assert found is not None, f"{nodes!r} is no list of hosts"
    return found[1] + (found[2] or "")
