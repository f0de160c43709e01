"""What an artefact that is not there yet would cost: from the settings in its own node and those of its inputs, and
from assumed lengths of texts. A stage that computes with no model costs no GPU.

Left out: reading and writing data, a probe's scoring while a reward model is trained, the first look at a policy's
rewards, and the reference of implicit rewards where a policy is trained on them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.cost import memory, work
from pipeline.cost.memory import Load, Memory, Place
from pipeline.cost.sheet import On, Shape, Texts, shape, sheet
from pipeline.cost.work import Text
from pipeline.plan import Node

SLOTS = {"generate": 256, "rloo": 512}  # answers written at once (pipeline/stages/generate.py, pipeline/rollout.py)
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Cost:
    """Of one artefact, at one place."""

    model: str
    tokens: float
    flops: float
    seconds: float  # of all its GPUs side by side
    memory: Memory
    weights: float = 0.0  # bytes that stay
    scores: float = 0.0
    checkpoints: float = 0.0  # bytes while it runs
    phases: tuple[tuple[str, float], ...] = ()  # and their bytes; `memory` is of the one that needs the most


Estimator = Callable[[Node, Place, On], Cost]


# --- what is in a node ---


def started(node: Node) -> Node:
    """The SFT artefact that a chain's weights come from."""
    while node.stage.name != "sft":
        needs = node.inputs  # of a policy the SFT model comes before the reward model
        node = next(needs[name] for name in ("policy", "sft", "rm") if name in needs)
    return node


def model_of(node: Node) -> dict[str, Any]:
    return started(node).sections["model"]


def named(model: dict[str, Any]) -> str:
    if model["source"] == "hub":
        return model["id"].rpartition("/")[2]
    return f"tiny-{model['family']}-{model['hidden']}"


def texts(node: Node) -> tuple[float, Texts]:
    """Rows of a data artefact, and what they look like; samples of a policy as well."""
    if node.stage.name == "gold" and "samples" not in node.inputs:
        return texts(node.inputs["data"])
    if node.stage.name == "gold":
        n, asked = texts(node.inputs["data"])
        samples = node.inputs["samples"].sections["generate"]["samples"]
        return n, Texts(asked.prompt, answer(node.inputs["data"], None), samples)
    source, known = node.sections["source"], sheet()
    if source["kind"] == "world":
        return source["n"], known.texts.world
    of = known.texts.hub.get(source["part"], known.texts.hub["other"])
    if source["kind"] == "sets":
        return sum(texts(need)[0] for need in node.inputs.values()), of
    rows = known.rows.get(source.get("id", ""), known.rows["other"])
    return source.get("n", rows), of


def answer(data: Node, limit: int | None) -> float:
    """Tokens that a policy says to a prompt."""
    mean = getattr(sheet().answers, whose(data))
    return mean if limit is None else min(mean, limit)


def longest(data: Node) -> float:
    return getattr(sheet().longest_prompt, whose(data))


def whose(data: Node) -> Literal["world", "hub"]:
    """Whose texts these are like."""
    return "world" if data.sections["source"]["kind"] == "world" else "hub"


def settings(node: Node) -> dict[str, Any]:
    return node.around["run"]


def place(node: Node, gpus: int) -> Place:
    """As the experiment says."""
    run, precision = settings(node), node.sections.get("compute", {}).get("precision", "fp32")
    own = node.sections.get(node.stage.name, {}).get("optim", {}).get("lora")
    rank = own["rank"] if own else None
    how = run["parallel"], run["recompute"], run["micro_tokens"]
    return Place(gpus, *how, precision, rank, run["reference"], run["reward"])


def checkpoints(s: Shape, p: Place, whole: int) -> float:
    trained = s.adapters(p.rank) if p.rank else whole
    return KEPT_CHECKPOINTS * 12.0 * trained


# --- stages ---


