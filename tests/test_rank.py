"""The effective rank of trained and of other representations."""

import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from pipeline import contract, rows, scoring
from pipeline.conversations import Asked
from pipeline.stage import Inputs
from pipeline.stages import rank


def test_whole_rows_are_taken_up_to_a_number_of_responses() -> None:
    asked = [Asked("q", ["a"] * n) for n in (2, 3, 2)]
    assert [len(rank.first(asked, n)) for n in (1, 2, 4, 5, 6, 7, 99)] == [1, 1, 1, 2, 2, 3, 3]


def test_both_sides_are_ranked_on_about_as_many_responses(under_contract: Path, tmp_path: Path) -> None:
    for name, part in (("data", "preferences"), ("rm_bench", "rm_bench")):
        (tmp_path / name).mkdir()
        rows.write(tmp_path / name, list(tiny.rows_of(part, 16)))
    (tmp_path / "out").mkdir()
    inputs = Inputs({"rm": under_contract, "data": tmp_path / "data", "rm_bench": tmp_path / "rm_bench"})
    metrics = rank.run(tiny.view_of("rank", tiny.experiment()), inputs, tmp_path / "out")
    assert (metrics["responses/train"], metrics["responses/rm_bench"]) == (32, 30)  # 16 pairs; 5 rows of six

    model, tokenizer = contract.load(under_contract, "padded")
    asked = [Asked(rows.prompt_of(row), rows.responses_of(row)) for row in rows.read(tmp_path / "data")]
    hidden = torch.cat([s.hidden for batch in scoring.stream(model, tokenizer, asked, 10_000) for s in batch])
    share = np.linalg.svd(hidden.double().numpy(), compute_uv=False)
    share /= share.sum()
    assert metrics["effective_rank/train"] == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-3)
    spectrum = [r for r in rows.read(tmp_path / "out", "spectra") if r["set"] == "rm_bench"]
    assert [r["number"] for r in spectrum] == list(range(1, len(spectrum) + 1))
