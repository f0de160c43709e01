"""A straight line through costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    slope: float  # CPU seconds for 1,000 tokens more
    start: float
    r2: float


def line(tokens: Sequence[float], seconds: Sequence[float]) -> Line:
    """Least squares."""
    x, y = np.array(tokens) / 1000, np.array(seconds)
    slope, start = np.polyfit(x, y, 1)
    left = np.square(y - slope * x - start).sum() / np.square(y - y.mean()).sum()
    return Line(float(slope), float(start), float(1 - left))
