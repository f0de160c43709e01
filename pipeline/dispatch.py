"""Running what is missing on this machine: stages side by side, inputs first, one live line, every failure named at
the end."""

import heapq
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pipeline import job, lock, plan, source, store, why
from pipeline.config import PROJECT
from pipeline.experiment import Run
from pipeline.forkserver import Server
from pipeline.live import Line
from pipeline.plan import Graph, Node

LOOK_SECONDS = 0.5  # at artefacts that another process makes
DAMAGE_LIMIT = 3  # times that one artefact may find an input damaged


@dataclass
class Outcome:
    made: list[Node] = field(default_factory=list)
    found: list[Node] = field(default_factory=list)  # made by another process meanwhile
    failed: dict[str, tuple[Node, str]] = field(default_factory=dict)
    unreached: list[Node] = field(default_factory=list)
    stopped: bool = False

    @property
    def good(self) -> bool:
        return not self.failed and not self.unreached and not self.stopped


class Schedule:
    """What can start next: artefacts whose inputs are all there, the longest chain first."""

    def __init__(self, graph: Graph, targets: Sequence[Node]):
        self.graph, self.targets = graph, targets
        self.failed: set[str] = set()
        self.away: set[str] = set()  # started, here or by another process
        self.refresh()

    def refresh(self) -> None:
        """Looks at the store again: something that was there may be damaged now."""
        plan.judge(self.graph, self.targets)
        todo = {key: node for key, node in self.graph.items() if node.state == "run"}
        self.waits = {key: sum(i.key in todo for i in distinct(node)) for key, node in todo.items()}
        self.users: dict[str, list[Node]] = {}
        self.height: dict[str, int] = {}
        for node in todo.values():
            for need in distinct(node):
                self.users.setdefault(need.key, []).append(node)
        for key in reversed(todo):
            self.height[key] = 1 + max((self.height[u.key] for u in self.users.get(key, ())), default=0)
        self.ready: list[tuple[int, int, str]] = []
        self.order = {key: i for i, key in enumerate(todo)}
        for key, waits in self.waits.items():
            if waits == 0 and key not in self.failed and key not in self.away:
                self.push(key)

    def push(self, key: str) -> None:
        heapq.heappush(self.ready, (-self.height[key], self.order[key], key))

    def pop(self) -> Node | None:
        if not self.ready:
            return None
        key = heapq.heappop(self.ready)[2]
        self.away.add(key)
        return self.graph[key]

    def done(self, node: Node) -> None:
        self.away.discard(node.key)
        self.waits.pop(node.key, None)
        for user in self.users.get(node.key, ()):
            if user.key in self.waits:
                self.waits[user.key] -= 1
                if self.waits[user.key] == 0 and user.key not in self.failed:
                    self.push(user.key)

    def again(self, node: Node) -> None:
        self.away.discard(node.key)
        self.push(node.key)

    def fail(self, node: Node) -> None:
        self.away.discard(node.key)
        self.failed.add(node.key)

    def remaining(self) -> list[Node]:
        return [self.graph[key] for key in self.waits if key not in self.failed]


def distinct(node: Node) -> list[Node]:
    return list({i.key: i for i in node.inputs.values()}.values())


def run(graph: Graph, targets: Sequence[Node], settings: Run, jobs: int, out: TextIO = sys.stderr) -> Outcome:
    """Makes everything that is missing for the targets. A failing branch does not stop the others."""
    outcome = Outcome()
    schedule = Schedule(graph, targets)
    if not schedule.remaining():
        return outcome
    head = commit()
    sources = {code: source.of(code) for code in sorted({n.stage.code for n in schedule.remaining()})}
    running: dict[Path, Node] = {}
    elsewhere: dict[str, Node] = {}
    damages: Counter[str] = Counter()
    died = False
    line = Line(out, settings.progress_seconds)
    server = Server(sources)

    def ended(folder: Path, exit_code: int) -> None:
        node = running.pop(folder)
        if exit_code == job.DONE:
            outcome.made.append(node)
            schedule.done(node)
        elif exit_code == job.THERE:
            outcome.found.append(node)
            schedule.done(node)
        elif exit_code == job.HELD:
            elsewhere[node.key] = node
        elif exit_code == job.DAMAGED and damages[node.key] < DAMAGE_LIMIT:
            damages[node.key] += 1
            schedule.away.discard(node.key)
            schedule.refresh()
        elif exit_code == job.STOPPED:
            outcome.stopped = True
            schedule.away.discard(node.key)
        else:
            schedule.fail(node)
            outcome.failed[node.key] = (node, reason(exit_code))

    try:
        with interrupts() as asked:
            while (running or elsewhere or schedule.ready) and not asked() and not outcome.stopped:
                while len(running) < jobs and (node := schedule.pop()):
                    prepare(node, {**head, "source": sources.get(node.stage.code) or source.of(node.stage.code)})
                    running[node.folder] = node
                    server.start(node.folder)
                for folder, exit_code in server.ended(LOOK_SECONDS):
                    ended(folder, exit_code)
                outcome.found += look(elsewhere, schedule)
                there = len(outcome.made) + len(outcome.found)
                line.show(there, there + len(schedule.remaining()), list(running.values()))
            outcome.stopped |= asked()
    except EOFError:
        died = True
    finally:
        line.end()
        for folder, exit_code in server.close():
            ended(folder, exit_code)
    if died:
        why_all = "the process that starts stages was killed (out of memory?)"
        outcome.failed |= {n.key: (n, why_all) for n in running.values()}
    outcome.unreached = [n for n in schedule.remaining() if n.key not in outcome.failed]
    return outcome


