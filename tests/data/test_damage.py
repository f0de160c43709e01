"""What is wrong with a file is said by file, row, column and rule; or such rows are left out and counted. And a file of
one's own, as docs/data.md has it."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_fixtures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_fixtures import assistant, user

from pipeline import plan, rows, store
from pipeline.config import PROJECT, experiment
from pipeline.data.load import load
from pipeline.errors import ConfigError
from pipeline.experiment import Source
from pipeline.stages import STAGES, data_of

Row = dict[str, Any]
N = 6


def set_to(column: str, value: Any) -> Callable[[list[Row]], None]:
    return lambda made: made[2].__setitem__(column, value)


def without(column: str) -> Callable[[list[Row]], None]:
    def take(made: list[Row]) -> None:
        for row in made:
            del row[column]

    return take


def turns(*roles: str) -> list[Row]:
    return [{"content": "Well.", "role": role} for role in roles]


def same(made: list[Row]) -> None:
    made[2]["rejected"] = made[2]["chosen"]


MADE: dict[str, Callable[[int], list[Row]]] = {
    "pairs": lambda n: [hub_fixtures.pair(i) for i in range(n)],
    "ranked": hub_fixtures.ranked,
    "ultrachat": hub_fixtures.ultrachat,
    "tulu": hub_fixtures.tulu,
    "reward_bench": hub_fixtures.reward_bench,
    "reward_bench_2": hub_fixtures.reward_bench_2,
    "rm_bench": hub_fixtures.rm_bench,
    "alpaca_eval": hub_fixtures.alpaca_eval,
    "unified_feedback": hub_fixtures.rated,
    "ultrafeedback": hub_fixtures.completions,
}
FIRST = {"ultrachat": "sft", "tulu": "sft", "pairs": "preferences", "unified_feedback": "preferences"}
FIRST |= {"ranked": "scenarios", "ultrafeedback": "responses"}
# schema, what is done to the third row (or to all), column and rule of the refusal.
DAMAGE = [
    ("pairs", without("rejected"), "rejected", "missing column"),
    ("ranked", set_to("all_scores", "0.1 0.2 0.3 0.4"), "all_scores", "type"),
    ("ranked", set_to("response_2_text", None), "response_2_text", "null"),
    ("ultrachat", set_to("messages", [user("Well?"), assistant(" ")]), "messages", "empty"),
    ("tulu", set_to("messages", turns("user", "user", "assistant")), "messages", "roles"),
    ("tulu", set_to("messages", turns("assistant", "user")), "messages", "roles"),
    ("ultrachat", set_to("messages", turns("user")), "messages", "roles"),
    ("pairs", same, "rejected", "same"),
    ("pairs", set_to("rejected", [user("Another?"), assistant("No.")]), "rejected", "prompt"),
    ("reward_bench", set_to("subset", "alpacaeval-odd"), "subset", "range"),
    ("reward_bench", lambda made: made[2].update(made[1]), "id", "twice"),
    ("rm_bench", set_to("domain", "poetry"), "domain", "range"),
    ("rm_bench", set_to("chosen", ["one", "two"]), "chosen", "count"),
    ("reward_bench_2", set_to("total_completions", 9), "total_completions", "count"),
    ("alpaca_eval", lambda made: made[2].update(made[0]), "instruction", "twice"),
    ("ranked", set_to("all_scores", [0.1, 0.2, 0.3]), "all_scores", "count"),
    ("ranked", set_to("all_scores", [0.1, 0.2, 0.3, float("nan")]), "all_scores", "range"),
    ("unified_feedback", set_to("conv_A_rating", True), "conv_A_rating", "type"),
    ("ultrafeedback", set_to("completions", None), "completions", "type"),
]  # fmt: skip


def local(path: Path, schema: str, **more: Any) -> Source:
    part = {"part": FIRST.get(schema, schema), **more}
    return Source("local", path=str(path), schema=schema, **part)


@pytest.mark.parametrize(("schema", "damage", "column", "rule"), DAMAGE, ids=lambda v: v if isinstance(v, str) else "")
def test_a_bad_row_is_refused_by_file_row_column_and_rule(
    schema: str, damage: Callable[[list[Row]], None], column: str, rule: str, tmp_path: Path
) -> None:
    made, path = MADE[schema](N), tmp_path / "rows.jsonl"
    hub_fixtures.put(path, made)
    load(local(path, schema), None, tmp_path)  # it is sound
    damage(made)
    hub_fixtures.put(path, made)
    row = 1 if rule == "missing column" else 3
    with pytest.raises(ConfigError, match=rf"^rows\.jsonl, row {row}, column {column} = .*: {rule}\b"):
        load(local(path, schema), None, tmp_path)


DAMAGED_FILES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("a.jsonl", lambda data: data.replace(b"It is 4.", b"It is \xff."), r"a\.jsonl, row 3, byte \d+ = .*not UTF-8"),
    ("a.jsonl", lambda data: data.replace(b'"rejected"', b'"x', 1), r"a\.jsonl, row 1 = .*as JSON cut or damaged"),
    ("a.jsonl", lambda data: data + b"[1, 2]\n", r"a\.jsonl, row 7 = \[1, 2\]: expected an object"),
    ("a.parquet", lambda data: data[:-50], r"a\.parquet, row 1 = .*as Parquet cut or damaged"),
    ("a.parquet", lambda data: b"PAR1" + bytes(100) + data[104:], r"a\.parquet, row 1 = .*as Parquet cut or damaged"),
    ("a.json", lambda data: data[:-40], r"a\.json, row 6, .*cut or damaged"),
]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    DAMAGED_FILES,
    ids=["UTF-8", "JSON", "no object", "cut Parquet", "damaged Parquet", "cut list"],
)
def test_a_damaged_file_is_refused_whatever_is_dropped(
    name: str, damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    hub_fixtures.put(path, MADE["pairs"](N))
    load(local(path, "pairs"), None, tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=f"^{message}"):
        load(local(path, "pairs", bad="drop"), None, tmp_path)


def test_bad_rows_are_left_out_and_counted_by_rule(tmp_path: Path) -> None:
    made, path = MADE["pairs"](10), tmp_path / "rows.jsonl"
    made[1]["rejected"], made[4]["chosen"], made[7]["chosen"] = made[1]["chosen"], None, turns("user", "assistant")
    made[5]["rejected"] = made[5]["chosen"]
    hub_fixtures.put(path, made)
    card, metrics = load(local(path, "pairs", bad="drop"), None, tmp_path)
    assert card["broken"] == {"null": 1, "prompt": 1, "same": 2} and card["rows"] == 6
    assert metrics == {"rows": 6, "read": 10, "broken": 4, "left_out": 0}
    assert card["examples"][0] == "rows.jsonl, row 2, column rejected: same"
    assert [row["id"] for row in rows.read(tmp_path)] == [f"pairs-{i:06d}" for i in (0, 2, 3, 6, 8, 9)]


def test_where_most_rows_are_bad_another_schema_is_meant(tmp_path: Path) -> None:
    made, path = MADE["pairs"](4), tmp_path / "rows.jsonl"
    for row in made[:3]:
        row["rejected"] = "a text"
    hub_fixtures.put(path, made)
    with pytest.raises(ConfigError, match=r"^schema = 'pairs': 3 of 4 rows of rows\.jsonl break it"):
        load(local(path, "pairs", bad="drop"), None, tmp_path)


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    hub_fixtures.put(path, MADE["pairs"](3))
    planned = local(path, "pairs", sha256=store.sha256(path))
    load(planned, None, tmp_path)
    hub_fixtures.put(path, MADE["pairs"](2))
    with pytest.raises(ConfigError, match=r"^source\.sha256 = .*name the content that is meant"):
        load(planned, None, tmp_path)


def test_where_few_rows_are_taken_bad_ones_are_measured_by_all_that_were_read(tmp_path: Path) -> None:
    made, path = MADE["pairs"](20), tmp_path / "rows.jsonl"
    for row in made[:4]:
        row["rejected"] = row["chosen"]
    hub_fixtures.put(path, made)
    card, _ = load(local(path, "pairs", bad="drop", every=8), None, tmp_path)
    assert (card["rows"], card["broken"], card["left_out"]) == (2, {"same": 4}, {"not every": 14})


def test_twins_are_left_out_of_what_is_trained_on_alone(tmp_path: Path) -> None:
    pairs, path = MADE["pairs"](3), tmp_path / "rows.jsonl"
    hub_fixtures.put(path, [*pairs, pairs[1], {**pairs[2], "rejected": [*pairs[2]["rejected"][:1], assistant("No.")]}])
    card, _ = load(local(path, "pairs"), None, tmp_path)
    assert card["rows"] == 4 and card["left_out"] == {"twin": 1}
    assert load(local(path, "pairs", part="in_domain"), None, tmp_path)[0]["rows"] == 5


def test_the_first_rows_are_taken_and_the_rest_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    hub_fixtures.put(path, MADE["pairs"](5))
    path.write_bytes(path.read_bytes() + b"{cut")
    assert load(local(path, "pairs", n=4), None, tmp_path)[1] == {"rows": 4, "read": 4, "broken": 0, "left_out": 0}
    with pytest.raises(ConfigError, match=r"row 6"):
        load(local(path, "pairs"), None, tmp_path)


def test_rows_are_never_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is held between two rows: no more than a chunk."""
    monkeypatch.setattr("pipeline.data.load.CHUNK", 3)
    monkeypatch.setattr("pipeline.data.reading.BATCH", 2)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(MADE["pairs"](8)), path)
    (out := tmp_path / "out").mkdir()
    load(local(path, "pairs"), None, out)
    with pq.ParquetFile(out / "rows.parquet") as written:
        assert [written.metadata.row_group(i).num_rows for i in range(written.num_row_groups)] == [3, 3, 2]


