"""Low-rank adapters (LoRA, by `peft`): trained instead of the weights of the body's linear layers and in the end added
to them, so that the artefact is an ordinary model. A score head is trained as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import ConfigError, check
from pipeline.experiment import Lora


@contextmanager
def adapted(model: PreTrainedModel, settings: Lora | None, seed: int) -> Iterator[None]:
    """While this is open the model has adapters; then they are part of its weights. None: nothing changes."""
    if settings is None:
        yield
        return
    try:
        from peft import LoraConfig, LoraModel  # type: ignore[import-not-found]  # an extra
    except ImportError as e:
        raise ConfigError("optim.lora", settings, "needs peft: make setup EXTRAS=dev,lora") from e
    body, name = model.base_model, model.base_model_prefix
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = not any(p.requires_grad for p in body.parameters())
    check(not frozen, "optim.lora", settings, "has no meaning where the head alone is trained; set it to null")
    linear = [f"{name}.{part}" for part, module in body.named_modules() if isinstance(module, nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number
            target_modules=linear,
        )
        adapters = LoraModel(model, config, "default")
    for p in {p for head in heads(model) for p in head.parameters()} & set(trained):
        p.requires_grad_(True)
    yield
    adapters.merge_and_unload()
    for p in trained:
        p.requires_grad_(True)


def heads(model: PreTrainedModel) -> list[nn.Module]:
    """What reads the body's output, except a language model's large one."""
    return [m for m in model.children() if m not in (model.base_model, model.get_output_embeddings())]
