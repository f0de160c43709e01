"""A store in which all that the figures of conf/ read is there: a few rows of JSON in each artefact."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from artefacts import finish

from pipeline import plan
from pipeline.figures import spec
from pipeline.figures.spec import Figure
from pipeline.plan import Node
from pipeline.stages import STAGES

SETS = ("in_domain", "prompt", "response", "mutual")
SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning")


def figure(name: str, *overrides: str, seeds: Iterable[int] = (0, 1)) -> Figure:
    return spec.figure(name, STAGES, ("scale=smoke", *overrides), list(seeds))


def fill(root: Path, of: Figure) -> dict[tuple[str, str, int], Node]:
    """Makes what it reads. What differs by row and seed is told from the key alone."""
    nodes = of.nodes(plan.Builder(STAGES, root))
    for node in nodes.values():
        if not node.folder.exists():
            rng = np.random.default_rng(int(node.key[:8], 16))
            texts = {file: json.dumps(made) for file, made in files(node.stage.name, rng)}
            finish(node, metrics(of, rng), texts or None)
    return nodes


def metrics(of: Figure, rng: np.random.Generator) -> dict[str, float]:
    return {name: rng.uniform() for name in of.spec.metrics.values()} if isinstance(of.spec, spec.Bars) else {}


def files(stage: str, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    def some(n: int, *names: str) -> list[dict[str, Any]]:
        return [{"step": i, **{name: rng.uniform(0.1, 9) for name in names}} for i in range(n)]

    def of_each(groups: Iterable[Any], column: str, *names: str) -> list[dict[str, Any]]:
        return [{**row, column: group} for group in groups for row in some(9, *names)]

    if stage == "best_of_n":
        yield "examples.json", [{**row, "n": n} for n in (1, 2, 4, 8) for row in some(3, "gold")]
    elif stage == "rm":
        yield "steps.json", some(20, "head_norm")
        yield "probe_steps.json", of_each(SETS, "set", "tau")
        yield "gradients.json", [{**row, "step": step} for step in (0, 47) for row in some(9, "distance", "backbone")]
    elif stage == "dynamics":
        cells = ({"bin": b, "group": g, "error": b / 4} for b in (1, 2, 3) for g in (1, 2, 3, 4))
        yield (
            "errors.json",
            [{**row, **cell} for row, cell in zip(some(12, "distance", "weighted"), cells, strict=True)],
        )
        yield "norms.json", of_each(("train", *SETS), "set", "norm")
        yield "pairs.json", of_each((0, 1, 2, 3, 4), "part", "distance")
        yield "categories.json", of_each(SECTIONS, "category", "distance", "gradient")
        numbers = {"distance": 0.5, "error": 0.5, "gradient": 0.25, "batch_distance": 5.0}
        texts = {"prompt": "Add 2 to 3.", "chosen": "It is 5. " * 9, "rejected": "It is 6."}
        yield "examples.json", {"near": {**numbers, **texts}, "far": {**numbers, **texts, "distance": 9.0}}
    elif stage == "bench":
        pairs = of_each(("in_domain", "reward_bench"), "set")
        yield "examples.json", [{**row, "rewards": rng.normal(size=2).tolist()} for row in pairs]
    elif stage == "rloo":
        yield "curve.json", some(20, "reward", "gold", "kl")
    elif stage == "alpaca_eval":
        yield "examples.json", some(20, "length_1", "length_2")
