"""The graph of what is wanted, and the state of each artefact in it."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from artefacts import damage, finish, planned, states, toys

from pipeline import plan, store
from pipeline.config import experiment
from pipeline.errors import ConfigError
from pipeline.plan import Node

ALL = ("alpha", "beta", "gamma")


# --- the graph ---


def test_inputs_come_before_their_users(root: Path):
    x = experiment()
    graph, targets = plan.build(toys(), root, [("gamma", x)])
    assert [node.stage.name for node in graph.values()] == ["alpha", "beta", "gamma"]
    assert [node.stage.name for node in targets] == ["gamma"]
    gamma = targets[0]
    assert {name: need.stage.name for name, need in gamma.inputs.items()} == {"alpha": "alpha", "beta": "beta"}


def test_an_artefact_lies_where_its_stage_slug_and_key_say(root: Path):
    node = planned(root)["beta"]
    assert node.folder == root / "beta" / f"b-{node.key}" and node.name == "beta/b"


def test_a_node_hashes_what_its_stage_reads_and_carries_run_and_log(root: Path):
    node = planned(root)["beta"]
    loss = node.sections["loss"]
    assert list(node.sections) == ["loss"] and loss["name"] == "bsr" and loss["of"] == {"name": "bt"}
    assert set(node.around) == {"run", "log"} and node.lock_seconds == 60


def test_what_several_want_is_there_once(root: Path):
    one, other = experiment(), experiment((), {"judge.temperature": 0.25})
    graph, targets = plan.build(toys(), root, [("gamma", one), ("gamma", other), ("gamma", one)])
    assert [node.stage.name for node in graph.values()] == ["alpha", "beta", "gamma", "gamma"]
    assert len(targets) == 2 and targets[0].inputs["beta"] is targets[1].inputs["beta"]


def test_equal_experiments_are_one_even_if_they_are_two_objects(root: Path):
    graph, targets = plan.build(toys(), root, [("beta", experiment()), ("beta", experiment((), {"run.jobs": 1}))])
    assert len(graph) == 2 and len(targets) == 1


def test_replicas_are_shared_by_all_seeds_of_a_sweep(root: Path):
    from pipeline.stages import STAGES

    wanted = [("rm", experiment((), {"seed": seed, "loss": loss})) for seed in range(8) for loss in ("bt", "bsr")]
    graph, _ = plan.build(STAGES, root, wanted)
    names = [node.stage.name for node in graph.values()]
    assert {name: names.count(name) for name in names} == {"data": 4 + 2 * 8, "sft": 4, "rm": 16}


def test_who_asks_for_the_same_rows_gets_them_with_its_own_way_to_run(root: Path):
    from pipeline.stages import STAGES

    for jobs in (1, 2):
        graph, _ = plan.build(STAGES, root, [("rm", experiment((), {"run.jobs": jobs, "rm.batch": 8 * jobs}))])
        assert {node.around["run"]["jobs"] for node in graph.values()} == {jobs}


def test_a_stage_that_was_imported_takes_the_place_of_nothing(root: Path):
    """`pipeline.stages.data` is a module from then on, whatever was called so before."""
    from pipeline import stages

    def keys() -> list[str]:
        return list(
            plan.build(stages.STAGES, root, [(name, experiment()) for name in ("alpaca_eval", "bench", "card")])[0]
        )

    before = keys()
    for stage in stages.STAGES.values():
        importlib.import_module(stage.code)
    assert keys() == before
    assert all(isinstance(getattr(stages, name), ModuleType) for name in stages.STAGES)


def test_an_unknown_stage_is_refused(root: Path):
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        plan.build(toys(), root, [("gama", experiment())])


# --- states ---


def test_in_an_empty_store_everything_runs(root: Path):
    assert states(planned(root)) == {"alpha": "run", "beta": "run", "gamma": "run"}


def test_what_is_done_is_reused_and_nothing_above_it_is_looked_at(root: Path, done: dict[str, Node]):
    assert states(planned(root)) == {"alpha": "idle", "beta": "idle", "gamma": "reuse"}
    assert states(planned(root, targets=ALL)) == {"alpha": "reuse", "beta": "reuse", "gamma": "reuse"}


@pytest.mark.parametrize("found", [False, True])
def test_what_is_damaged_is_made_again_though_all_below_it_is_done(root: Path, done: dict[str, Node], found: bool):
    (done["alpha"].folder / "out" / "rows.txt").unlink()
    if found:  # by verify, or by whoever opened it
        store.retract(done["alpha"].folder)
    assert states(planned(root)) == {"alpha": "run", "beta": "idle", "gamma": "reuse"}


def test_what_lies_above_a_done_artefact_may_be_gone(root: Path, done: dict[str, Node]):
    store.shutil.rmtree(done["alpha"].folder)
    assert states(planned(root)) == {"alpha": "idle", "beta": "idle", "gamma": "reuse"}


def test_a_missing_artefact_wants_its_inputs_only(root: Path, done: dict[str, Node]):
    store.retract(done["gamma"].folder)
    assert states(planned(root)) == {"alpha": "reuse", "beta": "reuse", "gamma": "run"}
    store.retract(done["beta"].folder)
    assert states(planned(root)) == {"alpha": "reuse", "beta": "run", "gamma": "run"}


@pytest.mark.parametrize("name", ALL)
def test_deleting_one_file_replans_exactly_that_artefact(root: Path, done: dict[str, Node], name: str):
    (done[name].folder / "out" / "rows.txt").unlink()
    assert states(planned(root, targets=ALL)) == {other: "run" if other == name else "reuse" for other in ALL}


@pytest.mark.parametrize(
    ("settings", "run"),
    [
        ({"seed": 1}, {"alpha", "beta", "gamma"}),
        ({"loss.coef": 0.5}, {"beta", "gamma"}),
        ({"judge.temperature": 0.25}, {"gamma"}),
        ({"rm.batch": 8, "run.jobs": 7, "log.mode": "offline", "size": "other"}, set()),
    ],
    ids=("seed", "loss", "judge", "what does not matter"),
)
def test_a_setting_replans_who_reads_it_and_what_is_below(
    root: Path, done: dict[str, Node], settings: dict[str, object], run: set[str]
):
    after = states(planned(root, settings, targets=ALL))
    assert {name for name, state in after.items() if state == "run"} == run


def test_a_version_replans_its_stage_and_what_is_below(root: Path, done: dict[str, Node]):
    after = states(planned(root, stages=toys(beta={"version": 2}), targets=ALL))
    assert after == {"alpha": "reuse", "beta": "run", "gamma": "run"}


def test_what_cannot_work_here_is_blocked_with_all_below_it(root: Path):
    nodes = planned(root, stages=toys(beta={"ready": lambda x: "no network"}), targets=ALL)
    assert states(nodes) == {"alpha": "run", "beta": "blocked", "gamma": "blocked"}
    assert (nodes["beta"].why, nodes["gamma"].why) == (["no network"], ["input beta is blocked"])


def test_what_cannot_work_here_but_is_there_is_reused(root: Path, done: dict[str, Node]):
    nodes = planned(root, stages=toys(beta={"ready": lambda x: "no network"}), targets=ALL)
    assert states(nodes) == {"alpha": "reuse", "beta": "reuse", "gamma": "reuse"}


def test_a_state_is_judged_anew_each_time(root: Path, done: dict[str, Node]):
    graph, targets = plan.build(toys(), root, [("gamma", experiment((), {"loss": "bsr"}))])
    plan.judge(graph, targets)
    assert targets[0].state == "reuse"
    store.retract(targets[0].folder)
    plan.judge(graph, targets)
    assert targets[0].state == "run" and graph[targets[0].inputs["beta"].key].state == "reuse"


# --- upkeep ---


def test_verify_finds_damage_that_keeps_the_size_and_takes_back_exactly_that(root: Path, done: dict[str, Node]):
    damage(done["beta"].folder)
    assert states(planned(root, targets=ALL)) == {"alpha": "reuse", "beta": "reuse", "gamma": "reuse"}
    found = {folder.parent.name: reason for folder, reason in plan.verify(root)}
    assert found == {
        "alpha": None,
        "beta": "out/rows.txt has another content than when it was made",
        "gamma": None,
    }
    after = planned(root, targets=ALL)
    assert states(after) == {"alpha": "reuse", "beta": "run", "gamma": "reuse"}
    assert after["beta"].why == ["damaged: its content had changed"]
    assert [reason for _, reason in plan.verify(root)] == [None, None]


def test_what_no_graph_reaches_is_listed_with_its_size(root: Path, done: dict[str, Node]):
    other = planned(root, {"judge.temperature": 0.25})
    finish(other["gamma"], files={"a.txt": "12345", "b.txt": "678"})
    unfinished = root / "alpha" / "a-unfinished" / "log"
    unfinished.mkdir(parents=True)
    (unfinished / "console.log").write_text("123")
    graph = {node.key: node for node in done.values()}
    found = dict(plan.unreachable(root, plan.places(graph)))
    assert set(found) == {other["gamma"].folder, root / "alpha" / "a-unfinished"}
    assert found[root / "alpha" / "a-unfinished"] == 3
    kept = sum(path.stat().st_size for path in other["gamma"].folder.rglob("*") if path.is_file())
    assert found[other["gamma"].folder] == kept > 8
    graph |= {node.key: node for node in other.values()}
    assert [folder for folder, _ in plan.unreachable(root, plan.places(graph))] == [root / "alpha" / "a-unfinished"]


def test_an_empty_store_has_nothing_to_list(root: Path):
    assert list(plan.unreachable(root, set())) == [] and list(plan.verify(root)) == []
