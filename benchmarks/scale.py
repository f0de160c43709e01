"""How planning grows: 10,000 artefacts and more of one table, in CPU seconds of whole commands. None of them there; all
there; and all there but made with another setting, each to be compared with what is nearest to it. Everything grows
with the number of artefacts: a quarter of them is measured beside.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.bar import Bar, measure, publish
from benchmarks.engine import REPRODUCE, cpu, fabricate

SEEDS = 228
ROUNDS = 2


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

    def cost(name: str, text: str, argv: list[str], must: float, aim: float) -> Bar:
        title = f"{text}, {artefacts:,} artefacts"
        return measure(f"{file}-{name}", title, lambda: cpu(argv), unit="CPU s", must=must, aim=aim, rounds=ROUNDS)

    share = seeds / SEEDS
    start = 1.0  # CPU s that do not grow: interpreter, imports, composing
    plan, look = start + 9 * share, start + 2 * share
    empty = root / "none"
    return [
        cost("plan-new", "plan, none there", command("plan", empty), plan, plan / 2),
        cost("plan-full", "plan, all there", command("plan", root), plan, plan / 2),
        cost("plan-changed", "plan, a setting of RLOO changed", command("plan", root, "rloo.kl=0.1"), plan, plan / 2),
        cost("status", "status, all there", command("status", root), look, look / 2),
        cost("status-new", "status, none there", command("status", empty), look, look / 2),
        cost("verify", "verify, no files", command("verify", root), plan, plan / 2),
    ]


if __name__ == "__main__":
    sys.exit(main())
