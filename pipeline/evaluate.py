"""An existing reward model through the doctor and every benchmark. No torch here: the doctor has its own process."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import actions, config, external, plan, store
from pipeline.config import PROJECT
from pipeline.errors import check
from pipeline.experiment import Experiment, External
from pipeline.stages import STAGES

if TYPE_CHECKING:
    from pipeline.rows import Row

OWN = ("rm", "bench")
BEST_OF_N = "best_of_n"
COUNTS = ("n", "ties")


def run(arguments: Sequence[str]) -> int:
    """From a command line; returns the exit code."""
    own = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in OWN}
    rest = [a for a in arguments if a.partition("=")[0] not in OWN]
    check(bool(own.get("rm")), "rm", own.get("rm"), "required; say rm=... (a folder or a hub id)")
    config.check_first_names(rest, OWN)
    wanted = chosen(config.experiment(rest), own.get("bench"))
    folder = external.find(own["rm"], config.experiment(rest).hub.root)
    health = subprocess.run([sys.executable, PROJECT / "scripts" / "doctor.py", f"rm={folder}"]).returncode
    if health == 2:  # it cannot be loaded
        return health
    wanted = [(stage, with_model(x, folder)) for stage, x in wanted]
    return actions.stages(wanted, {"run"}) or tell(wanted) or health


def with_model(x: Experiment, folder: Path) -> Experiment:
    """The chain with this reward model in the place of the one trained here."""
    given = External(external.fingerprint(folder))
    return replace(x, external=given, run=replace(x.run, external=str(folder.resolve())))


def chosen(x: Experiment, names: str | None) -> list[tuple[str, Experiment]]:
    """The stages that measure these benchmarks. Best-of-N has to be named: it needs samples of an SFT model."""
    known = {name: source for name, source in x.data.benchmarks.items() if source is not None}
    wanted = list(known) if names is None else names.split(",")
    for name in wanted:
        check(name in known or name == BEST_OF_N, "bench", name, config.closest(name, (*known, BEST_OF_N)))
    some = {name: known[name] for name in wanted if name in known}
    bench = [("bench", replace(x, data=replace(x.data, benchmarks=some)))] if some else []
    return [*bench, *[(BEST_OF_N, x)] * (BEST_OF_N in wanted)]


def tell(wanted: Sequence[tuple[str, Experiment]]) -> int:
    """Prints the metrics but for the finest, a benchmark's with its interval; all are in the artefacts' manifests."""
    root = actions.store_root(wanted[0][1])
    _, nodes = plan.build(STAGES, root, wanted)
    for node in nodes:
        found = store.manifest(node.folder)
        assert found is not None, "it was made, or was there"
        spread = intervals(root, node.folder / "out", found) if node.stage.name == "bench" else {}
        if spread:
            print("in brackets: 95 % if other prompts had been drawn; items only, nothing about another training run")
        for name, value in sorted(found["metrics"].items()):
            if shown(name):
                low, high = spread.get(name, (value, value))
                print(f"{name:36} {value:.6g}" + (f"  [{low:.3f}, {high:.3f}]" if low < high else ""))
    return 0


def shown(name: str) -> bool:
    return name.count("/") <= 1 or name.endswith("/tau")


def intervals(root: Path, out: Path, entry: Mapping[str, Any], draws: int = 400) -> dict[str, tuple[float, float]]:
    """Of each metric of a bench artefact, from its rows and those of the benchmarks."""
    from pipeline import rows, stats  # NumPy and SciPy: a plan needs neither
    from pipeline.stages.bench import BENCHMARKS

    made = {}
    examples = {(row["set"], row["id"]): row for row in rows.read(out, "examples")}
    for name in sorted(set(entry["inputs"]) & BENCHMARKS.keys()):
        data = rows.read(root / entry["inputs"][name]["folder"] / "out")
        of = drawn_from(name, data, [examples[name, row["id"]]["rewards"] for row in data])
        found = stats.items_only(of, [row["cluster"] for row in data], draws)
        made |= {f"{name}/{key}": interval for key, interval in found.items()}
    return made


def drawn_from(
    name: str, data: "Sequence[Row]", rewards: Sequence[Sequence[float]]
) -> Callable[[Iterable[int]], dict[str, float]]:
    """A benchmark's metrics of a draw of its rows. Distances are not at hand: their breakdowns mean nothing here."""
    from pipeline.stages.bench import BENCHMARKS, Answers

    def measure(at: Iterable[int]) -> dict[str, float]:
        drawn = [(data[i] | {"id": str(place)}, rewards[i]) for place, i in enumerate(at)]
        scored = {row["id"]: Answers(list(of), [[0.0] * len(of)] * len(of)) for row, of in drawn}
        found = BENCHMARKS[name]([row for row, _ in drawn], scored)
        return {key: value for key, value in found.items() if shown(f"{name}/{key}") and key not in COUNTS}

    return measure
