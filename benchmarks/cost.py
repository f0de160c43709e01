"""How the cost of a reward model's step grows: with more pairs, with longer responses, and with more responses to each
prompt; shared prompts beside `run.packing=padded`. CPU seconds against tokens, with a line fitted to each; the model is
that of `benchmarks/rm_step.py`. Draws docs/performance-cost.png and .svg.

Tokens are those of the sequences, each prompt with each of its responses, whatever a layout makes of them: both read
the same. What grows keeps what it had: pairs are added to those before, and so are responses.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bar import Bar, publish
from benchmarks.line import line
from benchmarks.rm_step import TOKENS, ours, pairs
from pipeline.config import PROJECT
from pipeline.packing import Group, Mode

ROUNDS = 5
PROMPTS = 2  # where something else grows
MODES: tuple[Mode, ...] = ("shared", "padded")
FIGURE = PROJECT / "docs" / "performance-cost"
LOOKS = {"shared": ("#0072B2", "o", "-"), "padded": ("#E69F00", "s", "--")}  # Okabe and Ito's


@dataclass(frozen=True)
class Growth:
    file: str
    name: str
    values: list[float]  # of what grows
    steps: list[list[Group]]

    @property
    def tokens(self) -> list[float]:
        return [sum(g.tokens for g in groups) for groups in self.steps]


Seconds = dict[Mode, list[list[float]]]  # by round, then by step


def main() -> int:
    torch.set_num_threads(1)
    found = [bar(growth, measured(growth)) for growth in growths()]
    draw([(growth.name, dict(bar.more or {})) for growth, bar in zip(growths(), found, strict=True)], FIGURE)
    return publish(found)


def growths() -> list[Growth]:
    all_pairs = pairs(prompt=120)
    few, responses = all_pairs[:PROMPTS], [r for pair in all_pairs for r in pair.responses]
    numbers, lengths, ks = (2, 4, 6, 8), (0.25, 0.5, 1.0, 1.5, 2.0), (2, 4, 6, 8)
    return [
        Growth("cost-pairs", "pairs", [*numbers], [all_pairs[:n] for n in numbers]),
        Growth("cost-length", "tokens in a response", [*lengths], [[scaled(g, x) for g in few] for x in lengths]),
        Growth(
            "cost-k",
            f"responses to each of {PROMPTS} prompts",
            [*ks],
            [[Group(g.prompt, responses[8 * i : 8 * i + k]) for i, g in enumerate(few)] for k in ks],
        ),
    ]


def scaled(group: Group, factor: float) -> Group:
    return Group(group.prompt, [(r + r)[: round(factor * len(r))] for r in group.responses])


def measured(growth: Growth) -> Seconds:
    """Both modes and all sizes in turn, the other way round in every second round."""
    steps = [(mode, ours(groups, {}, TOKENS, mode)) for groups in growth.steps for mode in MODES]
    steps[0][1]()  # warm
    seconds: Seconds = {mode: [] for mode in MODES}
    for i in range(ROUNDS):
        order = 1 if i % 2 == 0 else -1
        taken = [(mode, step()) for mode, step in steps[::order]][::order]
        for mode in MODES:
            seconds[mode].append([s for of, s in taken if of == mode])
    return seconds


def typical(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def bar(growth: Growth, seconds: Seconds) -> Bar:
    shared, padded = (line(growth.tokens, typical(seconds[mode])) for mode in MODES)
    return Bar(
        growth.file,
        f"RM step, 1,000 tokens more by {growth.name} (linear: r² = {shared.r2:.3f}; the peer's {padded.r2:.3f})",
        *(shared.slope, "CPU s", "lower"),
        rounds=[line(growth.tokens, each).slope for each in seconds["shared"]],
        peer="run.packing=padded",
        ratio=padded.slope / shared.slope,
        more={
            "grows": growth.values,
            "tokens": growth.tokens,
            "cpu_seconds": typical(seconds["shared"]),
            "peer_cpu_seconds": typical(seconds["padded"]),
            "r2": shared.r2,
            "peer_r2": padded.r2,
        },
    )


# --- the figure ---

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "cost",
}


def draw(found: Sequence[tuple[str, dict[str, Any]]], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        axes = figure.subplots(1, len(found), sharey=True)
        for ax, (name, measured) in zip(axes, found, strict=True):
            points(ax, "padded", measured["tokens"], measured["peer_cpu_seconds"])
            points(ax, "shared", measured["tokens"], measured["cpu_seconds"])
            ax.set(title=f"more {name}", xlabel="thousand tokens in a step", xlim=(0, None))
            ax.legend(loc="upper left", fontsize=8).set_in_layout(False)
        most = max(max(measured["peer_cpu_seconds"]) for _, measured in found)
        axes[0].set(ylabel="CPU seconds of a step", ylim=(0, 1.3 * most))  # room for the legends
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def points(ax: Any, mode: Mode, tokens: Sequence[float], seconds: Sequence[float]) -> None:
    colour, marker, dashes = LOOKS[mode]
    fit, ends = line(tokens, seconds), np.array([min(tokens), max(tokens)]) / 1000
    label = f"{mode}: {fit.slope:.2f} s a thousand, r² = {fit.r2:.3f}"
    ax.plot(ends, fit.slope * ends + fit.start, color=colour, linestyle=dashes, linewidth=1.2)
    ax.plot(np.array(tokens) / 1000, seconds, color=colour, marker=marker, linestyle="none", markersize=5)
    ax.plot([], [], color=colour, marker=marker, linestyle=dashes, label=label)


if __name__ == "__main__":
    sys.exit(main())
