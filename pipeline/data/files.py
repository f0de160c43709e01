"""Which files of a repository hold a split: as its card says, else as the files are named. The rules are those of the
`datasets` library for data without a loading script; a test compares both.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from pipeline.errors import check
from pipeline.experiment import Source
from pipeline.hub import CARD, Repository

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
NO_DATA = ("dataset_infos.json",)
WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "dev", "val")}
WORDS |= {"test": ("test", "testing", "eval", "evaluation")}


def find(source: Source, root: str | None) -> tuple[Repository, dict[str, str | None]]:
    """The repository of a hub source, and its files in order, each with the split that it is of. Of the repository no
    more than its card and the names of its files is fetched."""
    assert source.id is not None, "Source checks it"
    part = f" FILE={source.file}" if source.file else f" SPLIT={source.split}"
    part += f" CONFIG={source.config}" if source.config else ""
    repository = Repository("dataset", source.id, source.revision, root, part)
    if source.file is not None:
        return repository, {source.file: None}
    names = repository.names()
    card = (repository.get([CARD]).folder / CARD).read_text(encoding="utf-8") if CARD in names else ""
    splits = str(source.split).split("+")
    return repository, {
        name: split for split in splits for name in of_split(source.id, names, card, split, source.config)
    }


def of_split(id: str, names: Sequence[str], card: str, split: str, config: str | None = None) -> list[str]:
    """The files of one split, in order."""
    data = [name for name in sorted(names) if is_data(name)]
    described = header(card).get("configs") or []
    if described:
        found = by_card(id, described, data, split, config)
    else:
        inside = [name for name in data if config in (None, *PurePosixPath(name).parts[:-1])]
        found = by_name(inside, split)
    check(bool(found), "split", split, f"{id} has no such split, or no files that are read here: {', '.join(data[:9])}")
    return found


def is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return path.suffix in SUFFIXES and path.name not in NO_DATA and not hidden


def header(card: str) -> Mapping[str, Any]:
    """The YAML between the first two lines of ---."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    return (yaml.safe_load(found[1]) or {}) if found else {}


def by_card(
    id: str, described: Sequence[Mapping[str, Any]], data: Sequence[str], split: str, config: str | None
) -> list[str]:
    configs = {each.get("config_name", "default"): each for each in described}
    name = config or next((n for n, c in configs.items() if c.get("default")), "default")
    if config is None and len(configs) == 1:
        (name,) = configs
    check(name in configs, "config", config, f"{id} has {', '.join(configs)}")
    folder, files = configs[name].get("data_dir", ""), configs[name].get("data_files")
    inside = [each for each in data if each.startswith(f"{folder}/" if folder else "")]
    if files is None:
        return by_name(inside, split)
    if isinstance(files, str) or (files and isinstance(files[0], str)):
        files = [{"split": "train", "path": files}]
    patterns = [each["path"] for each in files if each.get("split", "train") == split]
    flat = [p for each in patterns for p in ([each] if isinstance(each, str) else each)]
    return [name for name in inside if any(matches(name, pattern, folder) for pattern in flat)]


def matches(name: str, pattern: str, folder: str) -> bool:
    """* stays within a folder, ** does not."""
    whole = f"{folder}/{pattern}" if folder else pattern.removeprefix("./")
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", whole)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(meaning.get(part, re.escape(part)) for part in parts), name) is not None


def by_name(data: Sequence[str], split: str) -> list[str]:
    """Shards data/SPLIT-00000-of-00001; else the word for the split in a folder's or file's name; else all is train."""
    shard = re.compile(r"data/(?P<split>[\w.-]+?)-\d{5}-of-\d{5}.*\.\w+")
    sharded = {name: found["split"] for name in data if (found := shard.fullmatch(name))}
    if sharded:
        return [name for name, of in sharded.items() if of == split]
    for part in (lambda path: "/".join(path.parts[:-1]), lambda path: path.name):
        words = {name: word_in(part(PurePosixPath(name))) for name in data}
        if any(words.values()):
            return [name for name, of in words.items() if of == split]
    return of_one_format(data) if split == "train" else []


def word_in(text: str) -> str | None:
    tokens = set(re.split(r"[^a-zA-Z0-9]+", text))
    return next((split for split, words in WORDS.items() if tokens & set(words)), None)


def of_one_format(data: Sequence[str]) -> list[str]:
    """The most common one."""
    if not data:
        return []
    most = Counter(PurePosixPath(name).suffix for name in data).most_common(1)[0][0]
    return [name for name in data if name.endswith(most)]
