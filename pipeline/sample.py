"""Responses sampled from a model: which are being written, what is drawn for each, and when one has ended.

A response depends on its prompt, its seed and its number alone, to float tolerance of the logits: not on what else is
asked, in which order, or on how many are written at once. Each token takes one number of the response's own stream and
stands where the cumulative probabilities pass it: in the order of the vocabulary, or, where some tokens are left out,
from the most probable on.

Left out: beams, penalties on repetition, log-probabilities (`pipeline/policy.py` has them, with a gradient).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import chat, dist
from pipeline.cells import Cells, attended
from pipeline.errors import check
from pipeline.seeds import derive

READ = 16384  # tokens of prompts in one forward pass


@dataclass(frozen=True)
class Sampling:
    """From the top_p most probable of the top_k most probable tokens, as if there were no others."""

    max_new: int
    temperature: float  # 0: the most probable token
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    stops: tuple[int, ...] = ()


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    seeds: Sequence[int],
    k: int = 1,
    slots: int | None = None,
    tick: Callable[[int], None] = lambda ended: None,
) -> list[list[int]]:
    """k responses to each prompt, one prompt's after another's, as token ids with the stop that ended them if one did.
    At most `slots` are written at once (None: all), or the k of one prompt. `tick` is told how many have ended."""
    assert len(prompts) == len(seeds), "one seed for each prompt"
    assert all(prompts), "a prompt has at least one token"
    rows = max(k, min(k * len(prompts), slots or k * len(prompts)))
    answers: list[list[int]] = [[] for _ in range(k * len(prompts))]
    waiting = deque(sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)))
    ended = 0
    with attended(model), dist.autocast():
        desk = Desk(Cells(model, rows, max(map(len, prompts), default=0) + how.max_new), how)
        while waiting or desk.living:
            if begun := admitted(waiting, prompts, (rows - desk.living) // k):
                desk.begin([prompts[i] for i in begun], [seeds[i] for i in begun], [k * i for i in begun], k)
            else:
                desk.go_on()
            for of, ids in desk.leave():
                answers[of] = ids
                ended += 1
            tick(ended)
    return answers


def admitted(waiting: deque[int], prompts: Sequence[Sequence[int]], room: int) -> list[int]:
    """As many as there is room for, if one forward pass can read them."""
    begun: list[int] = []
    tokens = 0
    while waiting and len(begun) < room and (not begun or tokens + len(prompts[waiting[0]]) <= READ):
        tokens += len(prompts[waiting[0]])
        begun.append(waiting.popleft())
    return begun


class Desk:
    """Rows that are being written; the living ones come first."""

    def __init__(self, cells: Cells, how: Sampling):
        device = cells.model.device
        self.cells, self.how = cells, how
        self.stops = torch.tensor(how.stops, dtype=torch.long, device=device)
        self.living = 0
        self.of, self.at, self.made, self.last = torch.zeros(4, cells.rows, dtype=torch.long, device=device)
        self.said = torch.zeros(cells.rows, how.max_new, dtype=torch.long, device=device)
        self.uniform = torch.zeros(cells.rows, how.max_new, dtype=torch.float64, device=device)

    def begin(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], firsts: Sequence[int], k: int) -> None:
        rows = slice(self.living, self.living + k * len(prompts))
        logits = self.cells.read(prompts, self.living, k)
        self.living = rows.stop
        self.of[rows] = torch.tensor([first + j for first in firsts for j in range(k)], device=self.of.device)
        self.at[rows] = torch.tensor([len(p) - 1 for p in prompts for _ in range(k)], device=self.at.device)
        self.made[rows] = 0
        if self.how.temperature:
            self.uniform[rows] = torch.stack([numbers(derive(s, j), self.how.max_new) for s in seeds for j in range(k)])
        self.say(rows, logits.repeat_interleave(k, dim=0))

    def go_on(self) -> None:
        rows = slice(0, self.living)
        self.say(rows, self.cells.write(self.last[rows], self.at[rows]))

    def say(self, rows: slice, logits: Tensor) -> None:
        """The next token of some rows, from the logits after their last."""
        now = self.made[rows, None]
        token = choose(logits, self.how, self.uniform[rows].gather(1, now))
        self.said[rows].scatter_(1, now, token[:, None])
        self.last[rows] = token
        self.made[rows] += 1
        self.at[rows] += 1

    def leave(self) -> Iterator[tuple[int, list[int]]]:
        """What has ended, and whose it is; the last living rows take the places."""
        rows = slice(0, self.living)
        over = torch.isin(self.last[rows], self.stops) | (self.made[rows] == self.how.max_new)
        if not over.any():
            return
        self.living -= int(over.sum())
        gone, stay = over.nonzero()[:, 0], (~over).nonzero()[:, 0]
        whose, lengths, said = (x[gone].tolist() for x in (self.of, self.made, self.said))
        target, source = gone[gone < self.living], stay[stay >= self.living]
        for each in (self.of, self.at, self.made, self.last, self.said, self.uniform):
            each[target] = each[source]
        if len(source):
            self.cells.move(source, target, int(self.at[source].max()))
        for of, length, ids in zip(whose, lengths, said, strict=True):
            yield of, ids[:length]


def numbers(seed: int, n: int) -> Tensor:
    """(n,) uniform on [0, 1), the same whatever comes after them."""
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def choose(logits: Tensor, how: Sampling, uniform: Tensor) -> Tensor:
    """(n, vocabulary) logits and (n, 1) uniform numbers -> (n,) tokens."""
    if how.temperature == 0:
        return logits.argmax(-1)
    p = (logits.float() / how.temperature).softmax(-1).double()
    if not how.top_k and how.top_p == 1:
        return passed(p, uniform)[:, 0]
    p, order = p.sort(dim=-1, descending=True, stable=True)
    return order.gather(1, passed(best(p, how), uniform))[:, 0]


def best(p: Tensor, how: Sampling) -> Tensor:
    """Falling probabilities, zero from where they are left out. What reaches top_p of what top_k leaves is kept."""
    if how.top_k:
        p = p[:, : how.top_k]
    before = p.cumsum(-1) - p
    return p.where(before < how.top_p * p.sum(-1, keepdim=True), 0.0)


def passed(p: Tensor, uniform: Tensor) -> Tensor:
    """(n, 1) the first token at which the cumulative probabilities exceed that share of their sum."""
    total = p.cumsum(-1)
    below = torch.nextafter(total[:, -1:], torch.zeros_like(uniform))  # a product may be rounded up to the whole
    return torch.searchsorted(total, uniform * below, right=True)


# --- before anything is asked ---


def stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What ends a response: the tokenizer's end of turn, and what the model's folder names beside it."""
    config = model.generation_config
    named = None if config is None else config.eos_token_id
    more = named if isinstance(named, list) else [] if named is None else [named]
    return tuple(sorted({chat.eos(tokenizer), *more}))


def check_room(model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new: int, key: str) -> None:
    """There is something to answer, and the model has positions for the longest prompt and its response."""
    check(len(prompts) > 0, "data", len(prompts), "there is no prompt to answer")
    check(all(prompts), "data", "", "a prompt has no tokens: look at the tokenizer's chat template")
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompts))
    left = max_new if room is None else room - longest
    remedy = f"lower it to {left}" if left > 0 else "leave out such prompts"
    check(
        left >= max_new, key, max_new, f"the longest prompt has {longest} tokens, the model {room} positions: {remedy}"
    )
