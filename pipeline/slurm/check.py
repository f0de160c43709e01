"""Is what `cluster` asks for possible here? Asked before anything is submitted: SLURM takes much that never starts."""

from collections.abc import Iterable

from pipeline import job
from pipeline.config import closest
from pipeline.errors import check
from pipeline.experiment import Cluster
from pipeline.slurm import client
from pipeline.slurm.client import Partition
from pipeline.stages import STAGES

SIGNAL_SHARE = 4  # of the time limit at most one in so many parts is for saving


def check_cluster(x: Cluster, stages: Iterable[str]) -> None:
    """For these stages, which will be submitted."""
    check(client.here(), "cluster", x.kind, "no sbatch on this machine: submit from a login node, or say cluster=local")
    for stage in x.stages:
        check(stage in STAGES, f"cluster.stages.{stage}", stage, f"no such stage; {closest(stage, STAGES)}")
    found = client.partitions()
    there = x.partition is None or x.partition in found
    check(there, "cluster.partition", x.partition, f"no such partition; {closest(x.partition, found)}")
    default = next((p for p in found.values() if p.default), None)
    check(x.partition is not None or default is not None, "cluster.partition", None, "this cluster has no default one")
    partition = found[x.partition] if x.partition else default
    assert partition is not None, "checked above"
    for stage in sorted(set(stages)):
        check_stage(x, stage, partition)


def check_stage(x: Cluster, stage: str, partition: Partition) -> None:
    at, needs = f"cluster.stages.{stage}", x.resources(stage)
    assert needs.minutes and needs.cpus and needs.memory_gb and needs.nodes and needs.gpus is not None
    tasks = needs.tasks or max(1, needs.gpus)
    remedy = f"stage {stage} has {needs.minutes} min: at most {needs.minutes * 60 // SIGNAL_SHARE} s of it for saving"
    check(x.signal_seconds * SIGNAL_SHARE <= needs.minutes * 60, "cluster.signal_seconds", x.signal_seconds, remedy)
    longest = float("inf") if partition.minutes is None else partition.minutes
    remedy = f"such a job would never start: the partition allows {longest:g} min"
    check(needs.minutes <= longest, f"{at}.minutes", needs.minutes, remedy)
    cpus = tasks * needs.cpus
    check(cpus <= partition.cpus, f"{at}.cpus", needs.cpus, f"{tasks} tasks of it; a node has {partition.cpus} cores")
    roomy = needs.memory_gb <= partition.memory_gb
    check(roomy, f"{at}.memory_gb", needs.memory_gb, f"a node of the partition has {partition.memory_gb:g}")
    check(needs.nodes <= partition.nodes, f"{at}.nodes", needs.nodes, f"the partition has {partition.nodes}")
    check(not needs.gpus or partition.gpus, f"{at}.gpus", needs.gpus, "the partition has none; name another one")
    alone = tasks * needs.nodes == 1 or stage in job.SHARED
    check(alone, f"{at}.tasks", tasks * needs.nodes, f"stage {stage} is one process: nodes=1 tasks=1, at most one GPU")
