"""Rewards of (prompt, response) pairs: the one function that every user of a reward model calls.

The reward is read at the last token of the conversation as the reward model's own template writes it, in fp32. It
does not depend on batch size, order or padding beyond float tolerance; results come in input order.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import chat, models, packing
from pipeline.packing import Group


@torch.no_grad()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) fp32 rewards and (n,) norms of the representation they were read from."""
    whole = chat.answered(tokenizer, prompts, responses)
    groups = [Group(row[:-1], [row[-1:]]) for row in whole]
    reward = np.empty(len(groups), np.float32)
    norm = np.empty(len(groups), np.float32)
    for rows, batch in packing.batches(groups, tokens):
        r, h = models.rewards(model, packing.layout(batch))
        reward[rows], norm[rows] = r.numpy(), h.norm(dim=-1).numpy()
    return reward, norm
