"""What may vary about the world. All else (people, recipes, phrases, response models, error kinds) is fixed in code."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import check

READ_BY = {
    "sft": ("critiques", "knowledge", "critique_share", "reply_weight"),
    "preferences": ("near", "temperature", "flip"),
}
VERDICT_NOISE = {"knows": 0.05, "unsure": 0.25}  # share of the user's replies in the SFT rows that are wrong


@dataclass(frozen=True)
class World:
    """The knobs of the micro world. Rows are a pure function of (part, n, seed, World)."""

    # Who is judged in the SFT critiques. train: train-side prompts and response models only. all: held-out ones too,
    # the contaminated control. none: demonstrations only.
    critiques: Literal["train", "all", "none"] = "train"
    # How sure the user is of a verdict: VERDICT_NOISE.
    knowledge: Literal["knows", "unsure"] = "knows"
    # Share of the SFT rows that are critiques; the rest are demonstrations.
    critique_share: float = 0.75
    # LM weight of the first token of a user's reply; a trained answer's tokens, its <eos> included, weigh 1. Wanted is
    # mean loss over answer tokens + 1.5 * mean loss over replies. A row has 15.2 trained answer tokens on average (24.3
    # each, in 62 % of the rows) and 0.75 replies, so in one mean over all weighted tokens the two terms have that ratio
    # at a weight of 1.5 * 15.2 / 0.75 = 30.
    reply_weight: float = 30.0
    # Preference pairs: share that differ by one slip in the same style.
    near: float = 0.3
    # The chosen one of four responses has the highest gold + temperature * Gumbel noise.
    temperature: float = 0.25
    # Then this share of the pairs is swapped.
    flip: float = 0.05

    def for_part(self, part: str) -> "World":
        """With everything that this part of the rows does not read at its default: label noise moves no SFT row."""
        return World(**{name: getattr(self, name) for name in READ_BY.get(part, ())})

    def __post_init__(self) -> None:
        for name in ("critique_share", "near", "flip"):
            value = getattr(self, name)
            check(0 <= value <= 1, name, value, f"is a share of the rows: 0 <= {name} <= 1")
        for name in ("reply_weight", "temperature"):
            value = getattr(self, name)
            check(value >= 0, name, value, "must not be negative")
