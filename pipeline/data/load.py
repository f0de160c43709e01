"""One pass over the rows of a source: each is checked, becomes the row that stages read, and is written or counted.

Twins (rows that say the same as an earlier one) are left out of what is trained on, never of a benchmark. Pairs that a
reward model could not tell apart, since they are the same up to its limit, are left out by whoever knows its tokens
(stages/rm.py).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import hub, store
from pipeline.config import PROJECT
from pipeline.data import files, reading
from pipeline.data.rules import Broken, LeftOut, label
from pipeline.data.schemas import SCHEMAS, Made, Schema
from pipeline.errors import ConfigError, check
from pipeline.experiment import Source
from pipeline.formats import shown

TEXT, NUMBER = pa.string(), pa.float64()
TEXTS, NUMBERS = pa.list_(TEXT), pa.list_(NUMBER)
TURN = {"role": TEXT, "content": TEXT}
NAMED = {"id": TEXT, "prompt": TEXT, "cluster": TEXT}
ASKED = {**NAMED, "turns": pa.list_(pa.struct(list(TURN.items())))}
PAIR = {**ASKED, "chosen": TEXT, "rejected": TEXT}
# What stages read, by part.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "sft": {"id": TEXT, "prompt": TEXT, "messages": pa.list_(pa.struct([*TURN.items(), ("weight", NUMBER)]))},
    "prompts": NAMED,
    "preferences": {**PAIR, "margin": NUMBER},
    "in_domain": {**PAIR, "margin": NUMBER},
    "scenarios": {**ASKED, "responses": TEXTS, "gold": NUMBERS},
    "responses": {**NAMED, "responses": TEXTS, "models": TEXTS, "overall_scores": NUMBERS, "source": TEXT},
    "reward_bench": {
        **NAMED,
        **dict.fromkeys(("chosen", "rejected", "chosen_model", "rejected_model", "subset"), TEXT),
    },
    "reward_bench_2": {
        **NAMED,
        **dict.fromkeys(("chosen", "rejected"), TEXTS),
        **dict.fromkeys(("subset", "name"), TEXT),
        "num_correct": pa.int64(),
    },
    "prior_sets": {**PAIR, "subset": TEXT},
    "rm_bench": {**NAMED, "chosen": TEXTS, "rejected": TEXTS, "domain": TEXT},
    "alpaca_eval": dict.fromkeys(("id", "instruction", "cluster", "output", "generator", "dataset"), TEXT),
}
TRAINED_ON = ("sft", "prompts", "preferences")
CHUNK = 1024  # rows in memory
EXAMPLES = 5  # broken rows shown in the card
DROP = "set bad: drop of the source (data.preferences.bad=drop), and such rows are left out and counted"


@dataclass
class Count:
    """What became of the rows that were read."""

    read: int = 0
    broken: Counter[str] = field(default_factory=Counter)  # by rule
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Given:
    """A file, by its name in its repository, and the split that it is of."""

    name: str
    path: Path
    split: str | None = None


@dataclass(frozen=True)
class Place:
    file: str
    row: int
    number: int  # over all files


def load(source: Source, root: str | None, out: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Writes rows.parquet; returns the card and the metrics."""
    commit, found = where(source, root)
    count, written = Count(), 0
    columns = pa.schema(list(COLUMNS[source.part].items()))
    with pq.ParquetWriter(out / "rows.parquet", columns) as writer:
        for chunk in chunks(wanted(source, found, count)):
            writer.write_table(pa.Table.from_pylist(chunk, columns))
            written += len(chunk)
    name = source.id or Path(str(source.path)).name
    check(written > 0, "source", name, f"no row is left of {count.read}: {told(count)}")
    dropped = sum(count.broken.values())
    most = f"{dropped} of {count.read} rows of {name} break it: another one?"
    check(2 * dropped <= count.read, "schema", source.schema, most)
    card = {
        **{key: getattr(source, key) for key in ("part", "schema", "id", "revision", "split", "config", "licence")},
        "commit": commit,
        "files": {given.name: store.sha256(given.path) for given in found},
        "read": count.read,
        "rows": written,
        **{key: dict(sorted(getattr(count, key).items())) for key in ("broken", "left_out")},
        "examples": count.examples,
    }
    return card, {"rows": written, "read": count.read, "broken": dropped, "left_out": sum(count.left_out.values())}