def sft(node: Node, p: Place, on: On) -> Cost:
    own, s = node.sections["sft"], shape(node.sections["model"])
    if own.get("steps") == 0:
        return Cost(named(node.sections["model"]), 0, 0, 0, Memory(), weights=4.0 * s.lm)
    n, each = texts(node.inputs["data"])
    n = own["steps"] * own["batch"] if own.get("steps") else n * own["epochs"]
    text = Text(n, each.prompt, each.response, 1).within(own["max_length"])
    share = 1.0 if own.get("learns") == "all" else on.assumed.learned
    flops = work.trained(work.forward(s, text, "packed") + work.logits(s, share * text.tokens("packed")), p)
    in_step = own["batch"] * text.length / p.gpus
    one = min(p.micro_tokens, in_step)
    held = memory.training(s, p, Load(one, one, share * one, in_step > p.micro_tokens, "lm"))
    time = work.seconds(flops, on, p.precision, on.assumed.training) / p.gpus
    tokens = text.tokens("packed")
    return Cost(named(node.sections["model"]), tokens, flops, time, held, 4.0 * s.lm, 0, checkpoints(s, p, s.lm))


def rm(node: Node, p: Place, on: On) -> Cost:
    own, model = node.sections["rm"], model_of(node)
    s, packing, implicit = shape(model), settings(node)["packing"], is_implicit(node)
    n, each = texts(node.inputs["data"])
    text = Text(n * own["epochs"], each.prompt, each.response, 2).within(own.get("max_length"))
    head_alone = own["trains"] == "head" or not own["epochs"]
    speaks = own.get("text") is not None  # of each pair the chosen response
    said = text.sequences if implicit else text.groups if speaks else 0
    seen = work.forward(s, text, packing) + work.logits(s, said * text.response)
    flops = (seen if head_alone else work.trained(seen, p)) + seen * implicit  # the reference
    in_step = Text(own["batch"], text.prompt, text.response, 2).tokens(packing) / p.gpus
    one = min(p.micro_tokens, in_step)
    # A step's passes are alive together, since a loss sees the whole step; if each is run again, one at a time.
    alive = one if p.recompute == "batches" else in_step
    load = Load(alive, one, 0, alive < in_step, "chunked" if implicit else "both" if speaks else "reward")
    held = memory.training(s, p, load)
    if head_alone:  # or nothing
        held = memory.scoring(s, p, lm=implicit)
    whole = s.lm if implicit else s.rm
    held = replace(held, others=4.0 * s.lm / p.shards * implicit)
    time = work.seconds(flops, on, p.precision, on.assumed.training) / p.gpus
    state = checkpoints(s, p, memory.weights(s, load))
    stays = 4.0 * whole * (1 + implicit)
    return Cost(named(model), text.tokens(packing), flops, time, held, stays, 0, state)


def is_implicit(node: Node) -> bool:
    """Is there a frozen language model beside the reward model, which is one itself?"""
    return node.sections["rm"].get("implicit") is not None


def scored(node: Node, p: Place, on: On) -> Cost:
    """score, rank: each response read once."""
    if node.inputs["rm"].stage.name == "external":
        return unknown()
    model, packing, implicit = model_of(node.inputs["rm"]), settings(node)["packing"], is_implicit(node.inputs["rm"])
    s, tokens, flops, scores = shape(model), 0.0, 0.0, 0.0
    for name, need in node.inputs.items():
        if name != "rm":
            n, each = texts(need)
            text = Text(n, each.prompt, each.response, each.responses)
            tokens += text.tokens(packing)
            said = work.logits(s, text.sequences * text.response) if implicit else 0
            flops += (1 + implicit) * (work.forward(s, text, packing) + said)
            scores += on.assumed.score_bytes * text.sequences
    time = work.seconds(flops, on, p.precision, on.assumed.scoring)
    held = replace(memory.scoring(s, p, lm=implicit), others=4.0 * s.lm * implicit)
    return Cost(named(model), tokens, flops, time, held, scores=scores)


def generate(node: Node, p: Place, on: On) -> Cost:
    own, model = node.sections["generate"], model_of(node)
    s = shape(model)
    n, asked = texts(node.inputs["data"])
    k, said = own["samples"], answer(node.inputs["data"], own["max_new"])
    reading = work.forward(s, Text(n, asked.prompt, 0, 0), "shared")
    written = n * k * said
    rows = min(n * k, max(k, SLOTS["generate"]))
    length = asked.prompt + said / 2
    time = work.seconds(reading, on, p.precision, on.assumed.scoring)
    time += work.decoding(s, p, on, written, rows, length)
    flops = reading + written * 2 * (s.layers * s.linear + s.words)
    room = longest(node.inputs["data"]) + own["max_new"]
    held = memory.sampling(s, p, int(rows), room)
    return Cost(named(model), n * asked.prompt + written, flops, time, held, scores=4.0 * written)


