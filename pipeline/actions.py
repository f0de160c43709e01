"""What the scripts can do, by name: the few lines between a command and the modules that do the work."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from pipeline import claims, config, cost, dispatch, facts, lock, plan, show, store, table, why
from pipeline.config import PROJECT, check_first_names, closest
from pipeline.errors import ConfigError, check
from pipeline.experiment import Experiment
from pipeline.plan import Graph, Node
from pipeline.slurm import queue
from pipeline.slurm.client import SlurmError
from pipeline.stages import STAGES

QUEUE_ACTIONS = ("wait", "logs", "cancel", "retry")  # on what was submitted
CLAIM_ACTIONS = ("render", "plan", "run", "status", "wait")
STAGE_ACTIONS = ("plan", "run", "status", *QUEUE_ACTIONS)
TABLE_ACTIONS = (*STAGE_ACTIONS, "render", "settings", "facts", "explain", "gc", "verify")
COST = ("gpu", "gpus", "mfu")  # of action=plan: on which GPUs, how many, at which share of their peak


@contextmanager
def kind_errors() -> Iterator[None]:
    """A wrong setting is one line and exit code 2, not a traceback."""
    try:
        yield
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except SlurmError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)


def reproduce(arguments: Sequence[str]) -> int:
    """One action on one table, or on several as one graph, from a command line; returns the exit code."""
    own = {"table": None, "action": "run", "seeds": None, "key": None, "yes": False, **dict.fromkeys(COST)}
    check_first_names(arguments, tuple(own))
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("table", "key", "gpu"):
            own[key] = value or None  # as it is: 0123 is a key, not a number, and 4090 a name
        elif key in own:
            own[key] = plain_value(key, value)
        elif key == "seed":
            twice = any(a.startswith("seeds=") for a in arguments)
            check(not twice, "seed", value, "seeds=... is given as well; use one of them")
            check(value.isdecimal(), "seed", value, "expected a whole number")
            own["seeds"] = [int(value)]
        else:
            overrides.append(argument)
    action, key, yes = own["action"], own["key"], own["yes"]
    check(own["table"] is not None, "table", None, f"required; say table=..., one of: {', '.join(table.names())}")
    check(action in TABLE_ACTIONS, "action", action, closest(str(action), TABLE_ACTIONS))
    check(type(yes) is bool, "yes", yes, "expected true or false")
    wanted = Tables(str(own["table"]).split(","), overrides, seed_list(own["seeds"]))
    if action in QUEUE_ACTIONS or (action == "run" and wanted.any.cluster.kind == "slurm"):
        report = [f"table={own['table']}", *overrides, *([f"seeds={own['seeds']}"] if own["seeds"] else [])]
        return queue.act(str(action), wanted.graph, wanted.targets, wanted.any, results(wanted.any), key, report)
    if action == "run":
        return wanted.run()
    if action == "render":
        return wanted.render()
    if action == "settings":
        for each in wanted.each:
            say(table.setting_lines(each.name, each.spec, each.made, overrides, each.graph))
        return 0
    if action == "facts":
        return hold(wanted.graph)
    if action == "gc":
        return collect(wanted, overrides, yes)
    if action == "verify":
        return verify(wanted.root)
    plan.judge(wanted.graph, wanted.targets)
    if action == "plan" and own["gpu"] is not None:
        return price(wanted, own["gpu"], own["gpus"], own["mfu"])
    why.explain_all(wanted.graph, wanted.root)
    lines = {
        "plan": lambda: show.plan_lines(wanted.graph),
        "status": lambda: queue.status_lines(wanted.graph, results(wanted.any)),
        "explain": lambda: show.explain_lines(wanted.root, wanted.graph, str(required_key(key))),
    }
    say(lines[action]())
    return 0


def plain_value(key: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as e:
        raise ConfigError(key, value, "cannot be read as a value") from e


def seed_list(seeds: object) -> list[int] | None:
    good = seeds is None or (isinstance(seeds, list) and seeds and all(type(s) is int for s in seeds))
    check(bool(good), "seeds", seeds, "expected a list of whole numbers, e.g. seeds=[0,1,2]")
    return cast(list[int] | None, seeds)


def judge_claims(arguments: Sequence[str]) -> int:
    """One action on the papers' claims, from a command line; returns the exit code."""
    own = {"action": "render", "only": None, "seeds": None}
    check_first_names(arguments, tuple(own))
    overrides = [a for a in arguments if a.partition("=")[0] not in own]
    own |= {a.partition("=")[0]: plain_value(*a.partition("=")[::2]) for a in arguments if a not in overrides}
    action = own["action"]
    check(action in CLAIM_ACTIONS, "action", action, closest(str(action), CLAIM_ACTIONS))
    asked = Claims(overrides, own["only"], seed_list(own["seeds"]))
    if action == "wait" or (action == "run" and asked.any.cluster.kind == "slurm"):
        return queue.act(str(action), asked.graph, asked.targets, asked.any, results(asked.any), None)
    if action == "run":
        return execute(asked.graph, asked.targets, asked.any) or asked.render()
    if action == "render":
        return asked.render()
    plan.judge(asked.graph, asked.targets)
    why.explain_all(asked.graph, asked.root)
    say(show.plan_lines(asked.graph) if action == "plan" else queue.status_lines(asked.graph, results(asked.any)))
    return 0


