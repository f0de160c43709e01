"""The supervised loop that SFT and reward models share: one optimizer step after the other, exact when resumed.

What a step's batch is, and its loss, is the stage's business: `update(step)` runs forward and backward for the
whole global batch and returns what to log. It must depend on the step alone, not on the steps before, except
through model and loss state.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import stopping
from pipeline.checkpoint import Checkpoints
from pipeline.experiment import Optim
from pipeline.track import Track

Update = Callable[[int], dict[str, Tensor | float]]


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """For 0 <= step < steps: linear warm-up over the first share, then the schedule down to 0."""
    warm = optim.warmup * steps
    rise = min(1.0, (step + 1) / (warm + 1))
    if optim.schedule == "constant":
        return optim.lr * rise
    fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if optim.schedule == "cosine" else 1 - step / steps
    return optim.lr * rise * fall


def adamw(parameters: Iterator[nn.Parameter], optim: Optim) -> torch.optim.Optimizer:
    betas = (optim.betas[0], optim.betas[1])
    return torch.optim.AdamW(parameters, lr=optim.lr, betas=betas, weight_decay=optim.weight_decay, fused=True)


def fit(
    module: nn.Module,
    update: Update,
    steps: int,
    optim: Optim,
    checkpoints: Checkpoints,
    track: Callable[[int], Track],
    extra: dict[str, Any] | None = None,
) -> None:
    """Trains `module` in place. `extra` is more state that a resume must bring back: a loss (nn.Module) or a list
    of records."""
    extra = extra or {}
    opt = adamw(module.parameters(), optim)
    saved = checkpoints.load()
    first = saved["step"] if saved else 0
    if saved:
        module.load_state_dict(saved["module"])
        opt.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        restore(extra, saved["extra"])
    module.train()
    with track(first) as log, stopping.stops_between_steps():
        for step in range(first, steps):
            for group in opt.param_groups:
                group["lr"] = learning_rate(optim, step, steps)
            opt.zero_grad(set_to_none=True)
            metrics = update(step)
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(f"the loss of step {step + 1} is {float(metrics['loss'])}")
            norm = nn.utils.clip_grad_norm_(module.parameters(), optim.clip)
            opt.step()
            done = step + 1
            if done % log.every == 0 or done == steps:
                log.log(done, {**metrics, "grad_norm": norm, "lr": learning_rate(optim, step, steps)})
            log.progress(done)
            if done < steps and checkpoints.due(done):
                checkpoints.save(done, {
                    "step": done,
                    "module": module.state_dict(),
                    "optimizer": opt.state_dict(),
                    "rng": torch.get_rng_state(),
                    "extra": {name: state_of(value) for name, value in extra.items()},
                })  # fmt: skip
                checkpoints.stop_if_asked()
    module.eval()


def state_of(value: Any) -> Any:
    return value.state_dict() if isinstance(value, nn.Module) else value


def restore(extra: dict[str, Any], saved: dict[str, Any]) -> None:
    for name, value in extra.items():
        if isinstance(value, nn.Module):
            value.load_state_dict(saved[name])
        else:
            value[:] = saved[name]
