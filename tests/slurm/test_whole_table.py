"""Real stages: a table is byte for byte what it is without SLURM; a reward model trained by four tasks on two nodes is
that of one process. Meanwhile a toy runs into its time limit, again and again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file
from test_cluster import script
from test_stops import configured, console, resumed
from toys import CLUSTER, SMALL, Bench, all_done, named, unbroken, until

from pipeline import job, plan, store
from pipeline.config import PROJECT, experiment
from pipeline.experiment import Resources
from pipeline.plan import Graph, Node
from pipeline.slurm import client, transport
from pipeline.slurm.ledger import Ledger
from pipeline.slurm.submit import submit
from pipeline.stages import STAGES

TABLE = ("scale=smoke", "seed=0", "sft.steps=60")
MINUTE = {"steps": 150, "seconds": 1.0}  # with 45 s until a job stops by itself


@pytest.fixture(scope="module", autouse=True)
def forgetful(cluster: Path) -> Iterator[None]:
    """Here slurmctld forgets jobs soon after their end, as on a busy cluster, if not as soon."""
    with configured(cluster, r"MinJobAge=.*", "MinJobAge=2"):
        yield


@pytest.fixture(scope="module")
def timing_out(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Graph]]:
    made = Bench(tmp_path_factory.mktemp("timing_out"), cluster)
    made.behave(alpha=MINUTE)
    built = made.graph(targets=("beta",))
    made.submit(built, default=replace(SMALL, minutes=1), signal_seconds=15)
    yield made, built[0]
    made.clear()


@pytest.fixture(scope="module")
def orphan(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Graph]]:
    """Its first artefact has failed."""
    made = Bench(tmp_path_factory.mktemp("orphan"), cluster)
    made.behave(alpha={"fails": True})
    built = made.graph(targets=("beta",))
    made.submit(built)
    yield made, built[0]
    made.clear()


def bytes_of(root: Path) -> dict[str, bytes]:
    """{path: content} of every output file and every rendered table."""
    paths = [*root.glob("runs/*/*/out/**/*"), *root.glob("tables/**/*")]
    return {str(p.relative_to(root)): p.read_bytes() for p in paths if p.is_file()}


@pytest.fixture(scope="module")
def here(
    timing_out: tuple[Bench, Graph], orphan: tuple[Bench, Graph], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The table, made on this machine without SLURM."""
    root = tmp_path_factory.mktemp("here")
    script("reproduce.py", "table=floors", *TABLE, f"run.root={root}", "run.jobs=2")
    return root


