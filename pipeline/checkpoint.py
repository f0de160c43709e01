"""Saving an unfinished stage. What is saved is enough to go on bit for bit (CPU, same thread count)."""

from pathlib import Path
from time import monotonic
from typing import Any

import torch

from pipeline import stopping
from pipeline.experiment import Run
from pipeline.store import sync


class Checkpoints:
    """The last good state of a loop, in `checkpoint/` beside the stage's `out`."""

    def __init__(self, out: Path, run: Run):
        self.folder = out.parent / "checkpoint"
        self.run = run
        self._saved_at = monotonic()
        self._steps = 0  # of this attempt

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read."""
        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            try:
                return torch.load(path, weights_only=True)
            except (
                RuntimeError,
                EOFError,
                OSError,
            ) as e:  # torn by a crash of the machine itself: the one before is whole
                print(f"{path.name} cannot be read ({e}); trying the one before")
        return None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Atomically; then the older ones but one may go."""
        self.folder.mkdir(exist_ok=True)
        staged = self.folder / "staged.pt"
        torch.save(state, staged)
        sync(staged)
        staged.rename(self.folder / f"step-{step:08d}.pt")
        sync(self.folder)
        for path in sorted(self.folder.glob("step-*.pt"))[:-2]:
            path.unlink()
        self._saved_at = monotonic()

    def due(self, step: int) -> bool:
        """Is it time to save after this step? To be asked once a step."""
        self._steps += 1
        if self._steps == self.run.stop_after_steps:
            stopping.request()
        every = self.run.checkpoint_steps
        if every is not None and step % every == 0:
            return True
        return stopping.requested() or monotonic() - self._saved_at >= self.run.checkpoint_seconds

    def stop_if_asked(self) -> None:
        """After a save."""
        if stopping.requested():
            raise stopping.Stopped