class Claims:
    """The papers' claims with their graph."""

    def __init__(self, overrides: Sequence[str], only: str | None = None, seeds: Sequence[int] | None = None):
        known = claims.load()
        if only is not None:
            check(only in known, "only", only, closest(only, known))
            known = {only: known[only]}
        self.all = only is None and seeds is None
        self.any = config.experiment(overrides)
        self.asked = claims.ask(known, overrides, STAGES, seeds)
        self.root = store_root(self.any)
        self.graph, self.targets = plan.build(STAGES, self.root, claims.wanted(self.asked, STAGES))

    def render(self) -> int:
        """Verdicts from what is there. Some claims or other seeds are shown, but do not take the place of all."""
        found = claims.judge(self.asked, plan.Builder(STAGES, self.root))
        print(claims.text(found, self.any.size))
        if self.all:
            paths = claims.render(found, self.any.size, results(self.any) / "claims")
            print(f"written: {', '.join(shorter(p) for p in paths)}")
        return 0


class Table:
    """A table with its graph."""

    def __init__(self, name: str, overrides: Sequence[str], seeds: Sequence[int] | None = None):
        self.name, self.overrides = name, overrides
        self.spec = table.load(name, STAGES, seeds, overrides)
        self.made = table.experiments(self.spec, overrides)
        self.any = next(iter(self.made.values()))  # run and log settings are the same for all
        self.root = store_root(self.any)
        self.wanted = table.wanted(self.spec, self.made)

    @cached_property
    def built(self) -> tuple[Graph, list[Node]]:
        return plan.build(STAGES, self.root, self.wanted)

    @property
    def graph(self) -> Graph:
        return self.built[0]

    @property
    def targets(self) -> list[Node]:
        return self.built[1]

    def filled(self) -> table.Table:
        shows = any(column.setting for column in self.spec.columns)
        said = table.sources(self.name, self.spec, self.made, self.overrides) if shows else None
        return table.fill(self.name, self.spec, self.made, STAGES, self.root, said)

    def render(self) -> None:
        """A written table is not replaced by an empty one."""
        if self.targets and not any(store.is_done(node.folder) for node in self.targets):
            print(table.markdown(self.filled()))
            print(f"not written, since nothing of it is there; make reproduce-table-{self.name} makes it")
            return
        filled = self.filled()
        paths = table.render(filled, results(self.any) / "tables")
        print(table.markdown(filled))
        print(f"written: {', '.join(shorter(p) for p in paths)}")

    def say_holes(self) -> None:
        """It is shown, but does not take the place of a written one."""
        print(table.markdown(self.filled()))
        print("not written, since not all of it is there; action=render writes what there is")


