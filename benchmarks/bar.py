"""One bar of a benchmark: what was measured, what it must reach, what it aims at. One file each in results/bench/."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pipeline.config import PROJECT

FOLDER = PROJECT / "results" / "bench"
LIBRARIES = ("hydra-core", "numpy", "omegaconf", "scikit-learn", "torch", "transformers", "trl")


@dataclass(frozen=True)
class Bar:
    file: str
    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    rounds: list[float]  # raw; value is their median, or of a bound the worst
    must: float | None = None  # None: measured, with nothing to reach
    aim: float | None = None
    peer: str | None = None  # what it is compared with
    ratio: float | None = None  # peer / ours
    more: Mapping[str, float | Sequence[float]] | None = None  # beside the value

    def reaches(self, bound: float) -> bool:
        return self.value <= bound if self.better == "lower" else self.value >= bound

    @property
    def verdict(self) -> str:
        if self.must is None or self.aim is None:
            return "measured"
        return "MISSED" if not self.reaches(self.must) else "met, aim too" if self.reaches(self.aim) else "met"


def measure(
    file: str,
    name: str,
    once: Callable[[], float],
    *,
    unit: str,
    must: float | None,
    aim: float | None,
    rounds: int = 7,
) -> Bar:
    """A cost: the median of some calls."""
    raw = [once() for _ in range(rounds)]
    return Bar(file, name, statistics.median(raw), unit, "lower", raw, must, aim)


def publish(bars: Sequence[Bar]) -> int:
    """Writes and prints them; the exit code."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for bar in bars:
        about = {**asdict(bar), "versions": versions(), "machine": machine(), "load": os.getloadavg()[0]}
        (FOLDER / f"{bar.file}.json").write_text(json.dumps(about, indent=1) + "\n")
        bounds = "" if bar.must is None else f"must {bar.must:g}, aim {bar.aim:g}: "
        print(f"{bar.value:8.3g} {bar.unit:<14} {bounds}{bar.verdict:<12}  {bar.name}")
    return int(any(bar.verdict == "MISSED" for bar in bars))


def versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    names = [line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cores} cores, Python {platform.python_version()}"


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
