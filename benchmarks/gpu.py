"""The planner's memory and time beside what a GPU takes: an optimizer step of a reward model with all its weights, one
with LoRA, and one of RLOO, by models of the public shapes with random weights and texts of the assumed lengths. Each
as configured, or if the planner says that this has no room, as the first remedy that it names. Nothing is downloaded.

    python -m benchmarks.gpu [name ...]       on a GPU: writes results/bench/gpu/ and docs/gpu.md
    python -m benchmarks.gpu --tiny           anywhere, by models of 0.2 M parameters: is this script right?

Memory is the most that tensors hold, time that of the second step. Part of no other benchmark: `make bench` leaves it
out.
"""

import argparse
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from benchmarks import bar
from benchmarks.held import Held
from pipeline import attention, config, cost, dist, lora, losses, models, plan, policy, scoring
from pipeline.checkpoint import Checkpoints
from pipeline.config import PROJECT
from pipeline.cost.estimate import ESTIMATORS, model_of, place, texts
from pipeline.cost.fit import fit as fitting
from pipeline.cost.memory import Place
from pipeline.cost.sheet import On, Shape, shape, sheet
from pipeline.dist import Learner
from pipeline.errors import check
from pipeline.experiment import Experiment
from pipeline.fit import adamw, fit
from pipeline.packing import Group
from pipeline.placed import Placed
from pipeline.plan import Node
from pipeline.rollout import Prompt
from pipeline.stage import plain, view
from pipeline.stages import STAGES
from pipeline.stages.rloo import Steps
from pipeline.stages.rm import forward

FOLDER, PAGE = bar.FOLDER / "gpu", PROJECT / "docs" / "gpu.md"
STEPS = 2  # the second one is timed, and has moments
POSITIONS = 4096
TINY = (
    "scale=smoke", "model.hidden=64", "model.layers=3", "model.mlp=176", "model.vocab=512", "rm.batch=16",
    "rloo.prompts=8", "rloo.k=2", "rloo.max_prompt=11", "rloo.max_new=22", "run.micro_tokens=400",
)  # fmt: skip
EXACT = ("rloo.max_prompt=180", "rloo.max_new=500", "rloo.whiten_samples=4")  # what conf/cost.yaml assumes of texts


@dataclass(frozen=True)
class Check:
    file: str
    name: str
    stage: Literal["rm", "rloo"]
    settings: tuple[str, ...]
    tiny: tuple[str, ...] = ()


LORA = "rm.optim.lora={rank:16,alpha:32}"
CHECKS = (
    Check("rm-3b", "reward model of 3B, all weights", "rm", ("scale=paper", "model=llama-3.2-3b")),
    Check("rm-8b-lora", "reward model of 8B, LoRA", "rm", ("scale=paper", "model=llama-3.1-8b", LORA), (LORA,)),
    Check("rloo-1.5b-3b", "RLOO, policy of 1.5B, reward model of 3B", "rloo", ("scale=paper", *EXACT)),
)


@dataclass(frozen=True)
class Found:
    """Bytes and seconds of a step; of RLOO on a GPU the bytes of each phase as well."""

    name: str
    said: str  # the settings that it was run with
    bytes: float
    predicted_bytes: float
    seconds: float
    predicted_seconds: float  # 0: of no GPU
    phases: dict[str, float]
    predicted_phases: dict[str, float]


