"""What the tests share: a results folder of their own, and golden files."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from artefacts import finish, planned

from pipeline.config import PROJECT
from pipeline.plan import Node

sys.path.insert(0, str(PROJECT))  # for benchmarks/, which is not installed
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A `run.root`; its store is `results / "runs"`."""
    return tmp_path / "results"


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compares text with tests/golden/<name>. With UPDATE_GOLDEN=1 in the environment it writes the files first: read
    their diff, and say in the commit why it is right."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"{name} differs; if that is meant: UPDATE_GOLDEN=1"

    return compare


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def done(root: Path) -> dict[str, Node]:
    """All three toys, made with loss.coef 0.01."""
    nodes = planned(root)
    for node in nodes.values():
        finish(node)
    return nodes


@pytest.fixture(scope="session")
def under_contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sound little reward model with its contract; nobody writes there."""
    import patients  # torch: most tests do without

    from pipeline import contract

    folder = patients.sound(tmp_path_factory.mktemp("under_contract") / "rm")
    contract.write(folder)
    return folder
