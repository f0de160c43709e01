"""A filled table as text: Markdown, LaTeX, CSV, JSON. One function each, the same bytes every time.

Below a row stand the published numbers, if there are any, and its paired difference to the baseline.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.table.cells import PUBLISHED_ONLY, Cell, Difference, Table
from pipeline.table.spec import Column, Published, RowSpec, Spec, first

SHOWN_REASONS = 4


def shown(value: Cell, column: Column) -> str:
    if value.missing is not None:
        return "–"
    if column.setting is not None:
        text = f"{value.setting:g}" if isinstance(value.setting, float) else str(value.setting)
        return text if value.mark is None else f"{text} [{value.mark}]"
    mean = statistics.fmean(value.values)
    text = f"{mean:.{column.digits}f}"
    return text if len(value.values) == 1 else f"{text} ± {statistics.stdev(value.values):.{column.digits}f}"


def shown_published(value: Published, column: Column) -> str:
    return f"{value.value:.{column.digits}f}" if column.setting is None else f"{value.value:g}"


def shown_difference(found: Difference | None, column: Column) -> str:
    """With its interval, one digit more than the cells."""
    if found is None:
        return "–"
    digits = column.digits + 1
    if found.estimate is None:
        return f"{found.values[0]:+.{digits}f}"
    e = found.estimate
    return f"{e.mean:+.{digits}f} [{e.low:+.{digits}f}, {e.high:+.{digits}f}]"


def lines_of(table: Table, row: RowSpec) -> Iterator[list[str]]:
    """A row, and what stands below it: label and cells."""
    columns, own = table.spec.columns, row.stages != ()
    if own:
        yield [row.label, *(shown(table.cells[row.label, c.label], c) for c in columns)]
    published = (table.spec.published or {}).get(row.label, {})
    if published:
        values = [shown_published(published[c.label], c) if c.label in published else "" for c in columns]
        yield [f"{row.label}, published", *values]
    baseline = table.spec.baseline_of(row)
    found = [table.differences.get((row.label, c.label)) for c in columns]
    if any(found):
        differences = [shown_difference(d, c) for d, c in zip(found, columns, strict=True)]
        yield [f"{row.label} − {baseline}", *differences]


def notes(table: Table) -> Iterator[str]:
    """What a reader must know: settings, how intervals were made, who published what, why cells are empty."""
    spec = table.spec
    seeds = f", seeds {', '.join(map(str, spec.seeds))}; mean ± standard deviation over seeds"
    yield f"{spec.title}. Scale `{table.size}`{seeds if any(c.stage for c in spec.columns) else ''}."
    fewer: dict[tuple[int, ...], list[str]] = {}
    for part in (*spec.rows, *spec.columns):
        if (seeds := first(spec.seeds, part.seeds)) != spec.seeds and getattr(part, "stages", None) != ():
            fewer.setdefault(seeds, []).append(part.label)
    yield from (f"Seeds {', '.join(map(str, seeds))} only: {', '.join(labels)}." for seeds, labels in fewer.items())
    yield from how_compared(table)
    sources = {f"{p.source} [{p.mark}]" for cells in (spec.published or {}).values() for p in cells.values()}
    yield from [f"Published: {'; '.join(sorted(sources))}."] if sources else []
    reasons = sorted({c.missing for c in table.cells.values() if c.missing and c.missing != PUBLISHED_ONLY})
    yield from (f"– : {reason}." for reason in reasons[:SHOWN_REASONS])
    yield from [f"– : and {len(reasons) - SHOWN_REASONS} more."] if len(reasons) > SHOWN_REASONS else []


def how_compared(table: Table) -> Iterator[str]:
    spec = table.spec
    found = [d.estimate for d in table.differences.values() if d.estimate]
    if not found:
        return
    units = sorted({f"{len(e.means)} {e.unit}" for e in found})
    primary, luck = spec.primary or (), "differences are secondary: of many intervals some miss zero by luck."
    said = [
        "Differences are paired by seed, each SFT model counted once; in brackets the 95 % t-interval"
        f" ({'; '.join(units)}).",
        *([f"Named beforehand: {', '.join(primary)}."] if primary else []),
        *([f"The {'other ' if primary else ''}{luck}"] if len(primary) < len(spec.columns) else []),
    ]
    yield " ".join(said)


def markdown(table: Table) -> str:
    columns = table.spec.columns
    rows = (f"| {' | '.join(line)} |" for row in table.spec.rows for line in lines_of(table, row))
    head = f"| | {' | '.join(c.label for c in columns)} |"
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *rows, "", *notes(table)]) + "\n"


# --- LaTeX ---

# Each character by itself: what one stands for is not read again
TEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "±": "$\\pm$",
    "×": "$\\times$",
    "→": "$\\to$",
    "≥": "$\\geq$",
    "⊕": "$\\oplus$",
    "‖": "$\\|$",
    "τ": "$\\tau$",
    "β": "$\\beta$",
    "λ": "$\\lambda$",
    "μ": "$\\mu$",
    "Δ": "$\\Delta$",
    "§": "\\S",
    "½": "$\\frac12$",
    "<": "$<$",
    ">": "$>$",
    "[": "{[}",  # after a line break it would be read as its length
    "]": "{]}",
    "`": "",  # code in Markdown
}


def tex(text: str) -> str:
    return "".join(TEX.get(char, char) for char in text)


def tex_number(text: str) -> str:
    """A minus, not a hyphen."""
    return tex(text.replace("-", "−")) if text[:1].isdigit() or text[:1] in "+-" else tex(text)


def latex(table: Table) -> str:
    """A float with booktabs' rules: \\usepackage{booktabs}."""
    columns = table.spec.columns
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        f" & {' & '.join(tex(c.label) for c in columns)} \\\\",
        "\\midrule",
        *(
            f"{tex(label)} & {' & '.join(map(tex_number, cells))} \\\\"
            for row in table.spec.rows
            for label, *cells in lines_of(table, row)
        ),
        "\\bottomrule",
        "\\end{tabular}",
        f"\\caption{{{' '.join(tex(note) for note in notes(table))}}}",
        f"\\label{{tab:{table.name}}}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


