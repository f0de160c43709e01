"""Where the reference data of the official scorers lies, for the tests that compare with it."""

import os
from pathlib import Path

import pytest

VARIABLE = "REWARD_REFERENCE"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with `alpaca_eval/`, `reward_bench/`, `rm_bench/`. Unset skips loudly; a wrong path fails."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"NOT COMPARED WITH THE OFFICIAL SCORERS: set {VARIABLE} to the folder with their reference data")
    folder = Path(os.environ[VARIABLE])
    assert folder.is_dir(), f"{VARIABLE}={folder} is not a folder"
    return folder
