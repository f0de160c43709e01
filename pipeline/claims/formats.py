"""Findings as Markdown, grouped by what could have been seen, and as JSON, with the artefacts that they come from."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.claims.spec import Claim
from pipeline.claims.verdicts import Finding

Findings = Mapping[str, Finding]

GROUPS = {
    True: "The published effect would have been seen",
    False: "Too few seeds to see the published effect",
    None: "No size was published",
}
HEAD = ["| | verdict | claim | here | published | detectable | seeds |", "|---" * 7 + "|"]
NOTE = (
    "Here: mean effect and 95 % t-interval, paired by seed, each SFT model counted once. Detectable: what as many SFT"
    " models, as noisy as these, tell from the claim's minimum in 80 % of cases; and how many seeds, with an SFT model"
    " each, would show the published effect. ★: primary, named beforehand; reproduced only if Holm's p over the family"
    " is at most 0.05. The others are secondary: of many intervals some miss zero by luck."
)


def text(findings: Findings, size: str) -> str:
    return "\n".join(lines(list(findings.values()), size)) + "\n"


def lines(findings: Sequence[Finding], size: str) -> Iterator[str]:
    evidence = [f for f in findings if f.claim.role != "control"]
    counts = Counter(f.verdict for f in evidence)
    yield f"Claims at scale `{size}`: {', '.join(f'{n} {verdict}' for verdict, n in counts.most_common())}."
    for powered, title in GROUPS.items():
        found = [f for f in evidence if f.estimate is not None and f.powered is powered]
        if found:
            yield from ("", f"## {title}", "", *HEAD, *map(line, by_role(found)))
    yield from ("", NOTE) if any(f.estimate for f in evidence) else ()
    missing = [f for f in evidence if f.estimate is None]
    if missing:
        yield from ("", "## Not tested", "", "| claim | why |", "|---|---|")
        yield from (f"| {star(f)}{f.claim.statement} [{f.claim.mark}: {f.claim.source}] | {f.why} |" for f in missing)
    controls = [f for f in findings if f.claim.role == "control"]
    if controls:
        yield from ("", "## Controls of the harness, never evidence", "", "| | control | here |", "|---|---|---|")
        yield from (f"| {held(f)} | {f.claim.statement}: {f.claim.control} | {here(f)} |" for f in controls)


def by_role(found: Sequence[Finding]) -> list[Finding]:
    return sorted(found, key=lambda f: f.claim.role != "primary")


def line(f: Finding) -> str:
    cells = (star(f).strip(), f.verdict, f"{f.claim.statement} [{f.claim.mark}: {f.claim.source}]", here(f))
    seeds = f"{len(f.seeds)}" if f.why is None else f"{len(f.seeds)} ({f.why})"
    return f"| {' | '.join((*cells, published(f.claim), detectable(f), seeds))} |"


def star(f: Finding) -> str:
    return "★ " if f.claim.role == "primary" else ""


def here(f: Finding) -> str:
    if f.estimate is None:
        return f"not tested: {f.why}"
    e = f.estimate
    p = "" if f.adjusted is None else f", Holm's p {f.adjusted:.2g}"
    return f"{number(e.mean, f.claim)} [{number(e.low, f.claim)}, {number(e.high, f.claim)}]{p}"


def number(value: float, claim: Claim) -> str:
    return f"{100 * value:+.1f} %" if claim.relative else f"{value:+.3g}"


def published(claim: Claim) -> str:
    if claim.published is None:
        return ""
    return f"{number(claim.published.value, claim)} [{claim.published.mark}: {claim.published.source}]"


def detectable(f: Finding) -> str:
    assert f.detectable is not None, "a finding with an estimate"
    smallest = f.detectable if f.claim.direction == "same" else f.claim.sign * (f.claim.minimum + f.detectable)
    beyond = number(smallest, f.claim)
    return beyond if f.seeds_needed is None else f"{beyond}; {f.seeds_needed} seeds"


def held(f: Finding) -> str:
    """Did the harness do what it must?"""
    if f.estimate is None:
        return "not tested"
    found = f.verdict == "reproduced"
    return "held" if found == (f.claim.control == "must be found") else "**FAILED**"


# --- for programs ---


def as_json(findings: Findings, size: str) -> str:
    return json.dumps({"scale": size, "claims": [record(f) for f in findings.values()]}, indent=1) + "\n"


def record(f: Finding) -> dict[str, Any]:
    claim, e = f.claim, f.estimate
    said = claim.published
    interval = None if e is None else {"mean": e.mean, "low": e.low, "high": e.high, "n": len(e.means), "unit": e.unit}
    return {
        "name": f.name,
        "statement": claim.statement,
        "source": claim.source,
        "mark": claim.mark,
        "role": claim.role,
        "verdict": f.verdict,
        "why": f.why,
        **({"control": claim.control, "held": held(f)} if claim.role == "control" else {}),
        "direction": claim.direction,
        "minimum": claim.minimum,
        "relative": claim.relative,
        "published": None if said is None else {"value": said.value, "mark": said.mark, "source": said.source},
        "test": claim.test,
        "seeds": f.seeds,
        "effects": f.effects,
        "interval": interval,
        "p": f.p,
        "holm_p": f.adjusted,
        "sign_flip_p": f.sign_flip,
        "detectable": f.detectable,
        "seeds_needed": f.seeds_needed,
        "powered": f.powered,
        "keys": f.keys,
    }


def render(findings: Findings, size: str, folder: Path) -> list[Path]:
    """Writes `folder`/<size>.md and .json."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, made in (("md", text), ("json", as_json)):
        paths.append(folder / f"{size}.{suffix}")
        store.write_atomically(paths[-1], made(findings, size))
    return paths
