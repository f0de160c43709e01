"""Every setting of a table with who says it: what `make settings` prints."""

import dataclasses
from collections.abc import Iterator, Sequence

from pipeline import config, provenance
from pipeline.experiment import Experiment
from pipeline.plan import Graph
from pipeline.provenance import Said, Settings, Sources
from pipeline.stage import plain
from pipeline.table.cells import Cells
from pipeline.table.spec import FOLDER, RowSpec, Spec

HEAD = ("| setting | value | mark | who says so |", "|---|---|---|---|")


def sources(name: str, spec: Spec, made: Cells, overrides: Sequence[str]) -> dict[str, dict[str, Said | None]]:
    """{row: {dotted key: who says it}}; of what a column alone sets, nothing."""
    return {
        row.label: Sources(overrides, said_by(name, row, x.size)).all(x)
        for row, x in ((row, of_row(made, row)) for row in spec.rows if row.stages != ())
    }


def said_by(name: str, row: RowSpec, size: str) -> Settings:
    """What a table's file says for one of its rows, with the line of each."""
    path = FOLDER / f"{name}.yaml"
    raw = config.load_yaml(path)
    number = [each["label"] for each in raw["rows"]].index(row.label)
    parts = {"set": raw.get("set"), f"at.{size}": raw.get("at", {}).get(size), f"rows.{number}.set": row.set}
    return {
        key: (value, provenance.said(path, f"{place}.{key}"))
        for place, part in parts.items()
        for key, value in (part or {}).items()
    }


def of_row(made: Cells, row: RowSpec) -> Experiment:
    return next(x for (label, _, _), x in made.items() if label == row.label)


def lines(name: str, spec: Spec, made: Cells, overrides: Sequence[str], graph: Graph) -> Iterator[str]:
    """A line for each setting that an artefact of the table depends on, and value; which rows, where they differ."""
    said = sources(name, spec, made, overrides)
    found: dict[str, dict[tuple[str, str, str], list[str]]] = {}
    for row in (row for row in spec.rows if row.label in said):
        x = of_row(made, row)
        values = config.leaves(dataclasses.asdict(x))
        for key, who in said[row.label].items():
            if matters(key, x, spec, graph):
                mark, reason = ("?", "") if who is None else (who.mark, brief(who))
                found.setdefault(key, {}).setdefault((shown(values[key]), mark, reason), []).append(row.label)
    yield from HEAD
    for key, each in found.items():
        for (value, mark, reason), rows in each.items():
            only = f" ({'; '.join(rows)})" if len(rows) < len(said) else ""
            yield f"| {key} | {value}{only} | {mark} | {reason} |"


def brief(who: Said) -> str:
    """Without the alternatives that a comment goes on with."""
    return who.reason.split("|")[0].strip(" ;") or who.where


def shown(value: object) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def matters(key: str, x: Experiment, spec: Spec, graph: Graph) -> bool:
    """To some artefact of the table; where there is none, to a setting that it shows."""
    section, *path = key.split(".")
    if not graph:
        return section in {column.setting.split(".")[0] for column in spec.columns if column.setting}
    reads = {name for node in graph.values() for name in node.sections}
    if section == "data":
        rows = [node.sections["source"] for node in graph.values() if "source" in node.sections]
        part = x.data.benchmarks.get(path[1]) if path[0] == "benchmarks" else getattr(x.data, path[0])
        return any({**one, "seed": None} == {**plain(part), "seed": None} for one in rows) if part else False
    if section == "sft":
        return x.sft.steps != 0 or key in ("sft.steps", "sft.epochs")
    return section in reads or section in ("most_seeds", "replicas") or (section == "policy" and "rloo" in reads)
