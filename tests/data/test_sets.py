"""Every data set of conf/data/set, from files in its owner's schema, through the data stage, without a route."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_fixtures
import pytest

from pipeline import config, rows
from pipeline.config import CONF, build, experiment, load_yaml
from pipeline.data import SCHEMAS, files, load, reading, schemas
from pipeline.experiment import Hub, Source
from pipeline.plan import Builder
from pipeline.stage import Inputs, plain, view
from pipeline.stages import STAGES, data_of
from pipeline.stages import data as stage

SETS = sorted(path.stem for path in (CONF / "data" / "set").glob("*.yaml"))
N = 8

# Of each set: rows, and the second of them, by hand.
ASKED = {"prompt": "What is 1 + 1?", "turns": None}
ANSWERS = {"chosen": "It is 2.", "rejected": "It is 3, I think."}
RANKED = {"responses": ["It is 2.", "It is 3, I think.", "1", "No idea."], "gold": [0.15, 0.12, 0.1, 0.05]}
SCORES = [9.0, 8.0, 7.0, 6.0]
LATER = {"prompt": "What is 101 + 101?", "responses": ["It is 202.", "It is 203, I think.", "101", "No idea."]}
STYLED = {
    "chosen": ["It is 2.", "It is 2. Indeed.", "**It is 2.** Indeed."],
    "rejected": ["It is 3, I think.", "It is 3, I think. Indeed.", "**It is 3, I think.** Indeed."],
}


def turn(role: str, content: str, weight: float) -> dict[str, Any]:
    return {"role": role, "content": content, "weight": weight}


ONE_ANSWER = [turn("user", "What is 1 + 1?", 0.0), turn("assistant", "It is 2.", 1.0)]
EXPECTED: dict[str, tuple[int, dict[str, Any]]] = {
    "ultrachat_200k": (N, {"messages": [*ONE_ANSWER, turn("user", "Sure?", 0.0), turn("assistant", "Yes.", 1.0)]}),
    "tulu_3_sft": (N, {"messages": [turn("system", "Be brief.", 0.0), *ONE_ANSWER]}),
    "rm_robustness_train": (N, {**ASKED, **ANSWERS, "margin": None, "id": "pairs-000001"}),
    "rm_robustness_valid_1": (N, {**ASKED, **ANSWERS}),
    "rm_robustness_valid_2": (N, {**LATER, "gold": RANKED["gold"]}),
    "rm_robustness_valid_3": (N, {**ASKED, **RANKED}),
    "rm_robustness_valid_4": (N, LATER),
    "ultrafeedback": (
        N,
        {"prompt": "What is 1 + 1?", "responses": RANKED["responses"], "overall_scores": SCORES},
    ),
    "skywork_preference_80k": (N, {**ASKED, **ANSWERS}),
    # of 40 rows 8 are rated the same; of the 32 others the first, eleventh, twenty-first and thirty-first
    "unified_feedback": (
        4,
        {"prompt": "What is 12 + 12?", "chosen": "It is 24.", "rejected": "It is 25, I think.", "margin": 2.5},
    ),
    "reward_bench": (23, {"prompt": "What is 1 + 1?", **ANSWERS, "subset": "alpacaeval-length"}),
    "reward_bench_2": (
        10,
        {"chosen": ["It is 2."], "rejected": RANKED["responses"][1:], "name": "1"},
    ),
    "pref_test_sets": (16, {**ANSWERS, "prompt": "Hello.\nHi.\nWhat is 1 + 1?", "subset": "anthropic_helpful"}),
    "rm_bench": (N, {**STYLED, "domain": "math", "id": "rm_bench-math-0"}),
    "alpaca_eval": (N, {"instruction": "What is 1 + 1?", "output": "It is 2.", "id": "alpaca_eval-000001"}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_fixtures.write(tmp_path_factory.mktemp("root"), N)


def source(name: str) -> Source:
    """As in its YAML, but that of the one file whose hash is known the fixture has another."""
    return replace(build(Source, load_yaml(CONF / "data" / "set" / f"{name}.yaml")), sha256=None)


def run(made: Source, root: Path, out: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, float]]:
    metrics = stage.run(view("data", {"source": plain(made), "hub": {"root": str(root)}}), Inputs(), out)
    return rows.read(out), json.loads((out / "card.json").read_text()), metrics


@pytest.mark.parametrize("name", SETS)
def test_a_set_becomes_the_rows_that_stages_read(name: str, root: Path, tmp_path: Path) -> None:
    made, card, metrics = run(source(name), root, tmp_path)
    n, second = EXPECTED[name]
    assert len(made) == n == card["rows"] == metrics["rows"]
    assert {key: made[1][key] for key in second} == second
    assert len({row["id"] for row in made}) == n and set(made[0]) == set(load.COLUMNS[source(name).part])
    assert card["broken"] == {} and card["commit"] is None and all(len(h) == 64 for h in card["files"].values())
    assert card["licence"] == source(name).licence and card["id"] == source(name).id


def test_of_unified_feedback_equal_ratings_are_left_out_and_a_tenth_is_taken(root: Path, tmp_path: Path) -> None:
    _, card, _ = run(source("unified_feedback"), root, tmp_path)
    assert card["read"] == 40 and card["left_out"] == {"equal ratings": 8, "not every": 28}
    every, _, _ = run(replace(source("unified_feedback"), every=None), root, tmp_path)
    assert len(every) == 32 and {row["chosen"] for row in every} == {f"It is {2 * i}." for i in range(40) if i % 5 != 4}
    asked = [row["prompt"] for row in every if row["prompt"].startswith(schemas.SUMMARIZE)]
    assert asked == [f"{schemas.SUMMARIZE}What is {i} + {i}?" for i in range(40) if i % 4 == 2 and i % 5 != 4]


def test_pairs_are_rankings_of_two_where_scenarios_are_asked_for(root: Path, tmp_path: Path) -> None:
    made, _, _ = run(replace(source("rm_robustness_valid_1"), part="scenarios", n=3), root, tmp_path)
    assert [row["responses"] for row in made] == [[f"It is {2 * i}.", f"It is {2 * i + 1}, I think."] for i in range(3)]
    assert {tuple(row["gold"]) for row in made} == {(1.0, 0.0)}


def test_the_prompts_of_a_set_alone(root: Path, tmp_path: Path) -> None:
    made, _, _ = run(replace(source("rm_robustness_valid_2"), part="prompts"), root, tmp_path)
    assert made[0].keys() == {"id", "prompt", "cluster"} and made[0]["prompt"] == "What is 100 + 100?"


@pytest.mark.parametrize("name", [name for name in SETS if name != "alpaca_eval"])
def test_a_split_is_what_the_datasets_library_takes_for_it(name: str, root: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    made = source(name)
    repository, names = files.find(made, str(root))
    for split in str(made.split).split("+"):
        paths = [repository.get(()).folder / file for file, of in names.items() if of == split]
        own = [row for path in paths for _, row in reading.rows(path)]
        theirs = load_dataset(str(repository.own), made.config, split=split, cache_dir=str(tmp_path))
        assert theirs.to_list() == own


def test_a_data_set_of_the_hub_says_its_commit(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub_server import HubServer, use

    folder = root / "datasets" / "allenai" / "reward-bench"
    given = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.parquet")}
    with HubServer({"datasets/allenai/reward-bench": given}) as server:
        use(server, tmp_path / "cache", monkeypatch)
        card, _ = load.load(source("reward_bench"), None, tmp_path)
    assert card["commit"] == server.commit("datasets/allenai/reward-bench")
    assert card["files"].keys() == {"data/filtered-00000-of-00001.parquet"}


def test_another_content_than_the_pinned_one_is_refused(root: Path, tmp_path: Path) -> None:
    pinned = build(Source, load_yaml(CONF / "data" / "set" / "alpaca_eval.yaml"))
    with pytest.raises(config.ConfigError, match=r"^source\.sha256 = '83db.*alpaca_eval_gpt4_baseline\.json has "):
        load.load(pinned, str(root), tmp_path)


# --- several sets


def test_several_sets_are_one_each_by_its_name(root: Path, tmp_path: Path) -> None:
    x = experiment(["scale=paper", f"hub.root={root}"])
    assert x.data.probe is not None
    name, asked = data_of(x, x.data.probe, 0)
    needs = STAGES[name].needs(asked)
    assert list(needs) == ["in_domain", "prompt", "response", "mutual"]
    assert {each.source.n for _, each in needs.values() if each.source} == {16}
    inputs = Inputs()
    for part, (_, each) in needs.items():
        assert each.source is not None
        (tmp_path / part).mkdir()
        run(each.source, root, tmp_path / part)
        inputs[part] = tmp_path / part
    stage.run(view("data", {"source": plain(asked.source), "hub": {}}), inputs, tmp_path)
    made = rows.read(tmp_path)
    assert [row["set"] for row in made[::N]] == ["in_domain", "mutual", "prompt", "response"] and len(made) == 4 * N
    assert {len(row["responses"]) for row in made if row["set"] != "in_domain"} == {4}
    assert len({row["id"] for row in made}) == len(made)


@pytest.mark.parametrize(("scale", "expected"), [("paper", [11082, None, None, None]), ("smoke", [16] * 4)])
def test_of_several_sets_each_has_at_most_what_is_asked_of_all(scale: str, expected: list[int | None]) -> None:
    x = experiment([f"scale={scale}", "data=ultra"])
    assert x.data.benchmarks["scenarios"] is not None
    name, asked = data_of(x, x.data.benchmarks["scenarios"], 0)
    assert [each.source.n for _, each in STAGES[name].needs(asked).values() if each.source] == expected


def test_a_source_of_the_hub_is_one_artefact_whatever_the_seed(tmp_path: Path) -> None:
    x = experiment(["scale=paper"])
    builder = Builder(STAGES, tmp_path)
    keys = {builder.add(*data_of(replace(x, seed=seed), x.data.preferences, seed)).key for seed in (0, 1)}
    elsewhere = builder.add(*data_of(replace(x, hub=Hub("there")), x.data.preferences, 0))
    assert len(keys) == 1 and elsewhere.key not in keys


def test_every_schema_has_its_columns_and_its_parts() -> None:
    assert {name: tuple(schema.parts) for name, schema in schemas.SCHEMAS.items()} == SCHEMAS
    assert {part for parts in SCHEMAS.values() for part in parts} == set(load.COLUMNS)
