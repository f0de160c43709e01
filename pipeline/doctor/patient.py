"""The reward model that is looked at, the conversations it is tried on, and what it makes of them here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline import chat, contract, dist, models, packing, rows, scoring, world
from pipeline.conversations import Asked
from pipeline.errors import ConfigError
from pipeline.finding import State
from pipeline.implicit import Implicit

EASY_SECTIONS = ("Chat", "Safety")  # of the micro world: far errors, harm and needless refusals
EASY = 32  # pairs of each
SAMPLE = 256  # rows of a file of one's own
COMPARED = 12  # conversations whose rewards are computed in every way
TOKENS = 8192  # of one forward pass

Seen = tuple[State, str, str]  # state, what was found, what to do


@dataclass
class Patient:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    absent: frozenset[str]  # weights that the folder does not hold
    sample: Sequence[Asked]  # what it is meant to score

    @cached_property
    def talk(self) -> list[int]:
        """A short conversation as the template writes it."""
        return chat.ids(self.tokenizer, [scoring.talk("What is 2 + 3?", "5")])[0]

    @cached_property
    def closing(self) -> list[int]:
        """What the template writes after an answer."""
        return self.talk[len(self.talk) - scoring.ending(self.tokenizer) :]

    @cached_property
    def compared(self) -> list[tuple[str, str]]:
        """Conversations of all lengths: prompt, response."""
        return [*((a.prompt, a.responses[0]) for a in easy()[: COMPARED - 4]), *contract.texts()[-4:]]  # type: ignore[misc]  # texts

    @cached_property
    def talks(self) -> list[scoring.Conversation]:
        """The compared ones as token ids."""
        limit, whole = scoring.max_length(self.model, self.tokenizer), isinstance(self.model, Implicit)
        asked = [Asked(prompt, [response]) for prompt, response in self.compared]
        found = scoring.conversations(self.tokenizer, asked, range(len(asked)), limit, whole)
        of = {t.of[0][0]: t for talks in found for t in talks}
        return [of[i] for i in range(len(asked))]

    @cached_property
    def alone(self) -> np.ndarray:
        """Rewards of `talks` by this pipeline, each in a forward pass of its own."""
        groups = [scoring.group([talk], scoring.shared_by([talk])) for talk in self.talks]
        with torch.no_grad():
            each = [
                models.rewards(self.model, packing.layout([g], "padded", str(self.model.device)))[0] for g in groups
            ]
        return torch.cat(each).float().cpu().numpy()

    def score(self, asked: Sequence[Asked]) -> list[np.ndarray]:
        made = {s.row: s.reward.numpy() for s in self.stream(asked)}
        return [made[i] for i in range(len(asked))]

    def stream(self, asked: Sequence[Asked], tokens: int = TOKENS) -> Iterator[scoring.Scored]:
        for batch in scoring.stream(self.model, self.tokenizer, asked, tokens):
            yield from batch


def easy() -> list[Asked]:
    """Pairs (right, wrong) that any reward model of English instructions should rank."""
    drawn = [row for row in world.rows("reward_bench", EASY, 0, world.World()) if row["section"] in EASY_SECTIONS]
    return [Asked(rows.prompt_of(row), rows.responses_of(row)) for row in drawn]


def spread(asked: Sequence[Asked]) -> Sequence[Asked]:
    """At most SAMPLE of them, from all over the file."""
    return asked[:: -(-len(asked) // SAMPLE)]


def open_model(folder: Path, sample: Sequence[Asked]) -> Patient:
    try:
        made = models.classifier(AutoConfig.from_pretrained(folder))
        model, info = made.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as e:
        remedy = "needs safetensors, a tokenizer, and a class that transformers knows: code of the folder is not run"
        raise ConfigError("rm", str(folder), f"cannot be loaded: {first_line(e)} ({remedy})") from e
    model.to(dist.device())
    return Patient(model.eval(), tokenizer, folder, frozenset(info["missing_keys"]), sample)


def first_line(e: BaseException) -> str:
    return next(iter(str(e).strip().splitlines()), type(e).__name__)


def shown(p: Patient, id: object) -> str:
    return f"{p.tokenizer.convert_ids_to_tokens(id)!r}, id {id}"  # type: ignore[arg-type]  # an id
