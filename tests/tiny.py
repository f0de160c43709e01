"""The smallest real thing of each kind, for tests that need a model, a tokenizer, rows or a stage's view."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import base, config, rows, world
from pipeline.experiment import Experiment, Model
from pipeline.rows import Row
from pipeline.stage import Sections, Stage, plain, view
from pipeline.stages import STAGES

torch.set_num_threads(1)  # as stages do; tests run side by side

OVERRIDES = (
    "scale=smoke",
    *("model.hidden=16", "model.layers=1", "model.heads=2", "model.mlp=32"),
    *("sft.batch=4", "rm.batch=4", "sft.steps=6", "log.every=1"),
    *("rloo.steps=4", "rloo.prompts=2", "rloo.k=2", "rloo.max_new=8", "rloo.whiten_samples=4"),
)


def experiment(*overrides: str) -> Experiment:
    return config.experiment((*OVERRIDES, *overrides))


def view_of(stage: str, x: Experiment) -> Sections:
    """What the stage is called with."""
    names = (*STAGES[stage].reads, "run", "log")
    return view(stage, {name: plain(getattr(x, name)) for name in names if getattr(x, name) is not None})


def settings(**other: Any) -> Model:
    values = {
        "source": "tiny",
        "family": "llama",
        "hidden": 16,
        "layers": 2,
        "heads": 2,
        "mlp": 32,
        "vocab": 1024,
        "positions": 160,
    }
    return Model(**{**values, **other})


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return base.tiny_tokenizer(settings())


def lm(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    return base.tiny(settings(family=family), tokenizer(), seed)


def varied(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """With a head that has opinions: the initial one is nearly uniform, and an error in it would hardly show."""
    weight: torch.Tensor = model.get_output_embeddings().weight  # type: ignore[union-attr,assignment]
    torch.nn.init.normal_(weight, std=1.0, generator=torch.Generator().manual_seed(seed))
    return model


@cache
def rows_of(part: str, n: int) -> tuple[Row, ...]:
    return tuple(world.rows(part, n, 0, world.World()))


def data(folder: Path, part: str, n: int) -> Path:
    """The folder of a data artefact."""
    folder.mkdir(parents=True)
    rows.write(folder, rows_of(part, n))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """{file: SHA-256} of everything below."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@dataclass(frozen=True)
class Fake(Stage):
    """A stage whose code is a module of its own name: it starts without torch, and may misbehave as a test wants."""

    @property
    def code(self) -> str:
        return self.name


def fake(name: str, *needs: str) -> Fake:
    return Fake(
        name, 1, reads=("seed",), needs=lambda x: {need: (need, x) for need in needs}, slug=lambda x: f"s{x.seed}"
    )


def install(folder: Path, code: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    """Modules for fake stages, which interpreters that are started from now on find."""
    folder.mkdir()
    for name, text in code.items():
        (folder / f"{name}.py").write_text(text)
    patch.setenv("PYTHONPATH", str(folder))
