"""Rewards of responses: the one function that every user of a reward model calls.

The reward is read at the last token of the conversation as the reward model's own template writes it, in fp32; an
implicit one at all tokens of the response. It depends on that conversation alone: not on batch size, order, padding, or
on which responses share their prompt in one group, beyond float tolerance. Equal conversations are scored once, so they
tie exactly. What is too long loses the end of its response and is counted. Results come as they are made, or all of
them in input order.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import attention, chat, models, packing, rows
from pipeline.conversations import Asked, Prompt, messages
from pipeline.implicit import Implicit
from pipeline.packing import Group, Mode
from pipeline.rows import Row
from pipeline.store import sync

Place = tuple[int, int]  # row, response
Held = tuple[int, Tensor, Tensor, bool]  # response, reward, what the head read, truncated

WINDOW = 1024  # rows whose token ids are held at once, and among which a forward pass finds others of its length
RESPONSE_SHARE = 4  # a response is cut to no less than a quarter of the limit; then its prompt loses its start
MOST_DISTANCES = 8  # responses of a row up to which their distances are told: k² numbers


@dataclass(frozen=True)
class Scored:
    """Responses of one row: all of them, or if they are many, those that one forward pass has read."""

    row: int
    of: int  # responses that the row has
    at: list[int]  # (k,) which of them
    reward: Tensor  # (k,) fp32
    hidden: Tensor  # (k, d) what the head read
    truncated: list[bool]

    @property
    def norm(self) -> Tensor:
        return self.hidden.norm(dim=-1)

    @property
    def distances(self) -> Tensor:
        """(k, k) ‖h_i − h_j‖, by subtraction: the small ones matter."""
        return (self.hidden[:, None] - self.hidden[None]).norm(dim=-1)


@dataclass
class Conversation:
    """A prompt and one response as token ids, and who asked for it."""

    ids: list[int]
    truncated: bool
    start: int | None = None  # where the response begins, if the reward is of all its tokens
    of: list[Place] = field(default_factory=list)


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) fp32 rewards and (n,) norms of the representations they were read from, in input order."""
    assert len(prompts) == len(responses), "one prompt for each response"
    of_prompt: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        of_prompt.setdefault(name(prompt), []).append(i)
    places = list(of_prompt.values())
    asked = [Asked(prompts[own[0]], [responses[i] for i in own]) for own in places]
    reward, norm = np.empty(len(prompts), np.float32), np.empty(len(prompts), np.float32)
    for batch in stream(model, tokenizer, asked, tokens):
        for scored in batch:
            at = [places[scored.row][i] for i in scored.at]
            reward[at], norm[at] = scored.reward.numpy(), scored.norm.numpy()
    return reward, norm


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    tokens: int,
    done: Collection[Place] = (),
) -> Iterator[list[Scored]]:
    """What each forward pass of at most `tokens` tokens gave. A row of few responses comes as a whole, since their
    distances are asked for. What is `done` is left out; the rest is batched as if it were not, so that what comes
    after a kill is what would have come."""
    limit, whole = max_length(model, tokenizer), isinstance(model, Implicit)
    for start in range(0, len(asked), WINDOW):
        at = range(start, min(start + WINDOW, len(asked)))
        if any((row, i) not in done for row in at for i in range(len(asked[row].responses))):
            yield from window(model, conversations(tokenizer, asked, at, limit, whole), tokens, done)


def max_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a conversation: what the tokenizer allows and the model has positions for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(tokenizer.model_max_length, positions or tokenizer.model_max_length)


