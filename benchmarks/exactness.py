"""How far rewards and gradients of shared prompts are from those of one unpadded sequence at a time, by transformers'
own eager attention: fp32, random weights large enough that attention matters, the architectures that the tests name.

An error is the largest difference relative to the largest entry. A bar's value is the worst of all rounds and
architectures, not a median: it is a bound.
"""

import copy
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from benchmarks.bar import Bar, publish
from pipeline import attention, models, packing
from pipeline.packing import Group

ROUNDS = 5  # draws of weights and sequences
GROUPS = 8
LONGEST = 40  # tokens of a prompt or response: beyond the window
WINDOW = 12


def sizes(hidden: int, mlp: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": 4,
        "intermediate_size": mlp,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "num_labels": 1,
    }


def configs(sizes: dict[str, Any]) -> dict[str, PreTrainedConfig]:
    """The architectures of which we say that streams are exact."""
    gemma: dict[str, Any] = {**sizes, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
    alternating: dict[str, Any] = {"sliding_window_pattern": 2}  # every second layer sees all
    return {
        "llama": LlamaConfig(**sizes),
        "qwen2": Qwen2Config(**sizes),
        "qwen2_sliding": Qwen2Config(**sizes, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
        "qwen3": Qwen3Config(**sizes, head_dim=16),
        "mistral_sliding": MistralConfig(**sizes, sliding_window=WINDOW),
        "gemma2": Gemma2Config(**gemma, attn_logit_softcapping=5.0),
        "gemma3": Gemma3TextConfig(**gemma, **alternating),
    }


CONFIGS = configs(sizes(hidden=64, mlp=96))

Rewards = Callable[[PreTrainedModel, Sequence[Group]], Tensor]


def main() -> int:
    torch.set_num_threads(1)
    found = {name: [errors(config, seed) for seed in range(ROUNDS)] for name, config in CONFIGS.items()}
    return publish([bar("rewards", 0, found), bar("gradients", 1, found)])


def bar(what: str, at: int, found: dict[str, list[tuple[float, float]]]) -> Bar:
    worst = {name: max(each[at] for each in rounds) for name, rounds in found.items()}
    rounds = [max(each[i][at] for each in found.values()) for i in range(ROUNDS)]
    name = f"{what} of shared prompts against unpadded eager, fp32: largest relative difference, {len(CONFIGS)} models"
    return Bar(f"exact-{what}", name, max(worst.values()), "relative", "lower", rounds, 1e-4, 1e-5, more=worst)


def errors(config: PreTrainedConfig, seed: int) -> tuple[float, float]:
    """Of the rewards, and of the gradients of all weights as one vector."""
    groups = drawn(seed)
    eager, ours = model(config, seed, "eager"), model(config, seed)
    attention.use(ours, "shared")
    assert attention.mode(ours) == "shared"
    (r, slopes), (expected, of) = pulled(ours, groups, shared), pulled(eager, groups, one_by_one)
    return difference(r, expected), difference(slopes, of)


def difference(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def pulled(model: PreTrainedModel, groups: Sequence[Group], read: Rewards) -> tuple[Tensor, Tensor]:
    """Rewards, and gradients of a loss in which every reward counts differently."""
    reward = read(model, groups)
    (reward * torch.linspace(-1, 1, len(reward))).sum().backward()
    return reward.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def shared(model: PreTrainedModel, groups: Sequence[Group]) -> Tensor:
    return models.rewards(model, packing.layout(groups, "shared"))[0]


def one_by_one(model: PreTrainedModel, groups: Sequence[Group]) -> Tensor:
    body: Any = model.base_model
    rows = [torch.tensor([g.prompt + r]) for g in groups for r in g.responses]
    return torch.cat([model.score(body(input_ids=ids, use_cache=False).last_hidden_state[0, -1]) for ids in rows])  # type: ignore[operator]  # a module


def drawn(seed: int) -> list[Group]:
    draw = random.Random(seed)

    def ids() -> list[int]:
        return [draw.randint(1, 127) for _ in range(draw.randint(1, LONGEST))]

    return [Group(ids(), [ids(), ids()]) for _ in range(GROUPS)]


def model(config: PreTrainedConfig, seed: int, attn: str | None = None) -> PreTrainedModel:
    torch.manual_seed(seed)
    made = AutoModelForSequenceClassification.from_config(copy.deepcopy(config), attn_implementation=attn)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    return made.train()


if __name__ == "__main__":
    sys.exit(main())
