"""What missing artefacts need of the hub, fetched into its client's cache: then all runs without a route, with
HF_HUB_OFFLINE=1. A file that is there is not fetched again, one that was broken off goes on where it ended. No torch.
"""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import actions, config, plan
from pipeline.data import files
from pipeline.errors import ConfigError, check
from pipeline.experiment import Source
from pipeline.hub import CARD, NO_MODEL_FILES, Repository, chosen, model_files
from pipeline.plan import Node

PART = ("split", "config", "file")
OWN = ("table", "repository", *PART, "fetch")
UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Piece:
    """Files of one repository. source: those of a data set's split; None: all that are read of one. code: a model's
    own too, which runs where trust_remote_code says so."""

    repository: Repository
    source: Source | None = None
    code: bool = False

    @property
    def name(self) -> str:
        part = "" if self.source is None else f" {self.source.split or self.source.file}"
        return f"{self.repository.kind:7} {self.repository.name}{part}"

    def files(self) -> tuple[Path, dict[str, int]]:
        """The folder in the cache, and the sizes of the files."""
        folder, sizes = self.repository.files()
        if self.repository.kind == "model":
            names = chosen(sizes, model_files(self.code), NO_MODEL_FILES)
        elif self.source is None:
            names = [name for name in sizes if files.is_data(name)]
        else:
            names = list(files.find(self.source, None)[1])
        for name in names:
            check(name in sizes, "hub", f"{self.repository.name}/{name}", "the repository has no such file")
        return folder, {name: sizes[name] for name in names}


def run(arguments: Sequence[str]) -> int:
    """From a command line; returns the exit code."""
    own = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in OWN}
    config.check_first_names(arguments, OWN)
    check(("table" in own) != ("repository" in own), "table", own.get("table"), "say table= or repository=")
    fetch = own.get("fetch", "true")
    check(fetch in ("true", "false"), "fetch", fetch, "expected true or false")
    wanted = named(own) or of_tables(own["table"].split(","), [a for a in arguments if a.partition("=")[0] not in OWN])
    sizes, failed = listed(wanted)
    if fetch == "true":
        failed |= fetched(sizes)
    for piece, why in failed.items():
        print(f"error: {piece.repository.kind} {why}", file=sys.stderr)
    return 1 if failed else 0


def named(own: Mapping[str, str]) -> list[Piece]:
    """What the command line names itself; nothing if it names a table."""
    if "table" in own:
        return []
    name, _, revision = own["repository"].partition("@")
    kind, _, id = name.partition("/")
    check(kind in ("models", "datasets"), "repository", name, "expected models/ORG/NAME or datasets/ORG/NAME")
    if kind == "datasets" and any(key in own for key in PART):
        return [of_data(id, revision or "main", own)]
    return [Piece(Repository("model" if kind == "models" else "dataset", id, revision or "main"))]


def of_data(id: str, revision: str, part: Mapping[str, Any]) -> Piece:
    """A split, or a file, whatever its columns are."""
    split, config, file = (part.get(key) for key in PART)
    source = Source("hub", "prompts", id=id, revision=revision, schema="prompts", split=split, config=config, file=file)
    return Piece(Repository("dataset", id, revision), source)


def of_tables(names: Sequence[str], overrides: Sequence[str]) -> list[Piece]:
    tables = actions.Tables(names, overrides)
    root = tables.any.hub.root
    check(root is None, "hub.root", root, "nothing is fetched then: all comes from that folder")
    plan.judge(tables.graph, tables.targets)
    return needed(node for node in tables.graph.values() if node.state in ("run", "blocked"))


def needed(nodes: Iterable[Node]) -> list[Piece]:
    """Of each model and each split once."""
    found: dict[Any, Piece] = {}
    for node in nodes:
        unread = ("judge",) if node.sections.get("calibration", {}).get("kind") == "file" else ()
        for name, section in node.sections.items():
            if name not in unread and isinstance(section, dict) and section.get("id") and section.get("revision"):
                piece = of_section(name, section)
                if piece is not None:
                    found.setdefault((piece.name, piece.code), piece)
    return sorted(found.values(), key=lambda piece: piece.name)


def of_section(name: str, section: Mapping[str, Any]) -> Piece | None:
    """A section with id and revision means a model, but for those of data."""
    id, revision = section["id"], section["revision"]
    if name == "source":
        return of_data(id, revision, section)
    if name == "calibration":
        return of_data(id, revision, {"file": section["file"]})
    code = bool(section.get("trust_remote_code"))
    return None if Path(id).is_dir() else Piece(Repository("model", id, revision), code=code)


def listed(pieces: Sequence[Piece]) -> tuple[dict[Piece, list[str]], dict[Piece, str]]:
    """Prints each with its size and what of it lacks; returns the files to fetch, and why some cannot be told."""
    names: dict[Piece, list[str]] = {}
    failed: dict[Piece, str] = {}
    missing, where = 0, None
    for piece in pieces:
        try:
            where, sizes = piece.files()
        except ConfigError as e:
            failed[piece] = f"{e.value}: {e.remedy}"
            print(f"{piece.name}: size unknown")
            continue
        names[piece] = list(sizes)
        lacks = sum(size for name, size in sizes.items() if not (where / name).exists())
        missing += lacks
        print(f"{piece.name}: {shown(sum(sizes.values()))}, {shown(lacks) if lacks else 'nothing'} to fetch")
    unknown = f", and {len(failed)} of unknown size" if failed else ""
    print(f"{len(pieces)} of the hub, {shown(missing)} to fetch{unknown}", flush=True)
    there = next((place for place in (where, *where.parents) if place.exists()), None) if where else None
    free = shutil.disk_usage(there).free if there else missing
    check(missing <= free, "HF_HOME", str(where), f"{shown(free)} are free there: name a place with room for it")
    return names, failed


def fetched(names: Mapping[Piece, Sequence[str]]) -> dict[Piece, str]:
    failed = {}
    for piece, each in names.items():
        try:
            piece.repository.get([*each, CARD], quiet=False)
        except ConfigError as e:
            failed[piece] = f"{e.value}: {e.remedy}"
    return failed


def shown(size: float) -> str:
    at = 0
    while size >= 1000 and at < len(UNITS) - 1:
        size, at = size / 1000, at + 1
    return f"{size:.3g} {UNITS[at]}"
