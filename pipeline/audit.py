"""What is wrong with preference data, before a model learns it: rows that cannot be read, pairs without a difference,
labels that contradict each other, a liking for long answers, rows that say nearly the same. No torch, no model.

It says what is there, and mends nothing. Whether a label is right it cannot tell.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline import own
from pipeline.conversations import Asked, text
from pipeline.errors import ConfigError
from pipeline.finding import Finding
from pipeline.minhash import Bands, Grams, grams, jaccard

SHOWN = 5  # rows named in a finding
LONGER = 0.1  # how far from one half the share of longer chosen answers may be
NEAR = 0.8  # Jaccard similarity of word triples from which two rows nearly say the same
BANDS = Bands(bands=16, hashes=4)  # rows of similarity 0.8 meet with probability 0.9998
Z = 1.96


def examine(path: Path) -> Iterator[Finding]:
    why = "A row that is not what it seems trains something else"
    try:
        found = own.read(path)
    except ConfigError as e:
        yield Finding("schema", "FAIL", f"{e.key} = {e.value!r}", why, e.remedy)
        return
    if not found.pairs:
        remedy = "give rows with prompt, chosen and rejected"
        yield Finding("schema", "FAIL", f"{path.name}: no pairs of a chosen and a rejected answer", why, remedy)
        return
    yield Finding("schema", "good", f"{len(found.asked):,} pairs", why)
    yield identical(found.asked)
    yield conflicts(found.asked)
    yield length_bias(found.asked)
    yield near_duplicates(found.asked)


def identical(asked: Sequence[Asked]) -> Finding:
    at = [i for i, a in enumerate(asked) if plain(a.responses[0]) == plain(a.responses[1])]
    why = "Such a pair has no better answer: its loss is log 2 whatever the model says"
    if at:
        found = f"{len(at)} pairs whose answers differ in white space at most: {row_numbers(at)}"
        return Finding("identical", "FAIL", found, why, "take them out")
    return Finding("identical", "good", "none", why)


def plain(words: str) -> str:
    return " ".join(words.split())


def row_numbers(at: Sequence[int]) -> str:
    return f"row{'s'[: len(at) > 1]} {listed([str(i + 1) for i in at])}"


def listed(places: Sequence[str]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"{', '.join(places[:SHOWN])}{more}"


def conflicts(asked: Sequence[Asked]) -> Finding:
    """Pairs of which another row says the opposite."""
    first: dict[tuple[str, str, str], int] = {}
    at = []
    for i, a in enumerate(asked):
        prompt, chosen, rejected = plain(text(a.prompt)), plain(a.responses[0]), plain(a.responses[1])
        if chosen != rejected:
            if (prompt, rejected, chosen) in first:
                at.append((first[prompt, rejected, chosen], i))
            first.setdefault((prompt, chosen, rejected), i)
    why = "No model can learn both; half of them are errors of the label"
    if at:
        found = f"{len(at)} pairs are labelled both ways: rows {listed([f'{a + 1} and {b + 1}' for a, b in at])}"
        return Finding("conflicts", "FAIL", found, why, "keep the majority, or take both out")
    return Finding("conflicts", "good", "none", why)


def length_bias(asked: Sequence[Asked]) -> Finding:
    """How far one gets by always preferring the longer answer, with a 95 % interval (Wilson)."""
    by = np.array([len(a.responses[0]) - len(a.responses[1]) for a in asked])
    n, longer = int((by != 0).sum()), int((by > 0).sum())
    why = "A model learns length sooner than quality, and a policy trained on it writes at length"
    if not n:
        return Finding("length bias", "good", "all answers are as long as their rivals", why)
    share = longer / n
    low, high = wilson(share, n)
    found = (
        f"the longer answer is chosen in {share:.1%} of {n:,} pairs ({low:.1%} to {high:.1%});"
        f" chosen ones have {by.mean():+.0f} characters on average"
    )
    if abs(share - 0.5) > LONGER and not low <= 0.5 <= high:
        remedy = "balance lengths, or report accuracy by length difference beside the total"
        return Finding("length bias", "warn", found, why, remedy)
    return Finding("length bias", "good", found, why)


def wilson(share: float, n: int) -> tuple[float, float]:
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return middle - half, middle + half


# --- rows that say nearly the same ---


def near_duplicates(asked: Sequence[Asked]) -> Finding:
    at = repeats([triples(a) for a in asked])
    why = "They weigh more than others, and split over training and test they leak"
    if at:
        shown = listed([f"{i + 1} of {of + 1}" for i, of in at])
        found = f"{len(at)} rows ({len(at) / len(asked):.1%}) nearly repeat an earlier one: rows {shown}"
        return Finding("near-duplicates", "warn", found, why, "keep one of each, and split by prompt")
    return Finding("near-duplicates", "good", "none", why)


def triples(a: Asked) -> Grams:
    """Runs of three words of a row, whichever answer was chosen."""
    return grams([text(a.prompt), *a.responses], words=3)


def repeats(rows: Sequence[Grams]) -> list[tuple[int, int]]:
    """(row, the earlier row that it nearly repeats). Each candidate is compared with the first row of a bucket only."""
    first: dict[bytes, int] = {}
    found = []
    for i, row in enumerate(rows):
        buckets = BANDS.buckets(row)
        earlier = sorted({first[b] for b in buckets if b in first})
        same = next((j for j in earlier if jaccard(row, rows[j]) >= NEAR), None)
        if same is not None:
            found.append((i, same))
        for b in buckets:
            first.setdefault(b, i)
    return found