def told(count: Count) -> str:
    return ", ".join(f"{n} {why}" for why, n in (count.broken + count.left_out).items()) or "empty files"


def where(source: Source, root: str | None) -> tuple[str | None, list[Given]]:
    """The commit, and the files, which hold what they should."""
    if source.kind == "local":
        path = PROJECT / str(source.path)
        commit, found = None, [Given(path.name, path)]
    else:
        repository, names = files.find(source, root)
        there = repository.get(list(names))
        commit, found = there.commit, [Given(name, there.folder / name, split) for name, split in names.items()]
    for given in found:
        check(given.path.is_file(), "source", source.id or source.path, f"has no file {given.name}")
        if source.sha256 is not None:
            hub.check_content(given.path, source.sha256, "source")
    return commit, found


def wanted(source: Source, found: Sequence[Given], count: Count) -> Iterator[Made]:
    """The good rows: each so many-th, no twins, no more than asked for."""
    kept = 0
    twins: set[bytes] = set()
    for at, row in enumerate(good(source, found, count)):
        said = digest(row) if source.part in TRAINED_ON else row["id"].encode()
        if at % (source.every or 1):
            count.left_out["not every"] += 1
        elif said in twins:
            count.left_out["twin"] += 1
        else:
            twins.add(said)
            yield row
            kept += 1
            if kept == source.n:
                return


def digest(row: Made) -> bytes:
    """Of all that it says."""
    said = [value for name, value in row.items() if name not in ("id", "cluster", "margin")]
    return hashlib.sha256(json.dumps(said).encode()).digest()[:16]


def good(source: Source, found: Sequence[Given], count: Count) -> Iterator[Made]:
    """Rows that keep all rules; the first that does not is refused, or counted."""
    schema = SCHEMAS[str(source.schema)]
    read, names = schema.parts[source.part], Names(schema)
    for given in found:
        for at, row in reading.rows(given.path):
            place = Place(given.path.name, at, count.read)
            if at == 1:
                check_columns(place, schema, row)
            count.read += 1
            try:
                made = read(row if given.split is None else {**row, "split": given.split})
                made["id"] = f"{source.schema}-{names.of(row, place)}"
            except LeftOut as e:
                count.left_out[str(e)] += 1
            except Broken as e:
                where = f"{place.file}, row {place.row}, column {e.column}"
                if source.bad is None:
                    remedy = f"{e.rule}: {e.remedy}; or {DROP}"
                    raise ConfigError(where, shown(e.value), remedy) from e
                count.broken[e.rule] += 1
                count.examples += [f"{where}: {e.rule}"] * (len(count.examples) < EXAMPLES)
            else:
                yield made


def check_columns(place: Place, schema: Schema, row: Mapping[str, Any]) -> None:
    for name in schema.columns:
        there = f"missing column (there: {', '.join(row)}): another schema, or another revision?"
        check(name in row, f"{place.file}, row {place.row}, column {name}", None, there)


class Names:
    """What rows are called: by their own column, which no two may share, or by their place."""

    def __init__(self, schema: Schema):
        self.schema = schema
        self.first: dict[str, Place] = {}

    def of(self, row: Mapping[str, Any], place: Place) -> str:
        column, within = self.schema.once, self.schema.within
        if column is None or column not in row:
            return f"{place.number:06d}"
        name = label(row, column)
        name = f"{row[within]}-{name}" if within else name
        earlier = self.first.setdefault(name, place)
        if earlier != place:
            raise Broken("twice", column, row[column], f"row {earlier.row} of {earlier.file} has it too")
        return name if self.schema.named else f"{place.number:06d}"


def chunks(rows: Iterator[Made]) -> Iterator[list[Made]]:
    chunk: list[Made] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
