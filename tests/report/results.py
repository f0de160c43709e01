"""A folder of results as the commands leave it: a store with a few benchmarks by hand, and what is rendered from it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from artefacts import prepared

from pipeline import claims, job, plan, store, table
from pipeline.plan import Node
from pipeline.report.found import Found
from pipeline.rows import Row
from pipeline.stages import STAGES

SIZE, SEEDS, PAIRS = "micro", (0, 1, 2), 8
ROWS = ("BT", "NormBT", "BSR")
NASTY = "</script><script>alert(1)</script> & <b>"
CLAIMS = (
    "planted-normbt",
    "normbt-average",
    "normbt-reasoning",
    "far-pairs-dominate",
    "head-identity",
    "gradient-grows-with-distance",
)


def publish(node: Node, metrics: dict[str, float], rows: list[Row], name: str) -> None:
    """As the node's job would."""
    spec = prepared(node)
    inputs = {
        at: {"stage": need.stage.name, "key": need.key, "folder": f"{need.stage.name}/{need.folder.name}"}
        for at, need in node.inputs.items()
    }
    attempt = node.folder / "attempt-by-hand"
    attempt.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), attempt / f"{name}.parquet")
    store.publish(node.folder, attempt, job.entry({**spec, "source": {}}, inputs, metrics, began=0.0))


def pairs(part: str) -> list[Row]:
    return [
        {
            "id": f"{part}-{i}",
            "prompt": NASTY if i == 0 else f"prompt {i}",
            "chosen": f"good {i}",
            "rejected": f"bad {i}",
            "subset": f"{part}-{i % 2}",
            "gold_chosen": 1.0,
            "gold_rejected": -0.5,
        }
        for i in range(PAIRS)
    ]


def scored(part: str, shift: float) -> list[Row]:
    """Rewards of chosen and rejected: the larger the shift, the more are right."""
    rewards = [[0.1 * i + shift, 0.5] for i in range(PAIRS)]
    return [
        {"set": part, "id": f"{part}-{i}", "rewards": each, "distance": float(i), "correct": each[0] > each[1]}
        for i, each in enumerate(rewards)
    ]


def benchmarks(node: Node, seed: int, shift: float, wanted: list[str]) -> None:
    """The bench node with its rows: accuracy in domain is what its examples say, other metrics are made up."""
    for part in ("in_domain", "reward_bench"):
        if not store.is_done(node.inputs[part].folder):
            publish(node.inputs[part], {}, pairs(part), "rows")
    examples = [*scored("in_domain", shift), *scored("reward_bench", shift)]
    right = [row["correct"] for row in examples if row["set"] == "in_domain"]
    metrics = dict.fromkeys(wanted, 0.01 * seed + shift) | {"in_domain/accuracy": sum(right) / len(right)}
    publish(node, metrics, examples, "examples")


def make(results: Path) -> Found:
    """The main table with three of its rows, some claims, one figure."""
    overrides = [f"run.root={results}"]
    spec = table.load("cross", STAGES, SEEDS, overrides)
    spec = replace(spec, rows=tuple(row for row in spec.rows if row.label in ROWS))
    made = table.experiments(spec, overrides)
    builder = plan.Builder(STAGES, results / "runs")
    metrics = [column.metric for column in spec.columns if column.stage == "bench"]
    for i, row in enumerate(ROWS):
        for seed in SEEDS:
            node = builder.add("bench", made[row, "ID accuracy", seed])
            benchmarks(node, seed, [0.1, 0.25, 0.1][i] + 0.02 * (seed * i % 2), [*metrics, "reward_bench/Reasoning"])
    table.render(table.fill("cross", spec, made, STAGES, results / "runs"), results / "tables")
    known = {name: claim for name, claim in claims.load().items() if name in CLAIMS}
    asked = claims.ask(known, overrides, STAGES, SEEDS)
    training(asked, builder)
    claims.render(claims.judge(asked, plan.Builder(STAGES, results / "runs")), SIZE, results / "claims")
    figure(results / "figures" / SIZE)
    return Found(results, SIZE)


def training(asked: Any, builder: plan.Builder) -> None:
    """What claims about training look at: a large effect, and an identity without any noise."""
    for seed in SEEDS:
        node = builder.add("rm", asked["far-pairs-dominate"].made[0, seed])
        shares = {"gradient_share_q3": 0.3, "gradient_share_q4": 0.7 + 0.01 * seed}
        publish(
            node,
            {**shares, "head_gradient_error": 0.0, "gradient_by_distance": 0.1 * (seed - 1)},
            [{"step": 0}],
            "dynamics",
        )


def figure(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "norms.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 5"><path d="M0 0L9 5"/></svg>'
    )
    said = {
        "figure": "norms",
        "title": "Norms",
        "caption": f"Norms of `h`. {NASTY}",
        "artefacts": ["rm/bt-s0-0123456789abcdef"],
    }
    (folder / "norms.json").write_text(json.dumps(said))
