"""Prompts: two disjoint sides with enough of every family, each text read back into the task that made it."""

import pytest

from pipeline.world import World, rows
from pipeline.world.draw import Draw
from pipeline.world.families import SHARES, draw_task, read_task, tasks
from pipeline.world.families.task import SIDES


def _tasks(family, side):
    return [task for kind in tasks(family, side) for task in kind]


@pytest.mark.parametrize("family", SHARES)
def test_sides_are_disjoint_and_large(family):
    train, valid = ({task.prompt for task in _tasks(family, side)} for side in SIDES)
    assert not train & valid
    assert len(train) >= 500
    assert len(valid) >= 150


@pytest.mark.parametrize("family", SHARES)
def test_a_prompt_states_its_task(family):
    for side in SIDES:
        for task in _tasks(family, side):
            assert read_task(task.prompt) == task
            assert (task.family, task.side) == (family, side)


def test_families_come_in_their_shares():
    draw = Draw(6)
    families = [draw_task(draw, "train").family for _ in range(20_000)]
    for family, share in SHARES.items():
        assert families.count(family) / len(families) == pytest.approx(share, abs=0.01)


def test_held_out_prompt_rows_are_distinct():
    for part in ("best_of_n", "alpaca_eval"):
        found = rows(part, 400, 0, World())
        texts = [row.get("prompt") or row["instruction"] for row in found]
        assert len(set(texts)) == len({row["cluster"] for row in found}) == 400
        assert {read_task(text).side for text in texts} == {"valid"}


def test_rows_for_policy_training_are_train_side():
    assert {read_task(row["prompt"]).side for row in rows("prompts", 400, 0, World())} == {"train"}