def rloo(node: Node, p: Place, on: On) -> Cost:
    own, model = node.sections["rloo"], model_of(node.inputs["sft"])
    s, packing, data = shape(model), settings(node)["packing"], node.inputs["data"]
    _, asked = texts(data)
    prompt, said = min(asked.prompt, own["max_prompt"]), answer(data, own["max_new"])
    k, prompts, steps = own["k"], own["prompts"], own["steps"]
    kept = k if own["trained"] == "all" else 1
    once = own["minibatches"] * own["passes"] == 1 and kept == k
    of_step = Text(prompts, prompt, said, k)
    seen = work.forward(s, of_step, packing) + work.logits(s, prompts * k * said)
    learned = work.forward(s, Text(prompts, prompt, said, kept), packing) + work.logits(s, prompts * kept * said)
    flops = seen * (1 if once else 2) + own["passes"] * work.trained(learned, p)  # reference; the policy, looked at
    judged = shape(model_of(node.inputs["rm"])) if "rm" in node.inputs and is_ours(node.inputs["rm"]) else None
    time = work.seconds(flops, on, p.precision, on.assumed.training)
    if judged is not None:  # in fp32, whatever the policy's precision is
        scoring = work.forward(judged, of_step, packing)
        flops, time = flops + scoring, time + work.seconds(scoring, on, "fp32", on.assumed.scoring)
    each = math.ceil(prompts / p.gpus)  # prompts of a process
    rows = min(each * k, max(k, SLOTS["rloo"]))
    time = time / p.gpus + work.decoding(s, p, on, each * k * said, rows, prompt + said / 2)
    time += work.copying(memory.copied(s, judged, p), on)
    held = rloo_phases(s, judged, p, own, rows, replace(of_step, groups=each), kept)
    most, by_phase = max(held.values(), key=lambda m: m.total), tuple((name, m.total) for name, m in held.items())
    tokens, disk = steps * of_step.tokens(packing), checkpoints(s, p, s.lm)
    return Cost(named(model), tokens, steps * flops, steps * time, most, 4.0 * s.lm, 0, disk, by_phase)


def rloo_phases(
    s: Shape, judged: Shape | None, p: Place, own: dict[str, Any], rows: int, of_step: Text, kept: int
) -> dict[str, Memory]:
    """Of a process whose part of a step is `of_step`, of whose responses it learns from so many to a prompt."""
    in_step = replace(of_step, responses=kept).tokens("shared") / own["minibatches"]
    one = min(p.micro_tokens, in_step)
    read = replace(p, micro_tokens=int(min(p.micro_tokens, of_step.tokens("shared"))))
    load = Load(one, one, 0, in_step > one, "chunked")
    return memory.phases(s, judged, read, load, rows, own["max_prompt"] + own["max_new"])


def is_ours(node: Node) -> bool:
    return node.stage.name == "rm"


def judge(node: Node, p: Place, on: On) -> Cost:
    """A local model reads both answers and says one token; a reward model scores them."""
    own = node.sections["judge"]
    if own["kind"] == "openai" or "id" not in own:
        return unknown()
    s = shape({"source": "hub", "id": own["id"]})
    data = node.inputs["policy"]
    n, asked = texts(data.inputs["data"])
    said = answer(data.inputs["data"], data.sections["generate"]["max_new"])
    text = Text(n, asked.prompt + 2 * said, 0, 0)
    flops = work.forward(s, text, "shared")
    time = work.seconds(flops, on, p.precision, on.assumed.scoring)
    return Cost(named({"source": "hub", **own}), text.tokens("shared"), flops, time, memory.scoring(s, p, lm=True))


def unknown() -> Cost:
    return Cost("", 0, 0, 0, Memory())


ESTIMATORS: dict[str, Estimator] = {
    "sft": sft,
    "rm": rm,
    "score": scored,
    "rank": scored,
    "generate": generate,
    "rloo": rloo,
    "judge": judge,
}
TRAINED = ("sft", "rm", "rloo")  # recompute and LoRA mean something
ON_CPU = (
    "data",
    "card",
    "external",
    "bench",
    "dynamics",
    "gold",
    "scenarios",
    "leak",
    "best_of_n",
    "calibration",
    "alpaca_eval",
)
