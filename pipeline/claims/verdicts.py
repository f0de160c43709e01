"""From claims to the artefacts that they ask for, and from their manifests to verdicts.

The unit is the seed with its SFT model (pipeline/stats.py). *reproduced*: the interval lies beyond the claim's minimum,
and a primary claim stands among its family by Holm as well. *contradicted*: it lies on the other side of zero.
*paper-sized effect excluded*: it lies wholly below what was published. *underpowered*: neither. *not tested*: runs are
absent, and why. Where nothing shall differ, the interval must lie within the minimum; beyond it is a contradiction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pipeline import config, store, why
from pipeline.claims.spec import Claim, Term
from pipeline.errors import check
from pipeline.experiment import Experiment
from pipeline.plan import Builder, Node
from pipeline.stage import Stage
from pipeline.table.spec import load

if TYPE_CHECKING:
    from pipeline.stats import Estimate

Verdict = Literal["reproduced", "contradicted", "paper-sized effect excluded", "underpowered", "not tested"]
Stages = Mapping[str, Stage]
Metrics = Callable[[Node], Mapping[str, float] | None]  # None: not made
LEAST_SEEDS = 3
ALPHA = 0.05


@dataclass(frozen=True)
class Asked:
    """A claim with the experiment of each of its terms and seeds."""

    claim: Claim
    made: dict[tuple[int, int], Experiment]  # (number of the term, seed)
    size: str

    @property
    def off_scale(self) -> str | None:
        scales = self.claim.scales
        known = scales is None or self.size in scales
        return None if known else f"has a meaning at {', '.join(scales or ())} only"


@dataclass(frozen=True)
class Finding:
    name: str
    claim: Claim
    verdict: Verdict
    why: str | None  # of what was not tested, and of seeds that are not there
    seeds: tuple[int, ...] = ()
    effects: tuple[float, ...] = ()  # one for each seed
    keys: tuple[str, ...] = ()  # artefacts that they come from
    estimate: "Estimate | None" = None
    p: float | None = None  # against the minimum
    adjusted: float | None = None  # primary: Holm's, over the family
    sign_flip: float | None = None
    detectable: float | None = None  # beyond the minimum, in 80 % of cases
    seeds_needed: int | None = None  # each with an SFT model of its own, for the published effect

    @property
    def powered(self) -> bool | None:
        """Would the published effect have been seen here? None: none was published."""
        published = self.claim.published
        if published is None or self.detectable is None:
            return None
        return self.claim.minimum + self.detectable <= abs(published.value)


def ask(
    claims: Mapping[str, Claim], overrides: Sequence[str], stages: Stages, seeds: Sequence[int] | None = None
) -> dict[str, Asked]:
    """Overrides reach all claims; what a claim sets cannot be set from outside as well."""
    scale = config.scale(overrides)
    size = scale.size
    parts = {
        name: settings(claim, overrides, stages) if claim.scales is None or size in claim.scales else []
        for name, claim in claims.items()
    }
    chosen = {key for each in parts.values() for part in each for key in part}
    for override in overrides:
        key, _, value = override.partition("=")
        check(key not in {*chosen, "seed"}, key, value, "claims set it; leave it out, or use scripts/run.py")
    same: dict[str, Experiment] = {}

    def made(values: Mapping[str, object]) -> Experiment:
        key = str(values)
        same[key] = same.get(key) or config.experiment(overrides, values)
        return same[key]

    asked = {}
    for name, claim in claims.items():
        claim = replace(claim, seeds=tuple(seeds) if seeds else claim.seeds[: scale.most_seeds])
        each = {(i, seed): made({**part, "seed": seed}) for i, part in enumerate(parts[name]) for seed in claim.seeds}
        asked[name] = Asked(claim, each, size)
    return asked


def settings(claim: Claim, overrides: Sequence[str], stages: Stages) -> list[dict[str, object]]:
    """Of each term."""
    common = load(claim.table, stages, overrides=overrides).set if claim.table else None
    return [{**(common or {}), **(term.set or {})} for term in claim.terms]


def wanted(asked: Mapping[str, Asked], stages: Stages) -> list[tuple[str, Experiment]]:
    """What claims ask for. A stage that is not there yet is nobody's."""
    return [
        (claim.claim.terms[i].stage, x)
        for claim in asked.values()
        for (i, _), x in claim.made.items()
        if claim.claim.terms[i].stage in stages
    ]


def from_store(node: Node) -> Mapping[str, float] | None:
    found = store.manifest(node.folder)
    return None if found is None else found["metrics"]


# --- what is there ---


