"""Benchmark pairs of the primary seed with what each loss makes of them, for the page's browser.

A pair is a chosen and a rejected response; of RM-Bench's nine the hardest: the plain chosen one against the most styled
rejected one. No distance is stored for those.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import rows
from pipeline.report.found import MAIN, Found, Json
from pipeline.report.markup import Child, Markup, data, missing, section, tag
from pipeline.rows import Row, prompt_of

LOSSES = ("BT", "NormBT", "BSR")
SETS = {"in_domain": "in domain", "reward_bench": "RewardBench", "rm_bench": "RM-Bench, hard"}
MOST = 2000
LEAD = (
    "What each loss makes of the pairs of the primary seed: Δ is the reward of the chosen response minus that of the"
    " rejected one, so a model is right where it is above zero. The distance is ‖h_w − h_l‖ under the model of BT."
)


def examples(found: Found) -> Markup:
    sides = read(found)
    if not sides:
        lacking = missing("The rows of the benchmarks are not in the store.", f"make reproduce-table-{MAIN}")
        return section("examples", "Examples", lacking)
    made = pairs(found, sides)
    hidden = tag("noscript", tag("p", "The browser of examples needs JavaScript.", class_="missing"))
    turn = tag("p", button("example-back", "← earlier"), " ", button("example-on", "later →"))
    count, listed = tag("p", role="status", id="example-count"), tag("ol", id="example-rows")
    box = tag("div", form(list(sides)), count, listed, turn, class_="browser", hidden=True)
    inside = data("example-data", {"losses": list(sides), "rows": made})
    return section("examples", f"Examples: {len(made):,} pairs of seed {seed(found)}", hidden, box, inside, lead=LEAD)


def form(losses: Sequence[str]) -> Markup:
    others = losses[1:]
    first = losses[0]
    kinds = [("", "any"), *((f"{first}>{o}", f"{first} wrong, {o} right") for o in others)]
    kinds += [
        *((f"{o}>{first}", f"{o} wrong, {first} right") for o in others),
        ("all wrong", "all wrong"),
        ("all right", "all right"),
    ]
    distance = {"type": "number", "min": 0, "step": "any", "inputmode": "decimal"}
    return tag(
        "form",
        field("example-subset", "subset", tag("select", id="example-subset")),
        field(
            "example-kind",
            "verdicts",
            tag("select", [tag("option", text, value=v) for v, text in kinds], id="example-kind"),
        ),
        field("example-least", "distance from", tag("input", id="example-least", placeholder="0", **distance)),
        field("example-most", "to", tag("input", id="example-most", placeholder="any", **distance)),
        field("example-text", "text holds", tag("input", id="example-text", type="search")),
        id="example-form",
    )


def field(name: str, label: str, control: Child) -> Markup:
    return tag("label", tag("span", label), control, for_=name)


def button(name: str, text: str) -> Markup:
    return tag("button", text, type="button", id=name, class_="step")


# --- the rows ---


def seed(found: Found) -> int | None:
    return next((c["seeds"][0] for c in found.tables.get(MAIN, {}).get("cells", ()) if c["seeds"]), None)


def read(found: Found) -> dict[str, Json]:
    """Loss: manifest of its benchmarks at the primary seed."""
    keys = {
        loss: next(
            (c["keys"][0] for c in found.tables.get(MAIN, {}).get("cells", ()) if c["row"] == loss and c["examples"]),
            None,
        )
        for loss in LOSSES
    }
    there = {loss: found.manifests[key] for loss, key in keys.items() if key in found.manifests}
    return there if len(there) > 1 else {}


def pairs(found: Found, sides: Mapping[str, Json]) -> list[list[Any]]:
    """set, subset, id, prompt, chosen, rejected, gold of both, and for each loss both rewards and the distance."""
    scored = {loss: by_name(found, entry) for loss, entry in sides.items()}
    any_of = next(iter(sides.values()))
    made = [
        [SETS[name], *texts(row), [outcome(of[name, row["id"]]) for of in scored.values()]]
        for name in SETS
        if any_of["inputs"].get(name, {}).get("key") in found.manifests
        for row in found.rows_of(any_of, name)
    ]
    return made[:: -(-len(made) // MOST) or 1]  # of more, evenly spread


def texts(row: Row) -> list[Any]:
    golds = (row.get("gold_chosen"), row.get("gold_rejected"))  # the micro world alone knows them
    return [subset(row), row["id"], prompt_of(row), *hardest(row), *golds]


def by_name(found: Found, entry: Json) -> dict[tuple[str, str], Row]:
    folder = found.results / "runs" / entry["stage"] / f"{entry['slug']}-{entry['key']}" / "out"
    return {(row["set"], row["id"]): row for row in rows.read(folder, "examples")}


def subset(row: Row) -> str:
    return row.get("subset") or row.get("domain") or row["family"]


def hardest(row: Row) -> Iterator[str]:
    for responses, i in ((row["chosen"], 0), (row["rejected"], -1)):
        yield responses if isinstance(responses, str) else responses[i]


def outcome(scored: Row) -> list[float | None]:
    """The first of the chosen and the last of the rejected: of a pair, both."""
    distance = scored["distance"]
    return [scored["rewards"][0], scored["rewards"][-1], distance and round(distance, 3)]
