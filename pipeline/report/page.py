"""The sections in their order, with style and script inside: one file that asks for nothing."""

from importlib.resources import files
from pathlib import Path

from pipeline import store
from pipeline.report import again, against, examples, figures, panel, ran, tables, verdicts
from pipeline.report.found import Found
from pipeline.report.markup import Markup, section, tag

MOST_BYTES = 5_000_000
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
TITLE = "BSR and NormBT, reproduced"
SETTING = (
    "Two papers on reward models for language models: NormBT (arXiv 2512.06343) weights pairs of the Bradley–Terry loss"
    " (BT) by representation distance; BSR (arXiv 2505.07271) adds a penalty on the mean reward of a batch. SFT: the"
    " model that all start from. τ: Kendall’s rank correlation with the true reward within a prompt, in distribution"
    " (ID) or on unseen prompts, models, or both (mutual). Gold: the true reward. LC: length-controlled."
)
WORLD = (
    "At this scale the text is generated and its true reward is known; models have 0.2 million weights. RewardBench and"
    " RM-Bench are counterparts built alike from that text: published values are of the real ones."
)


def write(found: Found, path: Path) -> None:
    text = page(found)
    assert len(text.encode()) <= MOST_BYTES, f"{path.name} is larger than {MOST_BYTES} bytes"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomically(path, text)


def page(found: Found) -> str:
    parts = [
        verdict(found),
        verdicts.mechanisms(found),
        verdicts.by_power(found),
        tables.tables(found),
        figures.figures(found),
        examples.examples(found),
        panel.panel(),
        again.deviations(found),
        again.again(),
        section("budget", "What it cost", ran.budget(found)),
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{TITLE}: scale {found.size}"),
        Markup(f"<style>{asset('report.css')}</style>"),
    )
    body = tag(
        "body",
        tag("a", "to the content", href="#verdicts", class_="skip"),
        tag(
            "header",
            tag("h1", TITLE),
            tag("p", SETTING, *([" ", WORLD] if found.size in ("smoke", "micro") else []), class_="note"),
            ran.facts(found),
            tag("nav", [tag("a", name, href=f"#{at}") for at, name in NAV.items()], aria_label="Sections"),
        ),
        tag("main", parts),
        tag("dialog", id="source", aria_labelledby="source-title"),
        tag("div", id="tip", role="tooltip", hidden=True),
        Markup(f"<script>{asset('gradients.js')}\n{asset('report.js')}</script>"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


NAV = {
    "verdicts": "Verdicts",
    "mechanisms": "Mechanisms",
    "claims": "Claims",
    "tables": "Tables",
    "figures": "Figures",
    "examples": "Examples",
    "gradients": "Gradients",
    "deviations": "Deviations",
    "again": "Rerun",
    "budget": "Budget",
}


def verdict(found: Found) -> Markup:
    """The first screen."""
    return section("verdicts", "Did it help?", against.both(found), verdicts.primary(found))


def asset(name: str) -> str:
    return (files("pipeline.report") / name).read_text()
