"""Best-of-N: the gold reward of the response that a proxy reward model picks, and the over-optimisation fits to it.

`expected` is the unbiased estimator of Nakano et al. ("WebGPT", 2021), as used by Gao et al.: from n stored samples per
prompt, the exact mean over all N-subsets of the gold reward of the subset's best response by proxy, for every N <= n.
`fit` fits the functional forms of Gao, Schulman and Hilton ("Scaling Laws for Reward Model Overoptimization",
arXiv 2210.10760, section 1): with d = sqrt(KL from the initial policy) and R(0) = 0,

    best-of-N   R(d) = d (alpha - beta d)          turning point  d* = alpha / (2 beta)
    RL          R(d) = d (alpha - beta log d)      turning point  d* = exp(alpha / beta - 1)

Nothing is sampled here, and gold rewards are used as they come: whoever compares coefficients across gold models
standardises first. The scaling of alpha and beta with model size is not fitted.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Form = Literal["bon", "rl"]


def kl(ns: ArrayLike) -> NDArray[np.float64]:
    """KL of best-of-N from the sampling policy in nats, log N - (N - 1) / N (exact without ties)."""
    n = np.asarray(ns, dtype=float)
    return np.log(n) - (n - 1.0) / n


def rank_weights(n: int, ns: Sequence[int]) -> NDArray[np.float64]:
    """(len(ns), n): probability that the sample of ascending rank i is the best of a random N-subset of n samples.

    That is C(i - 1, N - 1) / C(n, N), taken as a difference of C(i, N) / C(n, N), which is built as a running
    product so that no binomial overflows.
    """
    if not all(1 <= size <= n for size in ns):
        raise ValueError(f"every N must lie in 1..{n} (the stored samples per prompt), got {list(ns)}")
    below = np.arange(n + 1, dtype=float)
    all_below, wanted = np.ones(n + 1), {}  # P(the whole subset lies among the lowest i samples), i = 0..n
    for drawn in range(max(ns)):
        all_below = all_below * np.maximum(below - drawn, 0.0) / (n - drawn)
        wanted[drawn + 1] = np.diff(all_below)
    return np.stack([wanted[size] for size in ns])


def expected(proxy: ArrayLike, gold: ArrayLike, ns: Sequence[int]) -> NDArray[np.float64]:
    """Proxy and gold rewards (prompts, n) -> (prompts, len(ns)): expected gold of the proxy's choice among N.

    Samples tied in proxy are chosen among with equal probability. For the proxy's own curve, pass it as gold too.
    """
    proxy, gold = np.asarray(proxy, dtype=float), np.asarray(gold, dtype=float)
    if proxy.shape != gold.shape or proxy.ndim != 2 or not proxy.size:
        raise ValueError(f"need (prompts, samples) twice, got {proxy.shape} and {gold.shape}")
    if np.isnan(proxy).any() or np.isnan(gold).any():
        raise ValueError("a proxy or gold reward is NaN")
    order = np.argsort(proxy, axis=1, kind="stable")
    proxy, gold = np.take_along_axis(proxy, order, axis=1), np.take_along_axis(gold, order, axis=1)
    return _mean_over_ties(proxy, gold) @ rank_weights(proxy.shape[1], ns).T


def fit(d: ArrayLike, gain: ArrayLike, form: Form, *, confidence: float = 0.95) -> dict[str, float]:
    """Least-squares fit of one form to gold gains over the initial policy at distances d (m,).

    gain is (m,), one curve, or (r, m), one curve per replicate (prompt or seed), fitted in the mean. Points with
    d = 0 carry no information and are left out. Returns `alpha`, `beta`, `turning_point` (NaN if beta <= 0: the curve
    never turns), `turning_low`, `turning_high`, `r2`, `n`.

    The interval is Fieller's for the ratio alpha / beta, mapped to d*. Its covariance comes from between the
    replicates (t with r - 1 degrees of freedom), or for a single curve from the residuals (m - 2), which assumes
    that they are independent; points of one training run are not, so prefer replicates. Where beta cannot be told
    from zero the upper end is infinite; where it is surely negative, or no degree of freedom is left, both are NaN.
    """
    design, gains = _design(d, gain, form)
    coefs, covariance, dof = _estimate(design, gains)
    alpha, beta = map(float, coefs)
    low, high = (_turning(form, ratio) for ratio in _fieller(coefs, covariance, dof, confidence))
    curve = gains.mean(axis=0)
    residual, spread = curve - design @ coefs, curve - curve.mean()
    return {
        "alpha": alpha,
        "beta": beta,
        "turning_point": _turning(form, alpha / beta) if beta > 0 else float("nan"),
        "turning_low": low,
        "turning_high": high,
        "r2": float(1.0 - (residual @ residual) / (spread @ spread)) if spread.any() else float("nan"),
        "n": len(curve),
    }


def score(proxy: ArrayLike, gold: ArrayLike, ns: Sequence[int]) -> dict[str, float]:
    """`gold@N`, `proxy@N` (means over prompts) for every N, and `bon/<key>` of `fit` with prompts as replicates."""
    sizes = sorted(set(ns))
    gold_curves, proxy_curves = expected(gold=gold, proxy=proxy, ns=sizes), expected(proxy, proxy, sizes)
    result = {f"gold@{n}": float(value) for n, value in zip(sizes, gold_curves.mean(axis=0), strict=True)}
    result |= {f"proxy@{n}": float(value) for n, value in zip(sizes, proxy_curves.mean(axis=0), strict=True)}
    if sum(n > 1 for n in sizes) < 2:
        return result
    gain = gold_curves - expected(proxy, gold, [1])
    return result | {f"bon/{key}": value for key, value in fit(np.sqrt(kl(sizes)), gain, "bon").items()}


def _mean_over_ties(proxy: NDArray[np.float64], gold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sorted rows: every gold value replaced by the mean gold of its group of equal proxy values."""
    starts = np.ones(proxy.shape, dtype=bool)
    starts[:, 1:] = proxy[:, 1:] != proxy[:, :-1]
    group = np.cumsum(starts.ravel()) - 1
    return (np.bincount(group, weights=gold.ravel()) / np.bincount(group))[group].reshape(gold.shape)


