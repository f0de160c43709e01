"""What the training of one reward model did, from the records that it left and from its scores: rows for figures, and
numbers beside those of its own manifest.

    pairs.parquet       every pair trained on: part of training, distance, error, gradient without and with its weight
    errors.parquet      mean gradients by error and distance, late in training
    growth.parquet      ‖W_p‖, distance and Δ by part of training, and what made Δ grow
    norms.parquet       ‖h‖ of train (late in training), of the in-domain and of the three other sets (trained model)
    categories.parquet  pairs of RewardBench: section, distance, error, gradient of the trained model
    examples.json       a near and a far pair of equal error

The manifest of `rm` has the rest: how gradients go with distance at equal error, gradient shares by distance, distances
and gradients by family, the growth of Δ from its first to its last steps, and on its probe set the correlation of
‖h_w − h_l‖ with the norm of the true gradient difference, the backbone's share in that, and effective ranks. That of
RM-Bench is `rank`'s. Where no score head gives the reward, ‖W_p‖ and head gradients are left out of all this.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import rows
from pipeline.metrics import dynamics, mechanisms, reward_bench
from pipeline.rows import Row
from pipeline.stage import Inputs, Sections

Columns = dict[str, np.ndarray]
Answers = dict[str, list[Row]]  # row id -> a record for each response, in order


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    recorded, steps = read(inputs["rm"], "dynamics"), read(inputs["rm"], "steps")
    metrics: dict[str, float] = {}
    headed = dynamics.has_head(steps)
    pairs = mechanisms.of_pairs(recorded, len(steps["step"]), headed)
    write(out, "pairs", {**pairs, "id": recorded["id"]})
    if len(steps["step"]):
        metrics |= of_training(recorded, steps, pairs, out) if headed else distances(pairs)
        write_examples(out, pairs, recorded, rows.read(inputs["data"]))
    if (inputs["rm"] / "probe.parquet").exists():
        wider = mechanisms.spread_growth(read(inputs["rm"], "probe"))
        metrics |= {f"norm_growth/{name}": value for name, value in wider.items()}
    scored = by_row(rows.read(inputs["score"], "scores"))
    norms = [{"set": "train", "norm": norm} for norm in late_norms(recorded, pairs["part"])]
    if "scenarios" in inputs:
        for name, columns in scenarios(rows.read(inputs["scenarios"]), scored["scenarios"]).items():
            metrics |= {f"scenarios/{name}/{key}": value for key, value in mechanisms.of_set(columns).items()}
            norms += [{"set": name, "norm": float(norm)} for norm in columns["norm"]]
    rows.write(out, norms, "norms")
    if "in_domain" in inputs:
        delta, distance = of_answers(scored["in_domain"])
        gradients = mechanisms.misranked(delta, distance) if headed else []
        metrics |= {f"misranked_gradient_q{i}": value for i, value in enumerate(gradients, start=1)}
    if "reward_bench" in inputs:
        by_section = of_sections(rows.read(inputs["reward_bench"]), scored["reward_bench"], out, headed)
        metrics |= {f"reward_bench/{name}": value for name, value in by_section.items()}
    return {name: float(value) for name, value in metrics.items() if not math.isnan(value)}  # where it is defined


def of_training(recorded: Columns, steps: Columns, pairs: Columns, out: Path) -> dict[str, float]:
    late = {name: values[pairs["part"] == pairs["part"].max()] for name, values in pairs.items()}
    cells = mechanisms.by_error(late)
    rows.write(out, cells, "errors")
    grown = mechanisms.growth(recorded, steps)
    rows.write(out, grown, "growth")
    plain = dynamics.shares_by_distance(late["gradient"], late["distance"], late["step"])
    return {
        **{f"head_norm/{name}": value for name, value in mechanisms.head_norm(steps["head_norm"]).items()},
        "far_over_near": mechanisms.far_over_near(cells, "gradient"),
        "weighted_far_over_near": mechanisms.far_over_near(cells, "weighted"),
        **{f"unweighted_gradient_share_q{i}": value for i, value in enumerate(plain, start=1)},
        **distances(pairs),
    }


def distances(pairs: Columns) -> dict[str, float]:
    """Their median by part of training."""
    medians = dynamics.by_group(pairs["part"], pairs["distance"])
    return {f"distance_median/part{part}": of["median"] for part, of in medians.items() if part != "0"}


def write_examples(out: Path, pairs: Columns, recorded: Columns, data: Sequence[Row]) -> None:
    """With their texts. Pairs without a name, and pairs of which the world knows that they were swapped, are not
    shown."""
    known = {row["id"]: row for row in data if "id" in row and not row.get("flipped")}
    shown = np.array([id in known for id in recorded["id"]], bool)
    candidates = {name: values[shown] for name, values in {**pairs, "id": recorded["id"]}.items()}
    mean = {step: pairs["distance"][pairs["step"] == step].mean() for step in np.unique(pairs["step"])}
    made = {}
    for name, i in mechanisms.undecided(candidates).items():
        row = known[candidates["id"][i]]
        made[name] = {
            **{key: float(candidates[key][i]) for key in ("step", "distance", "error", "gradient") if key in pairs},
            "batch_distance": float(mean[candidates["step"][i]]),  # what NormBT would measure the distance by
            **{key: row[key] for key in ("id", "chosen", "rejected")},
            "prompt": rows.prompt_of(row),
        }
    (out / "examples.json").write_text(json.dumps(made, indent=1))


def late_norms(recorded: Columns, part: np.ndarray) -> list[float]:
    """Of both responses of each pair, in the last part of training."""
    late = part == part.max(initial=0)
    return np.concatenate([recorded[name][late] for name in ("norm_w", "norm_l")]).tolist()


def by_row(scores: Sequence[Row]) -> Mapping[str, Answers]:
    """{set: answers}."""
    found: dict[str, Answers] = defaultdict(lambda: defaultdict(list))
    for record in scores:
        found[record["set"]][record["id"]].append(record)
    return found


def scenarios(data: Sequence[Row], scored: Answers) -> dict[str, dict[str, np.ndarray]]:
    """{set: columns, a row for each response}."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in data:
        for record, text, gold in zip(scored[row["id"]], row["responses"], row["gold"], strict=True):
            kept = {name: record[name] for name in ("id", "norm", "reward")}
            found[row["set"]].append({**kept, "length": len(text), "gold": gold})
    return {name: {key: np.array([row[key] for row in made]) for key in made[0]} for name, made in found.items()}


