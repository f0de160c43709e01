"""From a table's spec to the artefacts that it asks for, and from their manifests to its cells.

A cell is one metric of one stage at one row, over the seeds. A row's difference to its baseline is paired by seed; its
interval is that of pipeline/stats.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config, plan, store, why
from pipeline.config import closest, groups
from pipeline.errors import ConfigError, check
from pipeline.experiment import Experiment, Scalar
from pipeline.plan import Node
from pipeline.provenance import Said
from pipeline.stage import Stage, plain
from pipeline.table.spec import Column, RowSpec, Spec

if TYPE_CHECKING:
    from pipeline.stats import Estimate

PUBLISHED_ONLY = "published only: nothing here makes it"
EXAMPLES = "examples.parquet"  # what a stage calls its rows by example


@dataclass(frozen=True)
class Cell:
    nodes: tuple[Node, ...]  # one for each seed
    values: tuple[float, ...]
    missing: str | None  # why there is nothing to print
    replicas: tuple[int, ...] = ()  # each seed's SFT model
    examples: tuple[str, ...] = ()  # files of the store with what the metric is made of
    setting: Scalar = None  # of a column that shows one
    mark: str | None = None  # who says it


@dataclass(frozen=True)
class Difference:
    """A row minus its baseline."""

    baseline: str
    values: tuple[float, ...]  # one for each seed
    estimate: "Estimate | None"  # None: one seed


@dataclass(frozen=True)
class Table:
    name: str
    spec: Spec
    size: str
    cells: dict[tuple[str, str], Cell]  # (row label, column label)
    differences: dict[tuple[str, str], Difference]  # where both rows have the cell


Cells = dict[tuple[str, str, int], Experiment]  # row label, column label, seed


def experiments(spec: Spec, overrides: Sequence[str]) -> Cells:
    """What each cell asks for. What the table sets cannot be set from outside as well; values of a group that the
    rows choose go to the rows that know them."""
    chosen = {key for part in (spec, *spec.rows, *spec.columns) for key in part.set or ()}
    for override in overrides:
        key, _, value = override.partition("=")
        check(key not in chosen, key, value, "this table sets it; leave it out, or use scripts/run.py")
    per_row = {
        o.split("=", 1)[0]: o
        for o in overrides
        if o.split(".", 1)[0] in chosen & groups().keys() and "." in o.split("=", 1)[0]
    }
    common = [o for o in overrides if o not in per_row.values()]
    made: Cells = {}
    taken = set()
    for row in spec.rows:
        mine = list(common)
        by_row = {**(spec.set or {}), **row.set}
        for key, override in per_row.items():
            if config.has(key, common, by_row):
                mine.append(override)
                taken.add(key)
        same: dict[str, dict[int, Experiment]] = {}  # most columns ask for the same
        for column in spec.columns:
            settings = {**by_row, **(column.set or {})}
            of_seed = same.setdefault(str(settings), {})
            seeds = spec.seeds_of(row, column)
            more = [seed for seed in seeds if seed not in of_seed]
            of_seed |= config.of_seeds(mine, settings, more) if more else {}
            made |= {(row.label, column.label, seed): of_seed[seed] for seed in seeds}
    for key in per_row.keys() - taken:
        known = {leaf for row in spec.rows for leaf in config.leaves(config.plain_values(common, row.set))}
        value = per_row[key].partition("=")[2]
        raise ConfigError(key, value, f"no row of this table has this key; {closest(key, known)}")
    return made


def wanted(spec: Spec, made: Cells) -> list[tuple[str, Experiment]]:
    return [
        (c.stage, made[r.label, c.label, s])
        for r in spec.rows
        for c in spec.columns
        if c.stage is not None and exists(r, c)
        for s in spec.seeds_of(r, c)
    ]


def exists(row: RowSpec, column: Column) -> bool:
    return row.stages is None or column.stage in row.stages or (column.setting is not None and row.stages != ())


def fill(
    name: str,
    spec: Spec,
    made: Cells,
    stages: Mapping[str, Stage],
    root: Path,
    said: Mapping[str, Mapping[str, Said | None]] | None = None,
) -> Table:
    """The cells, from manifests alone. `said`: who says the settings that columns show, by row."""
    builder = plan.Builder(stages, root)
    cells = {}
    for row in spec.rows:
        for column in spec.columns:
            of = [made[row.label, column.label, seed] for seed in spec.seeds_of(row, column)]
            cells[row.label, column.label] = cell(row, column, of, builder)
            who = (said or {}).get(row.label, {}).get(column.setting or "")
            if who is not None:
                cells[row.label, column.label] = replace(cells[row.label, column.label], mark=who.mark)
    differences = {
        (row.label, column): difference(label, cells[row.label, column], cells[label, column])
        for row in spec.rows
        if (label := spec.baseline_of(row)) is not None
        for column in [c.label for c in spec.columns]
        if cells[row.label, column].values and cells[label, column].values
    }
    return Table(name, spec, next(iter(made.values())).size, cells, differences)


def cell(row: RowSpec, column: Column, of: Sequence[Experiment], builder: plan.Builder) -> Cell:
    if not exists(row, column):
        return Cell((), (), f"a row for {', '.join(row.stages)} only" if row.stages else PUBLISHED_ONLY)
    if column.setting is not None:
        return Cell((), (), None, setting=setting(column, of[0]))
    assert column.stage is not None, "checked by the spec"
    nodes = tuple(builder.add(column.stage, x) for x in of)
    values, examples = [], []
    for node in nodes:
        entry = store.manifest(node.folder)
        if entry is None:
            return Cell(nodes, (), why.read_error(node.folder) or f"{node.name} is not made yet")
        values.append(measured(entry["metrics"], column) * column.scale)
        if EXAMPLES in entry["files"]:
            examples.append(f"{node.stage.name}/{node.folder.name}/out/{EXAMPLES}")
    return Cell(nodes, tuple(values), None, tuple(replica(x) for x in of), tuple(examples))


def measured(metrics: Mapping[str, float], column: Column) -> float:
    for name in (column.metric, column.minus):
        if name is not None and name not in metrics:
            remedy = f"stage {column.stage} has no such metric; {closest(name, metrics)}"
            raise ConfigError(f"table column {column.label}", name, remedy)
    return metrics[column.metric or ""] - (metrics[column.minus] if column.minus else 0.0)


def setting(column: Column, x: Experiment) -> Any:
    known = config.leaves(plain(x))
    if column.setting not in known:
        raise ConfigError(f"table column {column.label}", column.setting, closest(column.setting, known))
    return known[column.setting]


def replica(x: Experiment) -> int:
    assert x.sft.seed is not None, "config.experiment resolves it"
    return x.sft.seed


def difference(label: str, own: Cell, baseline: Cell) -> Difference:
    from pipeline import stats  # SciPy: a plan or an empty table needs none

    values = tuple(a - b for a, b in zip(own.values, baseline.values, strict=False))  # the seeds that both have
    replicas = own.replicas[: len(values)]
    return Difference(label, values, stats.estimate(values, replicas) if len(values) > 1 else None)
