"""What happened, for people: JSON lines always, W&B by mode, a progress file for the live line. Nothing reads any
of it back into a result, and no failure of it stops a stage.
"""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, SupportsFloat

from pipeline.experiment import Log
from pipeline.rows import Row
from pipeline.stage import Sections, plain


class Track:
    """Records of one artefact, in `log/` beside the stage's `out`."""

    def __init__(self, x: Sections, out: Path, total: int, step: int = 0):
        """`step`: where the stage goes on; records after it came from an attempt that was not saved and are dropped."""
        self.folder = out.parent / "log"
        self.folder.mkdir(exist_ok=True)
        self.total = total
        self.every = x.log.every
        self._began, self._first, self._shown = time.monotonic(), step, 0.0
        for name in ("metrics", "samples"):
            drop_after(step, self.folder / f"{name}.jsonl")
        self._file = (self.folder / "metrics.jsonl").open("a", buffering=1)
        self._wandb = open_wandb(x, x.log, out.parent) if x.log.mode != "disabled" else None

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        rounded = {name: float(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **rounded}) + "\n")
        if self._wandb is not None:
            attempt(lambda run: run.log(rounded, step=step), self._wandb)

    def samples(self, step: int, rows: Sequence[Row]) -> None:
        """Texts, as a table."""
        with (self.folder / "samples.jsonl").open("a") as file:
            file.writelines(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)
        if self._wandb is not None:
            attempt(lambda run: run.log({"samples": table(rows)}, step=step), self._wandb)

    def progress(self, step: int) -> None:
        now = time.monotonic()
        if now - self._shown < 0.5 and step != self.total:
            return
        self._shown = now
        rate = (step - self._first) / max(now - self._began, 1e-9)
        staged = self.folder / ".progress"
        staged.write_text(json.dumps({"step": step, "total": self.total, "rate": rate}))
        staged.rename(self.folder / "progress.json")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._wandb is not None:
            attempt(lambda run: run.finish(), self._wandb)


def drop_after(step: int, path: Path) -> None:
    lines = path.read_text().splitlines() if path.exists() else []
    whole = (line for line in lines if line.endswith("}"))  # a crash may have torn the last one
    path.write_text("".join(f"{line}\n" for line in whole if json.loads(line)["step"] <= step))


def table(rows: Sequence[Row]) -> Any:
    import wandb

    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])


def open_wandb(x: Sections, log: Log, folder: Path) -> Any:
    """The run of this artefact: its id is the key, so that a resumed stage goes on in the same run."""
    try:
        import wandb

        spec = json.loads((folder / "spec.json").read_text())
        return wandb.init(
            id=spec["key"],
            name=f"{spec['stage']}/{spec['slug']}",
            group=spec["stage"],
            project=log.project,
            entity=log.entity,
            config=plain(spec["sections"]),
            mode=log.mode,
            dir=folder / "log",
            resume="allow",
            settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True, disable_code=True),
        )
    except Exception as e:  # W&B is a convenience: whatever goes wrong there, the stage goes on
        warnings.warn(f"W&B is off for this stage: {e}", stacklevel=2)
        return None


def attempt(what: Any, run: Any) -> None:
    try:
        what(run)
    except Exception as e:  # see open_wandb
        warnings.warn(f"W&B: {e}", stacklevel=3)
