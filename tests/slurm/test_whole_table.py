"""Real stages: a table is byte for byte what it is without SLURM; a reward model trained by four tasks on two nodes is
that of one process. Meanwhile a toy runs into its time limit, again and again."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file
from test_cluster import script
from test_stops import console, resumed
from toys import CLUSTER, SMALL, Bench, all_done, named, unbroken, until

from pipeline import plan
from pipeline.config import experiment
from pipeline.experiment import Resources
from pipeline.plan import Graph
from pipeline.slurm.submit import submit
from pipeline.stages import STAGES

TABLE = ("table=floors", "scale=smoke", "seed=0", "sft.steps=60")
MINUTE = {"steps": 150, "seconds": 1.0}  # with 45 s until a job stops by itself


@pytest.fixture(scope="module")
def timing_out(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Graph]]:
    made = Bench(tmp_path_factory.mktemp("timing_out"), cluster)
    made.behave(alpha=MINUTE)
    built = made.graph(targets=("beta",))
    made.submit(built, default=replace(SMALL, minutes=1), signal_seconds=15)
    yield made, built[0]
    made.clear()


def bytes_of(root: Path) -> dict[str, bytes]:
    """{path: content} of every output file and every rendered table."""
    paths = [*root.glob("runs/*/*/out/**/*"), *root.glob("tables/**/*")]
    return {str(p.relative_to(root)): p.read_bytes() for p in paths if p.is_file()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table, made on this machine without SLURM."""
    root = tmp_path_factory.mktemp("here")
    script("reproduce.py", *TABLE, f"run.root={root}", "run.jobs=2")
    return root


def test_a_table_is_byte_for_byte_that_of_a_local_run(timing_out: tuple[Bench, Graph], here: Path, tmp_path: Path):
    shown = (f"run.root={tmp_path}", "cluster=slurm", "cluster.dirty=true")
    small = ("cluster.default.cpus=4", "cluster.default.memory_gb=2", "cluster.poll_seconds=1")
    out = script("reproduce.py", *TABLE, *shown, *small)
    assert "will render the table" in out
    out = script("reproduce.py", *TABLE, *shown, *small, "action=wait")
    assert "there" in out.splitlines()[-1]
    until(lambda: (tmp_path / "tables" / "smoke" / "floors.md").exists(), 60)
    until(lambda: bytes_of(tmp_path) == bytes_of(here), 20)
    assert len(bytes_of(here)) > 20


def test_two_nodes_with_two_tasks_train_what_one_process_does(
    timing_out: tuple[Bench, Graph], here: Path, tmp_path: Path
):
    if os.geteuid() != 0:
        pytest.skip("the virtual nodes have names only for root, who can write /etc/hosts")
    four = tmp_path / "four"
    shutil.copytree(here, four, ignore=shutil.ignore_patterns("rm"))
    built = plan.build(STAGES, four / "runs", [("rm", experiment(["scale=smoke", "sft.steps=60"]))])
    plan.judge(*built)
    assert [node.stage.name for node in built[0].values() if node.state == "run"] == ["rm"]
    tasks = replace(CLUSTER, default=replace(SMALL, minutes=10), stages={"rm": Resources(nodes=2, tasks=2)})
    submit(*built, tasks, four / "slurm")
    until(lambda: all_done(built[0]), 200)
    (target,) = built[1]
    mine, there = (root / "runs" / "rm" / target.folder.name / "out" for root in (here, four))
    weights, theirs = load_file(mine / "model.safetensors"), load_file(there / "model.safetensors")
    far = {name: float((theirs[name] - w).norm() / w.norm()) for name, w in weights.items()}
    print(f"largest relative distance of a weight: {max(far.values()):.1e}")
    assert max(far.values()) <= 1e-5
    order = [pd.read_parquet(folder / "dynamics.parquet")[["step", "id"]] for folder in (mine, there)]
    assert len(order[0]) and order[0].equals(order[1])
    logs = sorted(path.name for path in (target.folder / "log").glob("console*.log"))
    assert logs == ["console-1.log", "console-2.log", "console-3.log", "console.log"]
    nodes = {path.read_text().split(" on ")[1].split(",")[0] for path in (target.folder / "log").glob("console*.log")}
    assert nodes == {"n1", "n2"}


def test_a_stage_longer_than_its_time_limit(timing_out: tuple[Bench, Graph]):
    bench, graph = timing_out
    until(lambda: all_done(graph), 240)
    alpha = named(graph)["alpha"]
    assert len(resumed(alpha)) >= 4 and console(alpha).count("saved; this job goes back") >= 3
    assert bench.outputs() == unbroken(bench.folder, targets=("beta",), alpha=MINUTE)
