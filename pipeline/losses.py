"""Losses of reward models: mean(wᵢ ℓᵢ) over the step's pairs, plus penalties. No config, no ranks, no logging.

A *term* ℓ gives each pair a value, a *weight* w multiplies it, a *penalty* looks at the rewards of the whole step and
is never weighted. Each is a small pure function of one optimizer step's scores; those with running state are modules
with the same call. Constants are keyword-only and come from conf/loss/. Everything is computed in fp32 at least.

Docstrings say what is computed, its gradient, and where it comes from; docs/losses.md is made of them. Marks: [paper]
the text, [code] its authors' code, [inferred], [ours].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.constants import check_constants
from pipeline.errors import check


def single(x: Tensor) -> Tensor:
    """At least fp32: half precision loses the small differences."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class PairScores:
    """n pairs that are one optimizer step, in its order. Representations are the exact input of the score head."""

    chosen: Tensor  # (n,)
    rejected: Tensor  # (n,)
    h_chosen: Tensor  # (n, d)
    h_rejected: Tensor  # (n, d)
    margin: Tensor | None = None  # (n,) how much better the chosen response is said to be; None: not known
    done: float | None = None  # share of all steps that were made before this one; None: not known
    nll: Tensor | None = None  # (n,) −log π of the chosen response (pipeline/text.py); no loss looks at it

    @property
    def r_w(self) -> Tensor:
        return single(self.chosen)

    @property
    def r_l(self) -> Tensor:
        return single(self.rejected)

    @property
    def delta(self) -> Tensor:
        """Δ = r_w − r_l."""
        return self.r_w - self.r_l

    @property
    def m(self) -> Tensor:
        if self.margin is None:
            raise ValueError(
                "this loss needs margins and these pairs have none: train on data with a column `margin`, or choose "
                "a loss without, e.g. loss=bt"
            )
        return single(self.margin)

    @property
    def t(self) -> float:
        if self.done is None:
            raise ValueError("this loss needs to know how much of training is done: PairScores(..., done=step / steps)")
        return self.done

    @cached_property  # a weight reads it more than once a step, and the record of the step again
    def distance(self) -> Tensor:
        """(n,) ‖h_w − h_l‖."""
        return (single(self.h_chosen.detach()) - single(self.h_rejected.detach())).norm(dim=-1)

    @property
    def cosine_distance(self) -> Tensor:
        """(n,) 1 − cos(h_w, h_l), as ‖u_w − u_l‖²/2 of unit vectors: exact where they nearly agree as well."""
        units = [F.normalize(single(h.detach()), dim=-1) for h in (self.h_chosen, self.h_rejected)]
        return (units[0] - units[1]).square().sum(-1) / 2


# --- terms: (n,) values ---


def bt(s: PairScores) -> Tensor:
    """−log σ(Δ)

    ∂ℓ/∂Δ = −σ(−Δ), so the head's gradient is −σ(−Δ)(h_w − h_l): the pair's error times its distance.

    BSR eq. 3; the gradient is BSR eq. 19–22, NormBT eq. 6.
    """
    return -F.logsigmoid(s.delta)


def margin(s: PairScores) -> Tensor:
    """−log σ(Δ − m), m the pair's margin: the data's column `margin`

    ∂ℓ/∂Δ = −σ(m − Δ): it pulls until Δ has passed m.

    Baseline of NormBT, with the data's own margins [second-hand]; this form is the one in the code NormBT seems to be
    built on [inferred]. The authors' code of BSR knows one constant m for all pairs, which no recipe sets [code].
    """
    return -F.logsigmoid(s.delta - s.m)


def margin_out(s: PairScores) -> Tensor:
    """−m₊ log σ(Δ), m₊ = max(0, m), m the pair's margin: the data's column `margin`

    ∂ℓ/∂Δ = −m₊ σ(−Δ): BT's, in proportion to the margin; a pair with none teaches nothing.

    Baseline of NormBT [second-hand], which is not known to define it; this is the scaled BT of HelpSteer2-Preference
    [inferred]. Negative margins (labels that contradict them) count as 0, else there were no lower bound [ours].
    """
    return -s.m.clamp_min(0) * F.logsigmoid(s.delta)


def label_smoothing(s: PairScores, *, alpha: float) -> Tensor:
    """−(1 − α) log σ(Δ) − α log σ(−Δ)

    ∂ℓ/∂Δ = α − σ(−Δ): it changes sign where the model is surer than 1 − α.

    Baseline of NormBT [second-hand]; form and α from the code it seems to be built on [inferred].
    """
    return -(1 - alpha) * F.logsigmoid(s.delta) - alpha * F.logsigmoid(-s.delta)


