"""The graph of the whole pipeline on one screen: what each stage reads, and which artefacts it needs.

Functions return (stage, experiment) pairs: a stage asks for an artefact by the experiment that describes it. The
code of a stage is the module of the same name, imported inside the job only; once it is, its name here is that module,
so no function may have it.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from pipeline.config import PROJECT
from pipeline.errors import ConfigError, check
from pipeline.experiment import Experiment, Hub, Model, Optim, Policy, Sft, Source
from pipeline.hub import Repository
from pipeline.judges import client, prompt
from pipeline.seeds import derive
from pipeline.stage import Needs, Stage
from pipeline.store import sha256
from pipeline.world import World


def data_of(x: Experiment, source: Source, seed: int) -> tuple[str, Experiment]:
    """Rows of the world are drawn anew for each seed; a hub data set is what it is, a file what it holds, and what is
    made of one is made once."""
    if source.kind == "scratch":
        return scratch(x, source)
    if source.kind == "local":
        return "data", replace(x, source=replace(source, sha256=content(source)), world=None, hub=Hub())
    if source.kind != "world" or x.world is None:
        return "data", replace(x, source=source, world=None)
    return "data", of_the_same_rows(x, source, seed if source.seed is None else source.seed, x.world)


def of_the_same_rows(x: Experiment, source: Source, seed: int, world: World) -> Experiment:
    """The same experiment for all that ask, whatever else theirs say: nearly all inputs of a large plan are rows."""
    rows, around = drawn(source, seed, world), (id(x.run), id(x.log))  # what is kept in ASKED keeps these two
    if (*rows, *around) not in ASKED:
        ASKED[*rows, *around] = replace(x, source=rows[0], world=rows[1], hub=Hub())
    return ASKED[*rows, *around]


ASKED: dict[tuple[Source, World, int, int], Experiment] = {}


@cache
def drawn(source: Source, seed: int, world: World) -> tuple[Source, World]:
    return replace(source, seed=seed), world.for_part(source.part)


def content(source: Source) -> str | None:
    path = PROJECT / str(source.path)
    if not path.is_file():
        return None
    about = path.stat()
    return hash_of(path, about.st_size, about.st_mtime_ns)


@cache
def hash_of(path: Path, size: int, changed: int) -> str:
    return sha256(path)


def data_needs(x: Experiment) -> Needs:
    """Each of several sets is an artefact of its own."""
    if x.source is None or x.source.sets is None:
        return {}
    most = x.source.n
    sets = {name: replace(s, n=most if s.n is None else min(s.n, most or s.n)) for name, s in x.source.sets.items()}
    return {name: data_of(x, source, x.seed) for name, source in sets.items()}


def readable(x: Experiment) -> str | None:
    source = x.source
    if source is not None and source.kind == "hub" and source.id is not None:
        own = Repository("dataset", source.id, source.revision, x.hub.root).own
        return None if own is None or own.is_dir() else f"no folder {own}: put {source.id} there"
    if source is None or source.kind != "local" or source.sha256 is not None:
        return None
    return "say which file: data.path=FILE" if source.path is None else f"no such file: {source.path}"


def source_slug(x: Experiment) -> str:
    assert x.source is not None, "whoever needs data says which"
    return x.source.part if x.source.seed is None else f"{x.source.part}-s{x.source.seed}"


def replica(x: Experiment) -> int:
    assert x.sft.seed is not None, "config.experiment resolves it"
    return x.sft.seed


def sft_needs(x: Experiment) -> Needs:
    return {} if x.sft.steps == 0 else {"data": data_of(x, x.data.sft, replica(x))}


def card_needs(x: Experiment) -> Needs:
    """All that one seed's chain reads."""
    d = x.data
    own = {name: data_of(x, getattr(d, name), x.seed) for name in ("preferences", "prompts", "alpaca_eval")}
    return {"sft": data_of(x, d.sft, replica(x)), **own, **benchmarks(x)}


def of_the_world(x: Experiment) -> str | None:
    parts = {name for name, source in x.data.benchmarks.items() if source is not None and source.kind == "world"}
    there = x.world is not None and {"in_domain", "scenarios"} <= parts
    return None if there else "the data card is of the micro world, its in_domain and scenarios included"


def rm_needs(x: Experiment) -> Needs:
    return {"sft": ("sft", x), "data": data_of(x, x.data.preferences, x.seed), **probe(x)}


def spoken(x: Experiment) -> str | None:
    own = x.model.source == "tiny" and x.model.template is None
    there = own or x.rm.head_init != "verdict"
    return None if there else "the verdict follows the answer at once in a tiny model's own template only"


