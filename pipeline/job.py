"""One artefact, made in this process: lock, check the inputs, run the stage, publish. The same call serves the
local runner, a fresh interpreter (`python -m pipeline.job FOLDER`) and a cluster node; all it gets is the
artefact's folder with `spec.json`.
"""

import importlib
import json
import os
import platform
import resource
import secrets
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import lock, stopping, store
from pipeline.config import leaves
from pipeline.launch import launched
from pipeline.stage import Inputs, view

DONE, FAILED, STOPPED = 0, 1, 75  # 75: sysexits' TEMPFAIL, come again
SHARED = ("sft", "rm", "rloo")  # stages whose training loop several processes can share
THERE, HELD, DAMAGED = 72, 73, 74  # made by another process before; being made by one; an input is not what it was
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pandas", "scipy", "scikit-learn", "safetensors", "pyarrow")


def main(folder: Path) -> int:
    """This process's part of the artefact, if torchrun or SLURM started several. The first one does all but its share
    of the loop, and its exit code speaks for all: a launcher ends the others when one fails."""
    rank, processes, _ = launched()
    spec = json.loads((folder / "spec.json").read_text())
    if spec["stage"] not in SHARED or processes == 1:
        return run(folder) if rank == 0 else DONE
    from pipeline import dist  # loads torch

    with dist.together():
        if not dist.first():
            follow(folder, spec)
            return DONE
        begun: list[int] = []
        code = run(folder, lambda: begun.append(dist.tell(1)))
        if not begun:
            dist.tell(0)
        return code


def follow(folder: Path, spec: Mapping[str, Any]) -> None:
    """What a process beside the first one does: its share of the stage's loop, writing nothing."""
    from pipeline import dist

    inputs = Inputs({name: folder.parent.parent / need["folder"] / "out" for name, need in spec["inputs"].items()})
    with suppress(dist.Released, stopping.Stopped):
        if dist.tell(0):
            compute(spec, inputs, folder / "written-by-the-first")
            raise AssertionError("the first process alone ends a stage")


def run(folder: Path, begin: Callable[[], None] = lambda: None) -> int:
    """Makes the artefact of this folder, unless it is there; returns the exit code. Calls `begin` before computing."""
    spec = json.loads((folder / "spec.json").read_text())
    if store.is_whole(folder):
        return THERE
    held = lock.acquire(folder, spec["around"]["run"]["lock_seconds"])
    if isinstance(held, lock.Owner):
        print(f"{spec['stage']}/{spec['slug']} is being made by {held}", flush=True)
        return HELD
    try:
        return THERE if store.is_whole(folder) else attempt(folder, spec, begin)
    finally:
        held.release()


def attempt(folder: Path, spec: Mapping[str, Any], begin: Callable[[], None]) -> int:
    for stale in folder.glob("attempt-*"):
        shutil.rmtree(stale)
    out = folder / f"attempt-{secrets.token_hex(4)}"
    out.mkdir()
    error = folder / "log" / "error.json"
    try:
        began = time.time()
        inputs, keys = open_inputs(folder.parent.parent, spec["inputs"])
        begin()
        metrics = compute(spec, inputs, out)
        store.publish(folder, out, entry(spec, keys, metrics, began))
    except stopping.Stopped:
        shutil.rmtree(out, ignore_errors=True)
        return STOPPED
    except store.Damaged as e:
        print(f"input damaged: {e}", flush=True)
        return DAMAGED
    except Exception as e:  # whatever a stage raises: recorded for `status` and the next plan, then the process ends
        traceback.print_exc()
        message = f"{type(e).__name__}: {e}"
        store.write_atomically(error, json.dumps({"error": message.splitlines()[0], "trace": traceback.format_exc()}))
        return FAILED
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    error.unlink(missing_ok=True)
    (folder / store.DAMAGED_MANIFEST).unlink(missing_ok=True)
    return DONE


def compute(spec: Mapping[str, Any], inputs: Inputs, out: Path) -> dict[str, float]:
    sections = {**spec["sections"], **spec["around"]}
    if "compute" in sections:
        from pipeline.dist import prepare

        prepare(sections["compute"]["threads"], sections["compute"]["precision"])
    stage = importlib.import_module(spec["code"])
    return stage.run(view(spec["stage"], sections), inputs, out)


def open_inputs(root: Path, wanted: Mapping[str, Any]) -> tuple[Inputs, dict[str, Any]]:
    """Folders of the inputs, every byte checked."""
    inputs, keys = Inputs(), {}
    for name, need in wanted.items():
        found = store.open_intact(root / need["folder"], need["weightless"])
        assert found["key"] == need["key"], f"input {name} is {found['key']}, not {need['key']}"
        inputs[name] = root / need["folder"] / "out"
        keys[name] = {"stage": found["stage"], "key": found["key"], "folder": need["folder"]}
    return inputs, keys


def entry(
    spec: Mapping[str, Any], inputs: Mapping[str, Any], metrics: Mapping[str, float], began: float
) -> dict[str, Any]:
    """The manifest but for the files. Nothing in it is read by a later stage except key and hashes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seeds = {k: v for k, v in leaves(spec["sections"]).items() if k.split(".")[-1] == "seed"}
    return {
        **{name: spec[name] for name in ("stage", "version", "slug", "key", "sections", "commit", "dirty")},
        "inputs": inputs,
        "seeds": seeds,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "source": spec["source"],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "device": "cpu",
        "began": began,
        "ended": time.time(),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_memory_bytes": used.ru_maxrss * 1024,
    }


if __name__ == "__main__":
    stopping.listen()
    code = main(Path(os.path.abspath(sys.argv[1])))
    sys.exit(DONE if code == THERE else code)
