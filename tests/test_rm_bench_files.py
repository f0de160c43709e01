"""RM-Bench's real files, from the benchmark's own layout to its official keys, by the commands a user has.

All rows of the four files are read and checked; SCORED of each are scored, so that it takes seconds.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from metrics.conftest import reference as reference  # skips loudly without REWARD_REFERENCE

from pipeline import elsewhere, own, rows, score_file
from pipeline.errors import ConfigError

FILES = {"chat": 129, "code": 228, "safety-refuse": 284, "safety-response": 157}  # domain: rows
SCORED = 6


@pytest.mark.parametrize("domain", FILES)
def test_a_real_file_is_read_scored_and_measured(
    reference: Path, under_contract: Path, tmp_path: Path, domain: str
) -> None:
    path = reference / "rm_bench" / f"{domain}_filtered.json.gz"
    found = own.read(path)
    assert len(found.rows) == FILES[domain] and found.several and not found.pairs
    assert {len(asked.responses) for asked in found.asked} == {6}
    part = json.loads(gzip.decompress(path.read_bytes()))[:SCORED]
    (tmp_path / "part.json").write_text(json.dumps(part))
    done = score_file.run(under_contract, tmp_path / "part.json", tmp_path / "scores.jsonl", 4096)
    assert (done["rows"], done["responses"]) == (SCORED, 6 * SCORED)
    assert 0 < done["truncated"] <= 6 * SCORED  # 160 tokens
    made = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    name = domain.partition("-")[0]
    numbers = elsewhere.score(["bench=rm_bench", f"file={tmp_path / 'scores.jsonl'}", f"domains={name}"])
    cells = [[c > r for r in row["score_rejected"]] for row in made for c in row["score_chosen"]]
    assert numbers[name] == pytest.approx(sum(map(sum, cells)) / (9 * SCORED))
    assert {"hard_acc", "normal_acc", "easy_acc", "total_avg_acc", "longer/total_avg_acc"} <= set(numbers)


def own_rows(tmp_path: Path, made: list[dict[str, Any]], name: str = "my.jsonl") -> Path:
    (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return tmp_path / name


ROW = {"id": 1, "prompt": "What is 2 + 3?", "chosen": ["5", "It is 5."], "rejected": ["6", "It is 6.", "**6**"]}


def test_lists_keep_their_order(under_contract: Path, tmp_path: Path) -> None:
    """Against the same answers one by one, of both lists, which need not be of one length."""
    score_file.run(under_contract, own_rows(tmp_path, [ROW]), tmp_path / "out", 300)
    (made,) = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    single = [{"prompt": ROW["prompt"], "response": text} for text in (*ROW["chosen"], *ROW["rejected"])]
    score_file.run(under_contract, own_rows(tmp_path, single, "one.jsonl"), tmp_path / "ones", 300)
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "ones").read_text().splitlines()]
    assert len(set(rewards)) == 5
    assert [*made["score_chosen"], *made["score_rejected"]] == pytest.approx(rewards, abs=1e-5)
    assert (len(made["score_chosen"]), made["id"]) == (2, 1)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"rejected": "6"}, r"row 2, column rejected = '6': expected a list of texts"),
        ({"chosen": ["5", ""]}, r"row 2, column chosen = '': empty"),
        ({"chosen": [5, "x"]}, r"row 2, column chosen = .*expected a list of texts"),
        ({"rejected": ["6", None]}, r"row 2, column rejected = None: missing"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path: Path, spoilt: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        own.read(own_rows(tmp_path, [ROW, {**ROW, "id": 2, **spoilt}]))


def test_lists_come_from_parquet_as_well(tmp_path: Path) -> None:
    rows.write(tmp_path, [ROW], "my")
    assert own.read(tmp_path / "my.parquet").asked[0].responses == [*ROW["chosen"], *ROW["rejected"]]
