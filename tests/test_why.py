"""The reasons, word for word: they are what a person decides by."""

import random
from pathlib import Path

import pytest
from artefacts import damage, fail, finish, planned, prepared, toy, toys

from pipeline import store
from pipeline.plan import Node
from pipeline.why import Alike, flat, input_keys

ALL = ("alpha", "beta", "gamma")


def reasons(
    root: Path, settings: dict[str, object] | None = None, **changed: dict[str, object]
) -> dict[str, list[str]]:
    nodes = planned(root, settings, toys(**changed), targets=ALL)
    return {name: node.why for name, node in nodes.items() if node.state == "run"}


def test_in_an_empty_store_nothing_was_ever_made(root: Path):
    assert reasons(root) == {"alpha": ["never made"], "beta": ["never made"], "gamma": ["never made"]}


def test_what_is_there_needs_no_reason(root: Path, done: dict[str, Node]):
    assert reasons(root) == {}


def test_another_setting_is_named_with_both_values(root: Path, done: dict[str, Node]):
    assert reasons(root, {"loss.coef": 0.02}) == {
        "beta": ["loss.coef 0.01 → 0.02"],
        "gamma": ["input beta changed because loss.coef 0.01 → 0.02"],
    }


def test_every_other_setting_is_named(root: Path, done: dict[str, Node]):
    assert reasons(root, {"judge.temperature": 2}) == {"gamma": ["judge.temperature 0.5 → 2"]}
    assert sorted(reasons(root, {"loss": "norm_bt"})["beta"]) == [
        "loss.coef 0.01 → (unset)",
        "loss.decay (unset) → 0.9",
        "loss.distance (unset) → l2",
        "loss.eps (unset) → 1e-06",
        "loss.mean_one (unset) → False",
        "loss.mu (unset) → ema",
        "loss.name bsr → norm_bt",
        "loss.power (unset) → 1",
        "loss.times_group False → (unset)",
    ]


def test_another_version_is_named(root: Path, done: dict[str, Node]):
    assert reasons(root, beta={"version": 3}) == {
        "beta": ["stage beta version 1 → 3"],
        "gamma": ["input beta changed because stage beta version 1 → 3"],
    }


def test_one_cause_of_several_inputs_is_told_once(root: Path, done: dict[str, Node]):
    assert reasons(root, {"seed": 1}) == {
        "alpha": ["seed 0 → 1"],
        "beta": ["input alpha changed because seed 0 → 1"],
        "gamma": ["inputs alpha, beta changed because seed 0 → 1"],
    }


def test_own_changes_come_before_those_of_inputs(root: Path, done: dict[str, Node]):
    assert reasons(root, {"seed": 1, "loss.coef": 0.02, "judge.temperature": 2}, gamma={"version": 2})["gamma"] == [
        "stage gamma version 1 → 2",
        "judge.temperature 0.5 → 2",
        "input alpha changed because seed 0 → 1",
        "input beta changed because loss.coef 0.01 → 0.02; seed 0 → 1",
    ]


def test_an_input_that_was_already_remade_has_its_cause_all_the_same(root: Path, done: dict[str, Node]):
    finish(planned(root, {"loss.coef": 0.02})["beta"])
    assert reasons(root, {"loss.coef": 0.02}) == {"gamma": ["input beta changed because loss.coef 0.01 → 0.02"]}


def test_the_nearest_artefact_is_compared_with(root: Path, done: dict[str, Node]):
    for node in planned(root, {"loss.coef": 0.5, "seed": 1}).values():
        finish(node)
    assert reasons(root, {"loss.coef": 0.25, "seed": 1})["beta"] == ["loss.coef 0.5 → 0.25"]
    assert reasons(root, {"loss.coef": 0.25})["beta"] == ["loss.coef 0.01 → 0.25"]


def test_another_slug_is_another_thing_and_simply_new(root: Path, done: dict[str, Node]):
    """Another seed or loss of a table has not changed from anything."""
    assert reasons(root, {"seed": 1}, alpha={"slug": lambda x: f"a{x.seed}"})["alpha"] == ["never made"]


def test_an_input_that_it_did_not_have_before_is_told(root: Path):
    before = {**toys(), "gamma": toy("gamma", ("judge",), ("alpha",))}
    for node in planned(root, stages=before).values():
        finish(node)
    assert reasons(root)["gamma"] == ["input beta changed because beta/b was never made"]


def test_a_missing_file_is_named(root: Path, done: dict[str, Node]):
    (done["beta"].folder / "out" / "rows.txt").unlink()
    assert reasons(root) == {"beta": ["damaged: out/rows.txt is missing"]}


def test_a_file_of_another_size_is_named(root: Path, done: dict[str, Node]):
    (done["beta"].folder / "out" / "rows.txt").write_text("short")
    assert reasons(root) == {"beta": ["damaged: out/rows.txt has 5 bytes instead of 15"]}


def test_a_damage_that_was_found_by_reading_is_remembered(root: Path, done: dict[str, Node]):
    damage(done["beta"].folder)
    with pytest.raises(store.Damaged):
        store.open_intact(done["beta"].folder)
    assert reasons(root) == {"beta": ["damaged: its content had changed"]}


def test_a_missing_file_that_was_found_by_opening_is_not_called_a_changed_one(root: Path, done: dict[str, Node]):
    (done["beta"].folder / "out" / "rows.txt").unlink()
    with pytest.raises(store.Damaged):
        store.open_intact(done["beta"].folder)
    assert "changed" not in reasons(root)["beta"][0] and "rows.txt" in reasons(root)["beta"][0]


def test_a_checkpoint_will_be_resumed(root: Path):
    node = planned(root)["alpha"]
    prepared(node)
    (node.folder / "checkpoint").mkdir()
    for step in (20, 100):
        (node.folder / "checkpoint" / f"step-{step:08d}.pt").touch()
    assert reasons(root)["alpha"] == ["never made", "will resume at step-00000100"]


def test_the_last_error_is_told(root: Path, done: dict[str, Node]):
    fail(planned(root, {"seed": 1})["alpha"], "FloatingPointError: the loss of step 3 is nan")
    assert reasons(root, {"seed": 1})["alpha"] == [
        "seed 0 → 1",
        "the last attempt failed: FloatingPointError: the loss of step 3 is nan",
    ]


def test_a_remake_after_damage_that_fails_tells_both(root: Path, done: dict[str, Node]):
    store.retract(done["beta"].folder)
    fail(done["beta"], "MemoryError")
    assert reasons(root)["beta"] == ["damaged: its content had changed", "the last attempt failed: MemoryError"]


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_is_what_comparing_with_all_finds(seed: int):
    draw = random.Random(seed)

    def drawn() -> dict:
        settings = {name: draw.randint(0, 2) for name in "abcde" if draw.random() < 0.8}
        return {"sections": {"s": {"same": 1, **settings}}, "inputs": {"x": {"key": str(draw.randint(0, 3))}}}

    alike, made = Alike(), [drawn() for _ in range(draw.randint(1, 12))]
    for each in made:
        alike.add(each)

    def says(found: dict) -> set[tuple[str, str]]:
        return {*flat(found["sections"]).items(), *input_keys(found).items()}

    for mine in (says(drawn()) for _ in range(10)):
        assert alike.nearest(mine) is min(made, key=lambda found: len(mine ^ says(found)))
