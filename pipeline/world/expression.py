"""Arithmetic of one variable, evaluated without ever running code: integers, the variable, + - * and brackets.

Any text is allowed; what is not such an expression, or is too large, has no values. Nothing is looked up or called.
"""

import ast
import re
from functools import lru_cache

LONGEST = 200  # characters: bounds the nesting too
MOST_OPERANDS = 16
LARGEST = 10**6
# An expression of 16 operands is a polynomial of degree at most 16, so two of them that agree here agree everywhere.
POINTS = tuple(range(-8, 9))

SYMBOLS = re.compile(r"[\w+\-*()\s]*")
GLUED = re.compile(r"\d[A-Za-z_]")


class _Unreadable(Exception):
    """Not an expression of this kind."""


@lru_cache(maxsize=4096)
def values(text: str, variable: str) -> tuple[int, ...] | None:
    """The expression at POINTS, or None if it is not one."""
    if len(text) > LONGEST or not SYMBOLS.fullmatch(text) or GLUED.search(text):
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    operands = sum(isinstance(node, ast.Constant | ast.Name) for node in ast.walk(tree))
    if operands > MOST_OPERANDS:
        return None
    try:
        return tuple(_evaluate(tree, variable, x) for x in POINTS)
    except _Unreadable:
        return None


def _evaluate(node: ast.expr, variable: str, x: int) -> int:
    match node:
        case ast.Constant(value=int(number)) if type(number) is int and number <= LARGEST:
            return number
        case ast.Name(id=name) if name == variable:
            return x
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, variable, x)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as op, right=right):
            a, b = _evaluate(left, variable, x), _evaluate(right, variable, x)
            return a * b if isinstance(op, ast.Mult) else a + b if isinstance(op, ast.Add) else a - b
    raise _Unreadable
