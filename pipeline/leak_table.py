"""Every benchmark's numbers with and without the rows whose prompts nearly repeat a training prompt. Nothing is scored
again: the `bench` stage's own code reads the same rewards, and fewer rows."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import actions, config, evaluate, external, plan, rows, store
from pipeline.plan import Node
from pipeline.stage import Inputs, view
from pipeline.stages import STAGES

OWN = ("rm",)
COUNTS = ("n", "ties", "gold_ties", "nan_prompts")


@dataclass(frozen=True)
class Line:
    metric: str
    n: int
    leaked: int
    all: float
    clean: float | None  # None: it cannot be said of what is left


def run(arguments: Sequence[str]) -> int:
    """From a command line; makes what lacks, prints the table, returns the exit code."""
    rm = next((a.partition("=")[2] for a in arguments if a.startswith("rm=")), None)
    rest = [a for a in arguments if a.partition("=")[0] not in OWN]
    config.check_first_names(rest, OWN)
    x = config.experiment(rest)
    if rm is not None:
        x = evaluate.with_model(x, external.find(rm))
    wanted = [("bench", x), ("leak", x)]
    code = actions.stages(wanted, {"run"})
    if code == 0:
        _, (bench, leak) = plan.build(STAGES, actions.store_root(x), wanted)
        actions.say(text(list(lines(bench, leak))))
    return code


def lines(bench: Node, leak: Node) -> Iterator[Line]:
    """The metrics of every benchmark but for the finest."""
    found = store.manifest(bench.folder)
    assert found is not None, "it was made, or was there"
    leaked: dict[str, set[str]] = defaultdict(set)
    for row in rows.read(leak.folder / "out"):
        if row["leaked"]:
            leaked[row["set"]].add(row["id"])
    for name in sorted(set(bench.inputs) - {"score", "frozen"}):
        whole = {key: value for key, value in found["metrics"].items() if key.startswith(f"{name}/")}
        clean = without(bench, name, leaked[name]) if leaked[name] else whole
        for key in whole:
            if evaluate.shown(key) and key.rpartition("/")[2] not in COUNTS:
                n, left = rows_of(key, name, whole), rows_of(key, name, clean)
                yield Line(key, n, n - left, whole[key], clean.get(key))


def without(bench: Node, name: str, leaked: set[str]) -> Mapping[str, float]:
    """One benchmark's metrics of the rows that are left; none where its own rule finds too few of them."""
    from pipeline.stages import bench as stage

    data = [row for row in rows.read(bench.inputs[name].folder / "out") if row["id"] not in leaked]
    if not data:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        at = {part: Path(folder, part) for part in (name, "out")}
        for path in at.values():
            path.mkdir()
        rows.write(at[name], data)
        inputs = Inputs({"score": bench.inputs["score"].folder / "out", name: at[name]})
        try:
            return stage.run(view("bench", {**bench.sections, **bench.around}), inputs, at["out"])
        except (ValueError, IndexError) as e:
            print(f"note: {name} without {len(leaked)} leaked rows: {e}")
            return {"n": 0}


def rows_of(key: str, name: str, metrics: Mapping[str, float]) -> int:
    own = f"{key.rpartition('/')[0]}/n"
    return int(metrics.get(own, metrics.get(f"{name}/n", 0)))


def text(made: Sequence[Line]) -> Iterator[str]:
    yield f"{'metric':36} {'rows':>7} {'leaked':>7} {'all':>9} {'without':>9}"
    for line in made:
        clean = "—" if line.clean is None else f"{line.clean:.4f}"
        yield f"{line.metric:36} {line.n:7} {line.leaked:7} {line.all:9.4f} {clean:>9}"
