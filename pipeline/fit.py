"""The supervised loop that SFT and reward models share: one optimizer step after the other, exact when resumed, by one
process or several.

What a step's batch is, and its loss, is the stage's business: `update(step)` runs forward and backward for the
whole global batch and returns what to log. It must depend on the step alone, not on the steps before, except
through model and loss state. What it returns is of the whole batch, the same on every process.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import dist, shards, stopping
from pipeline.checkpoint import Checkpoints
from pipeline.dist import as_held, gathered
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
    names: Callable[[int], Iterable[object]] = lambda step: (),
    turns: int = 1,
    shown: Callable[[torch.optim.Optimizer], None] = lambda opt: None,
) -> None:
    """Trains `module` in place. `extra` is more state that a resume must bring back: a loss (nn.Module) or a list
    of records. `names` says what a step's batch is made of, should its loss not be finite. With `turns`, `update` is
    called that often in each step, for an optimizer step each time; the last call says what to log. `shown` gets the
    optimizer, to look at."""
    extra = extra or {}
    with dist.spread(module) as held:
        opt = adamw(held.parameters(), optim)
        saved = checkpoints.load()
        first = saved["step"] if saved else 0
        if saved:
            resume(held, opt, extra, saved)
        module.train()
        shown(opt)
        with track(first) if dist.first() else nullcontext() as log, stopping.stops_between_steps():
            for step in range(first, steps):
                for group in opt.param_groups:
                    group["lr"] = learning_rate(optim, step, steps)
                *_, (metrics, norm) = (optimizer_step(step, update, held, opt, optim, names) for _ in range(turns))
                done = step + 1
                if log and (done % log.every == 0 or done == steps):
                    log.log(done, {**metrics, "grad_norm": norm, "lr": learning_rate(optim, step, steps)})
                if log:
                    log.progress(done)
                if done < steps and checkpoints.due(done):
                    checkpoints.save(done, state_of(done, held, opt, extra))
                    checkpoints.stop_if_asked()
    module.eval()


def optimizer_step(
    step: int,
    update: Update,
    held: nn.Module,
    opt: torch.optim.Optimizer,
    optim: Optim,
    names: Callable[[int], Iterable[object]],
) -> tuple[dict[str, Tensor | float], Tensor]:
    """What the update says, and the norm of its gradient before it is clipped."""
    opt.zero_grad(set_to_none=True)
    metrics = update(step)
    norm = gathered(nn.utils.clip_grad_norm_(held.parameters(), optim.clip))
    if not (math.isfinite(metrics["loss"]) and math.isfinite(norm)):
        raise FloatingPointError(not_finite(step + 1, metrics["loss"], norm, names(step)))
    opt.step()
    return metrics, norm


def not_finite(step: int, loss: Tensor | float, norm: Tensor, names: Iterable[object]) -> str:
    batch = ", ".join(map(str, names))
    said = f"the loss of step {step} is {float(loss):g}, its gradient's norm {float(norm):g}"
    return f"{said}; its batch: {batch}" if batch else said


def state_of(step: int, held: nn.Module, opt: torch.optim.Optimizer, extra: dict[str, Any]) -> dict[str, Any]:
    """As it is held: all of it, or this process's shards. Frozen weights are left out."""
    frozen = {name for name, p in held.named_parameters() if not p.requires_grad}
    return {
        "step": step,
        "module": {name: value for name, value in held.state_dict().items() if name not in frozen},
        "optimizer": opt.state_dict(),
        "rng": torch.get_rng_state(),
        "extra": {name: v.state_dict() if isinstance(v, nn.Module) else v for name, v in extra.items()},
    }


def resume(held: nn.Module, opt: torch.optim.Optimizer, extra: dict[str, Any], saved: dict[str, Any]) -> None:
    now = held.state_dict()
    of = [p for group in opt.param_groups for p in group["params"]]
    moments = saved["optimizer"]["state"]
    if "shards" in saved:
        like = {i: dict.fromkeys(each, of[i]) for i, each in moments.items()}
        shards.fill(saved, {"module": now, "optimizer": {"state": like}})
    held.load_state_dict(now | {name: as_held(value, now[name]) for name, value in saved["module"].items()})
    own = {i: {name: as_held(value, of[i]) for name, value in each.items()} for i, each in moments.items()}
    opt.load_state_dict({**saved["optimizer"], "state": own})
    torch.set_rng_state(saved["rng"])
    for name, value in extra.items():
        if isinstance(value, nn.Module):
            value.load_state_dict(saved["extra"][name])
        else:
            value[:] = saved["extra"][name]
