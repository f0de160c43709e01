"""An existing reward model through the doctor and every benchmark. No torch here: the doctor has its own process."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

from pipeline import actions, config, external, plan, store
from pipeline.config import PROJECT
from pipeline.errors import check
from pipeline.experiment import Experiment, External
from pipeline.stages import STAGES

OWN = ("rm", "bench")
BEST_OF_N = "best_of_n"


def run(arguments: Sequence[str]) -> int:
    """From a command line; returns the exit code."""
    own = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in OWN}
    rest = [a for a in arguments if a.partition("=")[0] not in OWN]
    check(bool(own.get("rm")), "rm", own.get("rm"), "required; say rm=... (a folder or a hub id)")
    config.check_first_names(rest, OWN)
    wanted = chosen(config.experiment(rest), own.get("bench"))
    folder = external.find(own["rm"])
    health = subprocess.run([sys.executable, PROJECT / "scripts" / "doctor.py", f"rm={folder}"]).returncode
    if health == 2:  # it cannot be loaded
        return health
    given, where = External(external.fingerprint(folder)), str(folder.resolve())
    wanted = [(stage, replace(x, external=given, run=replace(x.run, external=where))) for stage, x in wanted]
    return actions.stages(wanted, {"run"}) or tell(wanted) or health


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
    """Prints the metrics but for the finest; all are in the artefacts' manifests."""
    _, nodes = plan.build(STAGES, actions.store_root(wanted[0][1]), wanted)
    for node in nodes:
        found = store.manifest(node.folder)
        assert found is not None, "it was made, or was there"
        for name, value in sorted(found["metrics"].items()):
            if name.count("/") <= 1 or name.endswith("/tau"):
                print(f"{name:36} {value:.6g}")
    return 0
