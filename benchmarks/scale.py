"""How planning grows: some 10,000 artefacts of one table, in CPU seconds of whole commands. None of them there; all
there; and all there but made with another setting, each to be compared with what is nearest to it. Everything grows
with the number of artefacts: a quarter of them is measured beside.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.bar import Bar, measure, publish
from benchmarks.engine import REPRODUCE, cpu, fabricate

SEEDS = 484
ROUNDS = 2
PLAN, LOOK = 10.0, 3.0  # CPU s at most, of all of them


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found: list[Bar] = []
        for name, seeds in (("scale-quarter", SEEDS // 4), ("scale", SEEDS)):
            root = Path(folder, name)
            artefacts = fabricate(root, range(seeds))
            found += bars(name, root, artefacts, seeds)
        return publish(found)


def bars(file: str, root: Path, artefacts: int, seeds: int) -> list[Bar]:
    def command(action: str, store: Path, *overrides: str) -> list[str]:
        asked = f"seeds=[{','.join(map(str, range(seeds)))}]"
        return [*REPRODUCE, "table=cross", f"action={action}", asked, f"run.root={store}", *overrides]

    def cost(name: str, text: str, argv: list[str], must: float) -> Bar:
        title = f"{text}, {artefacts:,} artefacts"
        bound, aim = (must, must / 2) if seeds == SEEDS else (None, None)
        return measure(f"{file}-{name}", title, lambda: cpu(argv), unit="CPU s", must=bound, aim=aim, rounds=ROUNDS)

    empty = root / "none"
    return [
        cost("plan-new", "plan, none there", command("plan", empty), PLAN),
        cost("plan-full", "plan, all there", command("plan", root), PLAN),
        cost("plan-changed", "plan, a setting of RLOO changed", command("plan", root, "rloo.kl=0.1"), PLAN),
        cost("status", "status, all there", command("status", root), LOOK),
        cost("status-new", "status, none there", command("status", empty), LOOK),
        cost("verify", "verify, no files", command("verify", root), PLAN),
    ]


if __name__ == "__main__":
    sys.exit(main())
