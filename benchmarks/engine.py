"""What the engine itself costs: CPU seconds of children, medians of rounds. Writes results/bench/engine.json and prints
a table; exit 1 where a must is missed."""

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from pipeline import config, dispatch, plan, source, store, table
from pipeline.stages import STAGES

ROUNDS = 7
PROJECT = config.PROJECT
REPRODUCE = [sys.executable, str(PROJECT / "scripts" / "reproduce.py")]
SEEDS = "seeds=[0,1,2,3,4,5]"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder, "empty"), Path(folder, "full")
        artefacts = fabricate(full)
        planning = ["table=cross", "action=plan", SEEDS]
        bars = [
            bar("--help", lambda: cpu([*REPRODUCE, "--help"]), must=0.4, aim=0.3),
            bar(
                f"plan {artefacts} artefacts, none there",
                lambda: cpu([*REPRODUCE, *planning, f"run.root={empty}"]),
                1.5,
                0.6,
            ),
            bar(
                f"plan {artefacts} artefacts, all there",
                lambda: cpu([*REPRODUCE, *planning, f"run.root={full}"]),
                1.5,
                0.6,
            ),
            bar("make again what is there", lambda: cpu([*REPRODUCE, "table=cross", SEEDS, f"run.root={full}"]), 5, 1),
            bar("a stage through the fork server, beside its work", lambda: overhead(Path(folder, "run")), 0.2, 0.1),
        ]
    save(bars)
    for b in bars:
        verdict = "MISSED" if b["value"] > b["must"] else "met" if b["value"] > b["aim"] else "met, aim too"
        print(f"{b['value']:7.3f} CPU s  (must {b['must']}, aim {b['aim']}: {verdict})  {b['name']}")
    return int(any(b["value"] > b["must"] for b in bars))


def bar(name: str, measure: Callable[[], float], must: float, aim: float) -> dict:
    rounds = [measure() for _ in range(ROUNDS)]
    value = statistics.median(rounds)
    return {
        "name": name,
        "value": value,
        "unit": "CPU s",
        "better": "lower",
        "rounds": rounds,
        "must": must,
        "aim": aim,
    }


def cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=PROJECT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fabricate(root: Path) -> int:
    """A store in which everything is done: manifests as real ones, without files."""
    spec = table.load("cross", STAGES, [0, 1, 2, 3, 4, 5])
    metrics = {c.metric: 0.0 for c in spec.columns}
    graph, _ = plan.build(STAGES, root / "runs", table.wanted(spec, table.experiments(spec, [])))
    for node in graph.values():
        node.folder.mkdir(parents=True)
        made = {
            "stage": node.stage.name,
            "version": node.stage.version,
            "slug": node.slug,
            "key": node.key,
            "sections": node.sections,
            "inputs": {n: {"stage": i.stage.name, "key": i.key} for n, i in node.inputs.items()},
            "metrics": metrics,
            "source": source.of(node.stage.code),
            "files": {},
        }
        (node.folder / store.MANIFEST).write_text(json.dumps(made))
    return len(graph)


def overhead(root: Path) -> float:
    """CPU seconds of a trivial stage's whole child process: lock, hashes, manifest and eight rows of data."""
    x = config.experiment(["scale=smoke", f"run.root={root}"], {"data.prompts.n": 8})
    graph, targets = plan.build(STAGES, root / "runs", [STAGES["rloo"].needs(x)["data"]])
    for node in graph.values():
        if node.folder.exists():
            shutil.rmtree(node.folder)
    with open(os.devnull, "w") as nothing:
        outcome = dispatch.run(graph, targets, x.run, jobs=1, out=nothing)
    assert outcome.good
    found = store.manifest(targets[0].folder)
    assert found is not None
    return found["cpu_seconds"]


def save(bars: list[dict]) -> None:
    about = {
        "bars": bars,
        "versions": {name: metadata.version(name) for name in ("hydra-core", "omegaconf", "torch", "transformers")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
    }
    path = PROJECT / "results" / "bench" / "engine.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
