"""Weights that are let go: what stays is done, and who needs them has them made again, the same."""

import io
from pathlib import Path

import pytest
from artefacts import finish, planned, states, toys

from pipeline import actions, dispatch, plan, store
from pipeline.config import experiment

FILES = {"rows.txt": "rows", "model.safetensors": "weights", "part.safetensors": "more"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return tmp_path / "runs"


def made(root: Path, *names: str) -> None:
    for name, node in planned(root).items():
        if name in (names or ("alpha", "beta", "gamma")):
            finish(node)


def test_the_rest_stays_and_is_done(root: Path):
    folder = planned(root)["alpha"].folder
    finish(planned(root)["alpha"], {"tau": 0.5}, FILES)
    assert store.is_whole(folder) and store.weights(folder) == 11
    store.release(folder)
    assert store.is_done(folder) and not store.is_whole(folder) and store.weights(folder) == 0
    assert [p.name for p in (folder / "out").rglob("*") if p.is_file()] == ["rows.txt"]
    found = store.manifest(folder)
    assert found and found["metrics"] == {"tau": 0.5} and list(found["files"]) == ["rows.txt"]
    assert set(found[store.RELEASED]) == {"model.safetensors", "part.safetensors"}
    assert list(plan.verify(root)) == [(folder, None)]


def test_it_is_an_input_only_of_who_reads_no_weights(root: Path):
    folder = planned(root)["alpha"].folder
    finish(planned(root)["alpha"], files=FILES)
    store.release(folder)
    assert store.open_intact(folder, weightless=True)["stage"] == "alpha"
    with pytest.raises(store.Damaged, match="its weights were released"):
        store.open_intact(folder)
    assert not store.is_done(folder)


def test_a_plan_makes_again_what_somebody_reads_and_nothing_else(root: Path):
    made(root)
    for name in ("alpha", "beta"):
        store.release(planned(root)[name].folder)
    assert states(planned(root)) == {"alpha": "idle", "beta": "idle", "gamma": "reuse"}
    assert states(planned(root, targets=("alpha", "gamma"))) == {"alpha": "reuse", "beta": "idle", "gamma": "reuse"}
    (planned(root)["gamma"].folder / store.MANIFEST).unlink()
    nodes = planned(root, targets=("alpha", "gamma"))
    assert states(nodes) == {"alpha": "run", "beta": "run", "gamma": "run"}
    assert nodes["alpha"].why == ["its weights were released (run.retention), and are needed again"]
    nodes = planned(root, stages=toys(gamma={"weightless": ("alpha", "beta")}))
    assert states(nodes) == {"alpha": "reuse", "beta": "reuse", "gamma": "run"}


def test_it_is_made_again_with_the_same_bytes(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "WEIGHTS", "rows.txt")  # the toys' only file

    def run(*targets: str) -> dispatch.Outcome:
        graph, wanted = plan.build(toys(), root, [(name, experiment((), {"loss": "bsr"})) for name in targets])
        plan.judge(graph, wanted)
        return dispatch.run(graph, wanted, experiment().run, 1, io.StringIO())

    run("beta")
    alpha = planned(root)["alpha"].folder
    before = (store.manifest(alpha) or {})["files"]
    store.release(alpha)
    assert not run("beta").made
    assert [node.stage.name for node in run("gamma").made] == ["alpha", "gamma"]
    assert store.is_whole(alpha) and (store.manifest(alpha) or {})["files"] == before


def test_nothing_is_spent_that_is_still_to_be_read(root: Path):
    for name in ("alpha", "beta"):
        finish(planned(root)[name], files=FILES)

    def spent(*stages: str, **changed: dict) -> list[str]:
        nodes = planned(root, stages=toys(**changed))
        return [folder.parent.name for folder, size in plan.spent({n.key: n for n in nodes.values()}, stages) if size]

    assert spent("alpha", "beta") == []
    assert spent("alpha", "beta", gamma={"weightless": ("alpha",)}) == ["alpha"]
    finish(planned(root)["gamma"])
    assert spent("alpha", "beta") == ["alpha", "beta"] and spent("beta") == ["beta"]


def test_gc_follows_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(actions.table, "names", lambda: ["floors"])  # the others take a while
    asked = ["table=floors", "scale=smoke", "seeds=[0]", f"run.root={tmp_path}", "action=gc", "run.retention.rm=scores"]
    table = actions.Table("floors", ["scale=smoke", f"run.root={tmp_path}"], [0])
    rms = [node for node in table.graph.values() if node.stage.name == "rm"]
    for node in table.graph.values():
        finish(node, files=FILES if node.stage.name in ("sft", "rm") else None)

    def lines(*more: str) -> list[str]:
        assert actions.reproduce([*asked, *more]) == 0
        return capsys.readouterr().out.splitlines()

    said = [f"rm/{node.folder.name}: weights" for node in rms]
    listed = lines()
    assert [line.split("MiB  ")[1] for line in listed[1:-1]] == said and all(store.is_whole(n.folder) for n in rms)
    assert (
        listed[-1]
        == f"weights of {len(rms)} artefact(s), 0.0 MiB, are needed no more (run.retention); yes=true deletes them"
    )
    assert lines("yes=true")[-1].startswith(f"deleted weights of {len(rms)} artefact(s)")
    assert not any(store.is_whole(node.folder) for node in rms) and all(store.is_done(node.folder) for node in rms)
    assert lines()[-1] == "weights of 0 artefact(s), 0.0 MiB, are needed no more (run.retention)"
    sft = next(node for node in table.graph.values() if node.stage.name == "sft")
    assert store.is_whole(sft.folder)
