"""How alike two texts are: sets of word runs, MinHash for candidates, Jaccard similarity to decide."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Grams = NDArray[np.uint64]  # sorted, each once
WORDS = re.compile(r"\w+|[-+*/=<>^%]")  # 7 + 2 is not 7 - 2; a comma makes no difference


def grams(texts: Iterable[str], words: int) -> Grams:
    """Hashes of all runs of so many words; of a shorter text, of all its words. Neither case nor punctuation counts."""
    runs: set[bytes] = set()
    for said in texts:
        found = WORDS.findall(said.lower())
        runs.update(" ".join(found[i : i + words]).encode() for i in range(max(1, len(found) - words + 1)))
    return np.unique(np.frombuffer(b"".join(blake2b(run, digest_size=8).digest() for run in runs), dtype="<u8"))


def jaccard(one: Grams, other: Grams) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


@dataclass(frozen=True)
class Bands:
    """Two sets of similarity s share a bucket with probability 1 − (1 − s^hashes)^bands."""

    bands: int
    hashes: int

    @cached_property
    def draws(self) -> tuple[Grams, Grams]:
        """(bands * hashes, 1) each: an odd factor and a shift."""
        rng = np.random.default_rng(0)
        factor, shift = rng.integers(2**63, size=(2, self.bands * self.hashes, 1), dtype=np.uint64)
        return 2 * factor + 1, shift

    def buckets(self, of: Grams) -> list[bytes]:
        """One of each band, named by it and its hashes. Multiply and shift: the upper half of what overflows."""
        factor, shift = self.draws
        least = ((of * factor + shift) >> np.uint64(32)).min(axis=1)
        least = least.astype("<u4").reshape(self.bands, self.hashes)
        return [band.to_bytes(2) + own.tobytes() for band, own in enumerate(least)]
