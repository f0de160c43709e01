"""A real SLURM of our own: two virtual nodes, started once, ended at the end. Everything here is marked `slurm`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toys

from pipeline.slurm import client

START = Path(__file__).with_name("start-slurm")
PROGRAMS = ("sbatch", "munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


def start_slurm(*words: str) -> None:
    subprocess.run([sys.executable, str(START), *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """Its folder."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        say = f"no {', '.join(missing)} here: tests/slurm/start-slurm start --install"
        pytest.fail(say) if os.environ.get("REQUIRE_SLURM") else pytest.skip(say)
    folder = Path(f"/tmp/slurm-test-{os.getpid()}")
    hosts = ["--etc-hosts"] if os.geteuid() == 0 else []
    try:
        start_slurm("start", "--dir", str(folder), "--grace", "4", "--requeue-wait", "5", *hosts)
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # jobs find the toys' code
        yield folder
    finally:
        start_slurm("stop", "--dir", str(folder))
        for name in ("SLURM_CONF", "PYTHONPATH"):
            os.environ.pop(name, None)


@pytest.fixture
def bench(cluster: Path, tmp_path: Path) -> Iterator[toys.Bench]:
    """A store and its own part of the queue, empty at the end."""
    made = toys.Bench(tmp_path, cluster)
    yield made
    made.clear()


@pytest.fixture
def lose(cluster: Path) -> Iterator[Callable[..., None]]:
    """Takes a node away: as a crash does, with all that runs there; or as a cut cable does. Both nodes are idle again
    at the end."""
    lost = []

    def crash(node: str, *flags: str) -> None:
        lost.append(node)
        start_slurm("node-kill", node, "--dir", str(cluster), *flags)
        toys.control("update", f"nodename={node}", "state=down", "reason=test")

    yield crash
    for node in lost:
        start_slurm("node-up", node, "--dir", str(cluster))
    toys.until(lambda: client.command("sinfo", "-hN", "-p", "main", "-o", "%T").split() == ["idle", "idle"], 90)
