"""A stage that a launcher starts as two processes: what they make is what one makes, and one of them alone leaves
traces.

Two ways to start them: forked from a process that has imported torch, with torchrun's variables around them; and by
torchrun itself, which costs three imports of torch.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from artefacts import prepared
from safetensors.torch import load_file
from test_dist import free_ports

from pipeline import base, job, plan, rows, store
from pipeline.config import PROJECT
from pipeline.stages import STAGES

OVERRIDES = (
    "loss=norm_bt",
    "data.preferences.n=24",
    "data.sft.n=24",
    "data.probe.n=8",
    "rm.epochs=10",
    "rm.probe_every=50",
)
STEPS = 60
STOP_SECONDS = 120


@pytest.fixture(autouse=True, scope="module")
def as_before() -> Iterator[None]:
    """Jobs that run in this process leave their way of computing behind."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base.world_tokenizer, "train", cache(base.world_tokenizer.train))
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model's folder in a store where all that it needs is made."""
    root = tmp_path_factory.mktemp("ready") / "runs"
    nodes, wanted = plan.build(STAGES, root, [("rm", tiny.experiment(*OVERRIDES))])
    plan.judge(nodes, wanted)
    for node in nodes.values():
        prepared(node)
    *needed, reward_model = (node.folder for node in nodes.values())
    assert [job.run(folder) for folder in needed] == [job.DONE] * len(needed)
    return reward_model


def copied(ready: Path, to: Path) -> Path:
    """The same folder in a store of its own."""
    runs = ready.parent.parent
    return shutil.copytree(runs, to / "runs") / ready.relative_to(runs)


@pytest.fixture(scope="module")
def alone(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(ready, tmp_path_factory.mktemp("alone"))
    assert job.run(folder) == job.DONE
    return folder


# --- two ways to start ---


def work(rank: int, folder: Path, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", CUDA_VISIBLE_DEVICES="")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    sys.exit(job.main(folder))


def forked(folder: Path) -> list[int | None]:
    """The exit codes of both."""
    context, port = get_context("forkserver"), free_ports(1)
    context.set_forkserver_preload(["pipeline.fit", "pipeline.models", "hydra"])
    processes = [context.Process(target=work, args=(rank, folder, port)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(STOP_SECONDS)
    return [process.exitcode for process in processes]


def torchrun(folder: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_ports(1)),
    ]
    return subprocess.Popen(
        [*command, "-m", "pipeline.job", str(folder)],
        cwd=PROJECT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# --- what is left behind ---


def steps(folder: Path) -> list[int]:
    path = folder / "log" / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def manifest(folder: Path) -> Mapping[str, Any]:
    return store.open_intact(folder)


def assert_left_by_one(folder: Path) -> None:
    """One manifest, one line for each step, nothing of the others, nothing unfinished."""
    assert steps(folder) == list(range(1, STEPS + 1))
    assert {path.name for path in folder.iterdir()} == {"spec.json", "manifest.json", "out", "log"}


def assert_same(folder: Path, alone: Path) -> None:
    ours, theirs = (load_file(f / "out" / "model.safetensors") for f in (folder, alone))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert float((ours[name] - weight).norm()) <= 1e-3 * float(weight.norm()), name
    mine, other = manifest(folder), manifest(alone)
    assert mine["files"].keys() == other["files"].keys()
    for name in ("pairs", "tokens", "dropped"):
        assert mine["metrics"][name] == other["metrics"][name]
    for name in ("dynamics", "steps", "probe"):
        ours, theirs = rows.read(folder / "out", name), rows.read(alone / "out", name)
        assert len(ours) == len(theirs)
        for column, value in theirs[0].items():
            got, expected = ([row[column] for row in table] for table in (ours, theirs))
            if isinstance(value, float):
                got, expected = (np.array(values, float) for values in (got, expected))  # None, where there is none
                assert np.allclose(got, expected, rtol=1e-2, atol=1e-3, equal_nan=True), (name, column)
            else:
                assert got == expected, (name, column)
    score, other_score = (json.loads((f / "out" / "scoring.json").read_text()) for f in (folder, alone))
    got, expected = ([canary["reward"] for canary in s["canaries"]] for s in (score, other_score))
    assert got == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_stop_with_75_go_on_and_make_the_artefact_of_one(
    ready: Path, alone: Path, tmp_path: Path, way: str
) -> None:
    folder = copied(ready, tmp_path)
    spec = json.loads((folder / "spec.json").read_text())
    spec["around"]["run"] |= {"stop_after_steps": STEPS // 2 + 1, "parallel": way}
    (folder / "spec.json").write_text(json.dumps(spec))
    assert forked(folder) == [job.STOPPED, job.DONE]  # the first one speaks for all
    assert not store.is_done(folder) and steps(folder) == list(range(1, STEPS // 2 + 2))
    assert forked(folder) == [job.DONE, job.DONE]
    assert_left_by_one(folder)
    assert_same(folder, alone)
    assert job.run(folder) == job.THERE


@pytest.mark.slow
def test_torchrun_makes_it_too_and_goes_on_after_a_stop(ready: Path, alone: Path, tmp_path: Path) -> None:
    """Its own exit code is 1 after a stop, whatever that of its processes: what tells a stop from a failure lies in
    the folder."""
    folder = copied(ready, tmp_path)
    launcher = torchrun(folder)
    while not steps(folder) and launcher.poll() is None:
        time.sleep(0.01)
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=STOP_SECONDS)
    assert launcher.returncode not in (None, job.DONE), said
    assert not store.is_done(folder) and 0 < len(steps(folder)) < STEPS
    assert list((folder / "checkpoint").glob("step-*.pt")) and not list(folder.glob("attempt-*"))
    assert not (folder / "log" / "error.json").exists()
    again = torchrun(folder)
    said, _ = again.communicate(timeout=STOP_SECONDS)
    assert again.returncode == job.DONE, said
    assert_left_by_one(folder)
    assert_same(folder, alone)