# --- one's own


def documented() -> list[Row]:
    (block,) = re.findall(r"```jsonl\n(.*?)```", (PROJECT / "docs" / "data.md").read_text(), re.DOTALL)
    return [json.loads(line) for line in block.splitlines()]


def as_csv(made: list[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "chosen", "rejected"])
        writer.writeheader()
        writer.writerows({name: row[name] for name in writer.fieldnames} for row in made)


def test_the_documented_file_is_read_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    hub_fixtures.put(path, documented())
    load(local(path, "own", part="preferences"), None, tmp_path)
    a, b, c = rows.read(tmp_path)
    assert (a["id"], rows.asked_of(a), a["chosen"], a["margin"]) == ("own-a", "What is 2 + 2?", "It is 4.", 1.5)
    assert [turn["role"] for turn in b["turns"]] == ["user", "assistant", "user"] and rows.asked_of(b) == b["turns"]
    assert (rows.asked_of(c), c["chosen"], c["rejected"], c["margin"]) == ("Name a colour.", "Red.", "Seven.", None)


def test_a_csv_and_a_parquet_file_say_the_same(tmp_path: Path) -> None:
    plain = [row for row in documented() if isinstance(row.get("prompt"), str)]
    plain.append({"id": "d", "prompt": "[1, 2]?", "chosen": "[3]", "rejected": '"no", he said'})
    as_csv(plain, tmp_path / "my.csv")
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "my.parquet")
    found: list[Any] = []
    for name in ("my.csv", "my.parquet"):
        load(local(tmp_path / name, "own", part="in_domain"), None, tmp_path)
        found.append([{**row, "margin": None} for row in rows.read(tmp_path)])
    assert found[0] == found[1] and len(found[0]) == len(plain)


def test_another_content_is_another_artefact(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    hub_fixtures.put(path, documented())
    x = experiment(["data=micro_local", f"data.path={path}"])
    builder = plan.Builder(STAGES, tmp_path)
    before = builder.add(*data_of(x, x.data.preferences, 0))
    hub_fixtures.put(path, documented()[:2])
    after = builder.add(*data_of(x, x.data.preferences, 0))
    assert before.key != after.key and before.blocked_by is None


def test_a_file_that_is_not_there_blocks_its_artefact(tmp_path: Path) -> None:
    for path, said in ((None, "say which file: data.path=FILE"), ("absent.jsonl", "no such file: absent.jsonl")):
        x = experiment(["data=local"])
        x = replace(x, data=replace(x.data, preferences=replace(x.data.preferences, path=path)))
        node = plan.Builder(STAGES, tmp_path).add(*data_of(x, x.data.preferences, 0))
        assert node.blocked_by == said
