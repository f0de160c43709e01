"""Runs the benchmarks, all or those named, each in a process of its own, and writes docs/performance.md from what all
of them have left in results/bench/. Exit 1 where a must is missed.

    python -m benchmarks [name …]
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.bar import FOLDER, Bar
from pipeline.config import PROJECT

HERE = Path(__file__).parent
PARTS = ("__init__", "__main__", "bar", "gpu", "held", "line")  # gpu has a page of its own
NAMES = sorted(p.stem for p in HERE.glob("*.py") if p.stem not in PARTS)
PAGE = PROJECT / "docs" / "performance.md"
INTRO = """# What it costs, measured

`make bench` measures all of this, `make bench BENCH=name` one of {names};
it exits with 1 where a *must* is missed. Raw rounds, versions and the machine stand in `results/bench/`. Rounds of a
comparison are interleaved in one process; a value is their median. CPU seconds, one thread, unless said otherwise. A
ratio is peer / ours; another processor will give another one.
"""
COST = """
Cost against tokens, each prompt counted with each of its responses (`make bench BENCH=cost`; the points are in
`results/bench/cost-*.json`):

![CPU seconds of a step against its tokens, as pairs, response lengths and responses to a prompt grow: each linear, with
shared prompts below padded rows](performance-cost.png)
"""


def main(asked: list[str]) -> int:
    unknown = sorted(set(asked) - set(NAMES))
    if unknown:
        print(f"error: BENCH = {unknown[0]!r}: no such benchmark; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    codes = []
    for name in asked or NAMES:
        print(f"== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=PROJECT).returncode)
    PAGE.write_text(page())
    return int(any(codes))


def page() -> str:
    found = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]
    bars = [Bar(**{key: about[key] for key in Bar.__dataclass_fields__}) for about in found]
    head = ["| | value | must | aim | | peer |", "|---|---|---|---|---|---|"]
    rows = [
        f"| {b.name} | {number(b.value)} {b.unit} | {bound(b.must)} | {bound(b.aim)} | {b.verdict} | {b.peer or ''} |"
        for b in bars
    ]
    names = ", ".join(f"`{name}`" for name in NAMES)
    return "\n".join([INTRO.format(names=names), *head, *rows]) + "\n" + COST


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def bound(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
