"""What a table is: conf/table/<name>.yaml, checked before anything runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline import config
from pipeline.config import CONF, build, closest, groups
from pipeline.errors import ConfigError, check
from pipeline.experiment import Constant
from pipeline.provenance import Mark
from pipeline.stage import Stage, find

FOLDER = CONF / "table"


@dataclass(frozen=True)
class Published:
    value: float
    mark: Mark
    source: str  # where it stands, e.g. Table 5


@dataclass(frozen=True)
class RowSpec:
    label: str
    set: dict[str, Constant]  # group: option, or dotted key: value
    stages: tuple[str, ...] | None = None  # where a row exists only for some stages; None: all; []: published only
    baseline: str | None = None  # the row that this one is compared with, where it is not the table's
    seeds: int | None = None  # the first so many of the table's; None: all
    scales: tuple[str, ...] | None = None  # where the row exists; None: at all

    def __post_init__(self) -> None:
        check_number(self.seeds)


@dataclass(frozen=True)
class Column:
    """A metric of a stage, over seeds, or a setting of the rows."""

    label: str
    stage: str | None = None
    metric: str | None = None
    minus: str | None = None  # another metric of the stage, subtracted
    setting: str | None = None  # instead of stage and metric: a dotted key of the experiment
    scale: float = 1.0
    digits: int = 2
    set: dict[str, Constant] | None = None  # as a row's, and over it
    seeds: int | None = None  # the first so many of the table's, where a stage is dear; None: all
    scales: tuple[str, ...] | None = None  # where the column exists; None: at all

    def __post_init__(self) -> None:
        if self.setting is None:
            for name in ("stage", "metric"):
                check(getattr(self, name) is not None, name, None, "missing; a column shows a metric or a setting")
        for name in ("stage", "metric", "minus") if self.setting is not None else ():
            value = getattr(self, name)
            check(value is None, name, value, "has no meaning beside setting; remove it")
        check_number(self.seeds)


def check_number(seeds: int | None) -> None:
    check(seeds is None or seeds > 0, "seeds", seeds, "is how many, at least 1; or null for all")


@dataclass(frozen=True)
class Spec:
    title: str
    seeds: tuple[int, ...]
    rows: tuple[RowSpec, ...]
    columns: tuple[Column, ...]
    set: dict[str, Constant] | None = None  # for every row
    at: dict[str, dict[str, Constant]] | None = None  # and at a scale
    scales: tuple[str, ...] | None = None  # where the table has a meaning; None: at all
    baseline: str | None = None  # the row that all others are compared with, paired by seed
    primary: tuple[str, ...] | None = None  # columns whose differences were named before anything ran
    published: dict[str, dict[str, Published]] | None = None  # row label -> column label, in the column's unit

    def __post_init__(self) -> None:
        check(len(self.seeds) > 0, "seeds", self.seeds, "name at least one seed")
        check(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "name each seed once")
        rows, columns = [r.label for r in self.rows], [c.label for c in self.columns]
        for what, labels in (("rows", rows), ("columns", columns)):
            twice = next((label for label in labels if labels.count(label) > 1), None)
            check(twice is None, what, twice, "two have this label; cells would be ambiguous")
        _known("baseline", [self.baseline] if self.baseline is not None else [], rows)
        for i, row in enumerate(self.rows):
            _known(f"rows[{i}].baseline", [row.baseline] if row.baseline is not None else [], rows)
        _known("primary", self.primary or (), columns)
        _known("published", self.published or {}, rows)
        for row, cells in (self.published or {}).items():
            _known(f"published.{row}", cells, columns)
        for i, row in enumerate(self.rows):
            shows = row.stages != () or row.label in (self.published or {})
            remedy = "no stage makes this row and nothing is published for it; remove it"
            check(shows, f"rows[{i}].stages", row.stages, remedy)
        self._check_scales()

    def _check_scales(self) -> None:
        here = [("scales", self.scales), ("at", self.at)]
        here += [
            (f"{what}[{i}].scales", part.scales)
            for what in ("rows", "columns")
            for i, part in enumerate(getattr(self, what))
        ]
        for key, scales in here:
            for scale in scales or ():
                known = groups()["scale"]
                check(scale in known, key, scale, f"no such scale; {closest(scale, known)}")

    @property
    def same_at_every_scale(self) -> bool:
        parts = (self, *self.rows, *self.columns)
        return self.at is None and all(part.scales is None for part in parts)

    def at_scale(self, size: str) -> "Spec":
        """Without the rows and columns, and with the settings, of this scale."""
        check(self.scales is None or size in self.scales, "scale", size,
              f"this table has a meaning at {', '.join(self.scales or ())} only")  # fmt: skip
        rows, columns = (
            tuple(p for p in parts if p.scales is None or size in p.scales) for parts in (self.rows, self.columns)
        )
        labels = {c.label for c in columns}
        published = (
            {
                row.label: {column: value for column, value in self.published[row.label].items() if column in labels}
                for row in rows
                if row.label in (self.published or {})
            }
            if self.published
            else None
        )
        primary = None if self.primary is None else tuple(label for label in self.primary if label in labels)
        settings = {**(self.set or {}), **(self.at or {}).get(size, {})}
        return replace(self, rows=rows, columns=columns, published=published, primary=primary, set=settings, at=None)

    def seeds_of(self, row: RowSpec, column: Column) -> tuple[int, ...]:
        return first(self.seeds, row.seeds, column.seeds)

    def baseline_of(self, row: RowSpec) -> str | None:
        """The row that a row is compared with; none for what is a baseline itself."""
        label = row.baseline or self.baseline
        return None if label == row.label else label


def first(seeds: tuple[int, ...], *numbers: int | None) -> tuple[int, ...]:
    """As many as every number allows."""
    return seeds[: min(n for n in (len(seeds), *numbers) if n is not None)]


def _known(key: str, labels: Iterable[str], known: Sequence[str]) -> None:
    for label in labels:
        if label not in known:
            raise ConfigError(
                key, label, f"no such {'column' if key == 'primary' else 'label'}; {closest(label, known)}"
            )


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def read(name: str, stages: Mapping[str, Stage]) -> Spec:
    """The table with what it has at any scale."""
    if name not in names():
        raise ConfigError("table", name, f"no such table; {closest(name, names())}")
    spec = build(Spec, config.load_yaml(FOLDER / f"{name}.yaml"), "table")
    for stage in [c.stage for c in spec.columns if c.stage] + [s for r in spec.rows for s in r.stages or ()]:
        find(stages, stage)
    return spec


def load(
    name: str, stages: Mapping[str, Stage], seeds: Sequence[int] | None = None, overrides: Sequence[str] = ()
) -> Spec:
    """The table at the scale that the overrides choose."""
    spec = read(name, stages)
    scale = config.scale(overrides)
    if not spec.same_at_every_scale:
        spec = spec.at_scale(scale.size)
    return replace(spec, seeds=tuple(seeds) if seeds else spec.seeds[: scale.most_seeds])