def look(elsewhere: dict[str, Node], schedule: Schedule) -> list[Node]:
    """At artefacts that another process was making: returns those that are there now; what it gave up we may start."""
    found = []
    for key, node in list(elsewhere.items()):
        if store.is_whole(node.folder):
            found.append(elsewhere.pop(key))
            schedule.done(node)
        elif lock.holder(node.folder, node.lock_seconds) is None:
            del elsewhere[key]
            schedule.again(node)
    return found


def prepare(node: Node, made_by: Mapping[str, Any]) -> None:
    """The artefact's folder and everything its job needs to know."""
    (node.folder / "log").mkdir(parents=True, exist_ok=True)
    spec = {
        "stage": node.stage.name,
        "version": node.stage.version,
        "code": node.stage.code,
        "slug": node.slug,
        "key": node.key,
        "sections": node.sections,
        "around": node.around,
        "inputs": {
            name: {
                "key": i.key,
                "folder": f"{i.stage.name}/{i.folder.name}",
                "weightless": name in node.stage.weightless,
            }
            for name, i in node.inputs.items()
        },
        **made_by,
    }
    store.write_atomically(node.folder / "spec.json", json.dumps(spec, indent=1, sort_keys=True))


def commit() -> dict[str, str | None]:
    """The commit the code is at, and a hash of what differs from it; both None outside a git checkout."""
    if shutil.which("git") is None or not (PROJECT / ".git").exists():
        return {"commit": None, "dirty": None}
    head = subprocess.run(["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    paths = ("pipeline", "conf", "scripts")
    diff = subprocess.run(["git", "-C", PROJECT, "diff", "HEAD", "--", *paths], capture_output=True).stdout
    return {"commit": head or None, "dirty": source.short(diff) if diff else None}


def reason(exit_code: int) -> str:
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return "an input stays damaged" if exit_code == job.DAMAGED else f"exit code {exit_code}"


class interrupts:
    """Ctrl-C and SIGTERM ask politely: running stages save, then we leave. A second Ctrl-C is not ours to stop."""

    def __enter__(self) -> Callable[[], bool]:
        self.asked = False
        self.before = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return lambda: self.asked

    def handle(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(number, self.before[signal.Signals(number)])

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def last_lines(node: Node, n: int = 12) -> list[str]:
    try:
        return (node.folder / "log" / "console.log").read_text(errors="replace").splitlines()[-n:]
    except FileNotFoundError:
        return []


A_SETTING = "ConfigError: "  # is wrong: that says all


def summary(outcome: Outcome) -> list[str]:
    """Every failure with the end of its log, then what it kept from running."""
    lines = []
    for node, cause in outcome.failed.values():
        reason = why.read_error(node.folder) or cause
        lines += [f"FAILED {node.name} ({node.key}): {reason.removeprefix(A_SETTING)}"]
        lines += [f"    {text}" for text in last_lines(node)] if not reason.startswith(A_SETTING) else []
        lines += [f"    whole log: {node.folder / 'log' / 'console.log'}"]
    if outcome.stopped:
        lines.append("stopped; running stages saved their state: the same command goes on from there")
    elif outcome.unreached:
        lines.append(f"not reached because of that: {', '.join(n.name for n in outcome.unreached)}")
    return lines