def of_answers(scored: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(n,) Δ and distances of pairs."""
    both = list(scored.values())
    delta = np.array([chosen["reward"] - rejected["reward"] for chosen, rejected in both])
    return delta, np.array([chosen["distances"][1] for chosen, _ in both])


def of_sections(data: Sequence[Row], scored: Answers, out: Path, headed: bool) -> dict[str, float]:
    delta, distance = of_answers({row["id"]: scored[row["id"]] for row in data})
    columns = {
        "category": np.array([section(row) for row in data], object),
        "distance": distance,
        "error": dynamics.error(delta),
        **({"gradient": dynamics.head_gradient(delta, distance)} if headed else {}),
    }
    write(out, "categories", columns)
    return mechanisms.by_category(columns["category"], columns)


def section(row: Row) -> str:
    official = {subset: name for name, subsets in reward_bench.SECTIONS.items() for subset in subsets}
    return row["section"] if "section" in row else official[row["subset"]]


def read(folder: Path, name: str) -> Columns:
    found = pq.read_table(folder / f"{name}.parquet")
    return {column: found[column].to_numpy() for column in found.column_names}


def write(out: Path, name: str, columns: Columns) -> None:
    pq.write_table(pa.table({column: pa.array(values) for column, values in columns.items()}), out / f"{name}.parquet")
