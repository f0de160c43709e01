"""An effect with its interval as a small drawing, and numbers as the page writes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.markup import Markup, tag

WIDTH, HEIGHT, EDGE = 220, 26, 8


@dataclass(frozen=True)
class Effect:
    """All in one unit; `seen` is the smallest effect that would have been seen, on either side of zero."""

    mean: float
    low: float
    high: float
    seen: float | None = None
    published: float | None = None
    digits: int | None = None
    relative: bool = False

    def said(self, value: float) -> str:
        if self.relative:
            return minus(f"{100 * value:+.1f} %")
        if self.digits is not None:
            return minus(f"{value:+.{self.digits}f}")
        return minus(f"{value:+.2g}" if abs(value) < 1e-3 else f"{value:+.3g}")

    @property
    def text(self) -> str:
        return f"{self.said(self.mean)} [{self.said(self.low)}, {self.said(self.high)}]"


def minus(text: str) -> str:
    """With a true minus sign; exponents too."""
    return text.replace("-", "−")


def drawing(e: Effect) -> Markup:
    """Zero in the middle, on a scale of its own; grey: too small to be seen here; a diamond: what was published."""
    widest = max(map(abs, (e.low, e.high, e.seen or 0.0, e.published or 0.0))) or 1.0
    half = WIDTH / 2 - EDGE

    def at(value: float) -> str:
        return f"{WIDTH / 2 + half * value / widest:.1f}"

    def bar(low: float, high: float, top: float, height: float, kind: str) -> Markup:
        width = f"{half * (high - low) / widest:.1f}"
        return tag("rect", x=at(low), y=top, width=width, height=height, class_=kind)

    x, y = (float(at(e.published)) if e.published is not None else 0.0), HEIGHT / 2
    diamond = f"M{x - 5:.1f} {y}L{x:.1f} {y - 5}L{x + 5:.1f} {y}L{x:.1f} {y + 5}Z"
    parts = [
        bar(-e.seen, e.seen, 3, HEIGHT - 6, "unseen") if e.seen is not None else None,
        tag("line", x1=at(0), x2=at(0), y1=0, y2=HEIGHT, class_="zero"),
        bar(e.low, e.high, y - 1.5, 3, "interval"),
        tag("circle", cx=at(e.mean), cy=y, r=4.5, class_="mean"),
        tag("path", d=diamond, class_="published") if e.published is not None else None,
    ]
    said = f"{e.text}{f'; published {e.said(e.published)}' if e.published is not None else ''}"
    return tag("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="forest", role="img", aria_label=said)


def of_claim(claim: Mapping[str, Any]) -> Effect | None:
    """The effect of a claim, if it was tested."""
    found, published = claim["interval"], claim["published"]
    if found is None:
        return None
    return Effect(
        found["mean"],
        found["low"],
        found["high"],
        seen=smallest(claim),
        published=published and published["value"],
        relative=claim["relative"],
    )


def smallest(claim: Mapping[str, Any]) -> float:
    """The smallest effect that would have been seen beyond the claim's minimum."""
    return claim["detectable"] + (0.0 if claim["direction"] == "same" else claim["minimum"])
