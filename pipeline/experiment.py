"""The experiment as frozen dataclasses: every setting with type, meaning and checks. Values are in `conf/`."""

import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pipeline.data import SCHEMAS
from pipeline.errors import check
from pipeline.world import PARTS, World

Where = Literal["device", "offload", "shard"]  # a frozen model beside the one in training: pipeline/placed.py
Scalar = int | float | str | bool | None
Constant = Scalar | dict[str, Any]  # of a loss; the one in `of` is a loss itself
PAD_REMEDY = "must not be EOS: a reward is read at the last token that is not PAD; name another special token"


@dataclass(frozen=True)
class Model:
    source: Literal["tiny", "hub"]  # tiny: built from the numbers below, with its own tokenizer; hub: id and revision
    family: Literal["llama", "qwen2", "bert"] | None = None  # bert: an encoder
    hidden: int | None = None
    layers: int | None = None
    heads: int | None = None
    mlp: int | None = None
    vocab: int | None = None
    positions: int | None = None
    gain_spread: float | None = None  # after SFT: final-norm gain times exp(spread z), undone in the LM head
    gain_norm: float | None = None  # and rescaled to a mean ‖h‖ of gain_norm * sqrt(hidden)
    id: str | None = None
    revision: str | None = None
    template: Literal["zephyr", "llama3"] | None = None  # how conversations are written; None: as its tokenizer says
    # Special tokens; None: those of its tokenizer. These are checked when it is loaded.
    bos: str | None = None  # with which a conversation begins, once; None: that is not checked
    eos: str | None = None  # with which an answer ends
    pad: str | None = None
    layer: str | None = None  # the class of its layers, by which it is sharded (run.parallel=fsdp)

    def __post_init__(self) -> None:
        sizes = ("family", "hidden", "layers", "heads", "mlp", "vocab", "positions")
        wanted = sizes if self.source == "tiny" else ("id", "revision")
        for name in wanted:
            check(getattr(self, name) is not None, name, None, f"source={self.source} needs it")
        foreign = ("id", "revision", "bos", "eos", "pad", "layer")
        for name in (*sizes, "gain_spread", "gain_norm") if self.source == "hub" else foreign:
            value = getattr(self, name)
            check(value is None, name, value, f"has no meaning with source={self.source}; remove it")
        for name in ("hidden", "layers", "heads", "mlp", "vocab", "positions", "gain_norm"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "must be positive")
        if self.hidden is not None and self.heads is not None:
            check(self.hidden % self.heads == 0, "heads", self.heads, f"must divide hidden={self.hidden}")
        for name in ("gain_spread", "gain_norm") if self.is_encoder else ():
            value = getattr(self, name)
            check(value is None, name, value, "is for language models after SFT; an encoder has none: remove it")
        known = self.source == "hub" or self.template != "llama3"
        check(known, "template", self.template, "a tiny model's tokenizer has no such headers: say zephyr, or null")
        check(self.pad is None or self.pad != self.eos, "pad", self.pad, PAD_REMEDY)

    @property
    def is_encoder(self) -> bool:
        """Each token sees all others, so it writes nothing."""
        return self.family == "bert"


OF_KIND = {  # what a source must say, and what it may
    "world": (("n",), ("seed",)),
    "hub": (("id", "revision", "schema"), ("n", "split", "config", "file", "sha256", "every", "bad", "licence")),
    "local": (("schema",), ("path", "n", "sha256", "every", "bad", "licence")),
    "sets": (("sets",), ("n",)),
    "scratch": ((), ("n",)),
}
SCRATCH_PARTS = ("split", "answered", "preferences", "in_domain", "prompts", "scenarios")  # stages/scenarios.py


