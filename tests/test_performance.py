"""What benchmarks measure with, by hand; and the page that is made of what they found."""

from dataclasses import astuple

import pytest
import torch

from benchmarks import __main__ as page
from benchmarks.bar import Bar
from benchmarks.held import Held
from benchmarks.line import line


def test_the_page_says_what_was_measured() -> None:
    assert page.PAGE.read_text() == page.page(), "make bench BENCH=… writes it"


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [("lower", 3.0, "MISSED"), ("lower", 2.0, "met"), ("lower", 1.0, "met, aim too"), ("higher", 0.5, "MISSED")],
)
def test_a_bound_is_reached_or_not(better: str, value: float, verdict: str) -> None:
    bar = Bar("file", "name", value, "s", better, [value], must=2.0 if better == "lower" else 1.0, aim=1.0)  # type: ignore[arg-type]  # checked above
    assert bar.verdict == verdict


def test_what_has_no_bound_misses_none() -> None:
    assert Bar("file", "name", 1.0, "s", "lower", [1.0]).verdict == "measured"


def test_the_most_that_tensors_hold() -> None:
    there = torch.ones(250_000)  # 1 MB, before
    with Held() as found:
        a = there.exp()  # 1 more
        b = torch.cat([a, a])  # 3
        del a
        c = torch.empty(125_000)  # 2.5
        del b
        d = torch.empty(250_000)  # 1.5
    assert len(c) + len(d) and found.most == 3.0


def test_a_backward_pass_holds_gradients_and_what_it_has_not_used() -> None:
    x = torch.zeros(250_000, requires_grad=True)
    with Held() as found:
        y = x.exp().exp().sum()  # 2 MB saved
        y.backward()  # each of its two steps makes 1 MB while both its input and its own are held: 3, then 1 goes
    assert found.most == pytest.approx(3.0, abs=1e-4)


def test_a_line_and_how_much_it_explains() -> None:
    assert astuple(line([1000, 2000, 3000], [1.0, 3.0, 5.0])) == pytest.approx((2.0, -1.0, 1.0))
    # 1/6 of 2/3 is left: residuals -1/6, 1/3, -1/6 around a mean of 5/3
    assert line([1000, 2000, 3000], [1.0, 2.0, 2.0]).r2 == pytest.approx(0.75)