def main(arguments: Sequence[str]) -> int:
    known = {each.file: each for each in CHECKS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--gpu", help="its data sheet in conf/cost.yaml; by default as the device calls itself")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(known))
    asked = parser.parse_args(arguments)
    for name in asked.names:
        parser.error(f"{name!r}: no such check; known: {', '.join(known)}") if name not in known else None
    if not (asked.tiny or torch.cuda.is_available()):
        parser.error("no GPU here; --tiny tries this script without one")
    on = cost.gpu("h200" if asked.tiny else asked.gpu or here())
    for each in [known[name] for name in asked.names] or CHECKS:
        found = measured(each, on, asked.tiny)
        print(*lines([found]), sep="\n", flush=True)
        if not asked.tiny:
            keep(each, found)
    if not asked.tiny:
        PAGE.write_text(page())
    return 0


def here() -> str:
    """The data sheet of this GPU."""
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    fits = [known for known in sheet().gpus if all(part in name for part in known.split("-"))]
    check(len(fits) == 1, "gpu", name, f"say which it is: --gpu, one of {', '.join(sheet().gpus)}")
    return fits[0]


# --- a check ---


def measured(of: Check, on: On, tiny: bool) -> Found:
    overrides = (*TINY, *of.tiny) if tiny else of.settings
    asked = node(of.stage, overrides)
    p = room(of, asked, on)
    frozen = ("reference", "reward") if of.stage == "rloo" else ()
    run = [f"run.{name}={getattr(p, name)}" for name in ("recompute", "micro_tokens", *frozen)]
    predicted, x = ESTIMATORS[of.stage](asked, p, on), config.experiment((*overrides, *run))
    steps = x.rloo.steps if of.stage == "rloo" else texts(asked.inputs["data"])[0] * x.rm.epochs / x.rm.batch
    dist.prepare(1, p.precision)
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
    with nullcontext() if on_gpu() else Held() as watched:
        seconds, peaks = (reward_step if of.stage == "rm" else policy_step)(x, asked)
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()
    return Found(
        name=f"tiny {of.file}" if tiny else of.name,
        said=" ".join((f"compute.precision={p.precision}", *run)),
        bytes=1e6 * watched.most if watched else max(peaks.values()),
        predicted_bytes=predicted.memory.total,
        seconds=seconds,
        predicted_seconds=0.0 if tiny else predicted.seconds / steps,
        phases=peaks if of.stage == "rloo" else {},
        predicted_phases=dict(predicted.phases),
    )


def room(of: Check, asked: Node, on: On) -> Place:
    """Where the planner says that it fits, as the same experiment."""
    found = fitting(asked, on, gpus=1)
    there = found.refused is None or (found.ways and found.place.rank == place(asked, 1).rank)
    check(bool(there), "gpu", of.file, "has no room there as this experiment: a larger GPU")
    return found.place


def node(stage: str, overrides: Sequence[str]) -> Node:
    _, (target,) = plan.build(STAGES, Path(), [(stage, config.experiment(overrides))])
    return target


# --- steps ---

Measured = tuple[float, dict[str, float]]  # seconds of the second step; a GPU's peaks, by phase if there are some


def reward_step(x: Experiment, asked: Node) -> Measured:
    """As pipeline/stages/rm.py takes it, with BT."""
    _, each = texts(asked.inputs["data"])
    s = shape(model_of(asked))
    groups = [Group(words(s, each.prompt), [words(s, each.response) for _ in range(2)]) for _ in range(x.rm.batch)]
    model = made(model_of(asked), x, AutoModelForSequenceClassification, num_labels=1)
    learner, loss = Learner(model, models.rewards, x.run.parallel, x.run.recompute), losses.make("bt")
    with lora.adapted(model, x.rm.optim.lora, seed=0):
        optimizer = adamw((w for w in learner.parameters() if w.requires_grad), x.rm.optim)

        def step() -> float:
            start = now()
            optimizer.zero_grad(set_to_none=True)
            loss(forward(learner, groups, x.run.micro_tokens)).backward()
            torch.nn.utils.clip_grad_norm_(learner.parameters(), x.rm.optim.clip)
            optimizer.step()
            return now() - start

        *_, seconds = [step() for _ in range(STEPS)]
        return seconds, {"step": float(torch.cuda.max_memory_allocated())} if on_gpu() else {}


def policy_step(x: Experiment, asked: Node) -> Measured:
    """By the stage's own loop, whose log has each phase's peak."""
    _, each = texts(asked.inputs["data"])
    of_policy, of_reward = model_of(asked.inputs["sft"]), model_of(asked.inputs["rm"])
    s, tokenizer = shape(of_policy), vocabulary(min(shape(m).vocab for m in (of_policy, of_reward)))
    drawn = [words(s, min(each.prompt, x.rloo.max_prompt)) for _ in range(2 * x.rloo.prompts)]
    prompts = [Prompt(" ".join(f"w{i}" for i in ids), ids) for ids in drawn]
    model = made(of_policy, x, AutoModelForCausalLM)
    judge = made(of_reward, x, AutoModelForSequenceClassification, num_labels=1)

    def score(model: PreTrainedModel, asked: Sequence[str], said: Sequence[str]) -> Tensor:
        with dist.single():
            return torch.from_numpy(scoring.score(model, tokenizer, asked, said, x.run.micro_tokens)[0])

    logprobs = partial(policy.logprobs, temperature=x.rloo.temperature)
    learner = Learner(model, logprobs, x.run.parallel, x.run.recompute)
    sections = {name: plain(getattr(x, name)) for name in (*STAGES["rloo"].reads, "run", "log")}
    sections["log"]["every"] = 1
    seen = view("rloo", {name: value for name, value in sections.items() if value is not None})
    with tempfile.TemporaryDirectory() as folder, lora.adapted(model, x.rloo.optim.lora, seed=0):
        out = Path(folder) / "out"
        out.mkdir()
        steps = Steps(seen, out, learner, tokenizer, prompts, Placed(judge, score, x.run.reward))
        how = STEPS, x.rloo.optim, Checkpoints(out, x.run), steps.track
        fit(learner, steps.update, *how, turns=len(steps.objective.parts()), shown=steps.watch)
        *_, before, last = map(json.loads, (Path(folder) / "log" / "metrics.jsonl").read_text().splitlines())
    phases = ("generate", "reward", "reference", "update")
    return last["time"] - before["time"], {name: last[f"peak_bytes_{name}"] for name in phases if on_gpu()}


def on_gpu() -> bool:
    return dist.device().type == "cuda"


def now() -> float:
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


# --- models and texts ---


def made(model: dict[str, Any], x: Experiment, kind: Any, **more: Any) -> PreTrainedModel:
    """Of a public shape, its weights random."""
    torch.manual_seed(0)
    with torch.device(dist.device()):
        found = kind.from_config(config_of(shape(model), **more), dtype=torch.float32)
    attention.use(found, x.run.packing)
    return found


def config_of(s: Shape, **more: Any) -> PreTrainedConfig:
    family: Any = Qwen2Config if s.qkv_bias else LlamaConfig
    return family(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.mlp, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head, tie_word_embeddings=s.tied,
        max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip


DRAW = random.Random(0)


def words(s: Shape, n: float) -> list[int]:
    return [DRAW.randrange(3, s.vocab) for _ in range(round(n))]


def vocabulary(size: int) -> PreTrainedTokenizerFast:
    """A word for each token, so that a text has as many for the reward model as for the policy."""
    known = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, size)}
    tokens = Tokenizer(WordLevel(known, unk_token="w3"))
    tokens.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]  # a property with a setter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", model_max_length=POSITIONS,
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}<eos>",
    )  # fmt: skip


