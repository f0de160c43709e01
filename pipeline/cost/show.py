"""The cost of a plan as text for people."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.cost.estimate import ESTIMATORS, ON_CPU, answer, texts
from pipeline.cost.fit import Fit, fit
from pipeline.cost.memory import Place
from pipeline.cost.sheet import On
from pipeline.errors import ConfigError
from pipeline.experiment import Cluster
from pipeline.plan import Graph, Node

COLUMNS = {"tokens": 9, "PFLOP": 10, "GPUs": 6, "GB each": 9, "hours": 9, "GPU-hours": 11}
HEAD = f"{'n':>4}  {'stage':10}{'model':26}" + "".join(f"{name:>{width}}" for name, width in COLUMNS.items())


@dataclass(frozen=True)
class Costs:
    """Of what has to be made, alike ones counted together."""

    fits: dict[tuple[str, Fit], int]
    on_cpu: Counter[str]
    asked: list[Node]  # judged at an endpoint
    unknown: Counter[str]
    spent: set[str]  # stages whose weights gc deletes in the end

    @property
    def refused(self) -> bool:
        return any(each.refused is not None for _, each in self.fits)


def of(graph: Graph, on: On, gpus: Callable[[str], int | None]) -> Costs:
    """What runs, and what would if nothing blocked it."""
    found = Costs({}, Counter(), [], Counter(), set())
    known: dict[tuple[str, str], Fit] = {}  # by all that an estimate looks at
    for node in graph.values():
        name = node.stage.name
        if node.state not in ("run", "blocked"):
            continue
        if node.around["run"]["retention"].get(name) == "scores":
            found.spent.add(name)
        if name == "judge" and node.sections["judge"]["kind"] == "openai":
            found.asked.append(node)
        elif name == "gold" and node.sections.get("gold", {}).get("id"):  # by a model
            found.unknown[name] += 1
        elif name in ON_CPU or (name == "judge" and "id" not in node.sections["judge"]):
            found.on_cpu[name] += 1
        elif name not in ESTIMATORS or any(n.stage.name == "external" for n in node.inputs.values()):
            found.unknown[name] += 1
        else:
            seen = name, looked_at(node)
            try:
                known[seen] = known.get(seen) or fit(node, on, gpus(name))
            except ConfigError as e:  # a shape that is not known
                found.unknown[f"{name} ({e.value})"] += 1
                continue
            found.fits[name, known[seen]] = found.fits.get((name, known[seen]), 0) + 1
    return found


def looked_at(node: Node) -> str:
    """Settings of a node and all above it, seeds and losses aside: they change no cost."""
    parts = [node.stage.name]
    for name, value in sorted(node.sections.items()):
        if name not in ("seed", "loss", "world"):
            kept = {k: v for k, v in value.items() if k != "seed"} if isinstance(value, Mapping) else value
            parts.append(f"{name}={kept}")
    return f"{parts}{[f'{name}:{looked_at(need)}' for name, need in sorted(node.inputs.items())]}"


def given(cluster: Cluster, gpus: int | None) -> Callable[[str], int | None]:
    """How many GPUs a stage gets, if somebody has said so."""

    def of_stage(stage: str) -> int | None:
        if gpus is not None or cluster.kind == "local":
            return gpus
        own = cluster.resources(stage)
        return (own.gpus or 0) * (own.nodes or 1) or None

    return of_stage


# --- lines ---


def lines(name: str, on: On, costs: Costs) -> Iterator[str]:
    gpu, a = on.gpu, on.assumed
    yield f"on {name}: {gpu.memory:g} GB, {gpu.bf16:g} TFLOP/s in bf16, {gpu.fp32:g} in fp32, {gpu.bandwidth:g} GB/s"
    yield (
        f"assumed, not measured: {a.training:.0%} of these TFLOP/s in training, {a.scoring:.0%} in scoring,"
        f" {a.decoding:.0%} of the GB/s in sampling; {a.usable:.0%} of the memory is free for tensors;"
        " lengths of texts: conf/cost.yaml"
    )
    yield HEAD
    for (stage, each), n in costs.fits.items():
        yield from of_stage(stage, each, n, on)
    yield from total(costs)


def of_stage(stage: str, each: Fit, n: int, on: On) -> Iterator[str]:
    cost, p = each.cost, each.place
    hours = cost.seconds / 3600
    yield (
        f"{n:4}  {stage:10}{cost.model:26}{amount(cost.tokens):>9}{number(cost.flops / 1e15):>10}{p.gpus:6}"
        f"{gb(cost.memory.total):>9}{hours:9.2f}{n * hours * p.gpus:11.2f}"
    )
    held = ", ".join(f"{name} {gb(value)}" for name, value in cost.memory.parts.items() if value >= 5e6)
    yield f"      {p.precision}, {placed(stage, p)}: {held or 'next to nothing'}"
    if cost.phases:
        most, _ = max(cost.phases, key=lambda phase: phase[1])
        yield f"      by phase: {', '.join(f'{name} {gb(value)}' for name, value in cost.phases)}: most in {most}"
    if stage == "rloo" and "offload" in (p.reference, p.reward):
        yield f"      copied to the GPU in each step at {on.assumed.copying:g} GB/s, assumed"
    if each.refused is not None:
        needed, gpus = each.refused
        where = f"on {gpus} GPU{'s' * (gpus > 1)}"
        yield f"      REFUSED as configured: it needs {gb(needed)} GB {where}, {gb(on.room)} are free. Fits with"
        for way in each.ways:
            yield f"        {way.said}: {gb(way.bytes)} GB"
        if not each.ways:
            yield "        nothing that can be set here: a larger GPU, or a smaller model"


def placed(stage: str, p: Place) -> str:
    frozen = {"reference": p.reference, "reward": p.reward} if stage == "rloo" else {}
    beside = "".join(f" run.{name}={where}" for name, where in frozen.items() if where != "device")
    return f"run.parallel={p.parallel} run.recompute={p.recompute}{beside}"


def total(costs: Costs) -> Iterator[str]:
    of_all = [(n, each) for (_, each), n in costs.fits.items()]
    fitting = [(n, e) for n, e in of_all if e.refused is None or e.ways]
    hours = sum(n * e.cost.seconds * e.place.gpus / 3600 for n, e in fitting)
    refused = sum(n for n, e in of_all if e.refused is not None)
    without = f"; {refused} do not fit as configured: counted as the first way says, or not at all" if refused else ""
    yield f"total {hours:,.1f} GPU-hours{without}"
    weights, scores = (sum(n * getattr(e.cost, name) for n, e in of_all) for name in ("weights", "scores"))
    most = max((e.cost.checkpoints for _, e in of_all), default=0)
    gone = sum(n * each.cost.weights for (stage, each), n in costs.fits.items() if stage in costs.spent)
    after = f" ({gb(weights - gone)} GB after make gc: run.retention)" if gone else ""
    kept = f"disk: weights {gb(weights)} GB{after}, scores and answers {gb(scores)} GB"
    yield f"{kept}; checkpoints of one that trains {gb(most)} GB"
    if costs.on_cpu:
        yield "on CPUs: " + ", ".join(f"{n} {name}" for name, n in costs.on_cpu.items())
    if costs.unknown:
        yield "not estimated: " + ", ".join(f"{n} {name}" for name, n in costs.unknown.items())
    yield from endpoint(costs.asked)


def endpoint(asked: list[Node]) -> Iterator[str]:
    """What a judge elsewhere is asked."""
    if not asked:
        return
    questions = tokens = 0.0
    for node in asked:
        answers = node.inputs["policy"]
        n, text = texts(answers.inputs["data"])
        said = answer(answers.inputs["data"], answers.sections["generate"]["max_new"])
        questions, tokens = questions + n, tokens + n * (text.prompt + 2 * said)
    price = asked[0].around["run"]["endpoint"].get("price_per_million")
    cost = f", {tokens * price[0] / 1e6:,.0f} at the price of run.endpoint" if price else ""
    model = asked[0].sections["judge"]["id"]
    yield f"asked of {model}: {questions:,.0f} questions, {amount(tokens)} tokens beside the judge's own text{cost}"


def gb(value: float) -> str:
    return number(value / 1e9)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 0.05 else f"{value:.2g}"


def amount(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"
