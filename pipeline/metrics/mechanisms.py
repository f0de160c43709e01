"""The same records as `dynamics` broken down: by error and distance, by part of training, by set. Columns in; out come
rows for figures, and numbers. What `dynamics` says already is not said again.

Of one pair: error σ(−Δ), distance d = ‖h_w − h_l‖, gradient σ(−Δ) d of the head, and the same times the loss's weight.
Distances at the trained model are all pairwise distances that were scored. NaN: not defined.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics import dynamics
from pipeline.metrics.dynamics import DISTANCE_GROUPS, ERROR_BINS, Columns, Floats

Row = dict[str, Any]

PARTS = 4  # of training: as many windows of steps, evenly spread; the first and the last are early and late
EVEN = 0.1  # an undecided pair has an error this close to 0.5
NEAR, FAR = 0.05, 0.95  # of the undecided pairs by distance: which ones are shown


# --- the pairs trained on ---


def window(step: ArrayLike, steps: int) -> NDArray[np.int_]:
    """(n,) part of training, from 1, of each pair; 0: between two."""
    length = max(1, steps // dynamics.LATE)
    at, part = np.asarray(step), np.zeros(len(np.asarray(step)), int)
    for i, first in enumerate(starts(steps, length), start=1):
        part[(at >= first) & (at < first + length)] = i
    return part


def starts(steps: int, length: int) -> list[int]:
    """First steps of the parts; fewer steps than parts are one, the last step."""
    return [round(i * (steps - length) / (PARTS - 1)) for i in range(PARTS)] if steps >= PARTS else [steps - length]


def of_pairs(pairs: Columns, steps: int, headed: bool = True) -> dict[str, NDArray]:
    """A row for each pair and step: part of training, distance, error, gradient without and with the loss's weight, if
    a head has one."""
    delta, distance = np.subtract(pairs["r_w"], pairs["r_l"]), np.asarray(pairs["distance"])
    made = {
        "step": np.asarray(pairs["step"]),
        "part": window(pairs["step"], steps),
        "distance": distance,
        "error": dynamics.error(delta),
    }
    if headed:
        made["gradient"] = dynamics.head_gradient(delta, distance)
        made["weighted"] = dynamics.head_gradient(delta, distance, pairs["weight"])
    return made


def by_error(pairs: Columns, bins: int = ERROR_BINS, groups: int = DISTANCE_GROUPS) -> list[Row]:
    """Mean gradients of the closest, …, farthest pairs among those of nearly equal error: bins of equal size, smallest
    errors first, each divided into groups of equal size. Fewer pairs than cells: no rows."""
    columns = {name: np.asarray(pairs[name], float) for name in ("error", "distance", "gradient", "weighted")}
    if len(columns["error"]) < bins * groups:
        return []
    made = []
    for b, part in enumerate(np.array_split(np.argsort(columns["error"], kind="stable"), bins), start=1):
        ordered = part[np.argsort(columns["distance"][part], kind="stable")]
        for g, cell in enumerate(np.array_split(ordered, groups), start=1):
            means = {name: float(values[cell].mean()) for name, values in columns.items()}
            made.append({"bin": b, "group": g, "pairs": len(cell), **means})
    return made


def far_over_near(cells: list[Row], gradient: str) -> float:
    """How many times larger the gradient of a bin's farthest group is than that of its closest; geometric mean over
    bins. NormBT's premise is that it exceeds 1, and its aim that with weights it does not."""
    if not cells:
        return float("nan")
    of = {(cell["bin"], cell["group"]): cell[gradient] for cell in cells}
    last_bin, last = max(of)
    return float(np.exp(np.mean([np.log(of[b, last] / of[b, 1]) for b in range(1, last_bin + 1)])))


