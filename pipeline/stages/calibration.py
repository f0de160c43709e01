"""What the length-controlled win rate needs beside a policy's annotations: AlpacaEval's df_gamed.csv, or the same
columns made for another baseline and judge.

Made: the baseline's own answers, wordy and bare, against the baseline; and how hard each instruction is, as the mean
log-odds with which further samples of the baseline's policy beat it. One judge judges all of it.
`instruction_difficulty.csv` is left out: AlpacaEval reads it only to compare two models that are not the baseline.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from pipeline import calibration, formats, given, hub, rows, world
from pipeline.calibration import COLUMNS
from pipeline.judges.compare import compare, pair
from pipeline.judges.pair import Pair
from pipeline.rows import Row
from pipeline.stage import Inputs, Sections

VERSIONS = ("verbose", "concise")
SURE = 1e-6  # a preference nearer to 0 or 1 counts as this


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    made = from_baseline(x, inputs, out) if x.calibration.kind == "world" else from_file(x, out.parents[3])
    rows.write(out, made)
    won = {name: [row["preference"] for row in made if row["model"] == name] for name in {row["model"] for row in made}}
    return {"rows": len(made), **{f"win_rate/{name}": 100 * float(np.nanmean(p)) for name, p in sorted(won.items())}}


def from_file(x: Sections, results: Path) -> list[Row]:
    """A path is relative to `run.root`. The preference alone may be missing."""
    id, name, sha256 = x.calibration.id, x.calibration.file, x.calibration.sha256
    path = hub.data_file(name, id, x.calibration.revision, x.hub.root) if id else results / name
    hub.check_content(path, sha256, "calibration")
    table = given.table(path.name, formats.read(path))
    expected = "expected a file like AlpacaEval's df_gamed.csv"
    table.need("model", remedy=expected)
    return calibration.read(table, expected).to_dict("records")  # type: ignore[return-value]  # names are text


def from_baseline(x: Sections, inputs: Inputs, out: Path) -> list[Row]:
    baseline = rows.read(inputs["baseline"])
    references = [rows.read(inputs[f"reference_{k}"]) for k in range(x.calibration.references)]
    both = [world.verbose_concise(row["output"]) for row in baseline]
    rewritten = [
        [{**row, "output": getattr(text, version)} for row, text in zip(baseline, both, strict=True)]
        for version in VERSIONS
    ]
    others = [*rewritten, *references]
    pairs = [pair(one, two) for other in others for one, two in zip(baseline, other, strict=True)]
    won = np.array([judged["preference"] - 1 for judged in compare(x, pairs, out)]).reshape(len(others), -1)
    hard = difficulty(won[len(VERSIONS) :])
    return [
        dict(zip(COLUMNS, (version, i, p, delta, hard[i], False), strict=True))
        for at, version in enumerate(VERSIONS)
        for i, (p, delta) in enumerate(zip(won[at], lengths(pairs[at * len(hard) :][: len(hard)]), strict=True))
    ]


def lengths(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """(n,) characters by which the baseline's answer is longer, in units of their own spread, as in df_gamed.csv."""
    delta = np.array([len(p.output_1) - len(p.output_2) for p in pairs], dtype=float)
    return delta / delta.std(ddof=1) if len(delta) > 1 and np.ptp(delta) > 0 else delta


def difficulty(won: NDArray[np.float64]) -> NDArray[np.float64]:
    """(references, n) probabilities -> (n,) mean log-odds in units of their spread; 0 where the judge said nothing."""
    odds = logit(np.clip(won, SURE, 1 - SURE))
    known = ~np.isnan(odds)
    mean = np.where(known, odds, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return mean / mean.std() if np.ptp(mean) > 0 else mean
