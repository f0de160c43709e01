"""RLOO's maths: how far a policy has moved, what a response is worth beside its siblings, and the loss of that.

A response's probability is that of all its tokens together: ratios and clips are of whole sequences, and the KL
penalty is a sum over tokens, with no gradient of its own. Left out: values, entropy bonuses, advantages divided by
their spread.
"""

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl(logp: Tensor, reference: Tensor) -> dict[Estimator, Tensor]:
    """(m,) of tokens sampled from the policy → estimates of KL(policy, reference) at each (Schulman, "Approximating KL
    divergence"). k1 alone, in the reward, gives the gradient of the KL itself; k3 has less variance to look at."""
    difference = logp - reference
    return {"k1": difference, "k2": difference.square() / 2, "k3": torch.expm1(-difference) + difference}


def leave_one_out(rewards: Tensor) -> Tensor:
    """(prompts, k) → (prompts, k): each reward less the mean of the k − 1 others. Sums to zero for each prompt."""
    k = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (k - 1)
    return rewards - others


def policy_loss(logp: Tensor, old: Tensor, advantage: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """(n,) losses of responses, and where the clip took the gradient away. `old`: their log-probabilities when they
    were sampled. On the policy that sampled them the ratio is 1 and the gradient −advantage · ∇logp."""
    ratio = torch.exp(logp - old)
    gain = ratio * advantage
    if clip is None:
        return -gain, torch.zeros_like(gain, dtype=torch.bool)
    bounded = ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(gain, bounded), bounded < gain
