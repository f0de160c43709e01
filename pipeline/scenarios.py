"""BSR's four generalization sets from prompts with four responses each, as its appendix B says: pure functions on rows.

    rows with four responses ─ distinct ─ split ┬ train: a pair to learn from, the other two responses as a second one
                                                └ valid: all four responses, ranked by gold
    and of either side the valid models' four answers to the same prompts, ranked by gold

Every draw is a hash of the seed and the prompt: neither the order of rows nor how many there are moves a prompt's draw,
and smaller sets are parts of larger ones.

Sizes. Of 63,966 rows 62,282 are left [paper], 51,200 are trained on [paper]. The paper speaks of "the remaining 12,800"
prompts, but 62,282 − 51,200 = 11,082, and the authors' published sets show 11.1k rows [hub page]. 12,800 looks like a
plan made before rows were dropped [inferred]: here it is all that remain. Not stated, and chosen here [ours]: the first
of several rows with one prompt is kept; the pair's order is drawn, so that of two equally good responses either may be
the chosen one; the split's seed. What the responses' gold rewards are is not decided here.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import Literal

from pipeline.experiment import Counts, Split
from pipeline.rows import Row
from pipeline.seeds import derive

RESPONSES = 4
Which = Literal["first", "second"]


def distinct(data: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """Rows with a prompt of their own and four different responses, and how many there were after each step."""
    four = [row for row in data if len(row["responses"]) == RESPONSES]
    by_prompt: dict[str, Row] = {}
    for row in four:
        by_prompt.setdefault(row["prompt"], row)
    first = list(by_prompt.values())
    kept = [row for row in first if all(a != b for a, b in combinations(row["responses"], 2))]
    return kept, {"read": len(data), "rows": len(four), "prompts": len(first), "distinct": len(kept)}


def split(data: Sequence[Row], how: Split) -> tuple[list[Row], dict[str, int]]:
    """The distinct rows that are used, in the order drawn: those trained on come first. Each has its side, and its
    responses' order: the first two are a pair, and so are the last two."""
    kept, counts = distinct(data)
    drawn = sorted(kept, key=lambda row: derive(how.seed, "scenarios", "split", row["prompt"]))
    end = len(kept) if how.valid is None else how.train + how.valid
    if len(kept) < max(end, how.train + 1):
        wanted = max(end, how.train + 1)
        raise ValueError(f"{len(kept)} prompts are left, {wanted} asked for: lower data.scratch.split.train or valid")
    made = [
        {
            **{name: row[name] for name in ("id", "prompt", "cluster")},
            "side": "train" if at < how.train else "valid",
            "order": order(how.seed, row["prompt"]),
            **{name: row[name] for name in ("responses", "models")},
        }
        for at, row in enumerate(drawn[:end])
    ]
    counts |= {"train": how.train, "valid": len(made) - how.train}
    if how.counts is not None:
        compare(counts, how.counts)
    return made, counts


def order(seed: int, prompt: str) -> list[int]:
    """A permutation of a prompt's four responses."""
    drawn, left, made = derive(seed, "scenarios", "pair", prompt) % factorial(RESPONSES), list(range(RESPONSES)), []
    for n in range(RESPONSES, 0, -1):
        drawn, at = divmod(drawn, n)
        made.append(left.pop(at))
    return made


def compare(found: dict[str, int], wanted: Counts) -> None:
    """Another number of rows is other data, or another rule of dropping them."""
    for name in ("rows", "distinct", "train", "valid"):
        if found[name] != getattr(wanted, name):
            raise ValueError(
                f"{name}: {found[name]:,} rows, {getattr(wanted, name):,} expected (step by step: {found}); name the"
                " right revision of the data, or set data.scratch.split.counts=null"
            )


def answered(data: Sequence[Row], answers: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Rows of the split with the valid models' answers for responses. `answers`: by model, one for each row."""
    made = []
    for at, row in enumerate(data):
        said = {name: own[at] for name, own in answers.items()}
        assert all(answer["prompt"] == row["prompt"] for answer in said.values()), "answers stand in the rows' order"
        made.append({**row, "responses": [a["output"] for a in said.values()], "models": list(said)})
    return made


def pairs(judged: Sequence[Row], which: Which) -> list[Row]:
    """Of every training prompt two of its four responses, the one with the higher gold reward chosen."""
    made = []
    for row in judged:
        if row["side"] == "train":
            one, other = row["order"][:2] if which == "first" else row["order"][2:]
            chosen, rejected = (one, other) if row["gold"][one] >= row["gold"][other] else (other, one)
            gold = {"gold_chosen": row["gold"][chosen], "gold_rejected": row["gold"][rejected]}
            made.append(
                {
                    "id": f"{row['id']}-{which}",
                    "prompt": row["prompt"],
                    "cluster": row["cluster"],
                    "chosen": row["responses"][chosen],
                    "rejected": row["responses"][rejected],
                    **gold,
                    "margin": gold["gold_chosen"] - gold["gold_rejected"],
                    "chosen_model": row["models"][chosen],
                    "rejected_model": row["models"][rejected],
                }
            )
    return made


def prompts(data: Sequence[Row]) -> list[Row]:
    """Those of the valid side: a policy is trained on them."""
    return [{name: row[name] for name in ("id", "prompt", "cluster")} for row in data if row["side"] == "valid"]


def ranked(judged: Sequence[Row], by_valid_models: Sequence[Row]) -> Iterator[Row]:
    """Prompt-, response- and mutual-disjoint: all responses to a prompt with their gold rewards. And second pairs as
    rankings of two, of as many training prompts as there are others [ours]: a tau beside the accuracy. A prompt whose
    responses are all equally good says nothing about ranking, but stays: the metric counts it."""
    training = [row for row in judged if row["side"] == "train"]
    for row in training[: len(judged) - len(training)]:
        own = {key: [row[key][i] for i in row["order"][2:]] for key in ("responses", "models", "gold")}
        yield {"set": "in_domain", "id": f"in_domain-{row['id']}", **asked(row), **own}
    for name, data, side in (
        ("prompt", judged, "valid"),
        ("response", by_valid_models, "train"),
        ("mutual", by_valid_models, "valid"),
    ):
        for row in data:
            if row["side"] == side:
                own = {key: row[key] for key in ("responses", "models", "gold")}
                yield {"set": name, "id": f"{name}-{row['id']}", **asked(row), **own}


def asked(row: Row) -> Row:
    return {key: row[key] for key in ("prompt", "cluster")}
