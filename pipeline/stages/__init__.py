"""The graph of the whole pipeline on one screen: what each stage reads, and which artefacts it needs.

Functions return (stage, experiment) pairs: a stage asks for an artefact by the experiment that describes it. The code of a stage
is the module of the same name, imported inside the job only.
"""

from dataclasses import replace

from pipeline.config import Experiment, Source, seeded
from pipeline.stage import Needs, Stage


def data(x: Experiment, source: Source, seed: int) -> tuple[str, Experiment]:
    return "data", replace(x, source=seeded(source, seed))


def replica(x: Experiment) -> int:
    assert x.sft.seed is not None, "config.experiment resolves it"
    return x.sft.seed


def sft(x: Experiment) -> Needs:
    return {"data": data(x, x.data.sft, replica(x))}


def rm(x: Experiment) -> Needs:
    return {"sft": ("sft", x), "data": data(x, x.data.preferences, x.seed)}


def benchmarks(x: Experiment) -> Needs:
    return {name: data(x, source, x.seed) for name, source in x.data.benchmarks.items()}


def rloo(x: Experiment) -> Needs:
    learned: Needs = {"rm": ("rm", x)} if x.rloo.reward == "rm" else {}
    return {"sft": ("sft", x), "data": data(x, x.data.prompts, x.seed), **learned}


def generate(x: Experiment) -> Needs:
    return {"policy": (x.generate.policy, x), "data": data(x, x.data.alpaca_eval, x.seed)}


def judge(x: Experiment) -> Needs:
    baseline = replace(x, generate=replace(x.generate, policy="sft"))
    return {"policy": ("generate", x), "baseline": ("generate", baseline)}


def trained_on(x: Experiment) -> str:
    return x.loss["name"] if x.rloo.reward == "rm" else "gold"  # type: ignore[return-value]  # a name is text


def sampled_from(x: Experiment) -> str:
    return f"sft-r{replica(x)}-s{x.seed}" if x.generate.policy == "sft" else f"{trained_on(x)}-s{x.seed}"


STAGES = {
    stage.name: stage
    for stage in (
        Stage("data", 1, reads=("source", "world"), needs=lambda x: {}, slug=lambda x: f"{x.source.part}-s{x.source.seed}"),
        Stage("sft", 1, reads=("model", "sft", "compute"), needs=sft, slug=lambda x: f"r{replica(x)}"),
        Stage("rm", 1, reads=("seed", "rm", "loss", "compute"), needs=rm, slug=lambda x: f"{x.loss['name']}-s{x.seed}"),
        Stage("score", 1, reads=("compute",), needs=lambda x: {"rm": ("rm", x), **benchmarks(x)}, slug=lambda x: f"{x.loss['name']}-s{x.seed}"),
        Stage("bench", 1, reads=(), needs=lambda x: {"score": ("score", x), **benchmarks(x)}, slug=lambda x: f"{x.loss['name']}-s{x.seed}"),
        Stage("rloo", 1, reads=("seed", "rloo", "compute"), needs=rloo, slug=lambda x: f"{trained_on(x)}-s{x.seed}"),
        Stage("generate", 1, reads=("seed", "generate", "compute"), needs=generate, slug=sampled_from),
        Stage("judge", 1, reads=("judge",), needs=judge, slug=sampled_from),
        Stage("alpaca_eval", 1, reads=(), needs=lambda x: {"judge": ("judge", x)}, slug=sampled_from),
    )
}
