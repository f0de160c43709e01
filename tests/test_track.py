"""Records of what happened: in JSON lines, in a progress file, and in W&B's own file, read back without its service."""

import json
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from pipeline import dispatch, job, plan
from pipeline.forkserver import Server
from pipeline.plan import Node
from pipeline.track import Track

SECRET = "5ec2e7" * 6 + "abcd"  # as long as a W&B key


def track(folder: Path, step: int = 0, **log: Any) -> Track:
    out = folder / "attempt"
    out.mkdir(parents=True, exist_ok=True)
    x = tiny.experiment(*(f"log.{key}={value}" for key, value in log.items()))
    return Track(tiny.view_of("rm", x), out, total=5, step=step)


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


# --- JSON lines and the progress file ---


def test_every_record_is_a_line_with_step_time_and_numbers(tmp_path: Path) -> None:
    with track(tmp_path) as log:
        log.log(1, {"loss": 0.5, "accuracy": 1})
        assert records(tmp_path)[0]["loss"] == 0.5  # there at once, not when the file is closed
        log.log(2, {"loss": 0.25})
    first, second = records(tmp_path)
    assert (first["step"], first["loss"], first["accuracy"]) == (1, 0.5, 1.0)
    assert (second["step"], second["loss"]) == (2, 0.25)
    assert first["time"] <= second["time"]


def test_a_resumed_stage_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with track(tmp_path) as log:
        for step in range(1, 5):
            log.log(step, {"loss": step})
    with track(tmp_path, step=2) as log:
        log.log(3, {"loss": 30})
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(1, 1), (2, 2), (3, 30)]


def test_a_stage_that_starts_again_drops_everything(tmp_path: Path) -> None:
    with track(tmp_path) as log:
        log.log(1, {"loss": 1})
    with track(tmp_path):
        pass
    assert records(tmp_path) == []


def test_a_line_torn_by_a_crash_does_not_stop_the_stage(tmp_path: Path) -> None:
    with track(tmp_path) as log:
        log.log(1, {"loss": 1})
        log.log(2, {"loss": 2})
    path = tmp_path / "log" / "metrics.jsonl"
    path.write_text(path.read_text()[:-10])
    with track(tmp_path, step=2):
        pass
    assert [r["step"] for r in records(tmp_path)] == [1]


def test_progress_says_how_far_and_how_fast(tmp_path: Path) -> None:
    path = tmp_path / "log" / "progress.json"
    with track(tmp_path, step=1) as log:
        log.progress(2)
        at = json.loads(path.read_text())
        assert (at["step"], at["total"]) == (2, 5) and at["rate"] > 0
        log.progress(3)  # too soon after the last to be worth a write
        assert json.loads(path.read_text())["step"] == 2
        log.progress(5)  # but the end is always told
        assert json.loads(path.read_text())["step"] == 5


# --- W&B ---


LOGS = """
from pipeline.track import Track


def run(x, inputs, out):
    with Track(x, out, 3) as log:
        for step in (1, 2, 3):
            log.log(step, {"loss": 1 / step, "accuracy": step})
            log.progress(step)
        if (out.parent / "log" / "fail").exists():
            raise RuntimeError("as asked")
    return {}
"""


def node(root: Path, **log: Any) -> Node:
    x = tiny.experiment("seed=7", *(f"log.{key}={value}" for key, value in log.items()))
    _, (made,) = plan.build({"logs": tiny.fake("logs")}, root, [("logs", x)])
    dispatch.prepare(made, {"commit": None, "dirty": None, "source": {}})
    return made


def by_interpreter(made: Node) -> int:
    return subprocess.run([sys.executable, "-m", "pipeline.job", made.folder], timeout=60).returncode


def by_fork_server(made: Node) -> int:
    server = Server([made.stage.code])
    server.start(made.folder)
    while not (ended := server.ended(60)):
        pass
    server.close()
    return ended[0][1]