def hinge(s: PairScores, *, margin: float) -> Tensor:
    """max(0, m − Δ), m a constant

    ∂ℓ/∂Δ = −1 while Δ < m, then 0.

    BSR's baseline BT-Hinge [paper], which does not say its m.
    """
    return F.relu(margin - s.delta)


TINY = 1e-12  # the reference has none: two rewards of exactly 0 would give 0/0


def bt_norm(s: PairScores) -> Tensor:
    """−log σ(z), z = Δ / ρ, ρ = √(r_w² + r_l²)

    ∂ℓ/∂r_w = −σ(−z) r_l (r_w + r_l) / ρ³, ∂ℓ/∂r_l = σ(−z) r_w (r_w + r_l) / ρ³. The scale of rewards does not matter,
    and |z| ≤ √2: the loss never falls below log(1 + e^(−√2)) = 0.218.

    BSR's baseline BT-Norm, after logit normalisation (Wei et al. 2022) [paper]; no temperature [code]; ρ² is at least
    1e-12 [ours].
    """
    length = (s.r_w.square() + s.r_l.square()).clamp_min(TINY).sqrt()
    return -F.logsigmoid(s.delta / length)


def dr(s: PairScores) -> Tensor:
    """−log σ(Δ) − log σ(r_w) − log σ(−r_l)

    ∂ℓ/∂r_w = −σ(−Δ) − σ(−r_w), ∂ℓ/∂r_l = σ(−Δ) + σ(r_l): also pushes r_w above 0 and r_l below.

    BSR's baseline BT-DR, from Eurus (Yuan et al. 2024) [paper]. Its code takes the log of σ; here it is stable.
    """
    return bt(s) - F.logsigmoid(s.r_w) - F.logsigmoid(-s.r_l)


# --- weights: (n,), detached ---


class NormBT(nn.Module):
    """w = (μ / (d + ε))^p, d = ‖h_w − h_l‖, μ a moving average of the step's mean d

    w carries no gradient: each pair's own, times w. Under BT the head's is −μ σ(−Δ) (h_w − h_l) / (‖h_w − h_l‖ + ε), so
    that its length depends on the error alone. On the first step the mean weight is at least 1 (Jensen, up to ε), so
    losses of BT and NormBT are on different scales; `mean_one` is the control for that.

    NormBT eq. 10–13, of which 11–12 are the average: μ ← β μ + (1 − β) mean d; p = 1. What the paper leaves open
    [ours]: μ starts at the first step's mean, a weight uses μ before its update, one update a step.
    """

    mu: Tensor

    def __init__(
        self,
        *,
        distance: str,
        eps: float,
        mu: str,
        decay: float,
        power: float,
        cap: float | None = None,
        mean_one: bool,
    ):
        super().__init__()
        self.by, self.eps, self.scale, self.decay = distance, eps, mu, decay
        self.power, self.cap, self.mean_one = power, cap, mean_one
        self.register_buffer("mu", torch.tensor(float("nan")))

    def forward(self, s: PairScores) -> Tensor:
        """This step's weights; moves μ."""
        d = self.distances(s)
        weights = self.of(d)
        mean = d.mean()
        self.mu.copy_(torch.where(self.mu.isnan(), mean, self.decay * self.mu + (1 - self.decay) * mean))
        return weights

    def weights(self, s: PairScores) -> Tensor:
        """What the next call would give; moves nothing."""
        return self.of(self.distances(s))

    def distances(self, s: PairScores) -> Tensor:
        return s.cosine_distance if self.by == "cosine" else s.distance

    def of(self, d: Tensor) -> Tensor:
        mean = d.mean()
        if self.scale == "one":
            mu = torch.ones_like(mean)
        else:
            mu = mean if self.scale == "batch" else torch.where(self.mu.isnan(), mean, self.mu)
        weights = (mu / (d + self.eps)).pow(self.power)
        if self.cap is not None:
            weights = weights.clamp_max(self.cap)
        if self.mean_one:
            weights = weights / weights.mean().clamp_min(torch.finfo(weights.dtype).tiny)  # all 0: all pairs identical
        return weights


# --- penalties: one value for the step ---


