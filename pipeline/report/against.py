"""Each of the two losses against BT, measure by measure: the answer to "did it help here?"."""

from collections.abc import Sequence

from pipeline.report.forest import Effect, drawing
from pipeline.report.found import MAIN, Found, Json
from pipeline.report.markup import Child, Markup, missing, table, tag

METHODS = ("NormBT", "BSR")


def both(found: Found) -> Markup:
    if "columns" not in found.tables.get(MAIN, {}):
        return missing(f"Table {MAIN} is not there yet, or of an older version.", f"make reproduce-table-{MAIN}")
    return tag("div", [method(found, row) for row in METHODS], class_="pair")


def method(found: Found, row: str) -> Markup:
    cells = [c for c in found.tables[MAIN]["cells"] if c["row"] == row and (c["difference"] or {}).get("interval")]
    if not cells:
        return missing(f"{row} is not compared yet.", f"make reproduce-table-{MAIN}")
    baseline = cells[0]["difference"]["baseline"]
    title = f"{row} against {baseline}"
    head = ("measure", f"{row} − {baseline}", "95 % interval", "published", "seen from")
    most = max(len(cell["seeds"]) for cell in cells)
    shown = table(head, (line(named(cell, most), effect(found, cell)) for cell in cells), title, class_="against")
    return tag("div", tag("h3", title), tag("p", *summed(cells, row)), shown)


def named(cell: Json, most: int) -> Child:
    n = len(cell["seeds"])
    return cell["column"] if n == most else [cell["column"], tag("small", f"{n} seeds of {most}")]


def line(column: Child, e: Effect) -> tuple[Child, ...]:
    published = "" if e.published is None else e.said(e.published)
    seen = "" if e.seen is None else f"± {e.said(e.seen).lstrip('+')}"
    return column, drawing(e), tag("span", e.text, class_="number"), published, seen


def effect(found: Found, cell: Json) -> Effect:
    """The difference to the baseline; published, if a claim is about just that."""
    difference = cell["difference"]
    column = next(c for c in found.tables[MAIN]["columns"] if c["label"] == cell["column"])
    base = found.cell(MAIN, difference["baseline"], cell["column"]) or {}
    published = found.published(column["stage"], column["metric"], cell["set"], base.get("set", {}))
    e = difference["interval"]
    return Effect(
        e["mean"],
        e["low"],
        e["high"],
        seen=difference["detectable"],
        published=None if published is None else published * column["scale"],
        digits=column["digits"] + 1,
    )


def summed(cells: Sequence[Json], row: str) -> list[Child]:
    """In words: on what it is above its baseline, on what below."""
    spans = {cell["column"]: cell["difference"]["interval"] for cell in cells}
    above = [column for column, e in spans.items() if e["low"] > 0]
    below = [column for column, e in spans.items() if e["high"] < 0]
    open_ = len(cells) - len(above) - len(below)
    baseline = cells[0]["difference"]["baseline"]
    parts = [f"above {baseline} on {listed(above)}", f"below on {listed(below)}", f"not told apart on {open_}"]
    return [tag("b", row), f" of {len(cells)} measures: {'; '.join(parts)}."]


def listed(columns: Sequence[str]) -> str:
    return f"{len(columns)} ({', '.join(columns)})" if columns else "none"
