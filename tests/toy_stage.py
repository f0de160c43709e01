"""The code of the toy stages: it writes down what it was given. No torch, no waiting."""

import json
import os
import signal
from pathlib import Path

from pipeline.stage import Inputs, Sections

FAILS, DIES = 0.625, 0.875  # values of loss.coef


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    seen = {name: value for name, value in vars(x).items() if name in ("seed", "loss")}
    coef = seen.get("loss", {}).get("coef")
    if coef == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if coef == FAILS:
        print("about to fail")
        raise ValueError("no luck\nwith this one")
    given = {name: (folder / "rows.txt").read_text() for name, folder in sorted(inputs.items())}
    (out / "rows.txt").write_text(json.dumps([seen, given]))
    return {"inputs": len(given)}