# --- for programs ---


def as_csv(table: Table) -> str:
    """One line a cell and seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "seed", "value", "key"])
    seeds = seeds_by_cell(table.spec)
    for (row, column), value in table.cells.items():
        for seed, number, node in zip(seeds[row, column], value.values, value.nodes, strict=False):
            writer.writerow([row, column, seed, repr(number), node.key])
    return text.getvalue()


def as_json(table: Table) -> str:
    """Every cell with its settings, the artefacts that it comes from, its difference to the baseline, and what was
    published; and all that a reader of the columns must know."""
    spec = table.spec
    settings = {
        (row.label, column.label): {**(spec.set or {}), **row.set, **(column.set or {})}
        for row in spec.rows
        for column in spec.columns
    }
    seeds = seeds_by_cell(spec)
    cells = [
        {
            "row": row,
            "column": column,
            "set": settings[row, column],
            "values": value.values,
            **({} if value.setting is None else {"setting": value.setting, "mark": value.mark}),
            "seeds": seeds[row, column] if value.nodes else [],
            "sft_models": value.replicas,
            "keys": [n.key for n in value.nodes],
            "artefacts": [f"{n.stage.name}/{n.folder.name}" for n in value.nodes],
            "examples": value.examples,
            "primary": column in (spec.primary or ()),
            "difference": json_difference(table.differences.get((row, column))),
            "published": json_published(table, row, column),
            "missing": value.missing,
        }
        for (row, column), value in table.cells.items()
    ]
    head = {"table": table.name, "title": spec.title, "scale": table.size, "baseline": spec.baseline}
    head |= {"columns": [json_column(column) for column in spec.columns], "notes": list(notes(table))}
    return json.dumps({**head, "cells": cells}, indent=1) + "\n"


def seeds_by_cell(spec: Spec) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(row.label, column.label): spec.seeds_of(row, column) for row in spec.rows for column in spec.columns}


def json_column(column: Column) -> dict[str, Any]:
    """What its cells show."""
    if column.setting is not None:
        return {"label": column.label, "setting": column.setting}
    shows = ("label", "stage", "metric", "minus", "scale", "digits")
    return {name: getattr(column, name) for name in shows}


def json_difference(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    from pipeline import stats  # SciPy: an empty table needs none

    e = found.estimate
    interval = None if e is None else {"mean": e.mean, "low": e.low, "high": e.high, "n": len(e.means), "unit": e.unit}
    detectable = None if e is None else stats.detectable(e)
    return {"baseline": found.baseline, "values": found.values, "interval": interval, "detectable": detectable}


def json_published(table: Table, row: str, column: str) -> dict[str, Any] | None:
    found = (table.spec.published or {}).get(row, {}).get(column)
    return None if found is None else {"value": found.value, "mark": found.mark, "source": found.source}


FORMATS = {"md": markdown, "tex": latex, "csv": as_csv, "json": as_json}


def render(table: Table, folder: Path) -> list[Path]:
    """Writes every format to `folder`/<size>/<name>.*"""
    paths = []
    for suffix, text in FORMATS.items():
        path = folder / table.size / f"{table.name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_atomically(path, text(table))
        paths.append(path)
    return paths
