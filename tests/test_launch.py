"""Who is who among processes that were started together."""

import os
from collections.abc import Callable, Iterator

import pytest

from pipeline import launch


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # so that what the code sets is taken back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_alone_unless_started_together(environment: Callable[..., None]) -> None:
    assert launch.launched() == (0, 1, 0)
    environment(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_JOB_ID="1")  # a batch script's own shell
    assert launch.launched() == (0, 1, 0)


def test_as_torchrun_says(environment: Callable[..., None]) -> None:
    environment(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="2")
    assert launch.launched() == (5, 8, 1)


def test_as_slurm_says(environment: Callable[..., None]) -> None:
    environment(SLURM_PROCID="3", SLURM_STEP_NUM_TASKS="4", SLURM_LOCALID="1", SLURM_JOB_ID="123456")
    environment(SLURM_STEP_NODELIST="gpu[07-08],x1")
    assert launch.launched() == (3, 4, 1)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "23456")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[03-05,9],x1", "gpu03"), ("a-b[1,3]", "a-b1"), ("a.b.c,d", "a.b.c")],
)
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    assert launch.first_host(nodes) == host