class Tables:
    """Some tables with the graph of them all: made side by side, and what they share once."""

    def __init__(self, names: Sequence[str], overrides: Sequence[str], seeds: Sequence[int] | None = None):
        self.each = [Table(name, overrides, seeds) for name in names]
        self.any, self.root = self.each[0].any, self.each[0].root
        wanted = [asked for each in self.each for asked in each.wanted]
        self.graph, self.targets = self.each[0].built if len(names) == 1 else plan.build(STAGES, self.root, wanted)

    def run(self) -> int:
        """Makes what is missing."""
        code = execute(self.graph, self.targets, self.any)
        for each in self.each:
            if code == 0 or all(store.is_done(node.folder) for node in each.targets):
                each.render()
            else:
                each.say_holes()
        return code

    def render(self) -> int:
        for each in self.each:
            each.render()
        return 0


def stages(wanted: Sequence[tuple[str, Experiment]], asked: set[str], key: str | None = None) -> int:
    """One action on single stages; `key`: the artefact that it is about."""
    check(len(asked) == 1, "action", sorted(asked), "one at a time")
    (action,) = asked
    check(action in STAGE_ACTIONS, "action", action, closest(action, STAGE_ACTIONS))
    any_of = wanted[0][1]
    graph, targets = plan.build(STAGES, store_root(any_of), [w for want in wanted for w in expand(*want)])
    if action in QUEUE_ACTIONS or (action == "run" and any_of.cluster.kind == "slurm"):
        return queue.act(action, graph, targets, any_of, results(any_of), key)
    if action == "run":
        plan.judge(graph, targets)
        if all(node.state == "blocked" for node in targets):
            first = {node.name: blocked_by(node) for node in targets}
            say((f"error: {name} needs {by.name}: {'; '.join(by.why)}" for name, by in first.items()), sys.stderr)
            return 2
        code = execute(graph, targets, any_of)
        say(f"{node.name}: {shorter(node.folder)}" for node in targets)
        return code
    plan.judge(graph, targets)
    why.explain_all(graph, store_root(any_of))
    say(show.plan_lines(graph) if action == "plan" else queue.status_lines(graph, results(any_of)))
    return 0


def blocked_by(node: Node) -> Node:
    """The first of what it needs, or itself, that cannot be made."""
    return next((blocked_by(need) for need in node.inputs.values() if need.state == "blocked"), node)


def expand(stage: str, x: Experiment) -> list[tuple[str, Experiment]]:
    """`data` names no single artefact: all sources of the experiment are meant."""
    if stage != "data":
        return [(stage, x)]
    builder = plan.Builder(STAGES, Path())
    needs = [n for s in STAGES.values() if s.name != "data" for n in s.needs(x).values() if n[0] == "data"]
    return list({builder.add(*need).key: need for need in needs}.values())


