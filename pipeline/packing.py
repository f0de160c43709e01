"""From token ids to what a model is run on. One layout for training, scoring and log-probabilities.

So far one way: each response is a row of its own with its prompt in front, padded on the right, causal, no mask
(padding comes after every real token, so it changes nothing).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """A prompt and its responses, as token ids."""

    prompt: list[int]
    responses: list[list[int]]

    @property
    def tokens(self) -> int:
        """Of the sequences that the model has to read, each prompt with each of its responses."""
        return sum(len(self.prompt) + len(r) for r in self.responses)

    def __post_init__(self) -> None:
        assert self.prompt and all(self.responses), "a prompt and each response have at least one token"


@dataclass(frozen=True)
class Layout:
    """What the model reads, and where in its flattened (tokens, d) output to look."""

    ids: Tensor  # (B, T)
    last: Tensor  # (n,) last token of each response
    before: Tensor  # (m,) the position that predicts each response token
    target: Tensor  # (m,) that token
    owner: Tensor  # (m,) whose it is: 0 … n − 1


def layout(groups: Sequence[Group]) -> Layout:
    rows = [g.prompt + r for g in groups for r in g.responses]
    starts = [len(g.prompt) for g in groups for _ in g.responses]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    lengths, start = torch.tensor([len(row) for row in rows]), torch.tensor(starts)
    at = torch.arange(width)
    response = (at >= start[:, None]) & (at < lengths[:, None])  # (B, T)
    owner, column = response.nonzero(as_tuple=True)
    first = torch.arange(len(rows)) * width
    return Layout(ids, first + lengths - 1, first[owner] + column - 1, ids[owner, column], owner)


def batches(groups: Sequence[Group], tokens: int) -> Iterator[tuple[list[int], list[Group]]]:
    """Groups of similar length together, each batch of at most `tokens` padded tokens (or one group), with their
    positions."""
    width = [len(g.prompt) + max(map(len, g.responses)) for g in groups]
    batch: list[int] = []
    for i in sorted(range(len(groups)), key=lambda i: (width[i], i)):
        rows = sum(len(groups[j].responses) for j in (*batch, i))
        if batch and rows * width[i] > tokens:
            yield batch, [groups[j] for j in batch]
            batch = []
        batch.append(i)
    if batch:
        yield batch, [groups[j] for j in batch]
