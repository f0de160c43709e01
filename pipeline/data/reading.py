"""Rows of one file, one after another, with their numbers from 1. Parquet and JSON lines are never whole in memory; a
JSON list and a CSV are, since their ends alone say whether they are sound."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import formats
from pipeline.errors import ConfigError, check
from pipeline.formats import AGAIN, shown

Row = dict[str, Any]
BATCH = 256  # rows of a Parquet file


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        begin = file.read(4)
    read = parquet if begin == b"PAR1" or path.suffix == ".parquet" else lines if path.suffix == ".jsonl" else whole
    for at, row in enumerate(read(path), start=1):
        if not isinstance(row, dict):
            raise ConfigError(f"{path.name}, row {at}", shown(row), "expected an object with a name per value")
        yield at, row


def parquet(path: Path) -> Iterator[Row]:
    done = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield from batch.to_pylist()
                done += len(batch)
    except (pa.ArrowException, OSError) as e:
        raise ConfigError(f"{path.name}, row {done + 1}", shown(str(e)), f"as Parquet {AGAIN}") from e


def lines(path: Path) -> Iterator[Row]:
    at = 0
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            at += 1
            try:
                yield json.loads(line.decode())
            except UnicodeDecodeError as e:
                where = f"{path.name}, row {at}, byte {e.start}"
                raise ConfigError(where, line[max(0, e.start - 8) : e.start + 8], "not UTF-8: save it as that") from e
            except (ValueError, RecursionError) as e:
                raise ConfigError(f"{path.name}, row {at}", shown(str(e)), f"as JSON {AGAIN}") from e


def whole(path: Path) -> Iterator[Row]:
    found = formats.read(path)
    check(isinstance(found, list), path.name, shown(found), "expected a list of rows")
    yield from found
