"""The papers' claims: those named beforehand, mechanisms that are beyond doubt here, and all by what could be seen."""

from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.report import forest
from pipeline.report.found import Found, Json
from pipeline.report.markup import Child, Markup, missing, section, table, tag

MARKS = {  # verdict: a sign for those who see no colours
    "reproduced": "✓",
    "paper-sized effect excluded": "⊘",
    "contradicted": "✕",
    "underpowered": "?",
    "not tested": "–",
}
PAPERS = {"normbt": "NormBT", "bsr": "BSR"}
TRAINING = {"rm", "dynamics"}  # stages that tell what training does, not what it is good for
NO_NOISE = 1e-6  # less spread than that: an identity rather than an effect
HEAD = ("claim", "verdict", "effect here", "95 % interval", "published", "could it be seen?", "seeds")
LEAD = (
    "Every statement of the papers that can be checked, with the verdict that the artefacts give; no verdict is written"
    " by hand. **Could it be seen?**: as many SFT models, as noisy as these, show such an effect in 80 % of cases."
)
KEY = (
    "Dot and bar: mean effect and 95 % interval, paired by seed, each SFT model counted once; zero is in the middle,"
    " and each row has its own scale. Grey: too small to be seen by so many seeds in 80 % of cases. Diamond: what was"
    " published. ★: named beforehand; reproduced only if Holm’s p over this family is at most 0.05. All else, and what"
    " is contradicted, is not corrected: of many intervals some miss zero by luck. Accuracies of claims are shares:"
    " 0.01 is a point. [paper]: its text or tables; [code]: its authors’ code; [second-hand]: a review, notes."
)


def primary(found: Found) -> Markup:
    """Of the first screen."""
    if not found.claims:
        return missing("No claim was judged yet.", "make claims")
    order = list(PAPERS)
    named = [claim for claim in found.claims if claim["role"] == "primary" and found.paper(claim) in order]
    named.sort(key=lambda claim: (order.index(found.paper(claim)), claim["interval"] is None))
    lines = [tag("li", counted(found, paper, good)) for paper in PAPERS for good in (True, False) if of(found, paper)]
    shown = effects(named, found, "Claims named beforehand")
    return tag("div", tag("ul", lines, class_="counts"), shown, controls(found), tag("p", KEY, class_="note"))


def of(found: Found, paper: str) -> list[Json]:
    """Its claims, controls left out."""
    return [c for c in found.claims if found.paper(c) == paper and c["role"] != "control"]


def counted(found: Found, paper: str, good: bool) -> list[Child]:
    """Apart: what a loss is good for, and what training does."""
    claims = [claim for claim in of(found, paper) if (found.stages(claim) <= TRAINING) is not good]
    counts = Counter(claim["verdict"] for claim in claims)
    about = "what it is good for" if good else "what training does"
    said: list[Child] = [tag("b", f"{PAPERS[paper]}, {about}"), f", {len(claims)} claims: "]
    return [*said, [[chip(verdict, f"{counts[verdict]} {verdict}"), " "] for verdict in MARKS if counts[verdict]]]


def chip(verdict: str, text: str | None = None) -> Markup:
    sign = tag("span", MARKS[verdict], aria_hidden="true")
    return tag("span", sign, " ", text or verdict, class_=f"chip {verdict.replace(' ', '-')}")


def controls(found: Found) -> Markup | None:
    """Did the harness do what it must?"""
    known = [claim for claim in found.claims if claim["role"] == "control"]
    if not known:
        return None
    said = "; ".join(f"{claim['statement']}: {checked(claim)}" for claim in known)
    return tag("p", tag("b", "Controls of the harness"), f" (never evidence). {said}.", class_="note")


def checked(claim: Json) -> str:
    """Did it do what it must, and if it must not be found: how large would it have had to be?"""
    effect = forest.of_claim(claim)
    if effect is None:
        return f"not tested, {claim['why']}"
    word = claim["held"].strip("*")
    seen = effect.said(forest.smallest(claim)).lstrip("+")
    blind = f"; only from ± {seen} on it would have been seen" if "not" in claim["control"] else ""
    return f"{word}, {effect.text}{blind}"


# --- one claim ---


def effects(claims: Iterable[Json], found: Found, label: str) -> Markup:
    return table(HEAD, (line(claim, found) for claim in claims), label, class_="claims")


def line(claim: Json, found: Found) -> tuple[Child, ...]:
    effect = forest.of_claim(claim)
    if effect is None:
        return (statement(claim, found), chip(claim["verdict"]), claim["why"], "", published(claim), "", "")
    holm = claim["holm_p"]
    constant = found.asked.get(claim["name"], {}).get("constant")
    less = tag("small", f"after {constant:g} was taken off") if constant else None
    p = tag("small", f"Holm’s p {holm:.2g}") if holm is not None else None
    here = [tag("span", effect.text, class_="number"), less, p]
    drawn = forest.drawing(effect)
    verdict = chip(claim["verdict"])
    return (
        statement(claim, found),
        verdict,
        drawn,
        here,
        published(claim),
        power(claim, effect),
        seeds(claim, effect),
    )