@dataclass(frozen=True)
class Source:
    """One set of rows: from the micro world, of a hub data set at a revision, of a file of one's own, several sets in
    one, or made of data.scratch."""

    kind: Literal["world", "hub", "local", "sets", "scratch"]
    part: (
        str  # kind of rows; for the world one of world.PARTS, for scratch one of SCRATCH_PARTS, else one of data.PARTS
    )
    n: int | None = None  # rows to take, the first ones, of each set if there are several; None: all (not of the world)
    seed: int | None = None  # set by the stage that asks: new rows for each seed
    id: str | None = None
    revision: str | None = None
    split: str | None = None  # several: one+other
    config: str | None = None  # of a data set that has several
    file: str | None = None  # one file of the data set instead of a split
    path: str | None = None  # JSON lines, JSON, Parquet or CSV; relative to the project
    schema: str | None = None  # its columns: one of data.SCHEMAS
    every: int | None = None  # of the good rows each so many-th, the first included; None: each
    bad: Literal["drop"] | None = None  # a row that breaks a rule is left out and counted; None: it is refused
    sha256: str | None = None  # of the one file; of a local one set by whoever plans
    licence: str | None = None  # for the card; None: not known
    sets: dict[str, "Source"] | None = None  # by the name that their rows get in the column `set`

    def __post_init__(self) -> None:
        wanted, possible = OF_KIND[self.kind]
        for name in wanted:
            check(getattr(self, name) is not None, name, None, f"kind={self.kind} needs it")
        for name in sorted({f.name for f in fields(self)} - {"kind", "part", *wanted, *possible}):
            value = getattr(self, name)
            check(value is None, name, value, f"has no meaning with kind={self.kind}; remove it")
        for name in ("n", "every"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "must be positive")
        if self.kind == "world":
            check(self.part in PARTS, "part", self.part, f"no such part of the world; known: {', '.join(PARTS)}")
        if self.kind == "scratch":
            known = ", ".join(SCRATCH_PARTS)
            check(self.part in SCRATCH_PARTS, "part", self.part, f"data.scratch makes no such part; known: {known}")
            some = self.n is None or self.part not in ("split", "answered")
            check(some, "n", self.n, f"has no meaning with part={self.part}: see data.scratch.split; remove it")
        if self.kind == "hub":
            one = (self.split is None) != (self.file is None)
            check(one, "split", self.split, "say which split, or with file= which file")
        if self.schema is not None:
            known = self.schema in SCHEMAS
            check(known, "schema", self.schema, f"no such schema; known: {', '.join(SCHEMAS)}")
            made = SCHEMAS[self.schema]
            check(self.part in made, "part", self.part, f"schema={self.schema} gives {', '.join(made)}")
        for name, source in (self.sets or {}).items():
            check(source.part == self.part, f"sets.{name}.part", source.part, f"must be {self.part}, as of the whole")
            flat = source.kind in ("hub", "local")
            check(flat, f"sets.{name}.kind", source.kind, "must be hub or local")


COMMIT, CONTENT = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def check_pinned(trusted: object, revision: str | None) -> None:
    """Code of others runs at a commit that was looked at, never at a branch that may move."""
    pinned = revision is not None and bool(COMMIT.fullmatch(revision) or CONTENT.fullmatch(revision))
    remedy = (
        "trust_remote_code=true needs a pinned one: the commit, 40 hex digits; of a folder the SHA-256 of its files"
    )
    check(trusted is None or pinned, "revision", revision, remedy)


@dataclass(frozen=True)
class Gold:
    """A reward model whose rewards count as gold."""

    id: str  # of the hub, or a folder
    revision: str
    trust_remote_code: Literal[True] | None = None  # runs code that lies beside the weights; None: refuses the model
    compute: "Compute | None" = None  # set by the stage that asks

    def __post_init__(self) -> None:
        check_pinned(self.trust_remote_code, self.revision)


@dataclass(frozen=True)
class Counts:
    """How many rows there must be: another number means other data or another rule, and is refused."""

    rows: int  # with four responses each
    distinct: int  # of these, with a prompt of their own and four different responses
    train: int
    valid: int


@dataclass(frozen=True)
class Split:
    """Which prompts are trained on, and which of their responses are pairs."""

    seed: int  # of this alone: the same sets for every seed of the experiment, as published sets are
    train: int  # prompts
    valid: int | None = None  # None: all others
    counts: Counts | None = None  # None: unchecked

    def __post_init__(self) -> None:
        for name in ("train", "valid"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "must be positive")


