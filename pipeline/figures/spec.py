"""What a figure shows: `conf/figure/<name>.yaml`, one dataclass for each kind, and the artefacts that it needs.

Rows and seeds are those of a table, so that a figure shows what the table counts. No torch, nothing is drawn here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline import config, plan, table
from pipeline.config import CONF, build, closest
from pipeline.errors import ConfigError, check
from pipeline.experiment import Experiment
from pipeline.plan import Node
from pipeline.stage import Stage, find
from pipeline.table.cells import Cells
from pipeline.table.spec import first

FOLDER = CONF / "figure"
BANDS = "bands reach from the smallest to the largest seed"


@dataclass(frozen=True, kw_only=True)
class Spec:
    title: str
    caption: str  # what is shown; scale, seeds and how to read the marks are added
    table: str  # has the rows and the seeds
    rows: tuple[str, ...]  # labels of that table's rows
    seeds: int | None = None  # the first so many of the table's, where a stage is dear; None: all
    by_name: bool = False  # its artefacts are dear: with all figures it is drawn if they are there, and made alone

    @property
    def marks(self) -> str:
        """What they mean."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[str, ...]:
        """Whose artefacts are read, for each row and seed."""
        return (self.stage,)  # type: ignore[attr-defined]  # kinds that read several say so


@dataclass(frozen=True, kw_only=True)
class Bars(Spec):
    """Metrics of manifests side by side."""

    stage: str
    metrics: dict[str, str]  # under the axis: name of the metric
    label: str
    xlabel: str | None = None
    mark: Literal["bars", "dots"] = "bars"
    scale: float = 1.0
    chance: float | None = None  # a dotted line

    @property
    def marks(self) -> str:
        return f"{'Bars' if self.mark == 'bars' else 'Large marks'}: mean over seeds; small dots: seeds"


@dataclass(frozen=True)
class Panel:
    label: str  # the y axis, with its unit
    stage: str
    file: str  # of the artefact: <name>.parquet with a column `step`, or <name>.json, a list with a row for each step
    y: str
    set: str | None = None  # rows of this set only
    title: str | None = None


@dataclass(frozen=True, kw_only=True)
class Curves(Spec):
    """Something along training; panels one below the other, or in two columns."""

    panels: tuple[Panel, ...]
    xlabel: str
    columns: int = 1
    window: int = 1  # steps of a running mean
    same_y: bool = False
    spread: Literal["bands", "lines"] = "bands"

    @property
    def marks(self) -> str:
        smooth = f"; all are running means over {self.window} steps" if self.window > 1 else ""
        return f"Lines: mean over seeds; {BANDS if self.spread == 'bands' else 'thin lines: seeds'}{smooth}"

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(panel.stage for panel in self.panels))


@dataclass(frozen=True, kw_only=True)
class Boxes(Spec):
    """Values by group."""

    stage: str
    file: str
    value: str
    by: str
    groups: dict[str, str]  # value in the column `by`: what it is called
    label: str
    xlabel: str | None = None
    log: bool = False
    relative_to: str | None = None  # values are divided by this group's median of the same row and seed

    @property
    def marks(self) -> str:
        return (
            "Boxes: median and quartiles of all seeds' values; whiskers: the outermost values within 1.5"
            " interquartile ranges; dots: beyond"
        )


@dataclass(frozen=True, kw_only=True)
class ErrorBins(Spec):
    """Gradient against distance among pairs of nearly equal error; a panel for each row."""

    stage: str
    label: str

    @property
    def marks(self) -> str:
        return "Each line: a fifth of the pairs by error, its four groups by distance; geometric means over seeds"


@dataclass(frozen=True, kw_only=True)
class Pairs(Spec):
    """Two training pairs with their texts and gradients; of the first row and the first seed alone."""

    stage: str

    @property
    def marks(self) -> str:
        return "Bars: norm of the head's gradient; NormBT's is BT's times the step's mean distance over the pair's"


