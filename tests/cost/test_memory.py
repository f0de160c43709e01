"""The memory formula beside torch's own record of what tensors hold: two optimizer steps of tiny models on a CPU."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import tiny
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from benchmarks.held import Held
from pipeline import attention, dist, lora, models, policy
from pipeline.cost import memory
from pipeline.cost.memory import Load, Place
from pipeline.cost.sheet import Shape
from pipeline.dist import Learner
from pipeline.experiment import Lora, Optim
from pipeline.fit import adamw
from pipeline.packing import Group
from pipeline.stages.rm import forward
from pipeline.stages.sft import Sample, learn, weighted_loss

assert tiny  # one thread
SHAPE = Shape(hidden=64, layers=3, heads=4, kv_heads=4, head=16, mlp=176, vocab=512, tied=False)
GROUPS, PROMPT, RESPONSE = 16, 20, 40
SIZE = PROMPT + 2 * RESPONSE  # of a group
MICRO = 4 * SIZE
OPTIM = Optim(lr=1e-3, schedule="constant", warmup=0.0, betas=(0.9, 0.95), weight_decay=0.0, clip=1.0)
Kind = Literal["sft", "rm", "rloo"]


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
    elif kind == "rm":
        scores = forward(learner, batch, tokens)
        F.softplus(-scores.delta).mean().backward()
    else:
        for _, some in learner.batches(batch, tokens):
            learner(learner.layout(some))[0].sum().backward()


def held(kind: Kind, p: Place) -> float:
    """MB at most, weights included."""
    s = SHAPE
    made: Any = LlamaForSequenceClassification if kind == "rm" else LlamaForCausalLM
    function = {"sft": weighted_loss, "rm": models.rewards, "rloo": policy.logprobs}[kind]
    config = LlamaConfig(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.mlp, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, num_labels=1, pad_token_id=0,
        tie_word_embeddings=s.tied,
    )  # fmt: skip
    batch = groups(kind)
    with Held() as found:
        model = made(config).train()
        attention.use(model, "shared")
        learner = Learner(model, function, p.parallel, p.recompute)
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
    alive = step if kind == "rm" and p.recompute != "batches" else one
    learned = 2 * RESPONSE / SIZE * one
    return Load(alive, one, learned, alive < step, {"sft": "lm", "rm": "reward", "rloo": "chunked"}[kind])  # type: ignore[arg-type]  # a head


def agrees(kind: Kind, p: Place) -> None:
    assert memory.training(SHAPE, p, load(kind, p)).total / 1e6 == pytest.approx(held(kind, p), rel=0.1)


STEPS = [("sft", "none"), ("sft", "layers"), ("rm", "none"), ("rm", "layers"), ("rm", "batches"), ("rloo", "none")]


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
