"""What is to be measured on a GPU, by tiny models on a CPU; and the page that says what was."""

from collections.abc import Iterator

import pytest
import tiny
import torch

from benchmarks import gpu
from pipeline import cost

assert tiny  # one thread


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    strict = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(strict)


@pytest.mark.parametrize("check", gpu.CHECKS, ids=lambda check: check.file)
def test_a_check_measures_what_is_predicted(check: gpu.Check) -> None:
    if check.tiny == (gpu.LORA,):
        pytest.importorskip("peft")
    found = gpu.measured(check, cost.gpu("h200"), tiny=True)
    assert found.bytes == pytest.approx(found.predicted_bytes, rel=0.1)
    assert found.seconds > 0


@pytest.mark.parametrize("check", gpu.CHECKS, ids=lambda check: check.file)
def test_every_check_has_room_somewhere(check: gpu.Check) -> None:
    asked = gpu.node(check.stage, check.settings)
    for name in ("h100-80", "h200"):
        place = gpu.room(check, asked, cost.gpu(name))
        assert place.gpus == 1 and place.precision == "bf16"


def test_the_page_says_what_was_measured() -> None:
    assert gpu.PAGE.read_text() == gpu.page(), "python -m benchmarks.gpu writes it"


def test_a_row_of_the_page() -> None:
    found = gpu.Found("x", "a=1", 3e9, 2e9, 1.5, 3.0, {"update": 3e9}, {"update": 2e9})
    assert gpu.lines([found])[2:] == [
        "| x: a=1 | 3 | 2 | 1.50 | 1.5 | 3 | 0.50 |",
        "| … update | 3 | 2 | 1.50 |  |  |  |",
    ]