def records_of_wandb(path: Path) -> Iterator[Any]:
    """Protocol-buffer records of a `.wandb` file: W&B's header, then LevelDB's log format (blocks of 32 KiB; a record
    has a checksum, a length and a kind: 1 whole, 2 first, 3 middle, 4 last)."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def offline_run(folder: Path) -> dict[str, Any]:
    """What W&B has on disk for the artefact in `folder`."""
    (path,) = (folder / "log" / "wandb").glob("offline-run-*/run-*.wandb")
    found: dict[str, Any] = {"history": [], "ended": False}
    for record in records_of_wandb(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "group": record.run.run_group, "project": record.run.project}
            found["config"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            found["history"].append({name: value for name, value in items.items() if not name.startswith("_")})
        found["ended"] |= kind == "exit"
    return found


@pytest.mark.parametrize("start", [by_interpreter, by_fork_server])
def test_an_offline_run_holds_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Any) -> None:
    """A child of the fork server ends without Python's exit handlers, so the stage itself has to end the run."""
    tiny.install(tmp_path / "code", {"logs": LOGS}, monkeypatch)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    made = node(tmp_path / "runs", mode="offline", project="some-project")
    assert start(made) == job.DONE
    found = offline_run(made.folder)
    assert [item["loss"] for item in found["history"]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [item["accuracy"] for item in found["history"]] == [1, 2, 3]
    assert found["ended"]
    assert (found["id"], found["group"], found["project"]) == (made.key, "logs", "some-project")
    assert found["config"]["seed"] == 7
    assert str(tmp_path) not in json.dumps(found["config"])
    written = [p for p in (made.folder / "log").rglob("*") if p.is_file()]
    assert written and not any(SECRET.encode() in p.read_bytes() for p in written)


def test_an_offline_run_holds_what_a_failed_stage_had_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(tmp_path / "code", {"logs": LOGS}, monkeypatch)
    made = node(tmp_path / "runs", mode="offline")
    (made.folder / "log" / "fail").touch()
    assert by_fork_server(made) == job.FAILED
    found = offline_run(made.folder)
    assert len(found["history"]) == 3 and found["ended"]


def test_offline_runs_of_a_stage_made_twice_are_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is the id: uploading both goes on in the same run."""
    tiny.install(tmp_path / "code", {"logs": LOGS}, monkeypatch)
    made = node(tmp_path / "runs", mode="offline")
    assert by_interpreter(made) == job.DONE
    (made.folder / "manifest.json").unlink()
    assert by_interpreter(made) == job.DONE
    folders = sorted((made.folder / "log" / "wandb").glob("offline-run-*"))
    assert 1 <= len(folders) <= 2  # the same second gives the same folder
    assert {folder.name.rpartition("-")[2] for folder in folders} == {made.key}


DISABLED = """
import sys
from pathlib import Path
from types import SimpleNamespace
from pipeline.track import Track
with Track(SimpleNamespace(log=SimpleNamespace(mode="disabled", every=1)), Path("out"), 1) as log:
    log.log(1, {"loss": 1})
sys.exit("wandb" in sys.modules or "torch" in sys.modules)
"""


def test_disabled_means_not_even_imported(tmp_path: Path) -> None:
    """The default; in an interpreter of its own, since another test may have imported it here."""
    (tmp_path / "out").mkdir()
    done = subprocess.run([sys.executable, "-c", DISABLED], cwd=tmp_path, timeout=60)
    assert done.returncode == 0
    assert tiny.experiment().log.mode == "disabled"


@pytest.fixture
def wandb() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a third party's import
        return pytest.importorskip("wandb")


def spoiled(*args: object, **kwargs: object) -> None:
    raise OSError("no space left on device")


def test_a_run_that_cannot_be_opened_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: Any) -> None:
    monkeypatch.setattr(wandb, "init", spoiled)
    made = node(tmp_path, mode="offline")
    with pytest.warns(UserWarning, match="W&B is off for this stage: no space left"):
        log = track(made.folder, mode="offline")
    with log:
        log.log(1, {"loss": 1})
    assert len(records(made.folder)) == 1


def test_a_run_that_breaks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: Any) -> None:
    class Run:
        log = finish = spoiled

    monkeypatch.setattr(wandb, "init", lambda **settings: Run())
    made = node(tmp_path, mode="offline")
    with pytest.warns(UserWarning, match="W&B: no space left") as seen, track(made.folder, mode="offline") as log:
        log.log(1, {"loss": 1})
    assert len(seen) == 2  # when it logs, and when it ends
    assert len(records(made.folder)) == 1


def test_without_its_library_a_stage_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    made = node(tmp_path, mode="offline")
    with pytest.warns(UserWarning, match="W&B is off"), track(made.folder, mode="offline"):
        pass


def test_a_stage_whose_wandb_fails_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a job of its own, with a library that cannot even be imported."""
    broken = "raise RuntimeError('broken')"
    tiny.install(tmp_path / "code", {"logs": LOGS, "wandb": broken}, monkeypatch)
    made = node(tmp_path / "runs", mode="offline")
    assert by_fork_server(made) == job.DONE
    assert "W&B is off for this stage: broken" in (made.folder / "log" / "console.log").read_text()
    assert len(records(made.folder)) == 3
