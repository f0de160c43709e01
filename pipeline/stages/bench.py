"""Benchmark numbers from stored rewards: in-domain accuracy, the generalization scenarios, RewardBench 1 and 2,
RM-Bench."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import rows
from pipeline.metrics import kendall, pairs, reward_bench, reward_bench_2, rm_bench
from pipeline.rows import Row
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections


@dataclass
class Answers:
    """What a reward model made of a row's responses, in order."""

    rewards: list[float] = field(default_factory=list)
    distances: list[list[float]] = field(default_factory=list)  # between representations, each with each
    frozen: list[list[float]] = field(default_factory=list)  # the same in the SFT model; empty: not asked for


Scored = Mapping[str, Answers]  # by row id


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    found: dict[str, dict[str, Answers]] = defaultdict(lambda: defaultdict(Answers))
    for scored in rows.read(inputs["score"], "scores"):
        factor = outlier(x.bench.outliers, scored) if x.bench.outliers else 1.0
        answers = found[scored["set"]][scored["id"]]
        answers.rewards.append(factor * scored["reward"])
        answers.distances.append(scored["distances"])
    for scored in rows.read(inputs["frozen"], "scores") if "frozen" in inputs else ():
        found[scored["set"]][scored["id"]].frozen.append(scored["distances"])
    metrics: dict[str, float] = {}
    examples: list[Row] = []
    for name in sorted(set(inputs) - {"score", "frozen"}):
        data = rows.read(inputs[name])
        if x.bench.blind:
            for row in data:
                found[name][row["id"]].rewards = blind(x.bench.blind, name, row)
        metrics |= {f"{name}/{key}": value for key, value in BENCHMARKS[name](data, found[name]).items()}
        examples += [example(name, row, found[name][row["id"]]) for row in data]
    rows.write(out, examples, "examples")
    return metrics


def example(name: str, row: Row, answers: Answers) -> Row:
    """What statistics and figures are made of."""
    pair = len(answers.rewards) == 2
    return {
        "set": name,
        "id": row["id"],
        "cluster": row["cluster"],
        "subset": row.get("subset") or row.get("domain") or row.get("set") or row.get("side"),
        "rewards": answers.rewards,
        "lengths": [len(text) for text in rows.responses_of(row)],
        "distance": answers.distances[0][1] if pair else None,
        "frozen_distance": answers.frozen[0][1] if pair and answers.frozen else None,
        "correct": answers.rewards[0] > answers.rewards[1] if pair else None,
    }


def blind(kind: str, name: str, row: Row) -> list[float]:
    """What someone says of a row's responses who sees their length alone, or nothing at all."""
    lengths = [float(len(text)) for text in rows.responses_of(row)]
    if kind == "random":
        return np.random.default_rng(derive(0, "blind", name, row["id"])).random(len(lengths)).tolist()
    return lengths if kind == "longer" else [-length for length in lengths]


def outlier(spread: float, scored: Row) -> float:
    """What an outlier norm does to a reward: the head is linear and has no bias. A function of the row's name."""
    seed = derive(0, "outliers", scored["set"], scored["id"], scored["response"])
    return math.exp(spread * np.random.default_rng(seed).standard_normal())


def in_domain(data: Sequence[Row], scored: Scored) -> dict[str, float]:
    both = table(data, scored)
    return pairs.score(both[:, 0], both[:, 1], of_pairs(data, scored))


def of_pairs(data: Sequence[Row], scored: Scored) -> dict[str, np.ndarray]:
    """(n,) by which accuracy is broken down: how far apart the two are, how much longer the chosen one is."""
    lengths = np.array([[len(text) for text in rows.responses_of(row)] for row in data])
    apart = {name: matrices[:, 0, 1] for name, matrices in distances(data, scored).items()}
    return {**apart, "length_difference": lengths[:, 0] - lengths[:, 1]}


def distances(data: Sequence[Row], scored: Scored) -> dict[str, np.ndarray]:
    """(n, k, k) between a row's responses, in the reward model and in the SFT model if that was asked for."""
    answers = [scored[row["id"]] for row in data]
    apart = {"distance": np.array([a.distances for a in answers])}
    return apart | ({"frozen_distance": np.array([a.frozen for a in answers])} if answers[0].frozen else {})


