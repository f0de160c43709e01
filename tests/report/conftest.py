"""One folder of results for all tests of the report; nobody writes there."""

import pytest

from pipeline.report.found import Found
from report import results


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return results.make(tmp_path_factory.mktemp("results"))