def name(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def conversations(
    tokenizer: PreTrainedTokenizerBase, asked: Sequence[Asked], at: Sequence[int], limit: int, whole: bool = False
) -> list[list[Conversation]]:
    """Different conversations by prompt, each with all places that ask for it. `whole`: rewards are of all tokens of a
    response, so each conversation says where it begins, the same place for all that stand together."""
    places = [(row, i) for row in at for i in range(len(asked[row].responses))]
    ids_of = chat.ids(tokenizer, [talk(asked[row].prompt, asked[row].responses[i]) for row, i in places])
    long = {n for n, ids in enumerate(ids_of) if len(ids) > limit}
    cued = range(len(places)) if whole else sorted(long)
    cues = dict(
        zip(cued, chat.ids(tokenizer, [messages(asked[places[n][0]].prompt) for n in cued], cue=True), strict=True)
    )
    kept = ending(tokenizer) if long else 0
    found: dict[tuple[str, int, int | None], dict[tuple[int, ...], Conversation]] = {}
    for n, (place, ids) in enumerate(zip(places, ids_of, strict=True)):
        start, dropped = chat.common_prefix([cues[n], ids]) if n in cues else 0, 0
        if n in long:
            ids, dropped = cut(ids, start, kept, limit)
        begins = start - dropped if whole else None
        of_prompt = found.setdefault((name(asked[place[0]].prompt), dropped, begins), {})
        of_prompt.setdefault(tuple(ids), Conversation(ids, n in long, begins)).of.append(place)
    return [list(of_prompt.values()) for of_prompt in found.values()]


def talk(prompt: Prompt, response: str) -> list[dict[str, str]]:
    return [*messages(prompt), {"role": "assistant", "content": response}]


def ending(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the template writes after a response, whatever it says."""
    one, other = (ids[::-1] for ids in chat.ids(tokenizer, [talk("?", "one"), talk("?", "2")]))
    return chat.common_prefix([one, other])


def cut(ids: list[int], start: int, kept: int, limit: int) -> tuple[list[int], int]:
    """A conversation of `limit` tokens, and how many its prompt lost. `start` is where the response begins. It loses
    its end, but not the `kept` tokens with which the template closes it: the reward is read where it always is. A
    prompt that leaves too little room loses what comes after its first token."""
    body = len(ids) - start - kept
    lost = min(len(ids) - limit, max(0, body - limit // RESPONSE_SHARE))
    dropped = len(ids) - lost - limit
    assert dropped < start, "the limit has room for a prompt, a response and its end"
    return ids[:1] + ids[1 + dropped : len(ids) - kept - lost] + ids[len(ids) - kept :], dropped


def window(
    model: PreTrainedModel, found: Sequence[Sequence[Conversation]], tokens: int, done: Collection[Place]
) -> Iterator[list[Scored]]:
    mode, device = attention.mode(model), str(model.device)
    made = [piece for of_prompt in found for piece in grouped(of_prompt, tokens, mode)]
    size = Counter(row for _, talks in made for t in talks for row, _ in t.of)
    held: dict[int, list[Held]] = defaultdict(list)
    for at, batch in packing.batches([group for group, _ in made], tokens, mode):
        talks = [t for i in at for t in made[i][1]]
        if all(place in done for t in talks for place in t.of):
            continue
        with torch.no_grad():
            reward, hidden = models.rewards(model, packing.layout(batch, mode, device))
        for t, r, h in zip(talks, reward.float().cpu(), hidden.float().cpu(), strict=True):
            for row, i in t.of:
                held[row].append((i, r, h, t.truncated))
        whole = [row for row, own in held.items() if len(own) == size[row] or size[row] > MOST_DISTANCES]
        yield [
            joined(row, size[row], own)
            for row in whole
            if (own := [h for h in held.pop(row) if (row, h[0]) not in done])
        ]


def grouped(talks: Sequence[Conversation], tokens: int, mode: Mode) -> Iterator[tuple[Group, list[Conversation]]]:
    """Responses of one prompt as groups that a forward pass of `tokens` tokens can take, or of one response."""
    shared = shared_by(talks)
    once = shared if mode == "shared" else 0
    longest = max(len(t.ids) for t in talks)
    piece: list[Conversation] = []
    size = once
    for t in talks:
        more = longest if mode == "padded" else len(t.ids) - once
        if piece and size + more > tokens:
            yield group(piece, shared), piece
            piece, size = [], once
        piece.append(t)
        size += more
    yield group(piece, shared), piece


def shared_by(talks: Sequence[Conversation]) -> int:
    """Tokens that these have in common from the start on: each keeps its response, or a token at least."""
    begins = [len(t.ids) - 1 if t.start is None else t.start for t in talks]
    return min(chat.common_prefix([t.ids for t in talks]), *begins)


def group(talks: Sequence[Conversation], shared: int) -> Group:
    return Group(talks[0].ids[:shared], [t.ids[shared:] for t in talks])


def joined(row: int, of: int, own: list[Held]) -> Scored:
    at, reward, hidden, truncated = zip(*sorted(own, key=lambda h: h[0]), strict=True)
    if not all(map(torch.isfinite, reward)):
        raise FloatingPointError(
            f"row {row + 1}: a reward is {[float(r) for r in reward]}; look at the model's weights"
        )
    return Scored(row, of, list(at), torch.stack(reward), torch.stack(hidden), list(truncated))


# --- what a kill must not take away ---


class Parts:
    """Responses scored so far: one Parquet file for each forward pass, there as a whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[Place, Row] = {}
        for path in sorted(folder.glob("step-*.parquet")):
            try:
                self.done |= by_place(rows.read(folder, path.stem))
            except (pa.ArrowInvalid, OSError) as e:  # torn by a crash of the machine itself
                print(f"{path.name} cannot be read ({e}); what it held is scored again")

    def add(self, batch: Sequence[Scored]) -> None:
        made = [record for scored in batch for record in records(scored)]
        if made:
            self.done |= by_place(made)
            rows.write(self.folder, made, "staged")
            staged = self.folder / "staged.parquet"
            sync(staged)
            staged.rename(self.folder / f"step-{len(self.done):08d}.parquet")
            sync(self.folder)


def by_place(made: Sequence[Row]) -> dict[Place, Row]:
    return {(record["row"], record["response"]): record for record in made}


def records(scored: Scored) -> Iterator[Row]:
    columns = {
        "response": scored.at,
        "reward": scored.reward.tolist(),
        "norm": scored.norm.tolist(),
        "distances": scored.distances.tolist() if scored.of <= MOST_DISTANCES else [None] * len(scored.at),
        "truncated": scored.truncated,
    }
    for values in zip(*columns.values(), strict=True):
        yield {"row": scored.row, **dict(zip(columns, values, strict=True))}


def keep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    tokens: int,
    parts: Parts,
    tick: Callable[[int], None],
) -> list[Row]:
    """A record of every response, in input order; what is there already is not scored again. `tick` is told how many
    are done, after they are on disk."""
    for batch in stream(model, tokenizer, asked, tokens, parts.done):
        parts.add(batch)
        tick(len(parts.done))
    return [parts.done[row, i] for row, a in enumerate(asked) for i in range(len(a.responses))]