def probe(x: Experiment) -> Needs:
    """Rows of its own: what a run was watched on is not what it is judged on."""
    if x.rm.probe_every is None or x.data.probe is None:
        return {}
    return {"probe": data_of(x, x.data.probe, derive(x.seed, "probe") % 10**6)}


def reward_model(x: Experiment) -> tuple[str, Experiment]:
    return "external" if x.external else "rm", x


def lies_somewhere(x: Experiment) -> str | None:
    return None if x.run.external else "run.external names no folder: say make eval RM=..."


def benchmarks(x: Experiment) -> Needs:
    return {name: judged_on(x, source) for name, source in x.data.benchmarks.items() if source is not None}


def judged_on(x: Experiment, source: Source) -> tuple[str, Experiment]:
    """Rows of prompts alone get their responses from the SFT model."""
    return gold_of(x) if source == x.data.best_of_n else data_of(x, source, x.seed)


def samples(x: Experiment) -> Needs:
    """The SFT model's answers among which reward models pick: the same for all of them."""
    if x.data.best_of_n is None:  # said by `sampled`
        return {}
    if has_responses(x.data.best_of_n):
        return {"data": data_of(x, x.data.best_of_n, x.seed)}
    drawn = replace(x.generate, samples=x.best_of_n.samples, temperature=x.best_of_n.temperature)
    asked = replace(x, generate=drawn, data=replace(x.data, alpaca_eval=x.data.best_of_n))
    return {"samples": from_sft(asked), "data": data_of(x, x.data.best_of_n, x.seed)}


def has_responses(source: Source) -> bool:
    """Rows whose own responses are asked about; no samples."""
    return source.kind == "scratch" and source.part in ("split", "answered")


def gold_of(x: Experiment) -> tuple[str, Experiment]:
    if x.data.gold is None:
        return "gold", x
    return "gold", replace(x, gold=replace(x.data.gold, compute=x.compute))


def sampled(x: Experiment) -> str | None:
    source = x.data.best_of_n
    if source is None:
        return "data.best_of_n names no prompts"
    known = source.kind == "world" or x.data.gold is not None
    return None if known else "only the micro world says how good an answer is; data.gold names a model that does"


SPLIT = Source("scratch", "split")
AS_IT_IS = Sft(
    batch=1,
    max_length=2,
    optim=Optim(lr=1e-5, schedule="constant", warmup=0.0, betas=(0.9, 0.999), weight_decay=0.0, clip=1.0),
    steps=0,
    seed=0,
)


def scenarios_needs(x: Experiment) -> Needs:
    """What one part of the generalization sets is made of."""
    made = x.data.scratch
    if made is None or x.source is None:  # Data checks it
        return {}
    if x.source.part == "split":  # by its own seed: these sets are what they are, whichever seed trains
        return {"data": data_of(x, made.source, made.split.seed)}
    if x.source.part == "prompts":
        return {"split": scratch(x, SPLIT)}
    if x.source.part == "answered":
        return {"split": scratch(x, SPLIT), **{f"by_{name}": answers(x, by) for name, by in made.generators.items()}}
    theirs: Needs = {"gold_answered": labelled(x, "answered")} if x.source.part == "scenarios" else {}
    return {"gold": labelled(x, "split"), **theirs}


def scratch(x: Experiment, source: Source) -> tuple[str, Experiment]:
    assert x.data.scratch is not None, "Data checks it"
    return "scenarios", replace(x, source=source, split=x.data.scratch.split if source == SPLIT else None)


def labelled(x: Experiment, part: str) -> tuple[str, Experiment]:
    return gold_of(replace(x, data=replace(x.data, best_of_n=Source("scratch", part))))


def answers(x: Experiment, generator: Model) -> tuple[str, Experiment]:
    """A valid model's, as it is, to all prompts: by the seed of the split, since published sets are what they are."""
    assert x.data.scratch is not None, "Data checks it"
    asked = replace(x.data, alpaca_eval=SPLIT)
    own = replace(x, model=generator, sft=AS_IT_IS, policy=Policy(), generate=x.data.scratch.generate, data=asked)
    return "generate", replace(own, seed=x.data.scratch.split.seed)


def leak_needs(x: Experiment) -> Needs:
    return {"data": data_of(x, x.data.preferences, x.seed), **benchmarks(x)}


def picked(x: Experiment) -> Needs:
    """The samples take the place of the benchmarks: their scores are an artefact of their own."""
    alone = replace(x, data=replace(x.data, benchmarks={"best_of_n": x.data.best_of_n}))
    return {"gold": gold_of(x), "score": ("score", alone)}


