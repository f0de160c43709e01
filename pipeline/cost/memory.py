"""The most memory that one process needs at once, in bytes by what holds it, from shapes and settings alone.

It counts what our own loops keep (`pipeline/fit.py`, `pipeline/dist.py`) and what autograd saves of a transformer layer
as transformers writes it; tests hold it against torch's own record on a CPU. On a GPU it is not measured yet. Left out:
what an allocator wastes (`usable` in conf/cost.yaml makes room for it), and what does not grow with a model or a batch.

Weights, gradients and AdamW's two moments are fp32 whatever compute.precision is: 16 bytes for each trained weight.
Under bf16 the matrix products have bf16 copies of the weights; the stream between layers stays fp32.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from pipeline.cost.sheet import Shape
from pipeline.experiment import Where

ROWS = 256  # as wide as the vocabulary, at once, when RLOO asks for log-probabilities (pipeline/policy.py)
READ = 16384  # tokens of prompts that sampling reads at once (pipeline/sample.py)


@dataclass(frozen=True)
class Place:
    """How a stage is run. `gpus`: processes, each with one."""

    gpus: int
    parallel: Literal["ddp", "fsdp"]
    recompute: Literal["none", "layers", "batches"]
    micro_tokens: int
    precision: Literal["fp32", "bf16"]
    rank: int | None = None  # of LoRA
    reference: Where = "device"  # of RLOO
    reward: Where = "device"

    @property
    def shards(self) -> int:
        return self.gpus if self.parallel == "fsdp" else 1

    @property
    def half(self) -> bool:
        return self.precision == "bf16"

    @property
    def width(self) -> int:
        """Bytes of a number that matrix products read."""
        return 2 if self.half else 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one process when it needs the most."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    copies: float = 0.0  # bf16 ones of weights; with sharding what is fetched of them
    activations: float = 0.0
    logits: float = 0.0
    cache: float = 0.0  # keys and values while sampling
    others: float = 0.0  # models beside the one in training

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Load:
    """What one process's part of an optimizer step holds."""

    kept: float  # tokens whose passes are alive together: of a reward model a step's, else a micro-batch's
    pass_tokens: float  # of one forward pass
    logits: float  # positions whose logits are made at once
    accumulates: bool  # are there gradients of earlier micro-batches beside these?
    head: Literal["lm", "chunked", "reward", "both"]  # what reads the body's output; both: reward, and chunked


# --- what autograd keeps of a token ---


def layer_bytes(s: Shape, p: Place) -> float:
    """Of one layer: inputs of norms and of matrix products, what attention reads and says, the MLP's four."""
    d, e = s.hidden, p.width
    norms = 2 * 4 * d * (1 if p.rank else 2)  # what comes in, and what a trained gain multiplies
    read = 5 * 2 * d if p.half else 2 * 4 * d  # each product has a bf16 copy of its input; fp32 ones share it
    attention = e * (s.queries + 2 * s.keys + 2 * s.queries)
    adapters = 7 * e * (p.rank or 0)
    return norms + read + attention + 4 * e * s.mlp + adapters


def passing(s: Shape, p: Place) -> float:
    """Bytes of a token's gradients on their way through a layer, beside what is kept: the MLP's product and factors."""
    return 3 * p.width * s.mlp + 2 * 4 * s.hidden


def backward(s: Shape, p: Place, load: Load, tokens: float) -> tuple[float, float]:
    """(activations, logits) while a micro-batch goes backward and passes over so many tokens are alive, itself
    included: when it begins at the logits, or when it is in a layer, whichever holds more."""
    each = layer_bytes(s, p)
    last, work = 2 * 4 * s.hidden, load.pass_tokens * passing(s, p)
    if p.recompute == "layers":  # what goes into each layer, and one layer's rest at a time
        kept, work = 4 * s.hidden * s.layers, work + load.pass_tokens * (each - 4 * s.hidden)
    else:
        kept = each * s.layers
    begins = tokens * (kept + last), logits(s, p, load)
    inside = tokens * (kept + last) - load.pass_tokens * last + work, 0.0
    return max(begins, inside, key=sum)


def logits(s: Shape, p: Place, load: Load) -> float:
    """Log-probabilities, their gradient and that of the logits, in fp32."""
    if load.head in ("chunked", "both"):
        return 3 * 4.0 * ROWS * s.vocab + (0 if p.rank else 4 * s.words)
    return 12.0 * load.logits * s.vocab if load.head == "lm" else 0.0


# --- training ---


def training(s: Shape, p: Place, load: Load) -> Memory:
    """The largest of some moments: a backward pass with all that it needs, one after others have left their gradients,
    the optimizer's step, and the first process's look at a model that was sharded. Before and after that it is whole on
    a CPU, and its way to the shards and back takes less room than a pass: a layer, and what is outside them."""
    reward, whole = load.head in ("reward", "both"), weights(s, load)
    adapters = s.adapters(p.rank) if p.rank else 0
    trained = adapters + s.hidden * reward if p.rank else whole
    gradients = 4 * trained / p.shards
    held = Memory(weights=4 * (whole + adapters) / p.shards, optimizer=8 * trained / p.shards)
    moments = [replace(held, gradients=gradients)]
    for tokens, left in ((load.kept, load.accumulates), (load.kept - load.pass_tokens, True)):
        if tokens > 0:
            acts, words = backward(s, p, load, tokens)
            own = gradients if left else 0.0
            moments.append(
                replace(held, gradients=own, copies=copies(s, p, load, tokens), activations=acts, logits=words)
            )
    if p.shards > 1:  # mean loss or canaries: as of any model that is scored
        moments.append(replace(scoring(s, p, lm=not reward), logits=logits(s, p, load)))
    return max(moments, key=lambda m: m.total)


