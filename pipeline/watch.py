"""What is seen of a policy while it is trained: a record of each step, how long its phases took and what memory they
held, and what it says.

Records depend on seeds alone and belong to the result; times, bytes and texts go to the log.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from pipeline import dist, world
from pipeline.rollout import Rollouts
from pipeline.rows import Row

SUMS = ("logp", "kl", "kl_k2", "kl_k3", "entropy")  # over each response's tokens; kl is k1
SHOWN = 4  # prompts in a table of samples


def record(rollouts: Rollouts, proxy: Tensor, reward: Tensor, sums: Tensor, judged: bool) -> dict[str, float]:
    """Of a step's nk responses, mostly means. `proxy`: rewards as they were given; `reward`: what was made of them;
    `sums`: (nk, len(SUMS)); `judged`: the world's own reward as well."""
    lengths, of = rollouts.lengths, dict(zip(SUMS, sums.cpu().T, strict=True))
    answers = [r for group in rollouts.groups for r in group.responses]
    return {
        "reward": float(reward.mean()),
        "proxy": float(proxy.mean()),
        **{name: float(of[name].mean()) for name in ("kl", "kl_k2", "kl_k3")},
        "entropy": float(of["entropy"].sum()) / sum(lengths),
        "tokens": sum(lengths) / len(lengths),
        "tokens_p95": float(np.quantile(lengths, 0.95)),
        "ended": sum(rollouts.ended) / len(lengths),
        **{f"distinct_{n}": distinct(answers, n) for n in (1, 2)},
        **({"gold": gold(rollouts)} if judged else {}),
    }


def gold(rollouts: Rollouts) -> float:
    return sum(map(world.gold, rollouts.asked, rollouts.said, rollouts.ended)) / len(rollouts.said)


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams of tokens, as a share of all."""
    grams = list(chain.from_iterable(zip(*(a[i:] for i in range(n)), strict=False) for a in answers))
    return len(set(grams)) / max(1, len(grams))


def samples(rollouts: Rollouts, proxy: Tensor, reward: Tensor) -> list[Row]:
    """Of the first prompts, the best and the worst response by what is trained on."""
    k = len(rollouts.groups[0].responses)
    made = []
    for start in range(0, k * min(SHOWN, len(rollouts.groups)), k):
        own = reward[start : start + k]
        best, worst = (start + int(i) for i in (own.argmax(), own.argmin()))
        row: Row = {"prompt": rollouts.asked[start]}
        for name, i in (("best", best), ("worst", worst)):
            row |= {name: rollouts.said[i], f"{name}_reward": float(reward[i]), f"{name}_proxy": float(proxy[i])}
        made.append(row)
    return made


class Clock:
    """Seconds and bytes by phase since they were last read. A phase's bytes are those until the next one begins: the
    optimizer's step belongs to the update."""

    def __init__(self, held: Callable[[], int] = lambda: 0) -> None:
        """`held`: bytes of models on this device."""
        self.held = held
        self.spent: dict[str, float] = {}
        self.most: dict[str, float] = {}
        self.now: str | None = None

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.weigh()
        self.now = phase
        start = time.perf_counter()
        yield
        self.spent[phase] = self.spent.get(phase, 0.0) + time.perf_counter() - start
        self.weigh()

    def weigh(self) -> None:
        """Notes what is held, and on a GPU the most that tensors have had since the last time."""
        found = {f"bytes_{self.now}": self.held()}
        if dist.device().type == "cuda":
            found[f"peak_bytes_{self.now}"] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        if self.now is not None:
            self.most |= {name: max(value, self.most.get(name, 0)) for name, value in found.items()}

    def read(self, tokens: int) -> dict[str, float]:
        """With the tokens sampled, each second of sampling and of all."""
        spent, self.spent, most, self.most = self.spent, {}, self.most, {}
        rates = {"sampled_per_second": tokens / spent["generate"], "tokens_per_second": tokens / sum(spent.values())}
        return {f"seconds_{phase}": seconds for phase, seconds in spent.items()} | rates | most