@dataclass(frozen=True)
class Scratch:
    """The four generalization sets made here, as BSR's appendix B says (docs/scenarios.md)."""

    source: Source  # prompts with four responses each
    split: Split
    generators: dict[str, Model]  # the valid models: each answers every prompt once
    generate: "Generate"

    def __post_init__(self) -> None:
        check(len(self.generators) >= 2, "generators", len(self.generators), "a ranking needs at least two of them")
        check(self.source.kind != "scratch", "source.kind", self.source.kind, "cannot be made of itself")
        samples = self.generate.samples
        check(samples == 1, "generate.samples", samples, "each model answers a prompt once")


@dataclass(frozen=True)
class Data:
    """Sources by consumer, so that no stage's key depends on rows it does not read."""

    sft: Source
    preferences: Source
    prompts: Source
    alpaca_eval: Source
    benchmarks: dict[str, Source | None]  # None: left out
    probe: Source | None = None  # scored again and again while a reward model is trained; None: nothing
    best_of_n: Source | None = None  # prompts whose samples a reward model picks from; None: there are none
    path: str | None = None  # data=local: the file of one's own, which a source names by ${data.path}
    gold: Gold | None = None  # who says how good a response is; None: the world, of its own prompts
    scratch: Scratch | None = None  # what sources of kind=scratch are made of

    def __post_init__(self) -> None:
        uses = (self.sft, self.preferences, self.prompts, self.alpaca_eval, self.probe, self.best_of_n)
        if any(s is not None and s.kind == "scratch" for s in (*uses, *self.benchmarks.values())):
            check(
                self.scratch is not None,
                "scratch",
                None,
                "a source has kind=scratch: say of what, or choose other data",
            )
            check(
                self.gold is not None, "gold", None, "a source has kind=scratch: name the reward model that labels it"
            )
        part = None if self.probe is None else self.probe.part
        check(
            part in (None, "scenarios"), "probe.part", part, "must be scenarios: prompts with several graded responses"
        )


@dataclass(frozen=True)
class Lora:
    """Adapters on the linear layers of a model's body, trained instead of these: W + alpha/rank · B A."""

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        check(self.rank > 0, "rank", self.rank, "must be positive")
        check(self.alpha > 0, "alpha", self.alpha, "must be positive")


@dataclass(frozen=True)
class Optim:
    """AdamW."""

    lr: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup: float  # share of the steps
    betas: tuple[float, ...]
    weight_decay: float
    clip: float
    lora: Lora | None = None  # None: all weights are trained

    def __post_init__(self) -> None:
        check(self.lr > 0, "lr", self.lr, "must be positive")
        check(0 <= self.warmup < 1, "warmup", self.warmup, "is a share of the steps: 0 <= warmup < 1")
        good = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        check(good, "betas", self.betas, "must be two numbers, 0 <= beta < 1")
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        check(self.clip > 0, "clip", self.clip, "must be positive")


@dataclass(frozen=True)
class Sft:
    batch: int  # conversations in a step
    max_length: int
    optim: Optim
    steps: int | None = None  # either steps or epochs; 0: the model as it is
    epochs: int | None = None
    seed: int | None = None  # None: replica number seed % replicas
    learns: Literal["all"] | None = None  # all: the prompt's tokens too; None: what the rows give a weight

    def __post_init__(self) -> None:
        lengths = (self.steps, self.epochs)
        check(lengths.count(None) == 1, "steps, epochs", lengths, "say one of them and set the other to null")
        good = self.steps == 0 or (self.steps or self.epochs or 0) > 0
        check(good, "steps, epochs", lengths, "must be positive; steps=0 takes the model as it is")
        check(self.batch > 0, "batch", self.batch, "must be positive")
        check(self.max_length > 1, "max_length", self.max_length, "must be at least 2 tokens")


@dataclass(frozen=True)
class Implicit:
    """Rewards β (log π − log π_ref) of a language model beside the frozen one that it was (pipeline/implicit.py)."""

    beta: float

    def __post_init__(self) -> None:
        check(self.beta > 0, "beta", self.beta, "must be positive")


@dataclass(frozen=True)
class Text:
    """GRM's text regularisation (pipeline/text.py)."""

    coef: float

    def __post_init__(self) -> None:
        check(self.coef > 0, "coef", self.coef, "must be positive; without the term: rm.text=null")