def weights(s: Shape, load: Load) -> int:
    """How many the model in training has."""
    return {"reward": s.rm, "both": s.lm + s.hidden}.get(load.head, s.lm)


def copies(s: Shape, p: Place, load: Load, tokens: float) -> float:
    """bf16 weights for matrix products, of each micro-batch that is alive its own. Of a sharded model what is whole at
    a time: all that is outside the layers, in fp32 with its gradients, and two layers, of which one has gradients, also
    in fp32 for their sum."""
    if p.shards == 1:
        words = s.words if load.head != "reward" else 0
        alive = math.ceil(tokens / load.pass_tokens) if p.recompute == "none" else 1
        return 2.0 * alive * (s.layers * s.linear + words) if p.half else 0.0
    outside = weights(s, load) - s.layers * s.layer
    of_layer = 2 * p.width + (0 if p.rank else p.width + 4)
    return (4.0 if p.rank else 8.0) * outside + of_layer * s.layer


# --- without training ---


def scoring(s: Shape, p: Place, lm: bool = False) -> Memory:
    """A forward pass: one layer's work at a time."""
    work = p.micro_tokens * (passing(s, p) + 2 * p.width * (s.queries + s.keys))
    return Memory(
        weights=4.0 * (s.lm if lm else s.rm), copies=2.0 * s.layers * s.linear if p.half else 0.0, activations=work
    )


def sampling(s: Shape, p: Place, slots: int, longest: float) -> Memory:
    """Keys and values of all rows at their full length; probabilities of all rows in fp64, twice, with what they are
    made from."""
    cells = 2 * s.keys * s.layers * p.width
    return Memory(
        weights=4.0 * s.lm,
        copies=2.0 * (s.layers * s.linear + s.words) if p.half else 0.0,
        activations=min(READ, slots * longest) * passing(s, p),
        logits=(p.width + 4 + 8 + 8.0) * slots * s.vocab,
        cache=cells * slots * longest,
    )


# --- RLOO: a policy in training, its reference, its reward model ---


def phases(s: Shape, judged: Shape | None, p: Place, load: Load, rows: int, longest: float) -> dict[str, Memory]:
    """What each phase of a step needs, when the policy has its moments, and what loading does: every model is whole at
    first. Only in the update are there gradients. `p.micro_tokens` is what frozen models read at once."""
    learning = training(s, p, load)
    own = Memory(weights=learning.weights, optimizer=learning.optimizer)
    fp32 = replace(p, precision="fp32")

    def of_reward(now: bool) -> float:
        return frozen(judged, judged.rm, fp32, p.reward, now) if judged else 0.0

    def beside(phase: str) -> float:
        return of_reward(phase == "reward") + frozen(s, s.lm, p, p.reference, phase == "reference")

    writing, told = sampling(s, p, rows, longest), scoring(s, p)
    scored = scoring(judged, fp32) if judged else Memory()
    whole = 4.0 * s.lm if p.shards > 1 else 0.0
    words = 2.0 * s.words if p.half else 0.0  # the head's weights; no copy of a frozen layer's outlives its product
    body, head = replace(own, activations=told.activations), replace(own, copies=words, logits=3 * 4.0 * ROWS * s.vocab)
    found = {
        "generate": replace(writing, weights=own.weights, optimizer=own.optimizer, copies=writing.copies + whole),
        "reward": replace(own, activations=scored.activations),
        "reference": max(body, head, key=lambda m: m.total),
        "update": learning,
    }
    loaded = max(4.0 * judged.rm if judged else 0.0, of_reward(now=False) + 4.0 * s.lm)  # the reference comes last
    return {
        "load": Memory(weights=4.0 * s.lm, others=loaded),
        **{phase: replace(m, others=beside(phase)) for phase, m in found.items()},
    }


def copied(s: Shape, judged: Shape | None, p: Place) -> float:
    """Bytes that come from main memory in each step."""
    reward = 4.0 * judged.rm if judged and p.reward == "offload" else 0.0
    return reward + (4.0 * s.lm if p.reference == "offload" else 0.0)


def frozen(s: Shape, parameters: int, p: Place, where: Where, now: bool) -> float:
    """Of a model that is read only, in its phase or outside it. Of a sharded one, all that is outside the layers and
    two layers are fetched at a time."""
    if where == "device":
        return 4.0 * parameters
    if where == "offload":
        return 4.0 * parameters if now else 0.0
    fetched = 4.0 * (parameters - s.layers * s.layer) + 2 * p.width * s.layer
    return 4.0 * parameters / p.gpus + (fetched if now else 0.0)
