"""Sampling responses: left-padded prompts, a key-value cache, rows dropped when they have ended."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

DROP_BELOW = 0.6  # share of living rows under which the ended ones are dropped from the cache


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    temperature: float,
    eos: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """A response to each prompt, as token ids with the end token if it was reached. Temperature 0 is greedy."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    at = (mask.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=model.config)
    out = torch.full((len(prompts), max_new), eos)
    living = torch.arange(len(prompts))
    going = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(max_new):
        last = model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        token = choose(model.get_output_embeddings()(last), temperature, generator)  # type: ignore[misc]  # a module
        out[living, step] = token
        going = going & (token != eos)
        if not going.any():
            break
        if going.float().mean() < DROP_BELOW:
            cache.batch_select_indices(going.nonzero().squeeze(1))
            living, token, mask, at, going = living[going], token[going], mask[going], at[going], going[going]
        ids = token[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        at = at[:, -1:] + 1
    return [cut(row, eos) for row in out.tolist()]


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator).squeeze(1)


def cut(row: list[int], eos: int) -> list[int]:
    return row[: row.index(eos) + 1] if eos in row else row