def execute(graph: Graph, targets: Sequence[Node], x: Experiment) -> int:
    """Makes what is missing; 0 only if all of it is there."""
    plan.judge(graph, targets)
    blocked = [n for n in graph.values() if n.state == "blocked"]
    say((f"blocked: {n.name}: {'; '.join(n.why)}" for n in blocked), sys.stderr)
    todo = sum(n.state == "run" for n in graph.values())
    reused = sum(n.state == "reuse" for n in graph.values())
    if not todo:
        print(f"nothing to run: {reused} artefacts are there")
        return 1 if blocked else 0
    jobs = x.run.jobs or max(1, len(os.sched_getaffinity(0)) // x.compute.threads)
    print(f"{todo} to run, {reused} to reuse, {jobs} side by side", flush=True)
    outcome = dispatch.run(graph, targets, x.run, jobs)
    others = f", {len(outcome.found)} by another process" if outcome.found else ""
    print(f"made {len(outcome.made)} of {todo}{others}", flush=True)
    say(dispatch.summary(outcome), sys.stderr)
    return 0 if outcome.good and not blocked else 1


def price(asked: Tables, name: str, gpus: object, mfu: object) -> int:
    """What it would cost on such GPUs; 0 only if all of it fits as configured."""
    check(gpus is None or (type(gpus) is int and gpus > 0), "gpus", gpus, "expected a positive whole number")
    check(mfu is None or type(mfu) in (int, float), "mfu", mfu, "expected a share of the peak, e.g. mfu=0.35")
    on = cost.gpu(name, cast(float | None, mfu))
    costs = cost.of(asked.graph, on, cost.given(asked.any.cluster, cast(int | None, gpus)))
    say(cost.lines(name, on, costs))
    return 1 if costs.refused else 0


def collect(asked: Tables, overrides: Sequence[str], yes: bool) -> int:
    """What no table and no claim reaches, at any scale, as configured or with these overrides and seeds; data cards and
    what figures alone read are kept. Deleted only on request, and not while somebody is making it."""
    kept = plan.places(asked.graph)
    rest = [o for o in overrides if not o.startswith("scale=")]
    for scale in config.groups()["scale"]:
        kept |= plan.places(Claims([f"scale={scale}"]).graph)
        for name in table.names():
            scales = table.read(name, STAGES).scales
            for settings in ([], rest) if scales is None or scale in scales else ():
                try:
                    reached = Table(name, [*settings, f"scale={scale}"])
                except ConfigError:
                    if not settings:
                        raise
                    continue  # a table that refuses these overrides has made nothing with them
                kept |= plan.places(reached.graph)
                beside = [(stage, x) for stage in ("card", "dynamics") for x in reached.made.values()]
                kept |= plan.places(plan.build(STAGES, reached.root, beside)[0])
    unreached = (
        (folder, size)
        for folder, size in plan.unreachable(asked.root, kept)
        if lock.holder(folder, asked.any.run.lock_seconds) is None
    )
    say(show.gc_lines(each(unreached, shutil.rmtree) if yes else unreached, yes))
    of_scores = {stage for stage, kept in asked.any.run.retention.items() if kept == "scores"}
    if of_scores:
        plan.judge(asked.graph, asked.targets)
        spent = plan.spent(asked.graph, of_scores)
        say(show.released_lines(each(spent, store.release) if yes else spent, yes))
    return 0


def each(folders: Iterable[tuple[Path, int]], do: Callable[[Path], None]) -> Iterator[tuple[Path, int]]:
    for folder, size in folders:
        do(folder)
        yield folder, size


def hold(graph: Graph) -> int:
    """Prints the facts that must hold at any size; 0 only if they do."""
    print("facts that must hold at any size:")
    good = True
    for fact in facts.check(graph):
        print(f"  {'yes' if fact.holds else 'NO '}  {fact.text}", flush=True)
        good &= fact.holds
    return 0 if good else 1


def verify(root: Path) -> int:
    damaged = 0
    for folder, reason in plan.verify(root):
        print(f"{'DAMAGED' if reason else 'good':8}{folder.parent.name}/{folder.name} {reason or ''}".rstrip())
        damaged += reason is not None
    print(f"{damaged} damaged" + ("; no longer done: the next run makes them again" if damaged else ""))
    return 1 if damaged else 0


def required_key(key: object) -> object:
    check(key is not None, "key", None, "explain needs key=...; keys are in the plan")
    return key


def results(x: Experiment) -> Path:
    return PROJECT / x.run.root  # an absolute root stays what it is


def store_root(x: Experiment) -> Path:
    return results(x) / "runs"


def shorter(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def say(lines: Iterable[str], to: object = None) -> None:
    for line in lines:
        print(line, file=to)  # type: ignore[arg-type]  # a text stream or standard output