WRITES_NOTHING = "an encoder has no answers for a policy; stage=bench trains and measures it as a reward model"


def actor(x: Experiment) -> Experiment:
    """The chain with the policy's own model, where it has one, in the place of the reward model's. Zephyr's template,
    which is no family's, is that of all."""
    own = x.policy
    model = own.model or x.model
    for each in (x.model, model):
        check(not each.is_encoder, "model.family", each.family, WRITES_NOTHING)
    if x.model.template == "zephyr":
        model = replace(model, template="zephyr")
    tuned, rows = replace(own.sft or x.sft, seed=replica(x)), own.data or x.data.sft
    return replace(x, model=model, sft=tuned, data=replace(x.data, sft=rows))


def rloo_needs(x: Experiment) -> Needs:
    learned: Needs = {"rm": reward_model(x)} if x.rloo.reward == "rm" else {}
    return {"sft": ("sft", actor(x)), "data": data_of(x, x.data.prompts, x.seed), **learned}


def generate_needs(x: Experiment) -> Needs:
    policy = ("sft", actor(x)) if x.generate.policy == "sft" else ("rloo", x)
    return {"policy": policy, "data": data_of(x, x.data.alpaca_eval, x.seed)}


def from_sft(x: Experiment) -> tuple[str, Experiment]:
    return "generate", replace(x, generate=replace(x.generate, policy="sft"))


def baseline(x: Experiment) -> tuple[str, Experiment]:
    return from_sft(x) if x.alpaca_eval.baseline == "sft" else data_of(x, x.data.alpaca_eval, x.seed)


def judge_needs(x: Experiment) -> Needs:
    return {"policy": ("generate", x), "baseline": baseline(x)}


def calibration_needs(x: Experiment) -> Needs:
    """References are further samples of the SFT model: the same instructions, another seed."""
    if x.calibration.kind == "file":
        return {}
    asked = x.data.alpaca_eval
    asked = replace(asked, seed=x.seed) if asked.kind == "world" else asked  # others are what they are
    fixed = replace(x, data=replace(x.data, alpaca_eval=asked))
    seeds = [derive(x.seed, "reference", k) % 10**6 for k in range(x.calibration.references or 0)]
    references = {f"reference_{k}": from_sft(replace(fixed, seed=seed)) for k, seed in enumerate(seeds)}
    return {"baseline": baseline(x), **references}


def judged(x: Experiment) -> Needs:
    length: Needs = {} if x.calibration.kind == "none" else {"calibration": ("calibration", x)}
    return {"judge": ("judge", x), **length}


def judgeable(x: Experiment) -> str | None:
    if x.generate.samples != 1:
        return f"one answer to each instruction is judged: generate.samples = {x.generate.samples} is for others"
    try:
        prompt.template(x.judge, PROJECT / x.run.root)
    except ConfigError as e:
        return str(e)
    return client.missing_key(x.run.endpoint) if x.judge.kind == "openai" else None


def calibratable(x: Experiment) -> str | None:
    if x.calibration.kind == "file":
        return None
    made = x.data.alpaca_eval.kind == "world"
    return judgeable(x) if made else "only the micro world's answers can be rewritten: calibration=df_gamed or none"


def scored(x: Experiment) -> Needs:
    return {"rm": reward_model(x), **benchmarks(x)}


def measured(x: Experiment) -> Needs:
    return {"score": ("score", x), **frozen(x), **benchmarks(x)}


def frozen(x: Experiment) -> Needs:
    """The same texts seen by the SFT model with a head that has learned nothing: distances that no loss has moved."""
    if x.external or not x.bench.frozen:
        return {}
    untrained = replace(
        x.rm,
        epochs=0,
        head_init="stiennon",
        trains="model",
        draw=None,
        head_offset=None,
        overlong=None,
        head=None,
        norm_before_head=None,
        implicit=None,
        text=None,
        probe_every=None,
        optim=x.sft.optim,  # it does not matter, but must be the same for all
    )
    return {"frozen": ("score", replace(x, rm=untrained, loss={"name": "bt"}))}


def recorded(x: Experiment) -> Needs:
    """What training left, and the pairs it was on; the trained model's scores, and what was scored."""
    trained: Needs = {"rm": ("rm", x), "data": data_of(x, x.data.preferences, x.seed), "score": ("score", x)}
    return {**trained, **{name: need for name, need in benchmarks(x).items() if name in MEASURED_FOR_DYNAMICS}}


