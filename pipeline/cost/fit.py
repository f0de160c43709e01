"""Where an artefact fits: as configured, or with what else would have to be set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import get_args, get_type_hints

from pipeline.cost.estimate import ESTIMATORS, TRAINED, Cost, place
from pipeline.cost.memory import Place
from pipeline.cost.sheet import On
from pipeline.job import SHARED
from pipeline.plan import Node

NODE = (1, 2, 4, 8)  # GPUs that are tried with whole weights on each
NODES = (*NODE, 16, 32, 64)  # and with sharded ones
FEWEST_TOKENS = 1024  # of a micro-batch that is tried
RANK = 16  # of LoRA that is tried
RECOMPUTE = get_args(get_type_hints(Place)["recompute"])


@dataclass(frozen=True)
class Way:
    """Other settings, with which it fits."""

    said: str
    place: Place
    bytes: float


@dataclass(frozen=True)
class Fit:
    """At `place` it costs `cost`. Where there is no room as configured, `refused` says for how many bytes on how many
    GPUs; then `place` is that of the first way, or if there is none, as configured."""

    place: Place
    cost: Cost
    refused: tuple[float, int] | None = None
    ways: tuple[Way, ...] = ()


def fit(node: Node, on: On, gpus: int | None) -> Fit:
    """`gpus`: so many and no others; None: the fewest that will do."""
    trial = Trial(node, on, gpus)
    configured = trial.places(place(node, 1))
    for p in trial.first(configured):
        return Fit(p, trial.cost(p))
    wanted = min(configured, key=lambda p: trial.cost(p).memory.total)
    refused = trial.cost(wanted).memory.total, wanted.gpus
    ways = tuple(Way(said(wanted, p, node.stage.name), p, trial.cost(p).memory.total) for p in trial.ways(wanted))
    best = ways[0].place if ways else wanted
    return Fit(best, trial.cost(best), refused, ways)


class Trial:
    """One artefact on one kind of GPU."""

    def __init__(self, node: Node, on: On, gpus: int | None):
        self.node, self.on, self.gpus = node, on, gpus
        self.trains, self.shared = node.stage.name in TRAINED, node.stage.name in SHARED

    def cost(self, p: Place) -> Cost:
        return ESTIMATORS[self.node.stage.name](self.node, p, self.on)

    def first(self, places: Iterable[Place]) -> list[Place]:
        """The first with room, if any."""
        return next(([p] for p in places if self.cost(p).memory.total <= self.on.room), [])

    def places(self, p: Place) -> list[Place]:
        """On as many GPUs as were said, or on one, two, ..."""
        if not self.shared:
            return [replace(p, gpus=1)]
        numbers = NODES if p.parallel == "fsdp" else NODE
        return [replace(p, gpus=n) for n in (numbers if self.gpus is None else (self.gpus,))]

    def gentler(self, p: Place) -> Iterator[Place]:
        """On each of its GPUs with smaller micro-batches, then with more computed again."""
        for each in self.places(p):
            for recompute in RECOMPUTE[RECOMPUTE.index(p.recompute) :] if self.trains else (p.recompute,):
                tokens = p.micro_tokens
                while tokens >= min(FEWEST_TOKENS, p.micro_tokens):
                    yield replace(each, recompute=recompute, micro_tokens=tokens)
                    tokens //= 2

    def aside(self, p: Place) -> Iterator[Place]:
        """Frozen models not always on the device: in main memory one of them or both; then both by layer, then all."""
        yield from self.gentler(replace(p, reference="offload"))
        yield from self.gentler(replace(p, reward="offload"))
        yield from self.gentler(replace(p, reference="offload", reward="offload"))
        for parallel in (p.parallel, "fsdp"):
            yield from self.sharded(replace(p, parallel=parallel, reference="shard", reward="shard"))

    def sharded(self, p: Place) -> Iterator[Place]:
        return (each for each in self.gentler(p) if each.gpus > 1)

    def ways(self, wanted: Place) -> Iterator[Place]:
        """The same artefact otherwise, or on sharded weights; and other experiments, with LoRA or in bf16."""
        yield from self.first(self.gentler(wanted))
        if self.node.stage.name == "rloo":
            yield from self.first(sorted(self.aside(wanted), key=lambda p: p.gpus))
        if self.shared and wanted.parallel == "ddp":
            yield from self.first(self.sharded(replace(wanted, parallel="fsdp")))
        lora, half = replace(wanted, rank=wanted.rank or RANK), replace(wanted, precision="bf16")
        others = [p for p in (lora if self.trains else wanted, half) if p != wanted]
        alone = [found for p in others for found in self.first(self.gentler(p))]
        yield from alone or (self.first(self.gentler(replace(lora, precision="bf16"))) if len(others) == 2 else [])


def said(before: Place, after: Place, stage: str) -> str:
    """The settings that differ."""
    names = ("parallel", "recompute", "micro_tokens", "reference", "reward")
    parts = [f"run.{n}={getattr(after, n)}" for n in names if getattr(after, n) != getattr(before, n)]
    if after.rank != before.rank:
        parts.append(f"{stage}.optim.lora={{rank:{after.rank},alpha:{2 * (after.rank or 0)}}}")
    if after.precision != before.precision:
        parts.append(f"compute.precision={after.precision}")
    if (before.rank, before.precision) != (after.rank, after.precision):
        parts.append("(another experiment)")
    return f"{' '.join(parts)} on {after.gpus} GPU{'s' * (after.gpus > 1)}"