@dataclass(frozen=True)
class Rm:
    epochs: int
    batch: int  # pairs in an optimizer step
    max_length: int | None  # tokens; None: what the model has positions for
    optim: Optim
    # std 1/sqrt(d+1) | model's initializer_range | 1/sqrt(d) | the SFT model's log-odds of praise (micro world)
    head_init: Literal["stiennon", "hf", "reference", "verdict"]
    trains: Literal["model", "head"]  # head: the floor that a frozen SFT model sets
    draw: int | None = None  # another head and data order on the same pairs, for nulls
    head_offset: float | None = None  # control: the mean reward that the head starts with
    probe_every: int | None = None  # steps from one scoring of data.probe to the next; None: never
    read: Literal["after_eos"] | None = None  # the reward, at what the template writes after EOS; None: at EOS
    bos: Literal["never"] | None = None  # never: before no conversation; None: as the template says
    # of a longer pair, cut: its responses lose their ends, not the end of turn; None: it is dropped
    overlong: Literal["cut"] | None = None
    head: Literal["mlp"] | None = None  # control: one hidden layer before the linear head; None: none
    # control: the final norm without its gain, so that every h has the norm sqrt(d); None: as the model has it
    norm_before_head: Literal[True] | None = None
    implicit: Implicit | None = None  # the reward is the language model's own, as DPO's; None: a score head gives it
    text: Text | None = None  # the chosen responses are learned as texts too; None: they are not

    def __post_init__(self) -> None:
        if self.text is not None:
            check(
                self.trains == "model", "text", self.text, "with trains=head there is no body to keep; set it to null"
            )
            check(self.epochs != 0, "text", self.text, "has no meaning without training; set it to null")
            as_it_was = self.norm_before_head is None
            check(as_it_was, "text", self.text, "the LM head reads h with its gain; set norm_before_head to null")
        explicit = {"trains": "model", "head_offset": None, "head": None, "norm_before_head": None, "text": None}
        for name, usual in explicit.items() if self.implicit else ():
            value = getattr(self, name)
            check(value == usual, name, value, f"an implicit reward has no score head; set it to {usual or 'null'}")
        there = self.implicit is None or self.head_init != "verdict"
        check(there, "head_init", self.head_init, "an implicit reward has no score head; say stiennon")
        for name in ("head", "norm_before_head", "text") if self.head_init == "verdict" else ():
            value = getattr(self, name)
            check(value is None, name, value, "with it the verdict would not be the SFT model's; set it to null")
        check(self.epochs >= 0, "epochs", self.epochs, "must not be negative; 0 leaves the head as initialised")
        check(self.batch > 0, "batch", self.batch, "must be positive")
        long = self.max_length is None or self.max_length > 1
        check(long, "max_length", self.max_length, "must be at least 2 tokens, or null for no limit but the model's")
        every = self.probe_every
        check(every is None or every > 0, "probe_every", every, "must be positive, or null for never")


@dataclass(frozen=True)
class Bench:
    # control: rewards multiplied by exp(outliers z), as if the norms of some representations were outliers
    outliers: float | None = None
    frozen: bool = False  # accuracy by distance in the SFT model too: the same bins for every loss
    blind: Literal["longer", "shorter", "random"] | None = None  # a floor: rewards by length alone, or by nothing

    def __post_init__(self) -> None:
        check(self.outliers is None or self.outliers > 0, "outliers", self.outliers, "must be positive, or null")


