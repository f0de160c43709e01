"""The memory formula beside torch's own record of what tensors hold: two optimizer steps of tiny models on a CPU."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedModel

from benchmarks.held import Held
from pipeline import attention, config, dist, lora, models, placed, policy, text
from pipeline.cost import memory
from pipeline.cost.memory import Load, Place
from pipeline.cost.sheet import Shape
from pipeline.dist import Learner
from pipeline.experiment import Lora, Optim, Text, Where
from pipeline.fit import adamw
from pipeline.objective import Objective
from pipeline.packing import Group
from pipeline.placed import Placed
from pipeline.sample import Sampling, sample
from pipeline.stages.rm import forward
from pipeline.stages.sft import Sample, learn, weighted_loss
from pipeline.watch import Clock

assert tiny  # one thread
SHAPE = Shape(hidden=64, layers=3, heads=4, kv_heads=4, head=16, mlp=176, vocab=512, tied=False)
GROUPS, PROMPT, RESPONSE = 16, 20, 40
SIZE = PROMPT + 2 * RESPONSE  # of a group
MICRO = 4 * SIZE
OPTIM = Optim(lr=1e-3, schedule="constant", warmup=0.0, betas=(0.9, 0.95), weight_decay=0.0, clip=1.0)
Kind = Literal["sft", "rm", "text", "rloo"]  # text: rm with GRM's term


def groups(kind: Kind) -> list[Group]:
    """For SFT one answer as long as two."""
    draw = torch.Generator().manual_seed(0)

    def take(n: int) -> list[int]:
        return torch.randint(1, SHAPE.vocab, (n,), generator=draw).tolist()

    lengths = [2 * RESPONSE] if kind == "sft" else [RESPONSE, RESPONSE]
    return [Group(take(PROMPT), [take(n) for n in lengths]) for _ in range(GROUPS)]


def gradient(kind: Kind, learner: Learner, batch: Sequence[Group], tokens: int) -> None:
    """A step's, as its stage makes it."""
    if kind == "sft":
        learn(learner, [Sample(g, [1.0] * 2 * RESPONSE) for g in batch], tokens)
    elif kind in ("rm", "text"):
        scores = forward(learner, batch, tokens)
        loss = F.softplus(-scores.delta).mean()
        text.added(loss, scores, batch, Text(0.1) if kind == "text" else None)[0].backward()
    else:
        for _, some in learner.batches(batch, tokens):
            learner(learner.layout(some))[0].sum().backward()


def model_of(kind: Kind) -> PreTrainedModel:
    s = SHAPE
    made: Any = LlamaForSequenceClassification if kind in ("rm", "text") else LlamaForCausalLM
    config = LlamaConfig(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.mlp, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, num_labels=1, pad_token_id=0,
        tie_word_embeddings=s.tied,
    )  # fmt: skip
    model = made(config)
    attention.use(model, "shared")
    if kind == "text":
        model.lm_head = nn.Linear(s.hidden, s.vocab, bias=False)
    return model


def held(kind: Kind, p: Place) -> float:
    """MB at most, weights included."""
    functions = {"sft": weighted_loss, "rm": models.rewards, "text": text.rewards, "rloo": policy.logprobs}
    batch = groups(kind)
    with Held() as found:
        model = model_of(kind).train()
        learner = Learner(model, functions[kind], p.parallel, p.recompute)
        with lora.adapted(model, Lora(p.rank, 2.0 * p.rank) if p.rank else None, 0):
            optimizer = adamw((w for w in learner.parameters() if w.requires_grad), OPTIM)
            for _ in range(2):
                optimizer.zero_grad(set_to_none=True)
                gradient(kind, learner, batch, p.micro_tokens)
                optimizer.step()
    return found.most


def load(kind: Kind, p: Place) -> Load:
    step = GROUPS * SIZE
    one = min(step, p.micro_tokens)
    alive = step if kind in ("rm", "text") and p.recompute != "batches" else one
    learned = 2 * RESPONSE / SIZE * one
    return Load(
        alive, one, learned, alive < step, {"sft": "lm", "rm": "reward", "text": "both", "rloo": "chunked"}[kind]
    )  # type: ignore[arg-type]  # a head


def agrees(kind: Kind, p: Place) -> None:
    assert memory.training(SHAPE, p, load(kind, p)).total / 1e6 == pytest.approx(held(kind, p), rel=0.1)


STEPS = [("sft", "none"), ("sft", "layers"), ("rm", "none"), ("rm", "layers"), ("rm", "batches")]
STEPS += [("text", "none"), ("text", "batches"), ("rloo", "none")]


@pytest.mark.parametrize(("kind", "recompute"), STEPS)
def test_a_step_holds_what_the_formula_says(kind: Kind, recompute: Any) -> None:
    agrees(kind, Place(1, "ddp", recompute, MICRO, "fp32"))


@pytest.mark.parametrize("recompute", ["none", "layers"])
def test_with_lora(recompute: Any) -> None:
    pytest.importorskip("peft")
    agrees("rm", Place(1, "ddp", recompute, MICRO, "fp32", rank=4))


@pytest.mark.parametrize("recompute", ["none", "layers"])
def test_in_half_precision(recompute: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist._Here, "half", True)
    agrees("rm", Place(1, "ddp", recompute, MICRO, "bf16"))


# --- a step of RLOO, phase by phase ---


def of_phases(where: Where) -> dict[str, float]:
    """MB at most in each phase of a step, when the policy has its moments."""
    learner, batch = Learner(model_of("rloo").train(), policy.logprobs), groups("rloo")
    reference = Placed(model_of("rloo"), policy.logprobs, where)
    reward = Placed(model_of("rm"), models.rewards, where)
    optimizer = adamw(learner.parameters(), OPTIM)
    gradient("rloo", learner, batch, MICRO)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    settings = replace(config.experiment(("scale=smoke",)).rloo, prompts=GROUPS, k=2)
    objective = Objective(learner, reference, settings, MICRO, Clock())
    layouts, before = objective.layouts(batch), objective.look(batch)
    asked, how = [g.prompt for g in batch], Sampling(RESPONSE, 1.0)
    phases: dict[str, Callable[[], object]] = {
        "generate": lambda: sample(learner.model, asked, how, [*range(GROUPS)], 2),
        "reward": lambda: [reward(layout)[0] for layout in layouts],
        "reference": lambda: objective.told(layouts),
        "update": lambda: objective.learn(batch, torch.zeros(2 * GROUPS), range(GROUPS), before),
    }
    most = {}
    for name, phase in phases.items():
        there = placed.held([*learner.parameters(), *moments]) + reference.here_now() + reward.here_now()
        with Held() as found:
            phase()
        most[name] = there / 1e6 + found.most
    return most


@pytest.mark.parametrize("where", ["device", "offload"])
def test_each_phase_holds_what_the_formula_says(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "READ", GROUPS * PROMPT)
    p = Place(1, "ddp", "none", MICRO, "fp32", reference=where, reward=where)
    expected = memory.phases(SHAPE, SHAPE, p, load("rloo", p), 2 * GROUPS, PROMPT + RESPONSE)
    for name, measured in of_phases(where).items():
        assert expected[name].total / 1e6 == pytest.approx(measured, rel=0.1), name
