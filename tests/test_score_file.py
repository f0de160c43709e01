"""Rewards for a file of one's own are those of its texts, appear as a whole, and are not computed twice."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import patients
import pytest
import tiny

from pipeline import contract, models, packing, rows, score_file, scoring
from pipeline.config import PROJECT
from pipeline.errors import ConfigError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve pairs with columns of their own; one answer is too long."""
    made = [{k: row[k] for k in ("prompt", "chosen", "rejected", "margin")} for row in tiny.rows_of("preferences", 12)]
    made[4]["rejected"] = "wait " * 200
    (tmp_path / "my.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return tmp_path / "my.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_has_its_rewards(under_contract: Path, data: Path) -> None:
    out = data.with_name("out.jsonl")
    done = score_file.run(under_contract, data, out, 300)
    made, before = read(out), read(data)
    assert [{k: v for k, v in row.items() if not k.startswith("reward")} for row in made] == before
    right = 0
    for row in before:
        prompts, answers = [row["prompt"]] * 2, [row["chosen"], row["rejected"]]
        row["rewards"], _ = scoring.score(*models.load_rm(under_contract), prompts, answers, 10**6)
        right += row["rewards"][0] > row["rewards"][1]
    got = np.array([[row["reward_chosen"], row["reward_rejected"]] for row in made])
    assert got == pytest.approx(np.array([row["rewards"] for row in before]), rel=1e-5)
    assert done == {"rows": 12, "responses": 24, "truncated": 1, "accuracy": right / 12, "ties": 0}
    assert sorted(p.name for p in data.parent.iterdir()) == ["my.jsonl", "out.jsonl"]


def test_single_responses_have_one_reward_each(under_contract: Path, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text('{"prompt": "Why?", "response": "So."}\n{"prompt": "Why?", "response": "No."}\n')
    assert score_file.run(under_contract, tmp_path / "my.jsonl", tmp_path / "out", 300) == {
        "rows": 2,
        "responses": 2,
        "truncated": 0,
    }
    assert [set(row) for row in read(tmp_path / "out")] == [{"prompt", "response", "reward"}] * 2


def counted(monkeypatch: pytest.MonkeyPatch, crash_at: int | None) -> list[int]:
    seen: list[int] = []
    layout = packing.layout

    def watched(groups: list[packing.Group], *how: Any) -> packing.Layout:
        if len(seen) == crash_at:
            raise KeyboardInterrupt
        seen.append(len(groups))
        return layout(groups, *how)

    monkeypatch.setattr(contract, "load", models.load_rm)
    monkeypatch.setattr(packing, "layout", watched)
    return seen


def test_what_a_kill_leaves_is_not_scored_again(under_contract: Path, data: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = counted(patch, None)
        score_file.run(under_contract, data, data.with_name("whole.jsonl"), 250)
    out = data.with_name("out.jsonl")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counted(patch, 3)
        score_file.run(under_contract, data, out, 250)
    assert not out.exists()
    told: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        rest = counted(patch, None)
        score_file.run(under_contract, data, out, 250, lambda done, total: told.append((done, total)))
    assert rest == whole[3:] and len(whole) == 4
    assert out.read_bytes() == data.with_name("whole.jsonl").read_bytes()
    assert told[0][0] > 0 and told[-1] == (24, 24)


@pytest.mark.parametrize("changed", ["data", "model"])
def test_what_another_run_left_is_not_taken(under_contract: Path, data: Path, changed: str) -> None:
    out = data.with_name("out.jsonl")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counted(patch, 3)
        score_file.run(under_contract, data, out, 250)
    folder = under_contract
    if changed == "data":
        data.write_text(data.read_text().replace("prompt", "prompt", 1) + data.read_text().splitlines()[0] + "\n")
    else:
        words = patients.tokenizer()
        folder = patients.save(data.parent / "other", patients.model(words, seed=1), words)
    with pytest.MonkeyPatch.context() as patch:
        seen = counted(patch, None)
        score_file.run(folder, data, out, 250)
    assert sum(seen) >= 12  # all of the prompts


def test_a_column_that_would_be_written_over_is_refused(under_contract: Path, data: Path) -> None:
    data.write_text(data.read_text().replace('"margin"', '"reward_chosen"'))
    with pytest.raises(ConfigError, match=r"^my.jsonl, column reward_chosen = .*rename it"):
        score_file.run(under_contract, data, data.with_name("out"), 100)


def test_a_model_that_is_not_what_it_was_scores_nothing(
    under_contract: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "PROMPTS", ("?",))
    monkeypatch.setattr(contract, "policy", lambda *_: {"template": "another"})
    with pytest.raises(ConfigError, match=r"scoring\.json, template"):
        score_file.run(under_contract, data, data.with_name("out"), 100)
    assert not data.with_name("out").exists()


def test_the_command(
    under_contract: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = runpy.run_path(str(PROJECT / "scripts" / "score_data.py"))["main"]
    assert command([f"rm={under_contract}", f"data={data}"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("rows 12, responses 24, truncated 1, accuracy 0.")
    assert said.out.endswith(f"written: {data.with_name('my.rewards.jsonl')}\n")
    assert "24" in said.err
    with pytest.raises(SystemExit) as e:
        command([f"rm={under_contract}", f"data={data}", "tokens=many"])
    assert e.value.code == 2 and "tokens = 'many'" in capsys.readouterr().err
    counted(monkeypatch, 2)
    data.with_name("my.rewards.jsonl").unlink()
    assert command([f"rm={under_contract}", f"data={data}", "tokens=250"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_parquet_is_read_as_well(under_contract: Path, data: Path) -> None:
    rows.write(data.parent, read(data), "my")
    score_file.run(under_contract, data, data.with_name("a.jsonl"), 300)
    score_file.run(under_contract, data.with_name("my.parquet"), data.with_name("b.jsonl"), 300)
    assert data.with_name("a.jsonl").read_bytes() == data.with_name("b.jsonl").read_bytes()
