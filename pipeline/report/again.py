"""Deviations from the papers, and how to make any number again."""

from pipeline.report.found import Found
from pipeline.report.markup import Markup, prose, section, tag

AGAIN = (
    ("make reproduce", "everything that this page is made of; what is there is not made again"),
    ("make reproduce-table-cross ARGS='seeds=[0,1,2]'", "a table, at these seeds"),
    ("make rm ARGS='loss=norm_bt seed=3'", "one reward model, with what it needs"),
    ("make claims ARGS=action=run", "what the claims ask for, and the verdicts"),
    (
        ".venv/bin/python scripts/reproduce.py table=cross action=explain key=…",
        "what an artefact is made of: its settings, inputs, code",
    ),
    ("make verify", "reads every artefact again and compares its hash"),
    ("make report", "this page"),
)
LEAD = (
    "Enter on a number of a table shows the command that makes this very cell. A key is a hash of the settings and"
    " inputs of an artefact; its folder is results/runs/<stage>/<name>-<key>/. Same machine, same bytes; another"
    " processor may round differently."
)


def deviations(found: Found) -> Markup:
    listed = tag("ul", [tag("li", prose(item, base="../")) for item in found.deviations])
    return section("deviations", "Deviations from the papers", listed)


def again() -> Markup:
    listed = tag(
        "dl",
        [tag("div", tag("dt", tag("code", command)), tag("dd", said)) for command, said in AGAIN],
        class_="commands",
    )
    return section("again", "How to make it again", listed, lead=LEAD)