@dataclass(frozen=True)
class Rloo:
    reward: Literal["rm", "gold"]  # gold: the ceiling, no reward model involved
    steps: int
    prompts: int  # in a step
    k: int  # responses to each prompt
    trained: Literal["all", "first"]  # first: of each prompt's responses, the others being its baseline only
    minibatches: int  # parts of a step's prompts, an optimizer step for each
    passes: int  # over them
    clip_ratio: float | None  # ε: no gain from a response's probability beyond 1 ± ε times what it was; None: unbounded
    kl: float  # β
    kl_estimator: Literal["k1", "k2", "k3"]  # of the penalty in the reward
    temperature: float  # of sampling, and of all probabilities
    max_prompt: int  # tokens, with the cue to speak
    long_prompts: Literal["refuse", "drop", "cut"]  # cut: on the right, which takes the cue away
    max_new: int
    missing_eos: float  # subtracted from the reward of a response without end
    reward_transform: Literal["none", "whiten_sft"]  # whiten_sft: mean and std of SFT samples, frozen
    whiten_samples: int
    optim: Optim
    clip_reward: float | None = None  # to ± this after the transform

    def __post_init__(self) -> None:
        check(self.k >= 2, "k", self.k, "leave-one-out needs at least two responses to a prompt")
        check(self.temperature > 0, "temperature", self.temperature, "sampling needs a positive temperature")
        check(self.kl >= 0, "kl", self.kl, "must not be negative")
        for name in ("steps", "prompts", "minibatches", "passes", "max_prompt", "max_new"):
            check(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        for name in ("clip_ratio", "clip_reward"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "must be positive, or null")
        even = self.prompts % self.minibatches == 0
        check(even, "minibatches", self.minibatches, f"must divide prompts={self.prompts}")
        check(self.whiten_samples > 1, "whiten_samples", self.whiten_samples, "a spread needs at least two samples")


@dataclass(frozen=True)
class Policy:
    """What RLOO trains, where it is not what the reward model starts from. None: as there."""

    model: Model | None = None
    sft: Sft | None = None
    data: Source | None = None  # for its SFT


@dataclass(frozen=True)
class Generate:
    policy: Literal["sft", "rloo"]
    temperature: float  # 0: greedy
    top_p: float  # of the most probable tokens, as many as reach it
    top_k: int  # and no more than so many; 0: all
    max_new: int
    samples: int  # of each instruction

    def __post_init__(self) -> None:
        check(self.temperature >= 0, "temperature", self.temperature, "must not be negative; 0 is greedy")
        check(0 < self.top_p <= 1, "top_p", self.top_p, "is a probability: 0 < top_p <= 1; 1 leaves out nothing")
        check(self.top_k >= 0, "top_k", self.top_k, "must not be negative; 0 leaves out nothing")
        for name in ("max_new", "samples"):
            check(getattr(self, name) > 0, name, getattr(self, name), "must be positive")


@dataclass(frozen=True)
class BestOfN:
    """How good is the answer that a reward model picks among N?"""

    samples: int  # of the SFT model to each prompt, stored once for all reward models
    temperature: float  # they are drawn at
    ns: tuple[int, ...]  # each an N; at most `samples`

    def __post_init__(self) -> None:
        check(self.samples > 1, "samples", self.samples, "must be at least 2")
        check(self.temperature > 0, "temperature", self.temperature, "sampling needs a positive temperature")
        rising = bool(self.ns) and all(a < b for a, b in zip((0, *self.ns), self.ns, strict=False))
        check(rising, "ns", self.ns, "must be rising whole numbers from 1 on")
        check(self.ns[-1] <= self.samples, "ns", self.ns, f"must not exceed samples={self.samples}")


PROMPT = ("prompt", "prompt_sha256")


@dataclass(frozen=True)
class Judge:
    """Who says which of two answers is better."""

    kind: Literal["gold", "openai", "local"]  # a reward; a language model at an endpoint (run.endpoint) or run here
    temperature: float | None = None  # gold: P(other preferred) = sigmoid(reward difference / temperature)
    length_bias: float | None = None  # gold, a control: planted liking for long answers, in log-odds
    # openai: the model's name there. local, gold: a folder, or a hub model at a revision; gold without: the world's
    id: str | None = None
    revision: str | None = None
    prompt: str | None = None  # openai, local: a file, relative to run.root; None: our own text
    prompt_sha256: str | None = None
    trust_remote_code: Literal[True] | None = None  # gold: as in data.gold

    def __post_init__(self) -> None:
        model = ("id", "revision")
        wanted = {"gold": ("temperature", "length_bias"), "openai": ("id",), "local": model}[self.kind]
        code = "trust_remote_code"
        possible = {"gold": (*model, code), "openai": PROMPT, "local": PROMPT}[self.kind]
        for name in wanted:
            check(getattr(self, name) is not None, name, None, f"kind={self.kind} needs it")
        for name in sorted({"temperature", "length_bias", code, *model, *PROMPT} - {*wanted, *possible}):
            value = getattr(self, name)
            check(value is None, name, value, f"has no meaning with kind={self.kind}; remove it")
        check(self.temperature is None or self.temperature > 0, "temperature", self.temperature, "must be positive")
        named = self.kind != "gold" or (self.id is None) == (self.revision is None)
        check(named, "revision", self.revision, "goes with id")
        check_pinned(self.trust_remote_code, self.revision)
        both = (self.prompt is None) == (self.prompt_sha256 is None)
        check(both, "prompt_sha256", self.prompt_sha256, "a prompt goes with its SHA-256 (sha256sum FILE)")


@dataclass(frozen=True)
class Leak:
    """When a benchmark's prompt counts as seen in training: pipeline/leak.py."""

    words: int  # of the runs that are compared
    similarity: float  # of two prompts' sets of runs (Jaccard) from which one is the other's near-duplicate

    def __post_init__(self) -> None:
        check(self.words > 0, "words", self.words, "must be positive")
        check(0 < self.similarity <= 1, "similarity", self.similarity, "is a share: 0 < similarity <= 1")


@dataclass(frozen=True)
class Calibration:
    """Rows that let the length-controlled win rate tell length from quality (stages/calibration.py)."""

    kind: Literal["world", "file", "none"]  # made of the baseline's answers | df_gamed.csv | no length control
    references: int | None = None  # world: further samples of the baseline's policy, for an instruction's difficulty
    file: str | None = None  # file: its name in the hub data set `id`; without id a path, relative to run.root
    sha256: str | None = None
    id: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        wanted = {"world": ("references",), "file": ("file", "sha256"), "none": ()}[self.kind]
        possible = ("id", "revision") if self.kind == "file" else ()
        for name in wanted:
            check(getattr(self, name) is not None, name, None, f"kind={self.kind} needs it")
        for name in sorted({"references", "file", "sha256", "id", "revision"} - {*wanted, *possible}):
            value = getattr(self, name)
            check(value is None, name, value, f"has no meaning with kind={self.kind}; remove it")
        check(self.references is None or self.references > 0, "references", self.references, "must be positive")
        check((self.id is None) == (self.revision is None), "revision", self.revision, "goes with id")


@dataclass(frozen=True)
class AlpacaEval:
    baseline: Literal["sft", "given"]  # the SFT model's answers | those of the instruction set (officially GPT-4's)
    fold_order: Literal["stable", "legacy"]  # pipeline/metrics/group_folds.py


@dataclass(frozen=True)
class Compute:
    """What can move bytes: part of the identity of everything that computes with a model."""

    threads: int
    precision: Literal["fp32", "bf16"]  # of the model's body: fp32 weights, under bf16 autocast if so

    def __post_init__(self) -> None:
        check(self.threads >= 1, "threads", self.threads, "must be at least 1")


@dataclass(frozen=True)
class External:
    """A reward model made elsewhere that takes the place of the one trained here; run.external says where it lies."""

    sha256: str  # of all that is read of it (pipeline/external.py)


@dataclass(frozen=True)
class Hub:
    """Where models and data sets of the hub come from."""

    # a folder, relative to the project, with models/ORG/NAME and datasets/ORG/NAME; None: the hub, through its cache
    root: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where a judge of kind=openai is asked. The same judge.id must mean the same model wherever it is served."""

    url: str
    key: str | None  # the environment variable that holds the key; None: the endpoint wants none
    concurrency: int  # requests at once
    requests_per_minute: float
    retries: int  # of one question, with growing pauses
    timeout_seconds: float
    price_per_million: tuple[float, ...] | None = None  # of prompt and completion tokens, in any currency
    max_cost: float | None = None  # of one artefact, in that currency; then it stops, and what was answered is kept

    def __post_init__(self) -> None:
        check(self.url.startswith(("http://", "https://")), "url", self.url, "must begin with https:// or http://")
        for name in ("concurrency", "requests_per_minute", "timeout_seconds"):
            check(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        check(self.retries >= 0, "retries", self.retries, "must not be negative")
        price, most = self.price_per_million, self.max_cost
        good = price is None or (len(price) == 2 and min(price) >= 0)
        check(good, "price_per_million", price, "must be two prices, of prompt and completion tokens, or null")
        check(most is None or most >= 0, "max_cost", most, "must not be negative")
        check(most is None or price is not None, "max_cost", most, "cannot be kept without price_per_million")


@dataclass(frozen=True)
class Run:
    """How fast and where: never part of an identity."""

    root: str  # holds runs/ (the store) and tables/; relative to the project
    jobs: int | None  # stages side by side; None: the cores this process may use
    checkpoint_seconds: float
    checkpoint_steps: int | None
    stop_after_steps: int | None  # save and stop after so many steps of one attempt: to try a resume
    stop_after_seconds: float | None  # or after so long: before a time limit
    packing: Literal["shared", "packed", "padded"]  # see pipeline/packing.py; what a model gets wrong gives way
    micro_tokens: int  # in one forward pass: a shared prompt counts once, padding counts
    parallel: Literal["ddp", "fsdp"]  # training by several processes: weights on each, or sharded by layer
    # what backward passes compute again to save memory: nothing, each layer, each micro-batch (the whole step in two
    # passes)
    recompute: Literal["none", "layers", "batches"]
    reference: Where  # of RLOO: whole on each device, in main memory outside its phase, or by layer over the processes
    reward: Where  # model of RLOO, likewise
    progress_seconds: float  # between log lines where there is no terminal
    lock_seconds: float  # without a heartbeat for so long, another host's lock is dead
    endpoint: Endpoint
    retention: dict[str, Literal["weights", "scores"]]  # of stages: what gc leaves of what nobody needs any more
    external: str | None = None  # folder of the model that the experiment calls external

    def __post_init__(self) -> None:
        check(self.jobs is None or self.jobs >= 1, "jobs", self.jobs, "must be at least 1, or null for all cores")
        for name in ("checkpoint_steps", "stop_after_steps"):
            steps = getattr(self, name)
            check(steps is None or steps >= 1, name, steps, "must be at least 1, or null")
        for name in ("checkpoint_seconds", "micro_tokens", "progress_seconds", "lock_seconds"):
            check(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        limit = self.stop_after_seconds
        check(limit is None or limit > 0, "stop_after_seconds", limit, "must be positive, or null")


@dataclass(frozen=True)
class Log:
    mode: Literal["disabled", "offline", "online"]
    project: str
    entity: str | None
    every: int  # steps

    def __post_init__(self) -> None:
        check(self.every > 0, "every", self.every, "must be positive")


@dataclass(frozen=True)
class Resources:
    """What one job gets. None in a stage's own: as cluster.default says."""

    minutes: int | None = None
    cpus: int | None = None  # of each task
    memory_gb: float | None = None  # of each node
    nodes: int | None = None
    gpus: int | None = None  # of each node
    tasks: int | None = None  # on each node; None: one for each GPU

    def __post_init__(self) -> None:
        for name in ("minutes", "cpus", "memory_gb", "nodes", "tasks"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "must be positive")
        check(self.gpus is None or self.gpus >= 0, "gpus", self.gpus, "must be 0 or more")


@dataclass(frozen=True)
class Cluster:
    """Where artefacts are made: by processes of this machine, or by jobs of SLURM."""

    kind: Literal["local", "slurm"]
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None  # how the site names GPUs, e.g. gpu:a100: --gres=gpu:a100:N; None: --gpus-per-node=N
    setup: tuple[str, ...] = ()  # shell lines before the stage, e.g. module load ...
    flags: dict[str, Scalar] = field(default_factory=dict)  # further flags of sbatch: {reservation: icml}
    dirty: bool = False  # submit code that is not committed; its diff is recorded
    signal_seconds: int = 120  # before the time limit a stage saves and is queued again
    restarts: int = 100  # of one job, by whatever cause; then it counts as failed
    poll_seconds: float = 10.0  # between two looks of `wait`
    default: Resources = field(default_factory=Resources)
    stages: dict[str, Resources] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.signal_seconds > 0, "signal_seconds", self.signal_seconds, "must be positive")
        check(self.restarts >= 0, "restarts", self.restarts, "must be 0 or more")
        check(self.poll_seconds > 0, "poll_seconds", self.poll_seconds, "must be positive")
        for name in ("minutes", "cpus", "memory_gb", "nodes", "gpus") if self.kind == "slurm" else ():
            value = getattr(self.default, name)
            check(value is not None, f"default.{name}", value, "every stage without its own value needs it")

    def resources(self, stage: str) -> Resources:
        own = self.stages.get(stage, Resources())
        names = [f.name for f in fields(Resources)]
        return Resources(*(getattr(own, n) if getattr(own, n) is not None else getattr(self.default, n) for n in names))


