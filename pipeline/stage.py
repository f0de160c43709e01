"""What a stage is: a name, a version, the config sections it reads, the artefacts it needs. And what identifies its
result.

The key of an artefact is a hash of exactly that, so it is known before anything runs. No torch here: a stage's code
is named by its dotted path and imported inside the job.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.config import closest, convert, hints
from pipeline.errors import ConfigError
from pipeline.experiment import NEVER_HASHED, Experiment, Log, Run

Needs = Mapping[str, tuple[str, Experiment]]  # input name -> (stage, its experiment)


@dataclass(frozen=True)
class Stage:
    name: str
    version: int  # raise it when the stage computes something else from the same config
    reads: tuple[str, ...]  # sections of the experiment; nothing else can be read, all of it is hashed
    needs: Callable[[Experiment], Needs]
    slug: Callable[[Experiment], str]  # for people, in folder and job names; a function of what is read
    ready: Callable[[Experiment], str | None] = lambda x: None  # why it cannot run here, checked without torch
    weightless: tuple[str, ...] = ()  # inputs whose weights it does not read

    @property
    def code(self) -> str:
        return f"pipeline.stages.{self.name}"


class Undeclared(AttributeError):
    """A stage read what it does not declare; its key would not depend on it."""


class Sections:
    """The view of an experiment that a stage gets: its declared sections, and run and log, which cannot matter to a
    result."""

    run: Run
    log: Log

    def __init__(self, stage: str, sections: Mapping[str, Any]):
        self.__dict__.update(sections)
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        raise Undeclared(
            f"stage {self._stage} reads section {name!r}; add it to the stage's `reads` in pipeline/stages/__init__.py"
        )


def view(stage: str, plain: Mapping[str, Any]) -> Sections:
    """Sections from plain values, as a job gets them."""
    types = hints(Experiment)
    made = {}
    for name, value in plain.items():
        made[name] = convert(value, types[name], name)
    return Sections(stage, made)


class Inputs(dict[str, Path]):
    """Input name -> the folder with its files."""

    def __missing__(self, name: str) -> Path:
        raise Undeclared(f"no input {name!r}; declared: {', '.join(self) or 'none'}")


def plain(value: Any) -> Any:
    """Dataclasses to JSON values, without the Nones: a new optional key moves no identity."""
    if is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: plain(v) for name, v in pairs if v is not None}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)  # 1 and 1.0 are the same setting
    return value


def identity(stage: Stage, sections: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The key: 16 hex digits of a hash over stage, version, what is read, and the inputs' keys. A section that says
    nothing moves no key."""
    said = {name: section for name, section in sections.items() if section != {}}
    assert not set(stage.reads) & set(NEVER_HASHED), f"{stage.name} reads a section that must not matter"
    text = json.dumps(
        [stage.name, stage.version, said, dict(inputs)], sort_keys=True, ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(stages: Mapping[str, Stage], name: str) -> Stage:
    if name not in stages:
        raise ConfigError("stage", name, f"no such stage; {closest(name, stages)}")
    return stages[name]
