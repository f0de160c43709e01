"""The numbers that figures draw, from files of artefacts. Arrays only; nothing is drawn and nothing inferred here."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from pipeline.metrics import best_of_n

Columns = dict[str, NDArray]
Floats = NDArray[np.float64]


def read(folder: Path, name: str) -> Columns:
    """Columns of out/<name>.parquet, or of out/<name>.json, a list with a row for each step."""
    path = folder / "out" / f"{name}.parquet"
    if path.exists():
        found = pq.read_table(path)
        return {column: found[column].to_numpy() for column in found.column_names}
    made = json.loads(path.with_suffix(".json").read_text())
    return {"step": np.arange(len(made)), **{key: np.array([row[key] for row in made]) for key in made[0]}}


def of_set(columns: Columns, name: str | None) -> Columns:
    return columns if name is None else {key: v[columns["set"] == name] for key, v in columns.items()}


def running_mean(values: ArrayLike, window: int) -> Floats:
    """(n,) mean of each value and the window − 1 before it, of as many as there are."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, float))])
    end = np.arange(1, len(total))
    first = np.maximum(end - window, 0)
    return (total[end] - total[first]) / (end - first)


def band(curves: Sequence[ArrayLike]) -> tuple[Floats, Floats, Floats]:
    """Mean, smallest and largest of (seeds, n) curves at each place."""
    stacked = np.array(curves, float)
    return stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0)


def by_group(values: ArrayLike, group: ArrayLike, relative_to: str | None) -> dict[str, NDArray]:
    """{group: its values}, divided by the median of one of them if asked."""
    of, v = np.asarray(group).astype(str), np.asarray(values, float)
    made = {name: v[of == name] for name in np.unique(of)}
    unit = 1.0 if relative_to is None else np.median(made[relative_to])
    return {name: own / unit for name, own in made.items()}


def error_bins(cells: Sequence[Columns]) -> list[dict[str, Floats]]:
    """For each error bin, smallest errors first: the mean error, and for its groups by distance the mean distance and
    the mean weighted gradient. Geometric means over seeds but for the error's: seeds differ in scale."""
    made = []
    for b in np.unique(cells[0]["bin"]):
        own = [{name: values[seed["bin"] == b] for name, values in seed.items()} for seed in cells]
        log = {name: np.mean([np.log(c[name]) for c in own], axis=0) for name in ("distance", "weighted")}
        made.append({"error": np.mean([c["error"] for c in own]), **{name: np.exp(v) for name, v in log.items()}})
    return made


def frontier(curves: Sequence[Columns], block: int) -> tuple[Floats, Floats]:
    """√KL and the gold reward gained since the first step, means over seeds and blocks of steps. A sampled KL below
    zero is zero."""
    mean = {name: np.mean([c[name] for c in curves], axis=0) for name in ("kl", "gold")}
    kl, gold = ([part.mean() for part in blocks(mean[name], block)] for name in ("kl", "gold"))
    return np.sqrt(np.maximum(kl, 0.0)), np.array(gold) - mean["gold"][0]


def best_of(examples: Sequence[Columns]) -> tuple[Floats, Floats]:
    """√KL of best-of-N and the gold reward gained over one sample, means over seeds and prompts, for each N."""
    ns = np.unique(examples[0]["n"])
    gold = np.mean([[seed["gold"][seed["n"] == n].mean() for n in ns] for seed in examples], axis=0)
    return np.sqrt(best_of_n.kl(ns)), gold - gold[0]


def blocks(values: Floats, size: int) -> list[Floats]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def fitted(d: Floats, gain: Floats, form: best_of_n.Form) -> tuple[Floats, Floats, dict[str, float]]:
    """100 points of the fit, and its numbers."""
    found = best_of_n.fit(d, gain, form)
    at = np.linspace(d.max() / 100, d.max(), 100)
    return at, at * (found["alpha"] - found["beta"] * (np.log(at) if form == "rl" else at)), found


def reliability(delta: ArrayLike, bins: int) -> tuple[Floats, Floats]:
    """(bins,) how sure the model is that the higher reward is right, σ(|Δ|), and how often it is (ties: half), in bins
    of as many pairs; Δ = r_chosen − r_rejected."""
    values = np.asarray(delta, float)
    sure, right = expit(np.abs(values)), (np.sign(values) + 1) / 2
    parts = np.array_split(np.argsort(sure, kind="stable"), bins)
    return np.array([sure[part].mean() for part in parts]), np.array([right[part].mean() for part in parts])


def deltas(examples: Columns, name: str) -> Floats:
    """(n,) r_chosen − r_rejected of a set's pairs, from a benchmark's examples."""
    rewards = np.array([list(pair) for pair in of_set(examples, name)["rewards"]])
    return rewards[:, 0] - rewards[:, 1]


def spread(wanted: Mapping[str, float], gap: float, low: float, high: float) -> dict[str, float]:
    """Places for labels, each as near to its own as its neighbours let it: at least `gap` apart, within low … high."""
    names = sorted(wanted, key=lambda name: wanted[name])
    at = [min(max(wanted[name], low), high) for name in names]
    for _ in range(100):
        for i in range(len(at) - 1):
            short = gap - (at[i + 1] - at[i])
            if short > 1e-9:
                at[i], at[i + 1] = at[i] - short / 2, at[i + 1] + short / 2
        at = [min(max(place, low), high) for place in at]
    return dict(zip(names, at, strict=True))
