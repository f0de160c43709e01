"""SLURM as far as the pipeline sees it, for the fast suite. `sbatch` is a program that keeps the scripts it gets; all
other commands are answered here. Nothing runs: what becomes of a job is up to the test."""

import os
import re
from pathlib import Path

import pytest

from pipeline.slurm import client

SBATCH = """#!/bin/sh
if [ -e {0}/refuse ]; then echo "sbatch: error: $(cat {0}/refuse)" >&2; exit 1; fi
n=$(($(ls {0} | grep -c script) + 1))
cp "$1" {0}/script-$n
env > {0}/environment-$n
echo "Submitted batch job $n"
"""
HELD_BACK = {"state": "PENDING", "reason": "Priority", "restarts": "0", "nodes": ""}


class Slurm:
    """Holds every element that was ever submitted, and what was asked of SLURM about them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name, text in {"sbatch": SBATCH.format(folder), "srun": "#!/bin/sh\n"}.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setattr(client, "command", self.command)
        self.now: dict[str, dict[str, str]] = {}  # what is not as HELD_BACK says, by element
        self.over: dict[str, tuple[str, ...]] = {}  # state, exit code, elapsed, limit of those that have left
        self.accounting = self.remembers = self.answers = True
        self.requeued: list[str] = []
        self.tokens: dict[str, str] = {}  # another comment than the script's, by array

    def script(self, number: int | str) -> str:
        return (self.folder / f"script-{number}").read_text()

    def flags(self, number: int | str) -> dict[str, str]:
        """Of a batch script."""
        found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", self.script(number), re.MULTILINE)
        return {name: value.strip("'") for name, value in found}

    def names(self) -> list[str]:
        """Of all elements, in the order of submission."""
        numbers = sorted(int(path.name.partition("-")[2]) for path in self.folder.glob("script-*"))
        return [f"{n}_{index}" for n in numbers for index in self.flags(n)["array"].split(",")]

    def queued(self) -> list[str]:
        return [name for name in self.names() if name not in self.over]

    def end(self, name: str, state: str = "COMPLETED", code: str = "0:0") -> None:
        self.over[name] = (state, code, "00:00:07", "01:00:00")

    def command(self, *words: str) -> str:
        if not self.answers:
            raise client.SlurmError(f"{words[0]} has not answered for 60 s")
        return getattr(self, words[0])(*words[1:])

    def squeue(self, *words: str) -> str:
        return "".join(f"{line}\n" for line in map(self.line, self.queued()))

    def line(self, name: str) -> str:
        array, _, index = name.partition("_")
        x = {**HELD_BACK, **self.now.get(name, {})}
        comment = self.tokens.get(array, self.flags(array)["comment"])
        values = (array, index, x["state"], x["reason"], "0:07", "1:00:00", x["restarts"], x["nodes"], comment)
        return "|".join(values) + "|"

    def sacct(self, *words: str) -> str:
        if not self.accounting:
            raise client.SlurmError("sacct: Slurm accounting storage is disabled")
        return "".join(f"{'|'.join((name, *told))}\n" for name, told in self.over.items())

    def scontrol(self, verb: str, what: str, *words: str) -> str:
        if verb == "requeue":
            self.requeued.append(what)
            return ""
        if what == "config":
            return "Configuration data as of now\nMaxArraySize            = 1001\n"
        assert (verb, what) == ("show", "job"), (verb, what)
        lost = [name for name in self.over if name.startswith(f"{words[-1]}_")]
        if not lost or not self.remembers:
            raise client.SlurmError("scontrol: Invalid job id specified")
        line = (
            "JobId={0} ArrayJobId={0} ArrayTaskId={1} JobState={2} RunTime={4} TimeLimit={5} ExitCode={3} Comment=x\n"
        )
        return "".join(line.format(*name.split("_"), *self.over[name]) for name in lost)

    def scancel(self, quiet: str, *names: str) -> str:
        assert set(names) <= set(self.names()), names
        for name in names:
            self.end(name, "CANCELLED by 0")
        return ""

    def sinfo(self, *words: str) -> str:
        return "main*|1-00:00:00|64|65536|gpu:a100:8|2\nlow|infinite|4|4096+|(null)|1\n"