# --- what is said of them ---

TITLE = "# Figures measured on a GPU"
ABSENT = "not yet measured on a GPU"
INTRO = """
`python -m benchmarks.gpu`, beside what [the planner](cost.md) says of that GPU: the most memory that torch's allocator
gave to tensors in two optimizer steps, and the second one's seconds.
"""
HEAD = (
    "| | GB | predicted | ratio | seconds | predicted | ratio |",
    "|---|---|---|---|---|---|---|",
)


def lines(found: Sequence[Found]) -> list[str]:
    rows = []
    for f in found:
        rows.append(row(f"{f.name}: {f.said}", f.bytes, f.predicted_bytes, f.seconds, f.predicted_seconds))
        rows += [row(f"… {name}", size, f.predicted_phases[name]) for name, size in f.phases.items()]
    return [*HEAD, *rows]


def row(name: str, size: float, predicted: float, *seconds: float) -> str:
    cells = [f"{size / 1e9:.3g}", f"{predicted / 1e9:.3g}", f"{size / predicted:.2f}"]
    cells += [f"{each:.3g}" for each in seconds if each]
    if all(seconds) and seconds:
        cells.append(f"{seconds[0] / seconds[1]:.2f}")
    return f"| {' | '.join([name, *cells, *[''] * (6 - len(cells))])} |"


def keep(of: Check, found: Found) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    about = {"device": torch.cuda.get_device_name(), "versions": bar.versions(), "found": asdict(found)}
    (FOLDER / f"{of.file}.json").write_text(json.dumps(about, indent=1) + "\n")


def page() -> str:
    files = [path for of in CHECKS if (path := FOLDER / f"{of.file}.json").is_file()]
    about = [json.loads(path.read_text()) for path in files]
    if not about:
        return f"{TITLE}\n\n{ABSENT}\n"
    absent = [f"- {of.name}: {ABSENT}" for of in CHECKS if FOLDER / f"{of.file}.json" not in files]
    where = sorted({f"{each['device']}, torch {each['versions']['torch']}" for each in about})
    table = [*where, "", *lines([Found(**each["found"]) for each in about]), ""]
    return "\n".join([TITLE, INTRO, *table, *absent]).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