def make(*words: str) -> str:
    """What a target prints. .venv is there: this test runs in it."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", ".venv/ready", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def job_of(home: Path, name: str) -> str:
    return next(r.element(min(r.keys)) for r in Ledger(home).read() if r.name.startswith(name))


def test_a_table_is_byte_for_byte_that_of_a_local_run(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Made by jobs when who submitted them has gone; SFT is sent back to the queue half-way. No route to W&B."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    small = ("cluster.default.cpus=4", "cluster.default.memory_gb=2", "cluster.poll_seconds=1", "cluster.dirty=true")
    asked = ("SCALE=smoke", f"ARGS={' '.join((*TABLE[1:], f'run.root={tmp_path}', 'log.mode=online', *small))}")
    assert "will render the table" in make("submit-floors", *asked)
    (sft,) = (tmp_path / "runs" / "sft").iterdir()
    until(lambda: (sft / "log" / "progress.json").exists(), 90)
    client.command("scancel", "--signal=USR2", job_of(tmp_path / "slurm", "sft/"))
    out = make("wait", "TABLE=floors", *asked)
    assert "there" in out.splitlines()[-1]
    until(lambda: (tmp_path / "tables" / "smoke" / "floors.md").exists(), 60)
    until(lambda: bytes_of(tmp_path) == bytes_of(here), 20)
    assert len(bytes_of(here)) > 20
    said = make("logs", "TABLE=floors", f"KEY=sft/{sft.name.rpartition('-')[0]}", *asked)
    assert said.count("--- job") == 2 and "saved; this job goes back to the queue" in said
    assert "W&B: no route to 127.0.0.1; offline" in said and list((sft / "log" / "wandb").glob("offline-run-*"))


def several(here: Path, root: Path, nodes: int, tasks: int) -> tuple[Graph, Node]:
    """Submits the reward model alone, to so many tasks on each of so many nodes."""
    shutil.copytree(here, root, ignore=shutil.ignore_patterns("rm"))
    built = plan.build(STAGES, root / "runs", [("rm", experiment(TABLE))])
    plan.judge(*built)
    assert [node.stage.name for node in built[0].values() if node.state == "run"] == ["rm"]
    size = replace(SMALL, minutes=10)
    submit(*built, replace(CLUSTER, default=size, stages={"rm": Resources(nodes=nodes, tasks=tasks)}), root / "slurm")
    return built[0], built[1][0]


@pytest.fixture
def names_of_nodes() -> None:
    if os.geteuid() != 0:
        pytest.skip("the virtual nodes have names only for root, who can write /etc/hosts")


def test_two_nodes_with_two_tasks_train_what_one_process_does(names_of_nodes: None, here: Path, tmp_path: Path):
    graph, rm = several(here, tmp_path / "four", nodes=2, tasks=2)
    until(lambda: all_done(graph), 200)
    folders = (here / "runs" / "rm" / rm.folder.name, rm.folder)
    mine, theirs = (load_file(folder / "out" / "model.safetensors") for folder in folders)
    far = {name: float((theirs[name] - w).norm() / w.norm()) for name, w in mine.items()}
    print(f"largest relative distance of a weight: {max(far.values()):.1e}")
    assert max(far.values()) <= 1e-5
    order = [pd.read_parquet(folder / "out" / "dynamics.parquet")[["step", "id"]] for folder in folders]
    assert len(order[0]) and order[0].equals(order[1])
    logs = sorted(path.name for path in (rm.folder / "log").glob("console*.log"))
    assert logs == ["console-1.log", "console-2.log", "console-3.log", "console.log"]
    nodes = {path.read_text().split(" on ")[1].split(",")[0] for path in (rm.folder / "log").glob("console*.log")}
    assert nodes == {"n1", "n2"}


def test_two_tasks_sent_back_to_the_queue_go_on_where_they_were(names_of_nodes: None, here: Path, tmp_path: Path):
    """Bitwise: a sum of two has one order. That of more may change with a start, in the last bits."""
    whole, there = several(here, tmp_path / "whole", nodes=2, tasks=1)
    broken, rm = several(here, tmp_path / "broken", nodes=2, tasks=1)
    until(lambda: (rm.folder / "log" / "progress.json").exists(), 120)
    client.command("scancel", "--signal=USR1", job_of(tmp_path / "broken" / "slurm", "rm/"))
    until(lambda: all_done(whole) and all_done(broken), 200)
    said = console(rm)
    assert said.count("--- job") == 2 and "saved; this job goes back to the queue" in said
    files = [store.manifest(node.folder) for node in (there, rm)]
    assert files[0] and files[1] and files[0]["files"] == files[1]["files"]


def test_a_child_of_what_failed_and_was_forgotten_makes_nothing(orphan: tuple[Bench, Graph]):
    """SLURM itself lets it go."""
    bench, graph = orphan
    parent, child = Ledger(bench.home).read()
    until(lambda: forgotten(parent.element(0)), 150)
    needs, code = CLUSTER.default, Path(child.code)
    number = transport.submit(
        bench.home, "beta", "by-hand", f"afterok:{parent.element(0)}", child.calls, code, CLUSTER, needs
    )
    until(lambda: f"{number}_0" not in client.queue(), 60)
    assert console(named(graph)["beta"]).startswith(f"--- job {number}_0")
    until(lambda: exit_code(f"{number}_0") is not None, 30)
    assert exit_code(f"{number}_0") == f"{job.DAMAGED}:0"
    assert not store.is_done(named(graph)["beta"].folder)


def exit_code(name: str) -> str | None:
    """Accounting learns of an end somewhat later."""
    ended = client.ended([name])[0].get(name)
    return ended.exit_code if ended and ended.state == "FAILED" else None


def forgotten(name: str) -> bool:
    try:
        client.command("scontrol", "show", "job", name)
    except client.SlurmError:
        return True
    return False


def test_a_stage_longer_than_its_time_limit(timing_out: tuple[Bench, Graph]):
    bench, graph = timing_out
    until(lambda: all_done(graph), 240)
    alpha = named(graph)["alpha"]
    assert len(resumed(alpha)) >= 4 and console(alpha).count("saved; this job goes back") >= 3
    assert bench.outputs() == unbroken(bench.folder, targets=("beta",), alpha=MINUTE)