def misranked(delta: ArrayLike, distance: ArrayLike, groups: int = DISTANCE_GROUPS) -> Floats:
    """(groups,) mean gradient of the pairs ranked wrongly among the closest, …, farthest of all pairs."""
    wrong, gradient = np.asarray(delta) <= 0, dynamics.head_gradient(delta, distance)
    parts = np.array_split(np.argsort(np.asarray(distance), kind="stable"), groups)
    found = [gradient[part][wrong[part]] for part in parts]
    return np.array([values.mean() if len(values) else np.nan for values in found])


def undecided(pairs: Columns) -> dict[str, int]:
    """Which two pairs show best what distance does: of those with an error near 0.5, the one at the 5th and the one at
    the 95th percentile of distance. None, if no pair is undecided."""
    at = np.flatnonzero(np.abs(np.asarray(pairs["error"]) - 0.5) <= EVEN)
    if not len(at):
        return {}
    ordered = at[np.argsort(np.asarray(pairs["distance"])[at], kind="stable")]
    return {name: int(ordered[round(q * (len(at) - 1))]) for name, q in (("near", NEAR), ("far", FAR))}


# --- training from its first steps to its last ---


def growth(pairs: Columns, steps: Columns) -> list[Row]:
    """For each part of training ‖W_p‖, mean d and mean Δ, and what each of Δ's three factors has added since the first
    part (`dynamics.growth`)."""
    n = len(np.asarray(steps["step"]))
    of_pair, of_step = window(pairs["step"], n), window(steps["step"], n)
    delta = np.subtract(pairs["r_w"], pairs["r_l"])
    made: list[Row] = []
    first = None
    for part in sorted(set(of_step.tolist()) - {0}):
        means = (
            float(np.asarray(steps["head_norm"], float)[of_step == part].mean()),
            float(np.asarray(pairs["distance"], float)[of_pair == part].mean()),
            float(delta[of_pair == part].mean()),
        )
        first = first or means
        grown = {f"grown_{name}": value for name, value in dynamics.growth(first, means).items()}
        made.append({"part": part, **dict(zip(("head_norm", "distance", "delta"), means, strict=True)), **grown})
    return made


def head_norm(values: ArrayLike) -> dict[str, float]:
    """‖W_p‖ before the first update, and by which share it was ever away from that."""
    norm = np.asarray(values, float)
    return {"start": float(norm[0]), "largest_change": float(np.max(np.abs(norm / norm[0] - 1)))}


def spread_growth(looks: Columns) -> dict[str, float]:
    """From probe.parquet, for each set: how many times wider ‖h‖'s distribution is at the last look than at the
    first (standard deviations)."""
    of, step, norm = (np.asarray(looks[name]) for name in ("set", "step", "norm"))
    found = {}
    for name in dict.fromkeys(of.tolist()):
        first, last = (norm[(of == name) & (step == at)].std() for at in (step.min(), step.max()))
        found[name] = float(last / first) if first > 0 else float("nan")
    return found


# --- the trained model ---


def of_set(rows: Columns) -> dict[str, float]:
    """From a set's responses: the shape of ‖h‖'s distribution; whether rewards far from the usual belong to norms far
    from the usual (`extreme`: rank correlation of the distances from the medians); and whether rewards go with length
    among responses of equal gold to one prompt."""
    norm, reward = np.asarray(rows["norm"], float), np.asarray(rows["reward"], float)
    shape = dynamics.distribution(norm)
    away = (np.abs(values - np.median(values)) for values in (norm, reward))
    return {
        **{f"norm_{name}": shape[name] for name in ("mean", "std", "skew", "outliers")},
        "extreme": dynamics.spearman(*away),
        "length_given_gold": dynamics.partial_correlation(reward, rows["length"], rows["gold"], rows["id"]),
    }


def by_category(category: ArrayLike, pairs: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Median distance and median gradient of each category's pairs: `distance/Reasoning`."""
    found = {name: dynamics.by_group(category, pairs[name]) for name in ("distance", "gradient") if name in pairs}
    return {f"{name}/{of}": shape["median"] for name, each in found.items() for of, shape in each.items()}
