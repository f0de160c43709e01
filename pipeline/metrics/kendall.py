"""Kendall's rank correlation between rewards and gold scores of the k responses to one prompt, over many prompts.

tau-b per prompt, then the mean over prompts, which is how the papers' "four responses per prompt" tables are read;
there is no official scorer for them. tau-a stands beside it because tau-b rewards a model for tying: with ties, tau-b
divides by the untied pairs only. No p-values: the unit of inference is the seed or the prompt, not the response.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Undefined = Literal["exclude", "zero"]


def per_prompt(rewards: ArrayLike, gold: ArrayLike) -> NDArray[np.float64]:
    """tau-b of every prompt, (n,), equal to `scipy.stats.kendalltau`; NaN where all rewards or all gold are equal."""
    return _tau_b(*_signs(*_matrices(rewards, gold)))


def score(rewards: ArrayLike, gold: ArrayLike, *, undefined: Undefined = "exclude") -> dict[str, float]:
    """Rewards and gold (n prompts, k responses) -> `tau`, `tau_a`, `nan_prompts`, `ties`, `gold_ties`, `n`.

    `tau` is the mean tau-b. Prompts without a defined one (`nan_prompts` of them) are left out of it, or count as 0
    with undefined="zero". `tau_a` = (concordant - discordant) / all pairs, over all prompts. `ties`, `gold_ties`:
    tied pairs of responses among the rewards and among the gold scores, all prompts together.
    """
    if undefined not in ("exclude", "zero"):
        raise ValueError(f"undefined={undefined!r}: choose 'exclude' or 'zero'")
    r, g = _signs(*_matrices(rewards, gold))
    tau_b = _tau_b(r, g)
    is_nan = np.isnan(tau_b)
    kept = np.where(is_nan, 0.0, tau_b) if undefined == "zero" else tau_b[~is_nan]
    return {
        "tau": float(kept.mean()) if kept.size else float("nan"),
        "tau_a": float((r * g).mean(axis=1).mean()),
        "nan_prompts": int(is_nan.sum()),
        "ties": int((r == 0).sum()),
        "gold_ties": int((g == 0).sum()),
        "n": len(tau_b),
    }


def _tau_b(r: NDArray[np.int8], g: NDArray[np.int8]) -> NDArray[np.float64]:
    pairs = r.shape[1]
    untied_r, untied_g = np.count_nonzero(r, axis=1), np.count_nonzero(g, axis=1)
    concordance = (r * g).sum(axis=1, dtype=float)
    defined = (untied_r > 0) & (untied_g > 0)
    # SciPy divides by the two roots one after the other and clips; the same here, for the same last bit.
    scale_r = np.sqrt(np.where(defined, untied_r, pairs))
    scale_g = np.sqrt(np.where(defined, untied_g, pairs))
    return np.where(defined, np.clip(concordance / scale_r / scale_g, -1.0, 1.0), np.nan)


def _signs(*matrices: NDArray[np.float64]) -> list[NDArray[np.int8]]:
    """Sign of every within-prompt difference, (n, k(k-1)/2) each; comparisons, so that infinities order too."""
    i, j = np.triu_indices(matrices[0].shape[1], k=1)
    return [(m[:, i] > m[:, j]).astype(np.int8) - (m[:, i] < m[:, j]).astype(np.int8) for m in matrices]


def _matrices(rewards: ArrayLike, gold: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r, g = np.asarray(rewards, dtype=float), np.asarray(gold, dtype=float)
    if r.shape != g.shape or r.ndim != 2 or r.shape[0] < 1 or r.shape[1] < 2:
        raise ValueError(f"need (prompts, responses >= 2) twice, got {r.shape} and {g.shape}")
    for name, matrix in (("rewards", r), ("gold", g)):
        if np.isnan(matrix).any():
            raise ValueError(f"{name} of prompt {int(np.isnan(matrix).any(axis=1).argmax())} hold a NaN")
    return r, g
