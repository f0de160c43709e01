"""Random pairs and every loss to try on them: for the tests of losses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline import losses
from pipeline.config import CONF, load_yaml
from pipeline.losses import PairScores

torch.set_num_threads(1)  # as stages do; tests run side by side

D = 8
FIELDS = ("chosen", "rejected", "h_chosen", "h_rejected", "margin")
Section = dict[str, Any]


def section(name: str, of: str | Section | None = None, **constants: Any) -> Section:
    """A loss as its YAML has it, but for this."""
    made = load_yaml(CONF / "loss" / f"{name}.yaml") | constants
    on = of if of is not None else made.get("of")
    return made if on is None else {**made, "of": section(on) if isinstance(on, str) else on}


YAML = {path.stem: section(path.stem) for path in sorted((CONF / "loss").glob("*.yaml"))}
CASES: dict[str, Section] = {
    **YAML,
    **{f"norm_bt of {name}": section("norm_bt", name) for name in losses.TERMS if name != "bt"},
    "norm_bt cosine": section("norm_bt", distance="cosine"),
    "norm_bt batch": section("norm_bt", mu="batch"),
    "norm_bt one": section("norm_bt", mu="one"),
    "norm_bt sqrt": section("norm_bt", power=0.5),
    "norm_bt cap": section("norm_bt", cap=1.1),
    "norm_bt mean_one": section("norm_bt", mean_one=True),
    "bsr group": section("bsr", group=2, coef=0.3),
    "bsr reference": section("bsr", group=2, times_group=True, coef=0.3),
    "bsr of norm_bt": section("bsr", "norm_bt", coef=0.3),
    "norm_bt of bsr": section("norm_bt", section("bsr", coef=0.3)),
    "bsr_var group": section("bsr_var", group=2, coef=0.3),
    "bsr_schedule down": section("bsr_schedule", group=2, start=0.3, end=0.1, share=0.7),
    "bsr_adaptive fast": section("bsr_adaptive", coef=0.25, target=0.5, rate=0.5, decay=0.6),
    "bsr_adaptive of bsr_var of norm_bt": section("bsr_adaptive", section("bsr_var", "norm_bt")),
    "center of bsr of norm_bt of hinge": section("center", section("bsr", section("norm_bt", "hinge"), coef=0.3)),
}


def stacked(at: Section) -> list[Section]:
    """The sections from the outermost to the term."""
    return [at, *stacked(at["of"])] if "of" in at else [at]


def names(case: str) -> set[str]:
    return {part["name"] for part in stacked(CASES[case])}


def pairs(n: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> PairScores:
    """n random pairs whose rewards are a random head's."""
    generator = torch.Generator().manual_seed(seed)
    h = scale * torch.randn(2, n, D, generator=generator, dtype=dtype) + 0.3  # a mean that is not zero, for BSR's sake
    w = torch.randn(D, generator=generator, dtype=dtype)
    margin = torch.randn(n, generator=generator, dtype=dtype) + 1
    return PairScores(h[0] @ w, h[1] @ w, h[0], h[1], margin, done=(1 + seed % 5) / 6)


def cast(s: PairScores, dtype: torch.dtype) -> PairScores:
    return replace(s, **{name: getattr(s, name).to(dtype) for name in FIELDS})


def value(loss: losses.Loss, s: PairScores) -> float:
    return float(loss(s).detach())


def reward_gradients(loss: Callable[[PairScores], Tensor], s: PairScores) -> tuple[Tensor, Tensor]:
    r_w, r_l = s.chosen.detach().clone().requires_grad_(), s.rejected.detach().clone().requires_grad_()
    on_w, on_l = torch.autograd.grad(loss(replace(s, chosen=r_w, rejected=r_l)), (r_w, r_l))
    return on_w, on_l


def head_gradient(loss: losses.Loss, s: PairScores, w: Tensor) -> Tensor:
    w = w.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(replace(s, chosen=s.h_chosen @ w, rejected=s.h_rejected @ w)), w)[0]
