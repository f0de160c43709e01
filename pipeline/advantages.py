"""Leave-one-out advantages of RLOO."""

from torch import Tensor


def leave_one_out(rewards: Tensor) -> Tensor:
    """(prompts, k) → (prompts, k): each reward less the mean of the k − 1 others. Sums to zero for each prompt."""
    k = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (k - 1)
    return rewards - others