def statement(claim: Json, found: Found) -> list[Child]:
    star = tag("span", "★ ", title="named beforehand") if claim["role"] == "primary" else None
    paper = PAPERS.get(found.paper(claim))
    return [
        star,
        claim["statement"],
        tag("small", f"{paper}: " if paper else "", f"{claim['source']} [{claim['mark']}]"),
    ]


def published(claim: Json) -> Child:
    said = claim["published"]
    if said is None:
        return tag("small", "no size")
    value = forest.Effect(0, 0, 0, relative=claim["relative"]).said(said["value"])
    return [tag("span", value, class_="number"), tag("small", f"{said['source']} [{said['mark']}]")]


def power(claim: Json, effect: forest.Effect) -> list[Child]:
    sign = -1 if claim["direction"] == "lower" else 1
    least = f"from {effect.said(sign * forest.smallest(claim))} on"
    if claim["powered"] is None:
        return [least]
    needed = claim["seeds_needed"]
    more = "" if claim["powered"] else f"; {'over 1,000' if needed is None else needed} SFT models would do"
    return [tag("b", "yes" if claim["powered"] else "no"), f", {least}{more}"]


def seeds(claim: Json, effect: forest.Effect) -> Markup:
    """How many; unfolded, each with its effect, and the keys of the artefacts that they come from."""
    each = [
        tag("li", f"seed {seed}: {effect.said(value)}")
        for seed, value in zip(claim["seeds"], claim["effects"], strict=True)
    ]
    why = tag("p", claim["why"]) if claim["why"] else None
    keys = tag("p", "keys: ", [[tag("code", key), " "] for key in claim["keys"]])
    n, units = len(claim["seeds"]), claim["interval"]["n"]
    shared = f" on {units} SFT models" if units < n else ""
    summary = tag("summary", str(n), shared, tag("span", f" seeds of {claim['name']}", class_="unseen-text"))
    return tag("details", summary, why, tag("ul", each), keys)


# --- sections ---


def mechanisms(found: Found) -> Markup:
    """What training does, where the effect is larger than what would have been seen."""
    clear = [claim for claim in found.claims if strength(claim) >= 1 and found.stages(claim) <= TRAINING]
    clear.sort(key=lambda claim: -strength(claim))
    lead = (
        "What training does to gradients, distances and norms, where the effect here is larger than the smallest that"
        " would have been seen; largest first. They hold or fail apart from whether a loss is any better for it."
    )
    shown = effects(clear, found, "Mechanisms") if clear else tag("p", "None so far.", class_="missing")
    return section("mechanisms", "Mechanisms with large effects", shown, lead=lead)


def strength(claim: Json) -> float:
    """Of an effect that is there or against: in multiples of the smallest that would have been seen."""
    if claim["verdict"] not in ("reproduced", "contradicted") or claim["role"] == "control":
        return 0.0
    least, mean = forest.smallest(claim), abs(claim["interval"]["mean"])
    return mean / least if least > NO_NOISE * mean else 0.0


GROUPS = {
    "reproduced": "Reproduced",
    "paper-sized effect excluded": "Paper-sized effect excluded",
    "contradicted": "Contradicted",
    "underpowered": "Underpowered",
}
MEANING = {
    "reproduced": "The interval lies beyond the claim’s minimum.",
    "paper-sized effect excluded": "The interval lies wholly below what was published: such an effect is not here.",
    "contradicted": "The interval lies on the other side of zero; not corrected for how many claims there are.",
    "underpowered": "The interval holds both no effect and one that would count. Neither for the claim nor against it.",
}


def by_power(found: Found) -> Markup:
    """All claims; those that were not tested with the reason."""
    if not found.claims:
        return section("claims", "Claims by power", missing("No claim was judged yet.", "make claims"))
    parts = [group(found, verdict) for verdict in GROUPS]
    return section("claims", "Claims by power", *parts, not_tested(found), checks(found), lead=LEAD)


def group(found: Found, verdict: str) -> list[Child]:
    claims = [c for c in found.claims if c["verdict"] == verdict and c["role"] != "control"]
    if not claims:
        return []
    claims.sort(key=lambda claim: (claim["role"] != "primary", claim["powered"] is not True))
    return [
        tag("h3", f"{GROUPS[verdict]} ({len(claims)})"),
        tag("p", MEANING[verdict]),
        effects(claims, found, GROUPS[verdict]),
    ]


def not_tested(found: Found) -> list[Child]:
    claims = [c for c in found.claims if c["verdict"] == "not tested" and c["role"] != "control"]
    rows = ((statement(claim, found), claim["why"], published(claim)) for claim in claims)
    return plain("Not tested", ("claim", "why", "published"), rows, len(claims))


def checks(found: Found) -> list[Child]:
    """Controls of the harness: never evidence."""
    claims = [claim for claim in found.claims if claim["role"] == "control"]
    rows = (
        (
            claim["statement"],
            claim["control"],
            checked(claim),
        )
        for claim in claims
    )
    return plain("Controls of the harness, never evidence", ("control", "it", "here"), rows, len(claims))


def plain(title: str, head: Sequence[str], rows: Iterable[Sequence[Child]], n: int) -> list[Child]:
    return [tag("h3", f"{title} ({n})"), table(head, rows, title, class_="claims")] if n else []