def scenarios(data: Sequence[Row], scored: Scored) -> dict[str, float]:
    """Kendall's tau within each prompt, for each of the four sets."""
    by_set: dict[str, list[Row]] = defaultdict(list)
    for row in data:
        by_set[row["set"]].append(row)
    scores = {name: kendall.score(table(part, scored), [row["gold"] for row in part]) for name, part in by_set.items()}
    return {f"{name}/{key}": value for name, score in scores.items() for key, value in score.items()}


def reward_bench_v1(data: Sequence[Row], scored: Scored) -> dict[str, float]:
    """Rows that name their section go by that; otherwise the official sections and counts."""
    both = table(data, scored)
    subsets = [row["subset"] for row in data]
    if "section" not in data[0]:
        return reward_bench.score(subsets, chosen=both[:, 0], rejected=both[:, 1], covariates=of_pairs(data, scored))
    sections: dict[str, set[str]] = defaultdict(set)
    for row in data:
        sections[row["section"]].add(row["subset"])
    known = {name: sorted(members) for name, members in sorted(sections.items())}
    return reward_bench.score(
        subsets,
        chosen=both[:, 0],
        rejected=both[:, 1],
        sections=known,
        counts="rows",
        covariates=of_pairs(data, scored),
    )


def reward_bench_v2(data: Sequence[Row], scored: Scored) -> dict[str, float]:
    labels, names, right = ([row[column] for row in data] for column in ("subset", "name", "num_correct"))
    there = [name for name in reward_bench_2.SUBSETS if name in labels]
    rewards = [scored[row["id"]].rewards for row in data]
    return reward_bench_2.score(labels, names, right, rewards, subsets=there)


def prior_sets(data: Sequence[Row], scored: Scored) -> dict[str, float]:
    """Accuracies, and the mean that is RewardBench's fifth section."""
    both, labels = table(data, scored), np.array([row["subset"] for row in data])
    right = both[:, 0] > both[:, 1]
    accuracies = {str(name): float(right[labels == name].mean()) for name in np.unique(labels)}
    return {**accuracies, "average": reward_bench.prior_score(accuracies)}


def rm_bench_matrix(data: Sequence[Row], scored: Scored) -> dict[str, float]:
    """And what those get who look at length alone, or at nothing."""
    six = table(data, scored)
    labels, ids = [row["domain"] for row in data], [row["id"] for row in data]
    there = [name for name in rm_bench.DOMAINS if any(label.startswith(name) for label in labels)]
    lengths = np.array([[len(text) for text in rows.responses_of(row)] for row in data])
    by = {
        **{name: matrices[:, :3, 3:] for name, matrices in distances(data, scored).items()},
        "length_difference": rm_bench.length_differences(lengths[:, :3], lengths[:, 3:]),
    }
    blind = rm_bench.baselines(labels, ids, lengths[:, :3], lengths[:, 3:], seed=0, domains=there)
    return {
        **rm_bench.score(labels, ids, six[:, :3], six[:, 3:], domains=there, covariates=by),
        **{f"baseline/{name}/{key}": value for name, result in blind.items() for key, value in result.items()},
    }


def verdicts(data: Sequence[Row], scored: Scored) -> dict[str, float]:
    """Single answers: does a right one get a higher reward than a wrong one (auc), a positive one (accuracy)?"""
    metrics = {}
    for side in sorted({row["side"] for row in data}):
        part = [row for row in data if row["side"] == side]
        reward, right = table(part, scored)[:, 0], np.array([row["right"] for row in part])
        wins = np.sign(reward[right][:, None] - reward[~right])
        metrics |= {
            f"{side}/accuracy": float(((reward > 0) == right).mean()),
            f"{side}/auc": float((wins.mean() + 1) / 2),
        }
    return metrics


def table(data: Sequence[Row], scored: Scored) -> np.ndarray:
    """(rows, responses)."""
    return np.array([scored[row["id"]].rewards for row in data])


BENCHMARKS: dict[str, Callable[[Sequence[Row], Scored], dict[str, float]]] = {
    "in_domain": in_domain,
    "scenarios": scenarios,
    "reward_bench": reward_bench_v1,
    "reward_bench_2": reward_bench_v2,
    "prior_sets": prior_sets,
    "rm_bench": rm_bench_matrix,
    "verdicts": verdicts,
}