def _design(d: ArrayLike, gain: ArrayLike, form: Form) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both forms are linear in (alpha, beta): columns d and -d^2, or d and -d log d, where d > 0."""
    if form not in ("bon", "rl"):
        raise ValueError(f"form={form!r}: choose 'bon' or 'rl'")
    distance, gains = np.asarray(d, dtype=float), np.atleast_2d(np.asarray(gain, dtype=float))
    if distance.ndim != 1 or gains.ndim != 2 or gains.shape[1] != len(distance):
        raise ValueError(f"need gains (m,) or (replicates, m) at distances (m,), got {gains.shape}, {distance.shape}")
    if (distance < 0).any() or not np.isfinite(distance).all() or not np.isfinite(gains).all():
        raise ValueError("distances must be >= 0, and distances and gains finite")
    used = distance > 0
    distance, gains = distance[used], gains[:, used]
    if len(np.unique(distance)) < 2:
        raise ValueError("two coefficients need at least two different distances above zero")
    penalty = distance**2 if form == "bon" else distance * np.log(distance)
    return np.column_stack([distance, -penalty]), gains


def _estimate(design: NDArray[np.float64], gains: NDArray[np.float64]):
    """Coefficients of the mean curve (the mean of the replicates' own), their covariance, degrees of freedom."""
    solve = np.linalg.pinv(design)  # (2, points)
    per_replicate = gains @ solve.T  # (r, 2)
    coefs = per_replicate.mean(axis=0)
    if len(gains) > 1:
        return coefs, np.cov(per_replicate, rowvar=False) / len(gains), len(gains) - 1
    dof = len(design) - 2
    residual = gains[0] - design @ coefs
    variance = residual @ residual / dof if dof > 0 else float("nan")
    return coefs, variance * (solve @ solve.T), dof


def _fieller(coefs: NDArray[np.float64], covariance: NDArray[np.float64], dof: int, confidence: float):
    """Confidence limits of alpha / beta for beta > 0 (Fieller, 1954): all ratios q that alpha - q beta = 0 allows."""
    if dof < 1:
        return float("nan"), float("nan")
    t = float(stats.t.ppf(0.5 + confidence / 2.0, dof))
    (aa, ab), (_, bb) = np.outer(coefs, coefs) - t**2 * covariance
    root = np.sqrt(max(ab * ab - aa * bb, 0.0))
    if bb > 0:  # beta surely differs from zero: a bounded interval if it is positive, no turning point if negative
        return ((ab - root) / bb, (ab + root) / bb) if coefs[1] > 0 else (float("nan"), float("nan"))
    # beta may be zero. If alpha is surely positive, all ratios above a positive one remain; else any ratio does.
    if aa > 0 and coefs[0] > 0:
        return (aa / (ab + root) if ab + root > 0 else np.inf), np.inf
    return -np.inf, np.inf


def _turning(form: Form, ratio: float) -> float:
    """d* for ratio = alpha / beta; a best-of-N curve with alpha <= 0 falls from the start, at d = 0."""
    with np.errstate(over="ignore"):
        return float(max(ratio / 2.0, 0.0) if form == "bon" else np.exp(ratio - 1.0))
