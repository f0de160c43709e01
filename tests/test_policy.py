"""Log-probabilities of responses: what transformers' own logits say, from tensors that stay small."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from pipeline import attention, packing, policy
from pipeline.packing import Group

TOLERANCE = 1e-5
GROUPS = [Group([3, 4, 5], [[6, 7, 8, 9], [7]]), Group([8, 3], [[5, 5], [4, 9, 3]])]


def gemma2() -> PreTrainedModel:
    """Caps its logits."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
    more: dict[str, Any] = {"final_logit_softcapping": 2.0}
    config = Gemma2Config(vocab_size=40, **sizes, **heads, **more)
    return tiny.varied(Gemma2ForCausalLM(config))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"llama": lambda: tiny.varied(tiny.lm()), "gemma2": gemma2}


def plain(model: PreTrainedModel, temperature: float) -> tuple[Tensor, Tensor]:
    """One unpadded sequence after the other, all logits at once."""
    logp, entropy = [], []
    for group in GROUPS:
        for response in group.responses:
            logits = model(input_ids=torch.tensor([group.prompt + response])).logits[0, len(group.prompt) - 1 : -1]
            each = (logits / temperature).log_softmax(-1)
            logp.append(each[range(len(response)), response])
            entropy.append(-(each.exp() * each).sum(-1))
    return torch.cat(logp), torch.cat(entropy)


def gradients(model: PreTrainedModel, value: Tensor) -> Tensor:
    model.zero_grad()
    (value * torch.linspace(-1, 2, len(value))).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", MODELS)
def test_chunks_say_what_all_logits_say(
    name: str, temperature: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "ROWS", rows)
    model = MODELS[name]()
    expected, spread = plain(model, temperature)
    logp, entropy = policy.logprobs(model, packing.layout(GROUPS), temperature)
    torch.testing.assert_close(logp, expected, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(entropy, spread, rtol=TOLERANCE, atol=TOLERANCE)
    assert not entropy.requires_grad
    slope, wanted = gradients(model, logp), gradients(model, expected)
    assert float((slope - wanted).norm()) <= TOLERANCE * float(wanted.norm())


class Largest(TorchDispatchMode):
    """Of all tensors that operations make."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor):
                self.elements = max(self.elements, made.numel())
        return out


def test_no_tensor_is_as_wide_as_the_vocabulary_and_as_long_as_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward; the stream has 600 response tokens, a chunk 32."""
    monkeypatch.setattr(policy, "ROWS", 32)
    model = tiny.lm()
    attention.use(model, "shared")
    words = model.config.vocab_size
    at = packing.layout([Group([3] * 10, [[4] * 100] * 3)] * 2, "shared")
    with Largest() as seen:
        logp, _ = policy.logprobs(model, at)
        logp.sum().backward()
    weights = max(p.numel() for p in model.parameters())
    assert seen.elements <= max(weights, 32 * words) < len(at.target) * words / 10
    assert seen.elements >= 32 * words  # the chunks were seen