def ranked(x: Experiment) -> Needs:
    source = x.data.benchmarks.get("rm_bench")
    if source is None:  # said by `ranks`
        return {}
    pairs = data_of(x, x.data.preferences, x.seed)
    return {"rm": reward_model(x), "data": pairs, "rm_bench": data_of(x, source, x.seed)}


def ranks(x: Experiment) -> str | None:
    return None if x.data.benchmarks.get("rm_bench") else "data.benchmarks.rm_bench names no rows"


def trained_here(x: Experiment) -> str | None:
    return "how an external reward model was trained was not recorded" if x.external else None


def loss_name(loss: Mapping[str, Any]) -> str:
    """bsr, or bsr-norm_bt: what stands on what, BT left out."""
    of = loss.get("of")
    return loss["name"] if of is None or of["name"] == "bt" else f"{loss['name']}-{loss_name(of)}"


def learner(x: Experiment) -> str:
    if x.external:
        return f"external-{x.external.sha256[:8]}"
    if not x.rm.epochs:
        return "verdict" if x.rm.head_init == "verdict" else "untrained"
    kinds = {"head": x.rm.trains == "head", "implicit": x.rm.implicit is not None, "text": x.rm.text is not None}
    return "-".join([loss_name(x.loss), *(name for name, holds in kinds.items() if holds)])


def with_loss(x: Experiment) -> str:
    return f"{learner(x)}-s{x.seed}"


def trained_on(x: Experiment) -> str:
    return learner(x) if x.rloo.reward == "rm" else "gold"


def sampled_from(x: Experiment) -> str:
    return sampled_by_sft(x) if x.generate.policy == "sft" else f"{trained_on(x)}-s{x.seed}"


def sampled_by_sft(x: Experiment) -> str:
    return f"sft-r{replica(x)}-s{x.seed}"


def labelled_rows(x: Experiment) -> str:
    source = x.data.best_of_n
    return source.part if source is not None and has_responses(source) else sampled_by_sft(x)


def calibrated_on(x: Experiment) -> str:
    file = x.calibration.file
    return sampled_by_sft(x) if file is None else PurePath(file).stem


MEASURED_FOR_DYNAMICS = ("in_domain", "scenarios", "reward_bench")

STAGES = {
    stage.name: stage
    for stage in (
        Stage("data", 1, reads=("source", "world", "hub"), needs=data_needs, slug=source_slug, ready=readable),
        Stage("card", 1, reads=("seed", "world"), needs=card_needs, slug=lambda x: f"s{x.seed}", ready=of_the_world),
        Stage("sft", 1, reads=("model", "sft", "compute", "hub"), needs=sft_needs, slug=lambda x: f"r{replica(x)}"),
        Stage("external", 1, reads=("external",), needs=lambda x: {}, slug=learner, ready=lies_somewhere),
        Stage("rm", 2, reads=("seed", "rm", "loss", "compute"), needs=rm_needs, slug=with_loss, ready=spoken),
        Stage("score", 2, reads=("compute",), needs=scored, slug=with_loss),
        Stage("bench", 3, reads=("bench",), needs=measured, slug=lambda x: f"{x.bench.blind or learner(x)}-s{x.seed}"),
        Stage("dynamics", 1, reads=(), needs=recorded, slug=with_loss, ready=trained_here, weightless=("rm",)),
        Stage("rank", 1, reads=("compute",), needs=ranked, slug=with_loss, ready=ranks),
        Stage("gold", 1, reads=("gold", "hub"), needs=samples, slug=labelled_rows, ready=sampled),
        Stage("scenarios", 1, reads=("source", "split"), needs=scenarios_needs, slug=source_slug),
        Stage("leak", 1, reads=("leak",), needs=leak_needs, slug=lambda x: f"s{x.seed}"),
        Stage("best_of_n", 1, reads=("best_of_n",), needs=picked, slug=with_loss, ready=sampled),
        Stage(
            "rloo", 3, reads=("seed", "rloo", "compute"), needs=rloo_needs, slug=lambda x: f"{trained_on(x)}-s{x.seed}"
        ),
        Stage("generate", 2, reads=("seed", "generate", "compute"), needs=generate_needs, slug=sampled_from),
        Stage("judge", 2, reads=("judge", "compute", "hub"), needs=judge_needs, slug=sampled_from, ready=judgeable),
        Stage(
            "calibration",
            1,
            reads=("calibration", "judge", "compute", "hub"),
            needs=calibration_needs,
            slug=calibrated_on,
            ready=calibratable,
        ),
        Stage("alpaca_eval", 2, reads=("alpaca_eval",), needs=judged, slug=sampled_from),
    )
}
