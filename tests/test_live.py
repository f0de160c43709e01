"""The live line: one that rewrites itself on a terminal, few lines in a log."""

import io
import json
from pathlib import Path

import pytest
from artefacts import planned, prepared

from pipeline import live
from pipeline.live import Line
from pipeline.plan import Node


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return planned(tmp_path / "runs")["alpha"]


def test_a_log_gets_one_line_an_interval(clock: list[float], node: Node):
    out = io.StringIO()
    line = Line(out, seconds=15)
    for second, done in [(0, 0), (1, 0), (14, 0), (15, 0), (16, 1), (17, 1), (31, 1)]:
        clock[0] = 100.0 + second
        line.show(done, 3, [node])
    line.end()
    assert out.getvalue().splitlines() == ["[0/3] alpha/a", "[0/3] alpha/a", "[1/3] alpha/a"]


def test_a_terminal_gets_one_line_that_is_cleared_at_the_end(
    clock: list[float], node: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "10")
    out = Terminal()
    line = Line(out, seconds=15)
    line.show(0, 3, [node])
    clock[0] += 0.1
    line.show(1, 3, [node])  # too soon to be read
    clock[0] += 0.2
    line.show(1, 3, [node])
    line.end()
    assert out.getvalue().split("\r\033[K") == ["", "[0/3] alp", "[1/3] alp", ""]


def test_a_stage_that_says_how_far_it_is_gets_rate_and_rest(node: Node):
    assert live.doing(node) == "alpha/a"
    prepared(node)
    progress = node.folder / "log" / "progress.json"
    progress.write_text(json.dumps({"step": 120, "total": 300, "rate": 2.0}))
    assert live.doing(node) == "alpha/a 120/300 2/s 1:30 left"
    progress.write_text(json.dumps({"step": 0, "total": 300, "rate": 0.0}))
    assert live.doing(node) == "alpha/a 0/300"
    progress.write_text("")
    assert live.doing(node) == "alpha/a"