@dataclass(frozen=True, kw_only=True)
class Frontier(Spec):
    """Gold reward against the distance from the first policy, with the fit of Gao et al.: along training, or of the
    best of N samples."""

    stage: str
    form: Literal["rl", "bon"]  # of the fit: along training, or of the best of N
    label: str
    xlabel: str
    block: int = 1  # steps of training that one point is the mean of

    @property
    def marks(self) -> str:
        steps = f" and {self.block} steps" if self.block > 1 else ""
        penalty = {"rl": "β log d", "bon": "β d"}[self.form]
        return (
            f"Marks: means over seeds{steps}; lines: least-squares fits of R(d) = d (α − {penalty}) to them, with"
            " d = √KL and R(0) = 0 (Gao et al. 2022)"
        )


@dataclass(frozen=True, kw_only=True)
class Reliability(Spec):
    """How often the higher reward is right against how sure the model is."""

    stage: str
    sets: dict[str, str]  # set of benchmark pairs: title of its panel
    bins: int

    @property
    def marks(self) -> str:
        return f"Each mark: a bin of as many pairs, mean over seeds; {BANDS}; dotted line: as sure as right"


@dataclass(frozen=True, kw_only=True)
class Lengths(Spec):
    """Lengths of policies' answers, and of their baseline's."""

    stage: str
    label: str
    baseline: str

    @property
    def marks(self) -> str:
        return "Answers of all seeds together; dotted lines: medians"


@dataclass(frozen=True, kw_only=True)
class Proxy(Spec):
    """Distance against the norm of the whole gradient, before training and after; of the first row and the first seed
    alone."""

    stage: str
    label: str
    xlabel: str

    @property
    def marks(self) -> str:
        return "Each dot: a pair of the probe; lines: straight fits"


KINDS: dict[str, type[Spec]] = {
    "bars": Bars,
    "curves": Curves,
    "boxes": Boxes,
    "error_bins": ErrorBins,
    "pairs": Pairs,
    "frontier": Frontier,
    "reliability": Reliability,
    "lengths": Lengths,
    "proxy": Proxy,
}


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def load(name: str, stages: Mapping[str, Stage]) -> Spec:
    if name not in names():
        raise ConfigError("figure", name, f"no such figure; {closest(name, names())}")
    values = config.load_yaml(FOLDER / f"{name}.yaml")
    kind = values.pop("kind", None)
    check(kind in KINDS, "figure.kind", kind, closest(kind, KINDS))
    spec = build(KINDS[kind], values, "figure")
    known = [row.label for row in table.read(spec.table, stages).rows]
    for label in spec.rows:
        check(label in known, "figure.rows", label, f"table {spec.table} has no such row; {closest(label, known)}")
    for stage in spec.stages:
        find(stages, stage)
    return spec


@dataclass(frozen=True)
class Figure:
    """A figure with the experiment behind each of its artefacts."""

    name: str
    spec: Spec
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    made: Cells  # by row, stage and seed

    @property
    def size(self) -> str:
        return self.any.size

    @property
    def any(self) -> Experiment:
        """Run and log settings are the same for all."""
        return next(iter(self.made.values()))

    @property
    def wanted(self) -> list[tuple[str, Experiment]]:
        return [(stage, x) for (_, stage, _), x in self.made.items()]

    def nodes(self, builder: plan.Builder) -> dict[tuple[str, str, int], Node]:
        return {(row, stage, seed): builder.add(stage, x) for (row, stage, seed), x in self.made.items()}


def figure(
    name: str, stages: Mapping[str, Stage], overrides: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> Figure:
    """Rows as the figure orders them, of those that the table has at this scale. The stages that the figure reads take
    the place of the table's columns."""
    spec = load(name, stages)
    whole = table.load(spec.table, stages, seeds, overrides)
    of = {row.label: row for row in whole.rows}
    rows = tuple(of[label] for label in spec.rows if label in of)
    read = table.Spec(
        title=spec.title,
        seeds=first(whole.seeds, spec.seeds, *(row.seeds for row in rows)),
        rows=rows,
        columns=tuple(table.Column(label=stage, stage=stage, metric="") for stage in spec.stages),
        set=whole.set,
        scales=whole.scales,
    )
    return Figure(name, spec, tuple(row.label for row in read.rows), read.seeds, table.experiments(read, overrides))


def caption(of: Figure) -> str:
    seeds = f"seed{'s' * (len(of.seeds) > 1)} {', '.join(map(str, of.seeds))}"
    return f"{of.spec.caption} {of.spec.marks}. Scale `{of.size}`, {seeds}."
