"""Which files a split is, in layouts that the hub's own sets do not have: beside what the `datasets` library takes."""

import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError
from pipeline.data import files

DATA_DIR = (
    "---\nconfigs:\n- config_name: one\n  data_dir: one\n- config_name: two\n  data_dir: two\n  default: true\n---\n"
)
ONE_PATTERN = "---\nlicence: mit\nconfigs:\n- config_name: default\n  data_files: rows/*.jsonl\n---\n"
DEEP = (
    "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    path:\n    - a/**/*.jsonl\n"
    "    - b/?.jsonl\n  - split: test\n    path: b/test*\n---\n"
)
# files; card; split, configuration; what is taken
LAYOUTS: dict[str, tuple[tuple[str, ...], str, str, str | None, tuple[str, ...]]] = {
    "named": (("train.jsonl", "test.jsonl"), "", "test", None, ("test.jsonl",)),
    "eval": (("eval.jsonl", "my_train_rows.jsonl"), "", "test", None, ("eval.jsonl",)),
    "folders": (("train/a.jsonl", "dev/a.jsonl"), "", "validation", None, ("dev/a.jsonl",)),
    "all": (("a.jsonl", "b.jsonl", ".hidden.jsonl"), "# Rows\n", "train", None, ("a.jsonl", "b.jsonl")),
    "shards": (
        ("data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/odd-00000-of-00001.jsonl"),
        *("", "odd", None, ("data/odd-00000-of-00001.jsonl",)),
    ),
    "data_dir": (("one/train.jsonl", "two/train.jsonl"), DATA_DIR, "train", "one", ("one/train.jsonl",)),
    "default": (("one/train.jsonl", "two/train.jsonl"), DATA_DIR, "train", None, ("two/train.jsonl",)),
    "pattern": (("rows/a.jsonl", "rows/b/c.jsonl"), ONE_PATTERN, "train", None, ("rows/a.jsonl",)),
    "deep": (("a/x.jsonl", "a/b/y.jsonl", "b/z.jsonl", "b/test-1.jsonl"), DEEP, "train", "all",
             ("a/b/y.jsonl", "a/x.jsonl", "b/z.jsonl")),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_as_the_datasets_library_reads_it(layout: str, tmp_path: Path) -> None:
    from datasets import load_dataset

    names, card, split, config, expected = LAYOUTS[layout]
    assert tuple(files.of_split("org/rows", names, card, split, config)) == expected
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"of": name}) + "\n")
    (tmp_path / "README.md").write_text(card)
    theirs = load_dataset(str(tmp_path), config, split=split, cache_dir=str(tmp_path / "cache"))
    assert sorted(theirs["of"]) == sorted(expected)


@pytest.mark.parametrize(
    ("split", "config", "message"),
    [
        ("test", "one", r"^split = 'test': org/rows has no such split.*one/train\.jsonl"),
        ("train", "three", r"^config = 'three': org/rows has one, two$"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(split: str, config: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        files.of_split("org/rows", ["one/train.jsonl", "two/train.jsonl"], DATA_DIR, split, config)