def judge(asked: Mapping[str, Asked], builder: Builder, metrics: Metrics = from_store) -> dict[str, Finding]:
    """A finding for each claim."""
    from pipeline import stats  # SciPy: a plan needs none

    found = {name: measure(name, claim, builder, metrics) for name, claim in asked.items()}
    family = [name for name, claim in asked.items() if claim.claim.role == "primary"]
    p = [found[name].p for name in family]
    adjusted = stats.holm([1.0 if value is None else value for value in p])
    for name, value in zip(family, adjusted, strict=True):
        found[name] = replace(found[name], adjusted=value)
    return {name: decided(finding) for name, finding in found.items()}


def measure(name: str, asked: Asked, builder: Builder, metrics: Metrics) -> Finding:
    """The effects and what they say together; the verdict is still open."""
    from pipeline import stats  # SciPy: a plan needs none

    claim = asked.claim
    absent = claim.untested or asked.off_scale or unknown_stage(claim, builder)
    if absent:
        return Finding(name, claim, "not tested", absent)
    effects: dict[int, float] = {}
    keys: list[str] = []
    reasons: list[str] = []
    for seed in claim.seeds:
        nodes = [builder.add(term.stage, asked.made[i, seed]) for i, term in enumerate(claim.terms)]
        value = effect(claim, nodes, metrics)
        if isinstance(value, str):
            reasons.append(value)
        else:
            effects[seed] = value
            keys += [node.key for node in nodes]
    partly = f"{len(effects)} of {len(claim.seeds)} seeds: {reasons[0]}" if reasons else None
    seen = Finding(name, claim, "not tested", partly, tuple(effects), tuple(effects.values()), tuple(keys))
    if len(effects) < LEAST_SEEDS:
        return replace(seen, why=f"{partly or f'{len(effects)} seeds'}; {LEAST_SEEDS} are needed")
    try:
        replicas = [asked.made[0, seed].sft.seed or 0 for seed in effects]
        e = stats.estimate(list(effects.values()), replicas, claim.test == "bootstrap_t")
    except ValueError as error:
        return replace(seen, why=str(error))
    published = abs(claim.published.value) - claim.minimum if claim.published else 0.0
    than = claim.sign * claim.minimum if claim.direction != "same" else 0.0
    return replace(
        seen,
        estimate=e,
        p=stats.p_value(e, than),
        sign_flip=stats.sign_flip(e, than),
        detectable=stats.detectable(e),
        seeds_needed=stats.seeds_needed(e, published) if published > 0 else None,
    )


def unknown_stage(claim: Claim, builder: Builder) -> str | None:
    missing = [term.stage for term in claim.terms if term.stage not in builder.stages]
    return f"there is no stage {missing[0]} yet" if missing else None


def effect(claim: Claim, nodes: Sequence[Node], metrics: Metrics) -> float | str:
    """At one seed; or why there is none."""
    values = []
    for term, node in zip(claim.terms, nodes, strict=True):
        value = measured(term, node, metrics)
        if isinstance(value, str):
            return value
        values.append(value)
    n = len(claim.quantity or ())
    quantity, baseline = sum(values[:n], 0.0), sum(values[n:], 0.0) if claim.baseline else claim.constant
    if not claim.relative:
        return quantity - baseline
    return (quantity - baseline) / abs(baseline) if baseline else "the baseline is 0"


def measured(term: Term, node: Node, metrics: Metrics) -> float | str:
    found = metrics(node)
    if found is None:
        return why.read_error(node.folder) or f"{node.name} is not made yet"
    if term.metric not in found:
        return f"{node.name} has no metric {term.metric}"
    return term.weight * found[term.metric]


# --- what it means ---


def decided(finding: Finding) -> Finding:
    if finding.estimate is None:
        return finding
    return replace(finding, verdict=verdict(finding.claim, finding.estimate, finding.adjusted))


def verdict(claim: Claim, e: "Estimate", adjusted: float | None) -> Verdict:
    if claim.direction == "same":
        if -claim.minimum < e.low and e.high < claim.minimum:
            return "reproduced"
        return "contradicted" if e.low > claim.minimum or e.high < -claim.minimum else "underpowered"
    low, high = sorted((claim.sign * e.low, claim.sign * e.high))  # as if the claim said higher
    if low > claim.minimum:
        return "reproduced" if adjusted is None or adjusted <= ALPHA else "underpowered"
    if high < 0:
        return "contradicted"
    excluded = claim.published is not None and high < abs(claim.published.value)
    return "paper-sized effect excluded" if excluded else "underpowered"
