"""The expression reader: polynomials exactly, everything else refused without being run."""

import pytest

from pipeline.world.expression import POINTS, values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x + 49", lambda x: x + 49),
        ("3 * x + 5", lambda x: 3 * x + 5),
        ("(x - 2) * (x + 2) - -x", lambda x: (x - 2) * (x + 2) + x),
        ("7", lambda x: 7),
        ("\n x\n", lambda x: x),
    ],
)
def test_values(text, value):
    assert values(text, "x") == tuple(value(x) for x in POINTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x ** 2",
        "x / 2",
        "x // 2",
        "y + 1",
        "x(3)",
        "x.real",
        "x[0]",
        "1.5",
        "1e3",
        "2j",
        "0x10",
        "09",
        "True",
        "(x",
        "x)",
        "x + ",
        "x := 3",
        "lambda x: x",
        "__import__('os')",
        "[x for x in (1,)]",
        "'a'",
        "9999999",
        "+".join(["x"] * 17),
        "(" * 99 + "x" + ")" * 99 + " " * 10,
        "x" + " " * 300,
        "x\x00",
    ],
)
def test_everything_else_has_no_values(text):
    assert values(text, "x") is None


def test_different_polynomials_differ():
    zero_at_seven_points = "*".join(f"(x - {point})" for point in range(7))
    assert values(f"{zero_at_seven_points} + x", "x") not in (None, values("x", "x"))
