"""How torch computes in this process."""

import torch


def prepare(threads: int) -> None:
    """Before the first operation: the thread count is part of a result's identity, and so is the order of additions."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
