"""What the engine itself costs: CPU seconds of children, medians of rounds."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.bar import Bar, measure, publish
from pipeline import config, dispatch, plan, source, store, table
from pipeline.stages import STAGES

PROJECT = config.PROJECT
REPRODUCE = [sys.executable, str(PROJECT / "scripts" / "reproduce.py")]
SEEDS = "seeds=[0,1,2,3,4,5]"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder, "empty"), Path(folder, "full")
        artefacts = fabricate(full)
        planning = [*REPRODUCE, "table=cross", "action=plan", SEEDS]
        new, old = ([*planning, f"run.root={root}"] for root in (empty, full))
        again = [*REPRODUCE, "table=cross", SEEDS]
        there = f"{artefacts} artefacts"
        return publish([
            cost("help", "--help", lambda: cpu([*REPRODUCE, "--help"]), must=0.4, aim=0.3),
            cost("plan-new", f"plan {there}, none there", lambda: cpu(new), must=1.5, aim=0.6),
            cost("plan-full", f"plan {there}, all there", lambda: cpu(old), must=1.5, aim=0.6),
            cost("again", "make again what is there", lambda: cpu([*again, f"run.root={full}"]), must=5, aim=1),
            cost("stage", "a stage beside its work", lambda: overhead(Path(folder, "run")), must=0.2, aim=0.1),
        ])  # fmt: skip


def cost(file: str, name: str, once: Callable[[], float], must: float, aim: float) -> Bar:
    return measure(f"engine-{file}", name, once, unit="CPU s", must=must, aim=aim)


def cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=PROJECT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fabricate(root: Path, seeds: Sequence[int] = range(6)) -> int:
    """A store in which everything is done: manifests as real ones, without files."""
    spec = table.load("cross", STAGES, seeds)
    metrics = {c.metric: 0.0 for c in spec.columns}
    graph, _ = plan.build(STAGES, root / "runs", table.wanted(spec, table.experiments(spec, [])))
    sources = {name: source.of(STAGES[name].code) for name in {node.stage.name for node in graph.values()}}
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
            "source": sources[node.stage.name],
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


if __name__ == "__main__":
    sys.exit(main())
