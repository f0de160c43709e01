"""The tables: ours, the difference to the baseline and the published number in one cell; where it is from on a key."""

import shlex
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.report.forest import minus
from pipeline.report.found import Found, Json
from pipeline.report.markup import Child, Markup, data, missing, prose, scrolled, section, tag

LEAD = (
    "Mean ± standard deviation over seeds; below it the difference to the baseline, paired by seed, with its 95 %"
    " interval (bold: zero lies outside), and what the paper says. Point at a number, or go to it by Tab and the arrow"
    " keys: seeds, values and keys; Enter opens how to make it again."
)


def tables(found: Found) -> Markup:
    if not found.tables:
        return section("tables", "Tables", missing("No table is there yet.", "make reproduce"))
    shown = [one(name, table) for name, table in found.tables.items()]
    return section("tables", "Tables", shown, data("cell-data", sources(found)), lead=LEAD)


def one(name: str, table: Json) -> Markup:
    title = tag("h3", tag("code", name), f" {table['title']}", id=f"table-{name}")
    if "columns" not in table:
        return tag(
            "div", title, missing("Written by an older version.", f"make render TABLE={name} SCALE={table['scale']}")
        )
    columns = {column["label"]: column for column in table["columns"]}
    cells = list(enumerate(table["cells"]))
    rows = {cell["row"]: [(i, c) for i, c in cells if c["row"] == cell["row"]] for _, cell in cells}
    head = tag("thead", tag("tr", tag("td"), [tag("th", label, scope="col") for label in columns]))
    body = [
        tag(
            "tr",
            tag("th", label, scope="row"),
            [tag("td", content(cell, columns[cell["column"]], f"{name}.{i}")) for i, cell in own],
        )
        for label, own in rows.items()
    ]
    notes = [tag("p", prose(note), class_="note") for note in table["notes"]]
    wide = scrolled(tag("table", head, tag("tbody", body), class_="cells", data_table=name), f"Table {name}")
    return tag("div", title, wide, notes, class_="one-table")


def content(cell: Json, column: Json, name: str) -> list[Child]:
    return [own(cell, column, name), difference(cell, column), published(cell, column)]


def own(cell: Json, column: Json, name: str) -> Child:
    if cell["missing"] is not None:
        return None if cell["published"] else tag("span", "–", title=cell["missing"])
    if "setting" in column:
        value = cell.get("setting")
        return f"{value:g}" if isinstance(value, float) else str(value)
    return tag("button", minus(shown(cell["values"], column["digits"])), type="button", data_cell=name)


def shown(values: list[float], digits: int) -> str:
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def difference(cell: Json, column: Json) -> Child:
    found = cell["difference"]
    if found is None:
        return None
    digits, e = column["digits"] + 1, found["interval"]
    if e is None:
        return tag("small", minus(f"{found['values'][0]:+.{digits}f}"))
    mean, low, high = (minus(f"{e[name]:+.{digits}f}") for name in ("mean", "low", "high"))
    outside = "outside" if e["low"] > 0 or e["high"] < 0 else ""
    return tag("small", mean, tag("br"), f"[{low}, {high}]", class_=f"difference {outside}".strip())


def published(cell: Json, column: Json) -> Child:
    said = cell["published"]
    if said is None:
        return None
    value = f"{said['value']:.{column['digits']}f}" if "digits" in column else f"{said['value']:g}"
    return tag("small", f"published {minus(value)}", title=f"{said['source']} [{said['mark']}]", class_="quoted")


# --- where a cell is from, for the script ---


def sources(found: Found) -> dict[str, Any]:
    """By the name of the button: all that stands behind the number."""
    return {
        f"{name}.{i}": source(name, table, cell)
        for name, table in found.tables.items()
        if "columns" in table
        for i, cell in enumerate(table["cells"])
        if cell["values"]
    }


def source(name: str, table: Json, cell: Json) -> dict[str, Any]:
    column = next(c for c in table["columns"] if c["label"] == cell["column"])
    said = cell["published"]
    return {
        "table": name,
        "row": cell["row"],
        "column": cell["column"],
        "metric": " − ".join(filter(None, (column["metric"], column["minus"]))),
        "scale": column["scale"],
        "digits": column["digits"],
        "seeds": cell["seeds"],
        "values": cell["values"],
        "artefacts": cell["artefacts"],
        "difference": cell["difference"],
        "published": said and f"{said['value']:g}, {said['source']} [{said['mark']}]",
        "commands": list(commands(name, table["scale"], column["stage"], cell)),
    }


def commands(name: str, size: str, stage: str, cell: Json) -> Iterator[str]:
    """The stage of this cell at its first seed, the whole table, and all about the artefact."""
    settings: Mapping[str, Any] = {"scale": size, **cell["set"], "seed": cell["seeds"][0]}
    said = " ".join(shlex.quote(f"{key}={yaml_value(value)}") for key, value in settings.items())
    yield f".venv/bin/python scripts/run.py stage={stage} {said}"
    yield f"make reproduce-table-{name} SCALE={size}"
    yield f".venv/bin/python scripts/reproduce.py table={name} scale={size} action=explain key={cell['keys'][0]}"


def yaml_value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(yaml_value, value))}]"
    return str(value)
