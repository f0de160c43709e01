"""Prompts seen in training: planted ones are found and no others, like a brute force over all pairs; and every score
with and without them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pipeline import leak, leak_table, minhash, plan, rows
from pipeline.conversations import Prompt
from pipeline.errors import ConfigError
from pipeline.experiment import Leak
from pipeline.plan import Node
from pipeline.rows import Row
from pipeline.stage import Inputs, Stage, plain, view
from pipeline.stages import STAGES
from pipeline.stages.bench import run as bench
from pipeline.stages.leak import run as find

VOCABULARY = [f"w{i}" for i in range(500)]
WORDS, SIMILARITY = 13, 0.5


def say(draw: random.Random, n: int) -> list[str]:
    return draw.choices(VOCABULARY, k=n)


def varied(draw: random.Random, words: list[str]) -> list[str]:
    """The same with an edit or two, or with more before or after it."""
    made = list(words)
    for _ in range(draw.randrange(3)):
        made[draw.randrange(len(made))] = "other"
    return say(draw, draw.choice((0, 0, 5, 60))) + made + say(draw, draw.choice((0, 0, 5)))


def brute(training: list[list[str]], asked: list[str]) -> tuple[int, float] | None:
    """The first of the most similar by sets of word runs, against every training prompt."""

    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}

    own = runs(asked)
    found = [(len(own & theirs) / len(own | theirs), -at) for at, theirs in enumerate(map(runs, training))]
    similarity, at = max(found)
    return (-at, similarity) if similarity >= SIMILARITY else None


# --- similarity ---


def test_runs_of_words_by_hand():
    assert len(minhash.grams(["a b c d e"], 3)) == 3
    assert len(minhash.grams(["a b c", "b c d", "a b c"], 3)) == 2
    assert np.array_equal(minhash.grams(["Hello,  world!"], 13), minhash.grams(["hello world"], 13))
    assert not np.array_equal(minhash.grams(["hello world"], 13), minhash.grams(["world hello"], 13))
    said = ["7 2", "7, 2", *(f"7 {sign} 2" for sign in "-+*/=<>^%")]
    assert len({minhash.grams([text], 13).tobytes() for text in said}) == 1 + 9
    assert minhash.jaccard(minhash.grams(["a b c d"], 2), minhash.grams(["b c d e"], 2)) == 2 / 4


def test_the_share_of_common_buckets_is_what_the_formula_says():
    """Sets of Jaccard similarity 1/3 in 400 draws: 32 bands of 2 share none with probability (1 − 1/9)^32."""
    draw, bands = np.random.default_rng(0), minhash.Bands(bands=32, hashes=2)
    met, common = 0, []
    for _ in range(400):
        both, *own = (np.sort(draw.integers(2**63, size=30, dtype=np.uint64)) for _ in range(3))
        one, other = (bands.buckets(np.concatenate([both, each])) for each in own)
        common.append(sum(a == b for a, b in zip(one, other, strict=True)))
        met += common[-1] > 0
    assert np.mean(common) == pytest.approx(32 / 9, abs=4 * float(np.std(common)) / 20)
    assert met / 400 == pytest.approx(1 - (8 / 9) ** 32, abs=0.03)


def test_it_finds_what_a_brute_force_finds():
    draw = random.Random(0)
    training = [say(draw, draw.choice((3, 8, 14, 40, 120))) for _ in range(250)]
    training += [varied(draw, training[i]) for i in range(0, 100, 5)]
    asked = [varied(draw, draw.choice(training)) for _ in range(150)] + [say(draw, 40) for _ in range(50)]
    found = leak.repeats([" ".join(words) for words in training], [" ".join(w) for w in asked], WORDS, SIMILARITY)
    expected = [brute(training, words) for words in asked]
    assert [f and (f.at, pytest.approx(f.similarity)) for f in found] == expected
    assert 30 < sum(e is not None for e in expected) < 150


@pytest.mark.parametrize("similarity", [0.5, 0.9])
def test_the_threshold_decides(similarity: float):
    draw = random.Random(1)
    words = say(draw, 100)
    changed = [*words[:50], "other", *words[51:]]  # 13 of 88 runs differ: 75 / 101
    (found,) = leak.repeats([" ".join(words)], [" ".join(changed)], WORDS, similarity)
    assert found == (leak.Repeat(0, 75 / 101) if similarity == 0.5 else None)


def test_the_most_similar_of_several_is_named():
    words = say(random.Random(1), 100)
    training = [" ".join([*words[:50], "other", *words[51:]]), " ".join(words)]
    assert leak.repeats(training, [" ".join(words)], WORDS, SIMILARITY) == [leak.Repeat(1, 1.0)]


def test_conversations_are_compared_by_all_that_is_said_in_them():
    turns: Prompt = [
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "four five"},
        {"role": "user", "content": "six"},
    ]
    assert leak.repeats([turns], ["One two three. Four five? Six!"], WORDS, SIMILARITY) == [leak.Repeat(0, 1.0)]
    assert leak.repeats([turns], ["one two three"], WORDS, SIMILARITY) == [None]


@pytest.mark.parametrize(("name", "value"), [("words", 0), ("similarity", 0.0), ("similarity", 1.5)])
def test_rules_that_mean_nothing_are_refused(name: str, value: Any):
    with pytest.raises(ConfigError, match=rf"^{name} = "):
        Leak(**{"words": 13, "similarity": 0.5, name: value})


# --- the micro world ---

HELD_OUT = ("reward_bench", "rm_bench")
PARTS = {"in_domain": 150, "scenarios": 60, "reward_bench": 60, "rm_bench": 60}


def data(root: Path) -> dict[str, list[Row]]:
    """Preferences, of which a held-out prompt is planted in twenty, and the benchmarks."""
    made = {name: [dict(row) for row in tiny.rows_of(name, n)] for name, n in {**PARTS, "preferences": 400}.items()}
    planted = [made["rm_bench"][i]["prompt"] for i in (3, 17, 40)] + [made["reward_bench"][8]["prompt"]]
    for at, prompt in zip((5, 50, 100, 399), planted, strict=True):
        made["preferences"][at]["prompt"] = f"{prompt.upper()} "
    for name, own in made.items():
        folder = root / ("data" if name == "preferences" else name)
        folder.mkdir(parents=True)
        rows.write(folder, own)
    return made


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Row]], dict[str, float]]:
    root = tmp_path_factory.mktemp("leak")
    made = data(root)
    (root / "leak").mkdir()
    inputs = Inputs({name: root / name for name in ("data", *PARTS)})
    return root, made, find(tiny.view_of("leak", tiny.experiment()), inputs, root / "leak")


def test_planted_prompts_are_found_and_the_world_leaks_nothing_else(found: tuple[Path, Any, dict[str, float]]):
    root, made, metrics = found
    leaked = [row for row in rows.read(root / "leak") if row["leaked"]]
    prompts = {name: {row["prompt"] for row in own} for name, own in made.items()}
    planted = {row["prompt"] for row in (made["rm_bench"][3], made["rm_bench"][17], made["rm_bench"][40])}
    planted.add(made["reward_bench"][8]["prompt"])
    expected = {
        (name, row["id"])
        for name in PARTS
        for row in made[name]
        if row["prompt"] in planted | (prompts["preferences"] if name not in HELD_OUT else set())
    }
    assert {(row["set"], row["id"]) for row in leaked} == expected
    assert metrics["rm_bench/leaked"] >= 3 and metrics["reward_bench/leaked"] >= 1
    assert metrics["rm_bench/n"] == 60
    at = next(row for row in leaked if row["id"] == made["rm_bench"][17]["id"])
    assert (at["of"], at["similarity"]) == (made["preferences"][50]["id"], 1.0)


def test_held_out_sides_of_the_world_are_free_of_training_prompts():
    training = [row["prompt"] for row in tiny.rows_of("preferences", 400)]
    held_out = [row["prompt"] for name in HELD_OUT for row in tiny.rows_of(name, 60)]
    held_out += [row["prompt"] for row in tiny.rows_of("scenarios", 60) if row["set"] in ("prompt", "mutual")]
    assert leak.repeats(training, held_out, WORDS, SIMILARITY) == [None] * len(held_out)


# --- scores with and without ---


def node(folder: Path, name: str, inputs: dict[str, Node]) -> Node:
    x = tiny.experiment()
    stage: Stage = STAGES[name]
    sections = {section: plain(getattr(x, section)) for section in stage.reads if getattr(x, section) is not None}
    around = {"run": plain(x.run), "log": plain(x.log)}
    return Node(stage, "0" * 16, "s0", folder, sections, around, inputs, None)


def scores(made: dict[str, list[Row]]) -> list[Row]:
    draw = np.random.default_rng(0)
    return [
        {"set": name, "id": row["id"], "response": i, "reward": float(draw.normal()), "distances": apart}
        for name in PARTS
        for row in made[name]
        for k in [len(rows.responses_of(row))]
        for i, apart in enumerate(draw.random((k, k)).tolist())
    ]


@pytest.fixture
def nodes(found: tuple[Path, dict[str, list[Row]], Any], tmp_path: Path) -> tuple[Node, Node]:
    """What a store has after both stages: artefacts with `out`."""
    root, made, _ = found
    inputs = {name: node(tmp_path / name, "data", {}) for name in PARTS} | {"score": node(tmp_path / "s", "score", {})}
    for name, need in inputs.items():
        (need.folder / "out").mkdir(parents=True)
        own = scores(made) if name == "score" else made[name]
        rows.write(need.folder / "out", own, "scores" if name == "score" else "rows")
    judged, leaked = node(tmp_path / "bench", "bench", inputs), node(tmp_path / "leak", "leak", {})
    leaked.folder.mkdir()
    (leaked.folder / "out").symlink_to(root / "leak")
    (judged.folder / "out").mkdir(parents=True)
    return judged, leaked


def measured(judged: Node, folder: Path, data: dict[str, list[Row]]) -> dict[str, float]:
    """The bench stage on these rows alone."""
    for name, own in data.items():
        (folder / name).mkdir(parents=True)
        rows.write(folder / name, own)
    inputs = Inputs({"score": judged.inputs["score"].folder / "out", **{name: folder / name for name in data}})
    (folder / "out").mkdir()
    return bench(view("bench", {**judged.sections, **judged.around}), inputs, folder / "out")


def test_scores_without_leaked_rows_are_those_of_a_benchmark_that_never_had_them(
    nodes: tuple[Node, Node], found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    judged, leaked = nodes
    _, made, metrics = found
    bad = {(row["set"], row["id"]) for row in rows.read(leaked.folder / "out") if row["leaked"]}
    whole = measured(judged, tmp_path / "whole", {name: made[name] for name in PARTS})
    clean = measured(
        judged, tmp_path / "clean", {n: [row for row in made[n] if (n, row["id"]) not in bad] for n in PARTS}
    )
    monkeypatch.setattr(leak_table.store, "manifest", lambda folder: {"metrics": whole})
    lines = {line.metric: line for line in leak_table.lines(judged, leaked)}
    assert {"in_domain/accuracy", "scenarios/mutual/tau", "rm_bench/total_avg_acc", "reward_bench/average"} <= set(
        lines
    )
    assert not [name for name in lines if name.endswith(("/n", "/ties"))]
    for name, line in lines.items():
        assert (line.all, line.clean) == (whole[name], pytest.approx(clean[name]))
    for name in ("in_domain/accuracy", "rm_bench/chat", "reward_bench/Chat"):
        of = name.split("/")[0]
        assert (lines[name].n, lines[name].leaked) == (len(made[of]), metrics[f"{of}/leaked"])
    assert lines["scenarios/mutual/tau"].leaked == 0 and lines["scenarios/response/tau"].leaked > 0
    text = list(leak_table.text(list(lines.values())))
    assert len(text) == len(lines) + 1 and len({len(line) for line in text}) == 1


def test_a_benchmark_that_leaked_as_a_whole_has_no_score_without(
    nodes: tuple[Node, Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    judged, leaked = nodes
    flags = [{**row, "leaked": row["set"] == "in_domain"} for row in rows.read(leaked.folder / "out")]
    (tmp_path / "all").mkdir()
    rows.write(tmp_path / "all", flags)
    (leaked.folder / "out").unlink()
    (leaked.folder / "out").symlink_to(tmp_path / "all")
    monkeypatch.setattr(
        leak_table.store, "manifest", lambda folder: {"metrics": {"in_domain/accuracy": 0.5, "in_domain/n": 150}}
    )
    (line,) = leak_table.lines(judged, leaked)
    assert line == leak_table.Line("in_domain/accuracy", 150, 150, 0.5, None)
    assert list(leak_table.text([line]))[1].split() == ["in_domain/accuracy", "150", "150", "0.5000", "—"]


def test_the_stage_needs_preferences_and_benchmarks_alone(tmp_path: Path):
    graph, (target,) = plan.build(STAGES, tmp_path, [("leak", tiny.experiment())])
    assert {need.stage.name for need in target.inputs.values()} == {"data"}
    assert set(target.inputs) == {"data", *(n for n, s in tiny.experiment().data.benchmarks.items() if s)}
    assert len(graph) == 1 + len(target.inputs)


def test_a_training_prompt_is_kept_once_however_often_it_stands_there():
    training = [row["prompt"] for row in tiny.rows_of("preferences", 400)]
    seen = leak.Seen([*training, *(f"{prompt.upper()}!" for prompt in training)], WORDS, SIMILARITY)
    assert len(seen.grams) == len(set(training)) and max(seen.grams) < len(training)
    assert seen.nearest(training[-1]) == leak.Repeat(training.index(training[-1]), 1.0)
