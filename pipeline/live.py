"""The one live line of a running graph."""

import json
import shutil
import time
from collections.abc import Sequence
from typing import TextIO

from pipeline.plan import Node


class Line:
    """One live line on a terminal; elsewhere a line at each interval."""

    def __init__(self, out: TextIO, seconds: float):
        self.out, self.live = out, out.isatty()
        self.every = 0.2 if self.live else seconds
        self.shown = float("-inf")

    def show(self, done: int, total: int, running: Sequence[Node]) -> None:
        now = time.monotonic()
        if now - self.shown < self.every:
            return
        self.shown = now
        text = f"[{done}/{total}] " + " · ".join(doing(node) for node in running)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.out.write("\r\033[K" + text[:width])
        else:
            self.out.write(text + "\n")
        self.out.flush()

    def end(self) -> None:
        if self.live:
            self.out.write("\r\033[K")
            self.out.flush()


def doing(node: Node) -> str:
    """`rm/bsr-s0 120/300 8.1/s 0:22 left`, as far as the stage tells."""
    try:
        at = json.loads((node.folder / "log" / "progress.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return node.name
    text = f"{node.name} {at['step']}/{at['total']}"
    if at["rate"]:
        left = (at["total"] - at["step"]) / at["rate"]
        minutes, seconds = divmod(round(left), 60)
        text += f" {at['rate']:.3g}/s {minutes}:{seconds:02} left"
    return text
