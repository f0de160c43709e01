"""One function for each kind of figure: its spec and what was found for it in, a picture out. Numbers are made in
`series`, looks in `style`."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import store
from pipeline.config import closest
from pipeline.errors import ConfigError, check
from pipeline.figures import series, spec, style
from pipeline.figures.series import Columns
from pipeline.metrics.dynamics import correlation
from pipeline.plan import Node
from pipeline.store import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FEW = 12  # points of a line that get a mark each


@dataclass(frozen=True)
class Found:
    """The artefacts of a figure, all of them there."""

    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    nodes: dict[tuple[str, str, int], Node]  # row, stage, seed

    def columns(self, row: str, stage: str, file: str) -> list[Columns]:
        """Of each seed."""
        return [series.read(self.nodes[row, stage, seed].folder, file) for seed in self.seeds]

    def metrics(self, row: str, stage: str, name: str) -> list[float]:
        """Of each seed; NaN where it was not defined."""
        manifests = [store.manifest(self.nodes[row, stage, seed].folder) for seed in self.seeds]
        found = [entry["metrics"] for entry in manifests if entry is not None]
        if not any(name in of_seed for of_seed in found):
            raise ConfigError("figure.metrics", name, f"stage {stage} has no such metric; {closest(name, found[0])}")
        return [of_seed.get(name, np.nan) for of_seed in found]

    @property
    def looks(self) -> dict[str, dict[str, Any]]:
        return style.looks(self.rows)


def bars(of: spec.Bars, found: Found, figure: "Figure") -> None:
    ax = figure.subplots()
    width = 0.8 / len(found.rows)
    place = np.arange(len(of.metrics))
    for i, (row, look) in enumerate(found.looks.items()):
        values = of.scale * np.array([found.metrics(row, of.stage, name) for name in of.metrics.values()])  # (m, seeds)
        at = place + (i - (len(found.rows) - 1) / 2) * width
        mean = np.nanmean(values, axis=1)
        if of.mark == "bars":
            ax.bar(at, mean, 0.9 * width, color=look["color"], hatch=look["hatch"], edgecolor="white", linewidth=0)
        else:
            ax.plot(at, mean, color=look["color"], marker=look["marker"], linestyle="", markersize=5)
        aside = at + (0 if of.mark == "bars" else 0.35 * width)
        ax.plot(np.repeat(aside, values.shape[1]), values.ravel(), linestyle="", **style.SPOT)
    if of.chance is not None:
        ax.axhline(of.chance, color=style.GREY, linestyle=":", linewidth=0.8)
        ax.annotate("chance", (1.0, of.chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
    ax.set_xticks(place, list(of.metrics))
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel=of.label, xlabel=of.xlabel)
    style.name_rows(figure, found.looks, "bars" if of.mark == "bars" else "marks")


def curves(of: spec.Curves, found: Found, figure: "Figure") -> None:
    lines = -(-len(of.panels) // of.columns)
    grid = figure.subplots(lines, of.columns, squeeze=False, sharex=True, sharey=of.same_y)
    kind: style.Marks = "lines"
    for panel, ax in zip(of.panels, grid.flat, strict=True):
        for row, look in found.looks.items():
            runs = [series.of_set(c, panel.set) for c in found.columns(row, panel.stage, panel.file)]
            each = [series.running_mean(run[panel.y], of.window) for run in runs]
            mean, low, high = series.band(each)
            step = runs[0]["step"]
            if of.spread == "bands":
                ax.fill_between(step, low, high, color=look["color"], alpha=0.15, linewidth=0)
            else:
                ax.plot(step, np.transpose(each), color=look["color"], linewidth=0.5, alpha=0.6)
            kind = "marked lines" if len(step) <= FEW else "lines"
            marker = look["marker"] if kind == "marked lines" else ""
            ax.plot(step, mean, color=look["color"], linestyle=look["line"], marker=marker)
        ax.set(title=panel.title)
        if ax in grid[:, 0]:
            ax.set_ylabel(panel.label)
    for ax in grid[-1]:
        ax.set_xlabel(of.xlabel)
    style.name_rows(figure, found.looks, kind)


def boxes(of: spec.Boxes, found: Found, figure: "Figure") -> None:
    ax = figure.subplots()
    width = 0.8 / len(found.rows)
    for i, (row, look) in enumerate(found.looks.items()):
        runs = found.columns(row, of.stage, of.file)
        each = [series.by_group(run[of.value], run[of.by], of.relative_to) for run in runs]
        for group in of.groups:
            there = any(group in groups for groups in each)
            check(there, "figure.groups", group, f"no rows of {of.stage}/{of.file} are of this {of.by}")
        values = [np.concatenate([groups[group] for groups in each if group in groups]) for group in of.groups]
        drawn = ax.boxplot(
            values,
            positions=np.arange(len(of.groups)) + (i - (len(found.rows) - 1) / 2) * width,
            widths=0.85 * width,
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "white", "linewidth": 1.2},
            whiskerprops={"color": look["color"], "linewidth": 0.7},
            capprops={"color": look["color"], "linewidth": 0.7},
            flierprops={
                "marker": ".",
                "markersize": 1.5,
                "markeredgewidth": 0,
                "markerfacecolor": look["color"],
                "alpha": 0.4,
                "rasterized": True,  # many
            },
        )
        for box in drawn["boxes"]:
            box.set(facecolor=look["color"], hatch=look["hatch"], edgecolor="white", linewidth=0)
    ax.set_xticks(range(len(of.groups)), list(of.groups.values()))
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel=of.label, xlabel=of.xlabel, yscale="log" if of.log else "linear")
    style.plain_ticks(ax)
    style.name_rows(figure, found.looks, "bars")


def error_bins(of: spec.ErrorBins, found: Found, figure: "Figure") -> None:
    grid = figure.subplots(1, len(found.rows), squeeze=False, sharey=True, sharex=True)[0]
    for ax, row in zip(grid, found.rows, strict=True):
        cells = found.columns(row, of.stage, "errors")
        check(all("bin" in c for c in cells), "errors", row, "training had too few pairs to be divided by error")
        made = series.error_bins(cells)
        ends, colours = {}, {}
        for i, line in enumerate(made):
            color = style.PALETTE[i % len(style.PALETTE)]
            ax.plot(line["distance"], line["weighted"], color=color, marker=style.MARKERS[i], linestyle=style.LINES[i])
            name = f"{line['error']:.2f}"
            ends[name], colours[name] = (line["distance"][-1], line["weighted"][-1]), color
        ax.set(xscale="log", yscale="log", title=row, xlabel="‖$h_w − h_l$‖")
        if ax is grid[-1]:
            style.plain_ticks(ax)
            figure.canvas.draw()
            style.name_lines(ax, ends, colours)
            ax.annotate("σ(−Δ)", (1.02, 1.03), xycoords="axes fraction", color=style.GREY)
    grid[0].set_ylabel(of.label)


def pairs(of: spec.Pairs, found: Found, figure: "Figure") -> None:
    folder = found.nodes[found.rows[0], of.stage, found.seeds[0]].folder / "out"
    shown = read_json(folder / "examples.json")
    check(bool(shown), "examples", None, "no pair of this training had an error near 0.5")
    assert shown is not None, "checked"
    grid = figure.subplots(len(shown), 2, squeeze=False, sharex="col", width_ratios=(1.9, 1))
    for (left, right), (name, pair) in zip(grid, shown.items(), strict=True):
        left.axis("off")
        left.set_title(f"{name} pair: ‖$h_w − h_l$‖ = {pair['distance']:.2g}, σ(−Δ) = {pair['error']:.2f}")
        text = [("prompt", "prompt", style.GREY), ("chosen", "✓", "#000000"), ("rejected", "✗", "#000000")]
        lines = [(mark, color, textwrap.wrap(" ".join(pair[key].split()), 34)[:3]) for key, mark, color in text]
        at = 0.98
        for mark, color, wrapped in lines:
            words = "\n".join([f"{mark}: {wrapped[0]}", *(f"    {line}" for line in wrapped[1:])])
            left.text(0, at, words, va="top", color=color, fontsize=6, transform=left.transAxes)
            at -= 0.13 * len(wrapped) + 0.05
        normalised = pair["gradient"] * pair["batch_distance"] / pair["distance"]
        looks = style.looks(("BT", "NormBT"))
        values = {"BT": pair["gradient"], "NormBT": normalised}
        for place, (loss, value) in enumerate(values.items()):
            right.barh(place, value, 0.6, color=looks[loss]["color"], hatch=looks[loss]["hatch"], edgecolor="white")
            right.annotate(f" {value:.2g}", (value, place), va="center")
        right.set_yticks(range(2), list(values))
        right.set_ylim(1.6, -0.6)
        right.margins(x=0.25)
    grid[-1][1].set_xlabel("head gradient")


def frontier(of: spec.Frontier, found: Found, figure: "Figure") -> str:
    ax = figure.subplots()
    numbers = []
    for row, look in found.looks.items():
        if of.form == "rl":
            d, gain = series.frontier(found.columns(row, of.stage, "curve"), of.block)
        else:
            d, gain = series.best_of(found.columns(row, of.stage, "examples"))
        ax.plot(d, gain, color=look["color"], marker=look["marker"], linestyle="")
        at, curve, fit = series.fitted(d, gain, of.form)
        ax.plot(at, curve, color=look["color"], linestyle=look["line"])
        numbers.append(f"{row} α = {fit['alpha']:.3g}, β = {fit['beta']:.3g}")
    ax.axhline(0, color=style.GREY, linewidth=0.6)
    ax.set(xlabel=of.xlabel, ylabel=of.label)
    ax.set_xlim(left=0)
    style.name_rows(figure, found.looks, "marked lines")
    return f"Fits: {'; '.join(numbers)}"


def reliability(of: spec.Reliability, found: Found, figure: "Figure") -> None:
    grid = figure.subplots(1, len(of.sets), squeeze=False, sharey=True, sharex=True)[0]
    for ax, (name, title) in zip(grid, of.sets.items(), strict=True):
        for row, look in found.looks.items():
            runs = found.columns(row, of.stage, "examples")
            each = [series.reliability(series.deltas(run, name), of.bins) for run in runs]
            sure = np.mean([s for s, _ in each], axis=0)
            mean, low, high = series.band([right for _, right in each])
            ax.fill_between(sure, low, high, color=look["color"], alpha=0.15, linewidth=0)
            ax.plot(sure, mean, color=look["color"], linestyle=look["line"], marker=look["marker"])
        ax.plot([0.5, 1], [0.5, 1], color=style.GREY, linestyle=":", linewidth=0.8)
        ax.set(title=title, xlabel="σ(|Δ|): how sure")
    grid[0].set_ylabel("higher reward is right")
    style.name_rows(figure, found.looks, "marked lines")


def lengths(of: spec.Lengths, found: Found, figure: "Figure") -> None:
    ax = figure.subplots()
    first = found.columns(found.rows[0], of.stage, "examples")
    values = {of.baseline: np.concatenate([c["length_1"] for c in first])}
    for row in found.rows:
        values[row] = np.concatenate([c["length_2"] for c in found.columns(row, of.stage, "examples")])
    edges = np.linspace(0, max(v.max() for v in values.values()), 41)
    looks = {of.baseline: {"color": style.GREY, "line": "-", "marker": "", "hatch": ""}, **found.looks}
    for row, look in looks.items():
        share = np.histogram(values[row], edges)[0] / len(values[row])
        ax.stairs(share, edges, color=look["color"], linestyle=look["line"], linewidth=1.2)
        ax.axvline(float(np.median(values[row])), color=look["color"], linestyle=":", linewidth=0.8)
    ax.set(xlabel=of.label, ylabel="share of answers")
    style.name_rows(figure, looks, "lines")


def proxy(of: spec.Proxy, found: Found, figure: "Figure") -> str:
    probed = found.columns(found.rows[0], of.stage, "gradients")[0]
    color = found.looks[found.rows[0]]["color"]
    grid = figure.subplots(1, 2, squeeze=False, sharey=True)[0]
    numbers = []
    for ax, when, step in zip(grid, ("before training", "after"), np.unique(probed["step"])[[0, -1]], strict=True):
        at = probed["step"] == step
        distance, backbone = (probed[name][at] for name in ("distance", "backbone"))
        whole = np.hypot(distance, backbone)
        ax.plot(distance, whole, color=color, marker="o", linestyle="", markersize=2, markeredgewidth=0, alpha=0.5)
        ends = np.array([distance.min(), distance.max()])
        ax.plot(ends, np.polyval(np.polyfit(distance, whole, 1), ends), color=style.GREY, linewidth=0.8)
        ax.set(title=when, xlabel=of.xlabel)
        ax.set_xlim(left=0)
        numbers.append(f"{correlation(distance, whole):.2f} {when}")
    grid[0].set(ylabel=of.label)
    grid[0].set_ylim(bottom=0)  # of both: only now is all in them
    return f"Pearson's r: {', '.join(numbers)}"


HEIGHT: dict[type[spec.Spec], float] = {spec.Boxes: 2.2, spec.Frontier: 2.2, spec.Pairs: 2.8}  # inches; the rest 2.0
DRAWN: dict[type[spec.Spec], Callable[[Any, Found, "Figure"], str | None]] = {
    spec.Bars: bars,
    spec.Curves: curves,
    spec.Boxes: boxes,
    spec.ErrorBins: error_bins,
    spec.Pairs: pairs,
    spec.Frontier: frontier,
    spec.Reliability: reliability,
    spec.Lengths: lengths,
    spec.Proxy: proxy,
}


def draw(of: spec.Spec, found: Found, figure: "Figure") -> str | None:
    """What was computed for the picture alone, in words, if anything was."""
    return DRAWN[type(of)](of, found, figure)


def height(of: spec.Spec) -> float:
    lines = -(-len(of.panels) // of.columns) if isinstance(of, spec.Curves) else 1
    return HEIGHT.get(type(of), 2.0) if lines == 1 else 0.5 + 1.25 * lines
