"""Saving an unfinished stage. What is saved is enough to go on bit for bit (CPU, same thread count and number of
processes), and on another number of processes to float tolerance.

A state that one process holds is a file, written by the first one; one with sharded tensors is a folder, written by all
(`shards.py`). Either can be gone on from with sharded weights and without.
"""

import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from pipeline import dist, shards, stopping
from pipeline.experiment import Run
from pipeline.store import sync

ENDS = (".pt", ".shards")  # a file, a folder


class Checkpoints:
    """The last good state of a loop, in `checkpoint/` beside the stage's `out`."""

    def __init__(self, out: Path, run: Run):
        self.folder = out.parent / "checkpoint"
        self.run = run
        self._began = self._saved_at = monotonic()
        self._steps = 0  # of this attempt
        self._stop = False  # agreed by all processes

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read: by the first process, for all must go on from the same step."""
        state = self._newest() if dist.first() else None
        step = dist.tell(state["step"] if state else 0)
        sharded = dist.tell(int(bool(state) and "shards" in state))
        return state if state or step == 0 else read(self._path(step, sharded=sharded == 1))

    def _saved(self) -> list[Path]:
        return sorted(path for end in ENDS for path in self.folder.glob(f"step-*{end}"))

    def _newest(self) -> dict[str, Any] | None:
        for path in reversed(self._saved()):
            try:
                return read(path)
            except (
                RuntimeError,
                EOFError,
                OSError,
            ) as e:  # torn by a crash of the machine itself: the one before is whole
                print(f"{path.name} cannot be read ({e}); trying the one before")
        return None

    def _path(self, step: int, sharded: bool) -> Path:
        return self.folder / f"step-{step:08d}{ENDS[sharded]}"

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Atomically, by the first process, or by all that hold a part; then the older ones but one may go."""
        sharded = bool(shards.of(state))
        path, staged = self._path(step, sharded), self.folder / f"staged{ENDS[sharded]}"
        if dist.first():
            self.folder.mkdir(exist_ok=True)
            for old in (staged, path):
                remove(old)
        if sharded:
            shards.write(staged, state)
        elif dist.first():
            torch.save(state, staged)
            sync(staged)
        if dist.first():
            staged.rename(path)
            sync(self.folder)
            for old in self._saved()[:-2]:
                remove(old)
        dist.tell(step)  # who went on, or stopped, before it is written could take the writer along
        self._saved_at = monotonic()

    def due(self, step: int) -> bool:
        """Is it time to save after this step? To be asked once a step. What one process is asked, all do."""
        self._steps += 1
        run, now = self.run, monotonic()
        out_of_time = run.stop_after_seconds is not None and now - self._began >= run.stop_after_seconds
        if self._steps == run.stop_after_steps or out_of_time:
            stopping.request()
        self._stop, late = dist.any_of(stopping.requested(), now - self._saved_at >= run.checkpoint_seconds)
        return self._stop or late or (run.checkpoint_steps is not None and step % run.checkpoint_steps == 0)

    def stop_if_asked(self) -> None:
        """After a save. A request that one process got since is met after the next step, when all know of it."""
        if self._stop:
            raise stopping.Stopped


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return shards.read(path)
    return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
