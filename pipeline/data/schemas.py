"""The columns of each data set as its owner writes them, and the row that stages read which becomes of one.

Facts about columns: the hub pages and the official scorers' code, but for BSR's five sets, whose columns are those that
its code reads [inferred]. Further columns are allowed and left out. A row's place in the data set is its name where it
has none of its own.

What a benchmark's responses say is taken as it is, nothing included: a row that is left out would change its score.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import conversations
from pipeline.conversations import Messages
from pipeline.data.rules import (
    Broken,
    LeftOut,
    Row,
    conversation,
    different,
    label,
    number,
    numbers,
    question,
    text,
    texts,
    two_answers,
    whole,
)
from pipeline.metrics.reward_bench import EXAMPLE_COUNTS, PRIOR_SETS
from pipeline.metrics.reward_bench_2 import SUBSETS, TIES
from pipeline.metrics.rm_bench import STYLES
from pipeline.world.prompts import cluster

Made = dict[str, Any]
# [code] of the GRM project, on which NormBT seems to be built; its notes do not say for which other sources.
SUMMARIZE = "Generate one-sentence summary for the following post: "
RM_BENCH_DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")


@dataclass(frozen=True)
class Schema:
    columns: tuple[str, ...]  # that a file must have
    parts: Mapping[str, Callable[[Row], Made]]
    once: str | None = None  # the column, if it is there, whose values stand in one row only
    within: str | None = None  # of those with the same value in this column
    named: bool = True  # rows are called by it


# --- what a row becomes


def asked(turns: Messages) -> Made:
    """A text where one user says it all; else the turns, and a text for statistics."""
    said = conversations.text(turns)
    alone = len(turns) == 1 and turns[0]["role"] == "user"
    return {"prompt": said, "turns": None if alone else turns, "cluster": cluster(said)}


def prompt(words: str) -> Made:
    return {"prompt": words, "cluster": cluster(words)}


def talk(turns: Messages) -> Made:
    """For SFT: every answer is learned."""
    weighted = [{**turn, "weight": float(turn["role"] == "assistant")} for turn in turns]
    return {"prompt": turns[0]["content"], "messages": weighted}


def pair(turns: Messages, chosen: str, rejected: str, margin: float | None = None) -> Made:
    return {**asked(turns), "chosen": chosen, "rejected": rejected, "margin": margin}


def as_ranked(row: Made) -> Made:
    """A pair as a ranking of two: its tau is twice the accuracy less 1."""
    return {**row, "responses": [row.pop("chosen"), row.pop("rejected")], "gold": [1.0, 0.0]}


def of_pairs(read: Callable[[Row], Made]) -> dict[str, Callable[[Row], Made]]:
    return {"preferences": read, "in_domain": read, "scenarios": lambda row: as_ranked(read(row))}


# --- the data sets


def pairs(row: Row) -> Made:
    return pair(*two_answers(row, "chosen", "rejected"))


def ranked_responses(row: Row) -> Made:
    said = [text(row, f"response_{k}_text") for k in (1, 2, 3, 4)]
    return {**prompt(text(row, "instruction")), "responses": said, "gold": numbers(row, "all_scores", len(said))}


def completions(row: Row) -> Made:
    """All responses of a prompt, whose number is checked by whoever needs four of them."""
    found = row.get("completions")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Broken("type", "completions", found, "expected a list of {model, response, overall_score}")
    return {
        **prompt(text(row, "instruction")),
        "responses": [text(each, "response", empty=True) for each in found],
        "models": [text(each, "model") for each in found],
        "overall_scores": [overall(each) for each in found],
        "source": text(row, "source"),
    }


def overall(completion: Row) -> float | None:
    return None if completion.get("overall_score") is None else number(completion, "overall_score")


def rated(row: Row) -> Made:
    ratings = number(row, "conv_A_rating"), number(row, "conv_B_rating")
    turns, one, other = two_answers(row, "conv_A", "conv_B")
    if ratings[0] == ratings[1]:
        raise LeftOut("equal ratings")
    if "summarize" in text(row, "source"):
        turns = [{**turns[0], "content": SUMMARIZE + turns[0]["content"]}, *turns[1:]]
    chosen, rejected = (one, other) if ratings[0] > ratings[1] else (other, one)
    return pair(turns, chosen, rejected, abs(ratings[0] - ratings[1]))


def reward_bench(row: Row) -> Made:
    subset = label(row, "subset", tuple(EXAMPLE_COUNTS))
    said = {name: text(row, name, empty=True) for name in ("chosen", "rejected")}
    models = {name: text(row, name, empty=True) for name in ("chosen_model", "rejected_model")}
    return {**prompt(text(row, "prompt")), **said, **models, "subset": subset}


def reward_bench_2(row: Row) -> Made:
    subset = label(row, "subset", SUBSETS)
    chosen, rejected = (texts(row, name, empty=True) for name in ("chosen", "rejected"))
    right = whole(row, "num_correct", least=1)
    if right > len(chosen):
        raise Broken("range", "num_correct", right, f"expected at most {len(chosen)}, as many as are chosen")
    if whole(row, "total_completions") != len(chosen) + len(rejected):
        raise Broken("count", "total_completions", row["total_completions"], "expected as many as chosen and rejected")
    name = label(row, "id")
    if subset.lower() == TIES and not name.startswith(("ref:", "tied:")):
        raise Broken("range", "id", name, "expected ref:<n> or tied:<n>, by which Ties is scored")
    own = {"subset": subset, "num_correct": right, "name": name}
    return {**prompt(text(row, "prompt")), "chosen": chosen, "rejected": rejected, **own}


def prior(row: Row) -> Made:
    said = {name: text(row, name, empty=True) for name in ("chosen", "rejected")}
    return {**asked(question(row, "prompt")), **said, "subset": label(row, "split", PRIOR_SETS)}


def rm_bench(row: Row) -> Made:
    chosen, rejected = (texts(row, name, len(STYLES), empty=True) for name in ("chosen", "rejected"))
    domain = label(row, "domain", RM_BENCH_DOMAINS)
    return {**prompt(text(row, "prompt")), "chosen": chosen, "rejected": rejected, "domain": domain}


def instruction(row: Row) -> Made:
    asked = text(row, "instruction")
    more = {name: text(row, name, empty=True) for name in ("output", "generator", "dataset")}
    return {"instruction": asked, "cluster": cluster(asked), **more}


def own_pair(row: Row) -> Made:
    """Two conversations, or two texts after a prompt. A margin, if there is one, is how much better the chosen is."""
    margin = None if row.get("margin") is None else number(row, "margin")
    if isinstance(row.get("chosen"), list):
        return pair(*two_answers(row, "chosen", "rejected"), margin)
    said = different("chosen", text(row, "chosen"), "rejected", text(row, "rejected"))
    return pair(question(row, "prompt"), *said, margin)


def messages(row: Row) -> Made:
    return talk(conversation(row, "messages"))


def asked_in(column: str) -> dict[str, Callable[[Row], Made]]:
    return {"prompts": lambda row: prompt(text(row, column))}


INSTRUCTION, TURNS, SIDES = ("instruction",), ("messages",), ("chosen", "rejected")
RANKED = (*INSTRUCTION, *(f"response_{k}_text" for k in (1, 2, 3, 4)), "all_scores")
RATED = ("conv_A", "conv_B", "conv_A_rating", "conv_B_rating", "source")
REWARD_BENCH = ("prompt", *SIDES, "chosen_model", "rejected_model", "subset", "id")
REWARD_BENCH_2 = ("id", "prompt", *SIDES, "num_correct", "total_completions", "subset")
ALPACA_EVAL = (*INSTRUCTION, "output", "generator", "dataset")

SCHEMAS = {
    "ultrachat": Schema(("prompt", "prompt_id", *TURNS), {"sft": messages, **asked_in("prompt")}),
    "tulu": Schema(("id", *TURNS, "source"), {"sft": messages}),
    "ultrafeedback": Schema(
        ("source", *INSTRUCTION, "completions"), {"responses": completions, **asked_in("instruction")}
    ),
    "pairs": Schema(SIDES, of_pairs(pairs)),
    "ranked": Schema(RANKED, {"scenarios": ranked_responses, **asked_in("instruction")}),
    "unified_feedback": Schema(RATED, of_pairs(rated)),
    "reward_bench": Schema(REWARD_BENCH, {"reward_bench": reward_bench}, once="id", within="subset"),
    "reward_bench_2": Schema(REWARD_BENCH_2, {"reward_bench_2": reward_bench_2}, once="id", within="subset"),
    "pref_test_sets": Schema(("prompt", *SIDES), {"prior_sets": prior}),
    "rm_bench": Schema(("id", "prompt", *SIDES, "domain"), {"rm_bench": rm_bench}, once="id", within="domain"),
    "alpaca_eval": Schema(
        ALPACA_EVAL, {"alpaca_eval": instruction, **asked_in("instruction")}, once="instruction", named=False
    ),
    "own": Schema(SIDES, of_pairs(own_pair), once="id"),
    "messages": Schema(TURNS, {"sft": messages}, once="id"),
    "prompts": Schema(("prompt",), asked_in("prompt"), once="id"),
}
