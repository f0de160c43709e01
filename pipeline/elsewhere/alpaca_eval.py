"""AlpacaEval 2.0 from annotations: the official annotations.json, or one row per judgement with lengths counted.

Position in the file matters officially: folds and difficulties go by it. Rows out of order are put back where the file
numbers its rows (`row`) or its instructions (`instruction_index`), or where the instructions are given in order.
"""

import json
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import calibration, given
from pipeline.elsewhere.options import Options
from pipeline.given import Table
from pipeline.metrics import alpaca_eval
from pipeline.metrics.group_folds import FoldOrder

NOT_STORED = -1  # what the official annotator's cache holds where the judge gave no answer
CALIBRATION = "length control needs df_gamed.csv of the hub's data set tatsu-lab/alpaca_eval: say calibration=its path"


def score(file: str, value: Any, options: Options) -> dict[str, float]:
    rows = given.table(file, value)
    instructions = _instructions(options)
    annotations = frame(rows, instructions, keep_empty=options.keep_empty)
    gamed, difficulty, outputs = (options.table(key) for key in ("calibration", "difficulty", "outputs"))
    known = None if gamed is None else calibration.read(gamed, CALIBRATION)
    result = alpaca_eval.score(
        annotations,
        known,
        None if difficulty is None else calibration.difficulties(difficulty),
        fold_order=options.choice("fold_order", get_args(FoldOrder)),
        C=options.positive("C"),
        output_lengths=None if outputs is None else _lengths(outputs, "output", options.keep_empty),
    )
    if "length_controlled_winrate" not in result:
        options.note(f"no length-controlled win rate; {CALIBRATION}")
    elif known is not None and "row" not in annotations and len(rows) < len(set(known["index"])):
        options.note(f"{file} has {len(rows)} rows; as officially, difficulties go by their position, whatever lacks")
    return result | _decoded(rows, instructions, options)


def frame(rows: Table, instructions: Sequence[str] | None = None, *, keep_empty: bool = False) -> pd.DataFrame:
    """What `metrics.alpaca_eval` scores, in the official order as far as the rows or the instructions tell it."""
    columns: dict[str, Any] = {"preference": _preferences(rows)}
    columns |= {f"len_{side}": _side_lengths(rows, side, keep_empty) for side in (1, 2)}
    columns |= {name: _one_name(rows, name) for name in ("generator_1", "generator_2") if name in rows.columns}
    for key in ("row", "instruction_index", "instruction"):
        if key in rows.columns:
            rows.once(key)
    made = pd.DataFrame(columns, index=range(len(rows)))
    if "row" in rows.columns:
        return made.assign(row=rows.whole("row")).sort_values("row", ignore_index=True)
    position = _positions(rows, instructions)
    return made if position is None else made.iloc[np.argsort(position)].reset_index(drop=True)


def _preferences(rows: Table) -> NDArray[np.float64]:
    found = rows.numbers(rows.need("preference", remedy="is this an annotations.json of AlpacaEval?"), null=True)
    found[found == NOT_STORED] = np.nan
    fine = np.isnan(found) | (found == 0) | ((found >= 1) & (found <= 2))
    rows.require(fine, "preference", "expected 1 (the baseline wins) to 2 (the model wins), or null")
    return found


def _side_lengths(rows: Table, side: int, keep_empty: bool) -> NDArray[np.int64]:
    """Characters of one side's outputs: as counted in the file, which its texts must then agree with, or counted."""
    counted, column = f"len_{side}", f"output_{side}"
    if counted not in rows.columns:
        return _lengths(rows, column, keep_empty)
    lengths = rows.whole(counted)
    if column in rows.columns:
        # Here an empty text is fine where the file counts 0 characters itself.
        fine = _lengths(rows, column, keep_empty=True) == lengths
        rows.require(fine, column, f"its length is not what {counted} says: correct one of them")
    return lengths


def _lengths(rows: Table, column: str, keep_empty: bool) -> NDArray[np.int64]:
    texts = rows.texts(rows.need(column, remedy="needed for its length in characters"), empty=keep_empty)
    return np.array([len(text) for text in texts], dtype=np.int64)


def _one_name(rows: Table, column: str) -> str:
    names = np.array(rows.labels(column))
    rows.require(names == names[0], column, f"{str(names[0])!r} stands in row 1: give each model a file of its own")
    return str(names[0])


# --- which instruction a row is about


def _instructions(options: Options) -> list[str] | None:
    table = options.table("instructions")
    if table is None:
        return None
    texts = table.texts(table.need("instruction", remedy="the instructions in their official order"))
    if "index" not in table.columns:
        return texts
    table.once("index")
    return [texts[i] for i in np.argsort(table.whole("index"))]


def _positions(rows: Table, instructions: Sequence[str] | None) -> NDArray[np.int64] | None:
    """The number of the instruction of every row; None where nothing tells."""
    if "instruction_index" in rows.columns:
        return rows.whole("instruction_index")
    if instructions is None or "instruction" not in rows.columns:
        return None
    number = {text: i for i, text in enumerate(instructions)}
    positions = np.array([number.get(text, -1) for text in rows.texts("instruction")])
    rows.require(positions >= 0, "instruction", "not among instructions=: does that file belong to these rows?")
    return positions


def _asked(rows: Table, instructions: Sequence[str] | None) -> list[str] | None:
    """The instruction of every row."""
    if "instruction" in rows.columns:
        return rows.texts("instruction")
    positions = _positions(rows, instructions)
    if instructions is None or positions is None:
        return None
    inside = (positions >= 0) & (positions < len(instructions))
    rows.require(inside, "instruction_index", f"instructions= has only {len(instructions)}, counted from 0")
    return [instructions[int(i)] for i in positions]


# --- do the preferences follow from the judge's own words?


def _decoded(rows: Table, instructions: Sequence[str] | None, options: Options) -> dict[str, float]:
    """How far the preferences are from the judge's log-probabilities, as far as the file holds these."""
    column, asked = rows.first("top_logprobs", "raw_completion"), _asked(rows, instructions)
    if column is None or asked is None:
        return {}
    difference = np.abs(alpaca_eval.preferences(rows.each(column, _first_token), asked) - _preferences(rows))
    known = difference[~np.isnan(difference)]
    if not known.size:
        return {}
    if known.max() > 1e-6:
        options.note(f"preferences differ from the judge's log-probabilities by up to {known.max():.2g}: another rule?")
    return {"n_decoded": len(known), "decode_max_difference": float(known.max())}


def _first_token(cell: Any) -> Any:
    """The judge's alternatives for its first token, as OpenAI's API gives them; None where they were not kept."""
    try:
        value = json.loads(cell) if isinstance(cell, str) else cell
        found = value["logprobs"]["content"][0]["top_logprobs"] if isinstance(value, dict) else value
        return None if found is None else [{"token": e["token"], "logprob": float(e["logprob"])} for e in found]
    except (ValueError, KeyError, IndexError, TypeError):
        return None  # a text, or another judge's reply: nothing to decode
