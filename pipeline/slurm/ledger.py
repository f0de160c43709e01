"""What was submitted: one small file for each array, written before SLURM is asked and again when it has answered. A
submitter may die between any two lines: the token in the job's comment tells whose job it is."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import store


@dataclass(frozen=True)
class Record:
    """One array."""

    token: str
    name: str
    code: str  # folder of the snapshot that it runs
    keys: dict[int, str]  # index: artefact; empty for a report
    calls: dict[int, Any]  # index: (function of inside.py, its arguments)
    report: tuple[str, ...] | None = None  # the table's arguments
    job: str | None = None  # SLURM's number; None: not known whether it took the array

    def element(self, index: int) -> str:
        return f"{self.job}_{index}"

    def folder(self, index: int) -> Path:
        """Of its artefact."""
        return Path(self.calls[index][1]["folder"])


class Ledger:
    def __init__(self, home: Path):
        self.folder = home / "jobs"

    def path(self, record: Record) -> Path:
        return self.folder / f"{record.token}.json"

    def write(self, record: Record) -> Record:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        store.write_atomically(self.path(record), json.dumps(asdict(record)))
        return record

    def took(self, record: Record, job: str) -> Record:
        return self.write(replace(record, job=job))

    def drop(self, record: Record) -> None:
        self.path(record).unlink(missing_ok=True)

    def read(self) -> list[Record]:
        """All records, the oldest first."""
        paths = [p for p in self.folder.glob("*.json") if not p.name.startswith(".")]
        found = []
        for path in sorted(paths, key=lambda p: (p.stat().st_mtime_ns, p.name)):
            values = store.read_json(path)
            if values is not None:
                by_index = {name: {int(i): v for i, v in values[name].items()} for name in ("keys", "calls")}
                report = None if values["report"] is None else tuple(values["report"])
                found.append(Record(**{**values, **by_index, "report": report}))
        return found
