"""Rows of a data set as one Parquet file of plain values, in a fixed order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.conversations import Prompt

Row = dict[str, Any]


def write(out: Path, rows: Sequence[Row], name: str = "rows") -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), out / f"{name}.parquet")


def read(folder: Path, name: str = "rows") -> list[Row]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def prompt_of(row: Row) -> str:
    """As a text."""
    return row["instruction"] if "instruction" in row else row["prompt"]


def asked_of(row: Row) -> Prompt:
    """As a model reads it: with its turns, where it has several."""
    return row.get("turns") or prompt_of(row)


def responses_of(row: Row) -> list[str]:
    """Every response of a benchmark row, in a fixed order: chosen before rejected, as the real benchmarks' columns
    have them."""
    if "responses" in row:
        return row["responses"]
    return [*as_list(row["chosen"]), *as_list(row["rejected"])]


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