def bsr(s: PairScores, *, coef: float, group: int | None = None, times_group: bool) -> Tensor:
    """λ (mean of a group's 2g rewards)², averaged over groups of g consecutive pairs

    ∂/∂r = λ (mean of its group) / n for each of the step's 2n rewards: none on Δ, a pair moves as a whole. For
    independent pairs with sums s = r_w + r_l the penalty is λ/4 ((E s)² + Var s / g) on average: large groups hold the
    offset of all rewards, small ones also their spread over prompts. At g = 1 it is λ/4 (r_w + r_l)².

    BSR eq. 24–25, its gradient eq. 28; how eq. 24 is normalised and which g the paper used is not known. In its code a
    group is what one device sees at once, and λ is multiplied by g [code]. Here g belongs to the method, whatever the
    devices [ours].
    """
    rewards = grouped(s, group)
    return coef * (rewards.shape[2] if times_group else 1) * rewards.mean((0, 2)).square().mean()


def grouped(s: PairScores, group: int | None) -> Tensor:
    """(2, groups, g) rewards, chosen and rejected, of groups of g consecutive pairs; None: one group."""
    n = len(s.chosen)
    g = n if group is None else group
    if n % g:
        raise ValueError(f"{n} pairs are not groups of {g}: let loss.group divide rm.batch, or be null")
    return torch.stack([s.r_w, s.r_l]).view(2, n // g, g)


def bsr_var(s: PairScores, *, coef: float, group: int | None = None) -> Tensor:
    """λ (population variance of a group's 2g rewards), averaged over groups of g consecutive pairs

    ∂/∂r = λ (r − mean of its group) / n for each of the step's 2n rewards: outliers of either sign are pulled in, and Δ
    shrinks as well, by λ Δ / 2n where a pair's mean stays. The offset of all rewards is free. At g = 1 the penalty is
    λ/4 Δ². With BSR of the same λ and g beside it, the two are λ mean r².

    A variance in the place of BSR's squared mean (BSR eq. 24); form, λ and g are [ours].
    """
    rewards = grouped(s, group)
    return coef * (rewards - rewards.mean((0, 2), keepdim=True)).square().mean()


def bsr_schedule(s: PairScores, *, start: float, end: float, share: float, group: int | None = None) -> Tensor:
    """λ_t (mean of a group's 2g rewards)², λ_t on a line from `start` to `end`, where it is after a share of all steps

    ∂/∂r = λ_t (mean of its group) / n, as BSR's. With t of T steps made before,
    λ_t = start + (end − start) min(1, t / (T share)); the first step has `start`.

    BSR (eq. 24) with a λ that depends on the step; line and numbers are [ours].
    """
    return bsr(s, coef=start + (end - start) * min(1.0, s.t / share), group=group, times_group=False)


class AdaptiveBsr(nn.Module):
    """λ (mean of a group's 2g rewards)², λ ← λ (√q / target)^rate after each step, q a moving average of that square

    ∂/∂r = λ (mean of its group) / n, as BSR's: λ is a number. √q is the spread of batch means around 0 over the last
    steps (their root mean square). λ rises while it is above the target and falls while it is below, log λ by
    rate · log(√q / target); it stays between coef / factor and coef · factor, and starts at coef.

    BSR (eq. 24) with a λ that follows what it is there for; the controller and its numbers are [ours]. As with NormBT's
    μ, q starts at the first step's square, q ← decay q + (1 − decay) square, and a step uses λ before its update.
    """

    lam: Tensor
    square: Tensor

    def __init__(
        self, *, coef: float, target: float, rate: float, factor: float, decay: float, group: int | None = None
    ):
        super().__init__()
        self.coef, self.target, self.rate, self.factor = coef, target, rate, factor
        self.decay, self.group = decay, group
        self.register_buffer("lam", torch.tensor(coef))
        self.register_buffer("square", torch.tensor(float("nan")))

    def forward(self, s: PairScores) -> Tensor:
        """This step's penalty; moves q and λ."""
        square = bsr(s, coef=1.0, group=self.group, times_group=False)
        penalty = self.lam.clone() * square  # backward needs the λ of now
        self.move(square.detach())
        return penalty

    def move(self, square: Tensor) -> None:
        self.square.copy_(
            torch.where(self.square.isnan(), square, self.decay * self.square + (1 - self.decay) * square)
        )
        moved = self.lam * (self.square.sqrt() / self.target) ** self.rate
        self.lam.copy_(moved.clamp(self.coef / self.factor, self.coef * self.factor))


def center(s: PairScores, *, coef: float) -> Tensor:
    """λ mean (r_w + r_l)²

    ∂/∂r = 2λ (r_w + r_l) / n for both rewards of a pair: none on Δ. It is BSR with g = 1 and 4λ.

    Eisenstein et al. 2023 (arXiv 2312.09244) eq. 2; TRL's `center_rewards_coefficient` [code].
    """
    return coef * (s.r_w + s.r_l).square().mean()


# --- a whole loss ---


Part = Callable[..., Tensor]
TERMS: dict[str, Part] = {
    "bt": bt,
    "margin": margin,
    "margin_out": margin_out,
    "label_smoothing": label_smoothing,
    "hinge": hinge,
    "bt_norm": bt_norm,
    "dr": dr,
}
WEIGHTS: dict[str, type[NormBT]] = {"norm_bt": NormBT}
PENALTIES: dict[str, Part | type[AdaptiveBsr]] = {
    "bsr": bsr,
    "bsr_var": bsr_var,
    "bsr_schedule": bsr_schedule,
    "bsr_adaptive": AdaptiveBsr,
    "center": center,
}
LOSSES: dict[str, Callable[..., Any]] = {**TERMS, **WEIGHTS, **PENALTIES}


class Loss(nn.Module):
    """mean(w ℓ) + penalties, from the scores of a whole optimizer step; what it remembers is in its buffers."""

    def __init__(self, term: Part, weight: NormBT | None = None, penalties: tuple[Part, ...] = ()):
        super().__init__()
        self.term, self.weight, self.penalties = term, weight, penalties
        self.moving = nn.ModuleList(penalty for penalty in penalties if isinstance(penalty, nn.Module))

    def forward(self, s: PairScores) -> Tensor:
        values = self.term(s)
        if self.weight is not None:
            values = self.weight(s) * values
        total = values.mean()
        for penalty in self.penalties:
            total = total + penalty(s)
        return total

    def weights(self, s: PairScores) -> Tensor:
        """(n,) weights that the next call gives these pairs; changes nothing."""
        return torch.ones_like(s.delta) if self.weight is None else self.weight.weights(s)

    @property
    def kept(self) -> dict[str, Tensor]:
        """What moves with the steps and is worth a record: NormBT's μ, an adaptive λ."""
        lambdas = [part.lam for part in self.moving if isinstance(part, AdaptiveBsr)]  # one: none stands twice
        return {
            **({} if self.weight is None else {"mu": self.weight.mu}),
            **({"lambda": lambdas[0]} if lambdas else {}),
        }


def make(name: str, **constants: Any) -> Loss:
    """The loss of a config section: a term; or a weight or penalty and, as `of`, the loss it stands on: a section like
    this one, or just a name if there are no constants to say."""
    section = {"name": name, **constants}
    check_constants(section)
    return build(section, "loss")


def build(section: Mapping[str, Any], at: str) -> Loss:
    name = section.get("name")
    check(name in LOSSES, f"{at}.name", name, f"no such loss; known: {', '.join(LOSSES)}")
    assert isinstance(name, str)
    if name in TERMS:
        return Loss(partial(TERMS[name], **constants(name, section, at)))
    check("of" in section, f"{at}.of", None, f"{name} stands on another loss; say which, e.g. {at}.of=bt")
    own = constants(name, {key: value for key, value in section.items() if key != "of"}, at)
    of = section["of"]
    on = build({"name": of} if isinstance(of, str) else of, f"{at}.of")
    if name in WEIGHTS:
        return Loss(on.term, WEIGHTS[name](**own), on.penalties)
    part = PENALTIES[name]
    penalty = part(**own) if isinstance(part, type) else partial(part, **own)
    return Loss(on.term, on.weight, (*on.penalties, penalty))


def constants(name: str, section: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Those that the loss has, and all that it needs."""
    known = {p.name: p for p in signature(LOSSES[name]).parameters.values() if p.kind is Parameter.KEYWORD_ONLY}
    given = {key: value for key, value in section.items() if key != "name"}
    for key, value in given.items():
        check(key in known, f"{at}.{key}", value, f"{name} has no such constant; it has: {', '.join(known) or 'none'}")
    for key, parameter in known.items():
        there = key in given or parameter.default is not Parameter.empty
        check(there, f"{at}.{key}", None, f"{name} needs it; conf/loss/{name}.yaml has a value")
    return given
