"""What the records of one reward model's training say: columns of its dynamics.parquet, steps.parquet, probe.parquet
and gradients.parquet (pipeline/dynamics.py, pipeline/probe.py) in, numbers out.

Of one pair: Δ = r_w − r_l, error σ(−Δ), distance d = ‖h_w − h_l‖, weight w that the loss gives it. NaN: not defined, as
a correlation with a constant. No intervals: the unit of inference is the seed.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import rankdata

from pipeline.metrics import kendall

Columns = Mapping[str, ArrayLike]
Floats = NDArray[np.float64]

ERROR_BINS = 5
DISTANCE_GROUPS = 4
LATE = 4  # early and late: the first and the last quarter of the steps


# --- correlations ---


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's; NaN if either is constant."""
    a, b = (v - v.mean() for v in _floats(x, y))
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    constant = np.ptp(np.asarray(x)) == 0 or np.ptp(np.asarray(y)) == 0 or scale == 0
    return float("nan") if constant else float(np.clip(a @ b / scale, -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's, of ranks."""
    return correlation(rankdata(x), rankdata(y))


def partial_correlation(x: ArrayLike, y: ArrayLike, given: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Pearson's, of what a linear regression on `given` leaves of x and y. With groups (a prompt's responses, say) each
    has an intercept of its own."""
    z, *both = (_centred(values, groups) for values in _floats(given, x, y))
    return correlation(*(_left(values, z) for values in both))


def _centred(values: Floats, groups: ArrayLike | None) -> Floats:
    of = np.zeros(len(values), int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    return values - (np.bincount(of, values) / np.bincount(of))[of]


def _left(values: Floats, explained_by: Floats) -> Floats:
    """Exactly 0 where there is nothing but rounding: a constant."""
    power = explained_by @ explained_by
    left = values - (explained_by * (values @ explained_by / power) if power > 0 else 0.0)
    return left if np.linalg.norm(left) > 1e-9 * np.linalg.norm(values) else np.zeros_like(left)


# --- gradients ---


def error(delta: ArrayLike) -> Floats:
    """σ(−Δ)."""
    return expit(-np.asarray(delta, float))


def head_gradient(delta: ArrayLike, distance: ArrayLike, weight: ArrayLike = 1.0) -> Floats:
    """w σ(−Δ) d: the norm of the head's gradient of a pair's weighted BT term. BSR eq. 22, NormBT eq. 6."""
    return np.asarray(weight, float) * error(delta) * np.asarray(distance, float)


def within_error(gradient: ArrayLike, distance: ArrayLike, errors: ArrayLike, bins: int = ERROR_BINS) -> Floats:
    """(bins,) rank correlation of gradient norm and distance among pairs of nearly equal error: bins of equal size,
    smallest errors first. NormBT's first evidence: the larger the distance, the larger the gradient, and with its
    weights no longer. A bin of fewer than 3 pairs is NaN."""
    g, d, e = _floats(gradient, distance, errors)
    parts = np.array_split(np.argsort(e, kind="stable"), bins)
    return np.array([spearman(g[part], d[part]) if len(part) > 2 else np.nan for part in parts])


def shares_by_distance(
    gradient: ArrayLike, distance: ArrayLike, step: ArrayLike, groups: int = DISTANCE_GROUPS
) -> Floats:
    """(groups,) share of a step's gradient norms that its closest, …, farthest pairs have; mean over steps. All equal
    if distance does not matter. Norms are added, not vectors, which may cancel."""
    g, d = _floats(gradient, distance)
    found = [np.full(groups, np.nan)]
    for at in (np.flatnonzero(np.asarray(step) == value) for value in np.unique(np.asarray(step))):
        parts = np.array_split(at[np.argsort(d[at], kind="stable")], groups)
        total = g[at].sum()
        if len(at) >= groups and total > 0:
            found.append(np.array([g[part].sum() for part in parts]) / total)
    return np.mean(found[1:] or found, axis=0)


def proxy(distance: ArrayLike, backbone: ArrayLike) -> dict[str, float]:
    """How well d stands for ‖∇Δ‖, of whose two parts it is the head's: its correlation with the whole (NormBT reports r
    = 0.928, but not when and on which pairs) and with the backbone's part alone, and the mean share of the backbone in
    the squared norm."""
    d, rest = _floats(distance, backbone)
    whole = np.hypot(d, rest)
    return {
        "pearson": correlation(d, whole),
        "pearson_backbone": correlation(d, rest),
        "backbone_share": float(np.mean(np.square(rest / whole))) if whole.all() else float("nan"),
    }


# --- growth ---


def growth(early: tuple[float, float, float], late: tuple[float, float, float]) -> dict[str, float]:
    """What the mean Δ grew by (`delta`), and how much of that the head's norm, the distance and the direction account
    for, from (‖W_p‖, mean d, mean Δ) at two times. Δ = ‖W_p‖ d cos ψ (BSR eq. 23), with the cos ψ that makes it true of
    the means. A factor's part is what its change adds, averaged over all orders of changing the three one by one
    (Shapley): the parts add up, whatever the signs."""
    before, after = _factors(*early), _factors(*late)
    made = {"delta": late[2] - early[2]}
    for i, name in enumerate(("head", "distance", "direction")):
        (b0, b1), (c0, c1) = ((before[j], after[j]) for j in range(3) if j != i)
        made[name] = (after[i] - before[i]) * ((b0 * c0 + b1 * c1) / 3 + (b0 * c1 + b1 * c0) / 6)
    return made


def _factors(head_norm: float, distance: float, delta: float) -> tuple[float, float, float]:
    return head_norm, distance, delta / (head_norm * distance) if head_norm * distance else 0.0


# --- distributions ---


def distribution(values: ArrayLike) -> dict[str, float]:
    """What a box plot shows, and skew. `span` is from whisker to whisker: the outermost values within 1.5 interquartile
    ranges of the box; `outliers` is the share beyond them. BSR shows ‖h‖ by set so (fig. 3), and ‖h_w − h_l‖ by epoch
    (fig. 2)."""
    v = np.asarray(values, float)
    q1, median, q3 = np.quantile(v, (0.25, 0.5, 0.75))
    reach = 1.5 * (q3 - q1)
    inside = v[(v >= q1 - reach) & (v <= q3 + reach)]
    away = v - v.mean()
    std = float(np.sqrt(np.mean(away**2)))
    return {
        "mean": float(v.mean()),
        "std": std,
        "q1": float(q1),
        "median": float(median),
        "q3": float(q3),
        "span": float(np.ptp(inside)),
        "skew": float(np.mean(away**3)) / std**3 if np.ptp(v) > 0 else float("nan"),
        "outliers": 1 - len(inside) / len(v),
    }


def by_group(group: ArrayLike, values: ArrayLike) -> dict[str, dict[str, float]]:
    """The distribution of the values of each group: a set, an epoch, a family of prompts."""
    of, v = np.asarray(group), np.asarray(values, float)
    return {str(name): distribution(v[of == name]) for name in np.unique(of)}


# --- what a manifest says ---


SHAPE = ("std", "span", "skew", "outliers")
SOMETIMES = ("text", "lambda")  # columns of steps.parquet that only some trainings have


def of_training(pairs: Columns, steps: Columns, category: ArrayLike | None = None) -> dict[str, float]:
    """From dynamics.parquet and steps.parquet, late in training unless said otherwise; of no steps, nothing.
    `category`: of each pair, e.g. the family of its prompt."""
    n = len(np.asarray(steps["step"]))
    if not n:
        return {}
    headed = has_head(steps)
    length = max(1, n // LATE)
    p, s = _at(pairs, n - length, n), _at(steps, n - length, n)
    ranks = np.asarray(steps["effective_rank"], float)
    norms = distribution(np.append(p["norm_w"], p["norm_l"]))
    grown = growth(_means(pairs, steps, 0, length), _means(pairs, steps, n - length, n))
    made = {
        "loss": s["loss"].mean(),
        "accuracy_train": s["accuracy"].mean(),
        "batch_mean": np.abs(s["batch_mean"]).mean(),
        "reward_std": s["reward_std"].mean(),
        "distance": p["distance"].mean(),
        "effective_rank": ranks[~np.isnan(ranks)][-1],  # the last one measured
        **{name: s[name].mean() for name in SOMETIMES if name in s},
        "weight_mean": p["weight"].mean(),
        "weight_max": np.max(np.asarray(pairs["weight"])),  # of all steps
        **(of_head_gradients(p) if headed else {}),
        **({} if category is None else by_category(p, np.asarray(category)[-len(p["step"]) :], headed)),
        **{f"norm_{name}": norms[name] for name in SHAPE},
        **{f"growth_{name}": value for name, value in grown.items() if headed or name == "delta"},
    }
    return {name: float(value) for name, value in made.items()}


def has_head(steps: Columns) -> bool:
    """Did a score head give the rewards? Without one σ(−Δ) d is nobody's gradient, and there is no ‖W_p‖."""
    norm = np.asarray(steps["head_norm"], float)
    return not len(norm) or not bool(np.isnan(norm).all())


def of_head_gradients(p: Columns) -> dict[str, float]:
    """From rows of dynamics.parquet: how the head's gradient goes with distance where the error is the same, without
    and with the loss's weights; and which pairs, by distance, the weighted gradient comes from."""
    delta, d = np.subtract(p["r_w"], p["r_l"]), np.asarray(p["distance"])
    plain, weighted = head_gradient(delta, d), head_gradient(delta, d, p["weight"])
    return {
        "gradient_by_distance": _mean(within_error(plain, d, error(delta))),
        "weighted_gradient_by_distance": _mean(within_error(weighted, d, error(delta))),
        **{f"gradient_share_q{i}": v for i, v in enumerate(shares_by_distance(weighted, d, p["step"]), start=1)},
    }


def by_category(p: Columns, category: ArrayLike, headed: bool = True) -> dict[str, float]:
    """Mean distance and mean weighted gradient of each category, e.g. `distance/code`."""
    values: dict[str, ArrayLike] = {"distance": p["distance"]}
    if headed:
        values["gradient"] = head_gradient(np.subtract(p["r_w"], p["r_l"]), p["distance"], p["weight"])
    groups = {name: by_group(category, v) for name, v in values.items()}
    return {f"{name}/{of}": found["mean"] for name, each in groups.items() for of, found in each.items()}


def of_probe(look: Columns) -> dict[str, float]:
    """From the rows of one step of probe.parquet, for each set: τ, the shape of ‖h‖'s distribution, and whether rewards
    still go with length among responses of equal gold to one prompt (`length_given_gold`)."""
    made = {f"{name}/tau": tau for name, tau in taus(look).items()}
    for name, own in _by_set(look).items():
        norms = distribution(own["norm"])
        made |= {f"{name}/norm_{key}": norms[key] for key in SHAPE}
        partial = partial_correlation(own["reward"], own["length"], own["gold"], own["id"])
        made[f"{name}/length_given_gold"] = partial
    return made


def taus(look: Columns) -> dict[str, float]:
    """From the same rows: each set's mean Kendall τ-b. Responses to a prompt stand together, as many for each."""
    return {name: _tau(own["reward"], own["gold"], len(np.unique(own["id"]))) for name, own in _by_set(look).items()}


def _tau(reward: NDArray, gold: NDArray, prompts: int) -> float:
    return kendall.score(reward.reshape(prompts, -1), gold.reshape(prompts, -1))["tau"]


def of_gradients(pairs: Columns) -> dict[str, float]:
    """From the rows of one step of gradients.parquet: `proxy`, and whether a pair's whole BT gradient grows with its
    distance where a regression holds the error fixed (`given_error`: too few pairs for bins)."""
    whole = error(pairs["delta"]) * np.hypot(pairs["distance"], pairs["backbone"])
    given_error = partial_correlation(whole, pairs["distance"], error(pairs["delta"]))
    return {**proxy(pairs["distance"], pairs["backbone"]), "given_error": given_error}


def _by_set(look: Columns) -> dict[str, dict[str, NDArray]]:
    of = np.asarray(look["set"])
    return {
        name: {column: np.asarray(values)[of == name] for column, values in look.items()}
        for name in dict.fromkeys(of.tolist())
    }


def _at(columns: Columns, first: int, end: int) -> dict[str, Floats]:
    """Number columns of the rows of steps from `first` up to `end`."""
    step = np.asarray(columns["step"])
    kept = (step >= first) & (step < end)
    arrays = {name: np.asarray(values)[kept] for name, values in columns.items()}
    return {name: values.astype(float) for name, values in arrays.items() if values.dtype.kind in "if"}


def _means(pairs: Columns, steps: Columns, first: int, end: int) -> tuple[float, float, float]:
    p, s = _at(pairs, first, end), _at(steps, first, end)
    return float(s["head_norm"].mean()), float(p["distance"].mean()), float((p["r_w"] - p["r_l"]).mean())


def _mean(values: Floats) -> float:
    """Of what is defined."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _floats(*columns: ArrayLike) -> list[Floats]:
    arrays = [np.asarray(values, float) for values in columns]
    if len({a.shape for a in arrays}) > 1 or arrays[0].ndim != 1:
        raise ValueError(f"need columns of one length, got shapes {', '.join(str(a.shape) for a in arrays)}")
    return arrays