@dataclass(frozen=True)
class Experiment:
    size: str  # the scale's name, for output folders; no stage reads it
    dialect: str  # its option's name: whose constants a loss has by default (conf/dialect/loss/)
    seed: int  # pairs, evaluation items, head, order, RLOO
    most_seeds: int | None  # of a table's or a claim's, the first so many; None: all. No stage reads it
    replicas: int  # SFT models; seed i starts from replica i % replicas, whatever the loss
    model: Model
    world: World | None
    data: Data
    sft: Sft
    rm: Rm
    loss: dict[str, Constant]  # name of a function in pipeline/losses.py and its constants
    bench: Bench
    best_of_n: BestOfN
    policy: Policy
    rloo: Rloo
    generate: Generate
    judge: Judge
    calibration: Calibration
    alpaca_eval: AlpacaEval
    leak: Leak
    compute: Compute
    run: Run
    log: Log
    cluster: Cluster
    hub: Hub = field(default_factory=Hub)
    external: External | None = None  # instead of a reward model trained here
    source: Source | None = None  # what this chain's `data` stage loads; set by the stage that needs it
    split: Split | None = None  # set in the same way, of data.scratch
    gold: Gold | None = None  # data.gold, set in the same way

    def __post_init__(self) -> None:
        most = self.most_seeds
        check(most is None or most >= 1, "most_seeds", most, "must be at least 1, or null for all")
        check(self.replicas >= 1, "replicas", self.replicas, "must be at least 1")
        check("name" in self.loss, "loss.name", None, "a loss names its function in pipeline/losses.py")
        at, part, batch = "loss", self.loss, self.rm.batch
        while isinstance(part, dict):
            group = part.get("group")
            fits = not isinstance(group, int) or batch % group == 0
            check(fits, f"{at}.group", group, f"must divide rm.batch={batch}")
            at, part = f"{at}.of", part.get("of")
        own = self.model.template is None
        written = not (own and self.model.source == "tiny" and self.rm.read == "after_eos")
        check(
            written,
            "rm.read",
            "after_eos",
            "a tiny model's own template writes nothing there; model.template=zephyr does",
        )
        if self.model.is_encoder:
            self._check_encoder()
        d = self.data
        sources = (d.sft, d.preferences, d.prompts, d.alpaca_eval, *d.benchmarks.values())
        if self.source is None and any(s is not None and s.kind == "world" for s in sources):
            check(self.world is not None, "world", None, "a source has kind=world; choose a world, e.g. world=knows")
        uses = (("sft.batch", self.sft.batch, "sft"), ("rm.batch", self.rm.batch, "preferences"))
        for key, batch, name in (*uses, ("rloo.prompts", self.rloo.prompts, "prompts")):
            n = getattr(d, name).n
            check(n is None or n >= batch, key, batch, f"exceeds data.{name}.n={n}")
        longest = max(self.sft.max_length, self.rm.max_length or 0, self.rloo.max_prompt + self.rloo.max_new)
        positions = self.model.positions
        check(positions is None or longest <= positions, "model.positions", positions,
              f"is shorter than the longest sequence asked for ({longest}); raise it or lower the limits")  # fmt: skip

    def _check_encoder(self) -> None:
        remedy = "an encoder is no language model; set sft.steps=0 sft.epochs=null: it starts from random weights"
        check(self.sft.steps == 0, "sft.steps", self.sft.steps, remedy)
        for name in ("head", "norm_before_head", "implicit"):
            value = getattr(self.rm, name)
            check(value is None, f"rm.{name}", value, "is for decoders alone; set it to null")
        learned = self.rm.head_init != "verdict"
        check(learned, "rm.head_init", self.rm.head_init, "an encoder says nothing of its own; say stiennon")


NEVER_HASHED = ("run", "log", "cluster")
