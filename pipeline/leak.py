"""Which prompts of a benchmark a reward model may have seen in training: those that nearly repeat a training prompt.

Prompts are compared by their runs of 13 words; a shorter one is one run, and counts as repeated only if all its words
are the same. Responses are not compared: refusals and short answers repeat where nothing leaked. MinHash proposes, the
exact Jaccard similarity decides; what lies at the threshold is missed once in 10,000 times, what is more alike less.
A paraphrase or a translation is not found.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.conversations import Prompt, text
from pipeline.minhash import Bands, Grams, grams, jaccard

BANDS = Bands(bands=32, hashes=2)  # 1 − (1 − 0.5²)³² = 0.9999


@dataclass(frozen=True)
class Repeat:
    """A training prompt that is like one asked about."""

    at: int
    similarity: float


class Seen:
    """Training prompts, each once, by the buckets they fall into."""

    def __init__(self, prompts: Iterable[Prompt], words: int, similarity: float):
        self.words, self.similarity = words, similarity
        self.grams: dict[int, Grams] = {}  # by place of a prompt's first row
        self.buckets: dict[bytes, list[int]] = defaultdict(list)
        known: set[bytes] = set()
        for at, prompt in enumerate(prompts):
            own = grams([text(prompt)], words)
            if own.tobytes() not in known:
                known.add(own.tobytes())
                self.grams[at] = own
                for bucket in BANDS.buckets(own):
                    self.buckets[bucket].append(at)

    def nearest(self, prompt: Prompt) -> Repeat | None:
        """The training prompt most like this one, the first of several; None if none is as similar as asked."""
        own = grams([text(prompt)], self.words)
        candidates = {at for bucket in BANDS.buckets(own) for at in self.buckets.get(bucket, ())}
        found = [Repeat(at, jaccard(own, self.grams[at])) for at in sorted(candidates)]
        near = [one for one in found if one.similarity >= self.similarity]
        return max(near, key=lambda one: one.similarity, default=None)


def repeats(training: Sequence[Prompt], asked: Sequence[Prompt], words: int, similarity: float) -> list[Repeat | None]:
    """For every prompt asked about."""
    seen = Seen(training, words, similarity)
    return [seen.nearest(prompt) for prompt in asked]
