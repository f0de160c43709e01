"""Calibration rows of the length-controlled win rate as AlpacaEval's df_gamed.csv has them: the one reader of them.

A preference may be missing, and the index may have the name, or none, that pandas gives it.
"""

import pandas as pd

from pipeline import given
from pipeline.given import Table

COLUMNS = ("model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")


def read(table: Table, remedy: str) -> pd.DataFrame:
    """COLUMNS in their order; `model`, which no score depends on, only where the file has it."""
    for name in ("preference", "std_delta_len", "not_gamed_baseline"):
        table.need(name, remedy=remedy)
    preference = table.numbers("preference", null=True)
    table.require(~((preference < 0) | (preference > 1)), "preference", "expected 0 to 1, as in df_gamed.csv")
    made = difficulties(table).assign(
        preference=preference,
        std_delta_len=table.numbers("std_delta_len"),
        not_gamed_baseline=table.each("not_gamed_baseline", given.truth),
    )
    if "model" in table.columns:
        made["model"] = table.labels("model")
    return made.reindex(columns=[name for name in COLUMNS if name in made])


def difficulties(table: Table) -> pd.DataFrame:
    """`index` and `instruction_difficulty`."""
    index = table.need("index", "", "Unnamed: 0", remedy="the number of the instruction, from 0")
    column = table.need("instruction_difficulty", remedy="as in df_gamed.csv and instruction_difficulty.csv")
    return pd.DataFrame({"index": table.whole(index), "instruction_difficulty": table.numbers(column)})
