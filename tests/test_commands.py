"""The commands as a person uses them: what they print, how they exit, and what they leave behind."""

import json
import os
import re
import resource
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from artefacts import damage, fail, finish, prepared

from pipeline import actions, lock, store
from pipeline.config import PROJECT

SCRIPTS = PROJECT / "scripts"
SMALL = [f"data.{name}.n=8" for name in ("sft", "preferences", "prompts", "alpaca_eval")]
SMALL += [f"data.benchmarks.{name}.n=4" for name in ("in_domain", "scenarios", "reward_bench", "rm_bench")]
SMALL += ["rm.batch=4", "sft.batch=4", "rloo.prompts=4"]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Command = Callable[..., Done]


def start(script: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(SCRIPTS / script), *arguments], cwd=cwd, **pipes)


def end(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a script in a process of its own, in an empty folder."""
    (tmp_path / "here").mkdir()
    return lambda script, *arguments: end(start(script, *arguments, cwd=tmp_path / "here"))


@pytest.fixture
def reproduce(results: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Calls scripts/reproduce.py's main in this process: table cross, scale smoke, one seed, unless told otherwise."""
    main = runpy.run_path(str(SCRIPTS / "reproduce.py"), run_name="reproduce")["main"]

    def call(*arguments: str) -> Done:
        code: Any
        usual = {"table": "cross", "scale": "smoke", "seed": "0", "run.root": str(results)}
        given = {argument.partition("=")[0] for argument in arguments}
        usual = {k: v for k, v in usual.items() if k not in given and not (k == "seed" and "seeds" in given)}
        capsys.readouterr()
        try:
            code = main([*(f"{key}={value}" for key, value in usual.items()), *arguments])
        except SystemExit as e:
            code = e.code
        if isinstance(code, str):  # what Python prints and turns into 1
            return Done(1, capsys.readouterr().out, f"{code}\n")
        captured = capsys.readouterr()
        return Done(code or 0, captured.out, captured.err)

    return call


@pytest.fixture
def table(results: Path) -> actions.Table:
    """The same table's graph, to fill its store by hand."""
    return actions.Table("cross", ["scale=smoke", f"run.root={results}"], [0])


def node(table: actions.Table, name: str) -> Any:
    return next(n for n in table.graph.values() if n.name == name)


# --- reproduce.py ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table=crss"], "table = 'crss': no such table; did you mean 'cross'?"),
        (["table=1"], "table = '1': no such table"),
        (["table="], "table = None: required; say table=..., one of: bsr-1, bsr-2,"),
        (["action=plam"], "action = 'plam': did you mean 'plan'?"),
        (["action=1"], "action = 1: known: "),
        (["actoin=plan"], "actoin = 'plan': unknown key; did you mean 'action'?"),
        (["rm.optim.lrr=3"], "rm.optim.lrr = '3': no row of this table has this key; did you mean 'rm.optim.lr'?"),
        (["rm.optim.lr=fast"], "rm.optim.lr = 'fast': expected a number"),
        (["rm.optim.lr=-1"], "rm.optim.lr = -1.0: must be positive"),
        (["scale=smok"], "scale = 'smok': no such option; did you mean 'smoke'?"),
        (["scale"], "argument = 'scale': expected key=value"),
        (["loss=bt"], "loss = 'bt': this table sets it"),
        (["seed=one"], "seed = 'one': expected a whole number"),
        (["seeds=0"], "seeds = 0: expected a list of whole numbers, e.g. seeds=[0,1,2]"),
        (["seeds=[0,1]", "seed=1"], "seed = '1': seeds=... is given as well; use one of them"),
        (["seeds=[0"], "seeds = '[0': "),
        (["model.heads=0"], "model.heads = 0: "),
        (["rm.batch=100000"], "rm.batch = 100000: exceeds data.preferences.n="),
        (["action=explain"], "key = None: explain needs key=...; keys are in the plan"),
        (["action=explain", "key=0123456789abcdef"], "key = '0123456789abcdef': no such artefact"),
        (["rm.batch=8,16"], "overrides = '"),
        (["action=gc", "yes=ture"], "yes = 'ture': "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_in_one_line(reproduce: Command, arguments: list[str], message: str):
    action = [] if any(a.startswith("action=") for a in arguments) else ["action=plan"]
    done = reproduce(*action, *arguments)
    assert done.code != 0 and done.out == ""
    assert done.err.startswith(f"error: {message}") and done.err.count("\n") == 1


def test_a_wrong_setting_exits_with_two_and_without_a_traceback(command: Command):
    done = command("reproduce.py", "table=cross", "rm.optim.lrr=3")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: rm.optim.lrr = '3': no row of this table has this key; did you mean 'rm.optim.lr'?\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_action(reproduce: Command, flag: str):
    done = reproduce(flag)
    assert done.code == 0 and all(f"action={action}" in done.out for action in actions.TABLE_ACTIONS if action != "run")


def test_a_plan_has_a_line_for_each_artefact_and_their_count(reproduce: Command, table: actions.Table):
    done = reproduce("action=plan")
    lines = [line.split(maxsplit=3) for line in done.lines[:-1]]
    expected = [["run", n.name, n.key, "never made"] for n in table.graph.values()]
    assert done.code == 0 and lines == expected
    assert done.lines[-1] == f"{len(expected)} to run, 0 to reuse, 0 blocked"


def test_planning_writes_nothing(reproduce: Command, results: Path):
    for action in ("plan", "status", "gc", "verify"):
        reproduce(f"action={action}")
    assert not results.exists()


ABSENT = ("data=micro_local", "data.path=absent.jsonl")


def test_what_cannot_run_here_is_blocked_and_said(reproduce: Command):
    done = reproduce("action=plan", *ABSENT)
    assert done.code == 0 and [line for line in done.lines if line.startswith("run ")]
    assert any("no such file: absent.jsonl" in line for line in done.lines)


def test_running_what_is_all_blocked_fails(reproduce: Command):
    done = reproduce("action=run", "scale=small", "hub.root=absent")
    assert done.code == 1 and "nothing to run" in done.out and done.err.startswith("blocked: data/")


def test_where_everything_is_there_nothing_runs(reproduce: Command, table: actions.Table, results: Path):
    metrics = {column.metric: 0.5 for column in table.spec.columns}
    for made in table.graph.values():
        finish(made, metrics)
    done = reproduce("action=run")
    assert done.code == 0 and f"nothing to run: {len(table.targets)} artefacts are there" in done.out
    assert (results / "tables" / "smoke" / "cross.md").read_text() in done.out


def test_several_tables_are_one_graph_and_each_is_written_where_it_is_whole(
    reproduce: Command, table: actions.Table, results: Path
):
    beside = actions.Table("floors", ["scale=smoke", f"run.root={results}"], [0])
    planned = reproduce("table=cross,floors", "action=plan").out.splitlines()[-1]
    assert planned == f"{len(table.graph | beside.graph)} to run, 0 to reuse, 0 blocked"
    metrics = {column.metric: 0.5 for column in (*table.spec.columns, *beside.spec.columns)}
    for made in (table.graph | beside.graph).values():
        finish(made, metrics)
    done = reproduce("table=cross,floors", "action=run")
    folder = results / "tables" / "smoke"
    assert done.code == 0 and {path.stem for path in folder.glob("*.md")} == {"cross", "floors"}
    assert all((folder / f"{name}.md").read_text() in done.out for name in ("cross", "floors"))
    done = reproduce("table=cross,flors", "action=plan")
    assert done.code == 2 and "table = 'flors': no such table; did you mean 'floors'?" in done.err


def test_changing_a_constant_of_one_loss_replans_exactly_its_branch(reproduce: Command, table: actions.Table):
    for made in table.graph.values():
        finish(made)
    done = reproduce("action=plan", "loss.coef=0.02")
    run = {line.split()[1]: line.split(maxsplit=3)[3] for line in done.lines if line.startswith("run ")}
    below = ("score", "bench", "rloo", "generate", "judge", "alpaca_eval")
    assert set(run) == {f"{stage}/bsr-s0" for stage in ("rm", *below)}
    assert run["rm/bsr-s0"] == "loss.coef 0.01 → 0.02"
    assert run["bench/bsr-s0"] == "input score changed because loss.coef 0.01 → 0.02"


@pytest.mark.parametrize("override", ["run.jobs=1", "run.micro_tokens=64", "log.mode=offline", "log.every=1"])
def test_how_it_runs_replans_nothing(reproduce: Command, table: actions.Table, override: str):
    for made in table.targets:
        finish(made)
    assert reproduce("action=plan", override).lines[-1] == f"0 to run, {len(table.targets)} to reuse, 0 blocked"


def test_a_plan_warns_of_code_that_has_changed(reproduce: Command, table: actions.Table):
    rm = node(table, "rm/bt-s0")
    finish(rm, code="pipeline.stages.rm")
    path = rm.folder / "manifest.json"
    made = json.loads(path.read_text())
    assert "pipeline/losses.py" in made["source"]
    made["source"]["pipeline/losses.py"] = "bytes:meaning"
    path.write_text(json.dumps(made))
    warning = [line for line in reproduce("action=plan").lines if line.startswith("warning: ")]
    assert len(warning) == 1 and "pipeline/losses.py has changed since 1 artefact(s) of stage rm" in warning[0]


def test_status_tells_where_each_artefact_stands(reproduce: Command, table: actions.Table):
    finish(node(table, "data/sft-s0"))
    fail(node(table, "data/preferences-s0"), "MemoryError: no room")
    stopped = node(table, "sft/r0")
    prepared(stopped)
    (stopped.folder / "checkpoint").mkdir()
    (stopped.folder / "checkpoint" / "step-00000100.pt").touch()
    running = node(table, "data/prompts-s0")
    prepared(running)
    (running.folder / "log" / "progress.json").write_text(json.dumps({"step": 50, "total": 200, "rate": 2.0}))
    held = lock.acquire(running.folder, 60)
    assert isinstance(held, lock.Lock)
    done = reproduce("action=status")
    held.release()
    told = {line.split()[1]: (line.split()[0], " ".join(line.split()[3:])) for line in done.lines[:-1]}
    assert told["data/sft-s0"] == ("done", "")
    assert told["data/preferences-s0"] == ("failed", "MemoryError: no room")
    assert told["sft/r0"] == ("stopped", "will resume from its checkpoint")
    assert told["data/prompts-s0"] == ("running", f"50/200 2/s 1:15 left (process {os.getpid()} on {held.owner.host})")
    assert told["rm/bt-s0"] == ("missing", "data/preferences-s0 failed")
    assert done.lines[-1] == f"1 done, 1 failed, {len(table.graph) - 4} missing, 1 running, 1 stopped"


def test_status_names_the_failed_ancestor(reproduce: Command, table: actions.Table):
    """DESIGN §10: failed, with the first failed ancestor; else a missing table looks merely unfinished."""
    fail(node(table, "data/sft-s0"), "MemoryError: no room")
    told = next(line for line in reproduce("action=status").lines if " bench/bt-s0 " in line)
    assert "data/sft-s0" in told


# --- explain ---


def test_explain_tells_all_of_a_planned_artefact_by_a_shortened_key(reproduce: Command, table: actions.Table):
    rm = node(table, "rm/bt-s0")
    done = reproduce("action=explain", f"key={rm.key[:10]}")
    assert done.code == 0 and done.lines[0] == f"rm/bt-s0-{rm.key}"
    assert "  state     missing never made" in done.lines and "  why       never made" in done.lines
    assert '  setting   loss.name = "bt"' in done.lines and "  setting   rm.batch = 32" in done.lines
    assert f"  input     sft: sft/r0 {rm.inputs['sft'].key}" in done.lines


def test_explain_tells_what_an_artefact_was_made_of_and_cost(reproduce: Command, table: actions.Table):
    rm = node(table, "rm/bt-s0")
    finish(rm, {"loss": 0.5})
    done = reproduce("action=explain", f"key={rm.key}")
    assert "  state     done" in done.lines and "  metric    loss = 0.5" in done.lines
    assert any(line.startswith("  made      commit None on ") for line in done.lines)
    assert any(line.startswith("  file      out/rows.txt 17 bytes ") for line in done.lines)


def test_explain_knows_artefacts_of_the_store_that_no_plan_wants(
    reproduce: Command, table: actions.Table, results: Path
):
    other = actions.Table("cross", ["scale=smoke", f"run.root={results}", "rm.batch=8"], [0])
    rm = node(other, "rm/bt-s0")
    finish(rm)
    done = reproduce("action=explain", f"key={rm.key}")
    assert done.code == 0 and "  setting   rm.batch = 8" in done.lines
    assert f"  input     sft: sft/r0-{rm.inputs['sft'].key}" in done.lines


def test_a_key_that_fits_several_is_refused(reproduce: Command, table: actions.Table):
    keys = sorted(table.graph)
    two = next(a[0] for a, b in pairwise(keys) if a[0] == b[0])
    done = reproduce("action=explain", f"key={two}")
    assert done.code != 0 and done.err.endswith("fits several artefacts; give more of it\n")


def test_a_key_of_digits_is_text(reproduce: Command, results: Path):
    """YAML reads 0123 as a number to the base of eight."""
    (results / "runs" / "rm" / "bt-s0-0123456789012345").mkdir(parents=True)
    assert reproduce("action=explain", "key=0123").lines == ["rm/bt-s0-0123456789012345"]


def test_a_slug_is_no_key(reproduce: Command, results: Path):
    (results / "runs" / "rm" / "bt-s0-0123456789abcdef").mkdir(parents=True)
    done = reproduce("action=explain", "key=s0")
    assert done.code != 0 and done.err.startswith("error: key = 's0': no such artefact")


# --- gc, verify, render ---


def test_gc_lists_what_no_table_reaches_and_deletes_it_on_request(
    reproduce: Command, table: actions.Table, results: Path
):
    kept = node(table, "data/sft-s0")
    finish(kept)
    stray = results / "runs" / "rm" / "bt-s0-gone"
    (stray / "out").mkdir(parents=True)
    (stray / "out" / "model.bin").write_bytes(bytes(3 << 20))
    done = reproduce("action=gc")
    assert done.lines == [
        "     3.0 MiB  rm/bt-s0-gone",
        "1 folder(s), 3.0 MiB, are reached by no table; yes=true deletes them",
    ]
    assert stray.exists()
    done = reproduce("action=gc", "yes=true")
    assert done.lines[-1] == "deleted 1 folder(s), 3.0 MiB"
    assert not stray.exists() and store.manifest(kept.folder)


@pytest.mark.parametrize("asked", ["seeds=[0,7]", "rm.batch=8"])
def test_gc_keeps_what_the_tables_reach_and_what_is_asked_for_beside_them(
    reproduce: Command, table: actions.Table, results: Path, asked: str
):
    """Said to a run it makes more artefacts; said to gc it must not make it delete the others, nor these."""
    more = (["rm.batch=8"], [0]) if asked == "rm.batch=8" else ([], [7])
    other = actions.Table("cross", ["scale=smoke", f"run.root={results}", *more[0]], more[1])
    for made in (node(table, "rm/bt-s0"), node(other, f"rm/bt-s{more[1][0]}")):
        finish(made)
    assert reproduce("action=gc", asked).lines[-1].startswith("0 folder(s)")


def test_gc_leaves_what_somebody_is_making(reproduce: Command, results: Path):
    stray = results / "runs" / "rm" / "bt-s0-gone"
    stray.mkdir(parents=True)
    held = lock.acquire(stray, 60)
    assert isinstance(held, lock.Lock)
    reproduce("action=gc", "yes=true")
    assert held.mine()
    held.release()


def test_verify_names_the_damaged_and_they_are_made_again(reproduce: Command, table: actions.Table):
    for name in ("data/sft-s0", "data/prompts-s0"):
        finish(node(table, name))
    assert reproduce("action=verify").lines[-1] == "0 damaged"
    damage(node(table, "data/prompts-s0").folder)
    done = reproduce("action=verify")
    assert done.code == 1 and done.lines[-1] == "1 damaged; no longer done: the next run makes them again"
    assert done.lines[0].startswith("DAMAGED data/prompts-s0-") and done.lines[1].startswith("good    data/sft-s0-")
    assert any(line.startswith("run     data/prompts-s0") for line in reproduce("action=plan").lines)


def test_render_shows_what_is_there(reproduce: Command, table: actions.Table, results: Path):
    finish(node(table, "bench/bt-s0"), {c.metric: 0.5 for c in table.spec.columns if c.stage == "bench"})
    done = reproduce("action=render")
    assert done.code == 0 and "| BT | 50.0 | 0.50 |" in done.out
    assert {p.name for p in (results / "tables" / "smoke").iterdir()} == {
        f"cross.{s}" for s in ("csv", "json", "md", "tex")
    }


def test_a_written_table_is_not_replaced_by_an_empty_one(reproduce: Command, results: Path):
    written = results / "tables" / "smoke" / "cross.md"
    written.parent.mkdir(parents=True)
    written.write_text("what was made elsewhere")
    done = reproduce("action=render")
    assert done.code == 0 and written.read_text() == "what was made elsewhere"
    assert done.lines[-1] == "not written, since nothing of it is there; make reproduce-table-cross makes it"


# --- how dear it is ---


def cpu_of(command: Command, *arguments: str) -> tuple[float, Done]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def test_planning_two_hundred_artefacts_is_quick(command: Command, results: Path):
    arguments = ["table=cross", "scale=smoke", "seeds=[0,1,2,3,4,5]", "action=plan", f"run.root={results}"]
    seconds, done = cpu_of(command, "reproduce.py", *arguments)
    assert len(done.lines) > 200 and seconds < 1.5


def test_help_is_quick(command: Command):
    assert min(cpu_of(command, "reproduce.py", "--help")[0] for _ in range(2)) < 0.4


# --- run.py ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "stage = '???': required; say which, e.g. stage=rm"),
        (["stage=rmm"], "stage = 'rmm': no such stage; did you mean 'rm'?"),
        (["stage=rm", "loss=bst"], "loss = 'bst': no such option; did you mean 'bt'?"),
        (["stage=rm", "rm.batch=many"], "rm.batch = 'many': expected a whole number"),
        (["stage=rm", "-m", "action=plan,status"], "action"),
        (
            ["stage=rm", "data=micro_local", "data.path=nowhere.jsonl"],
            "rm/bt-s0 needs data/preferences: no such file: nowhere.jsonl",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_one_stage_wrongly_asked_for_is_one_line(command: Command, arguments: list[str], message: str):
    done = command("run.py", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}") and done.err.count("\n") == 1


def test_a_model_trained_here_is_benchmarked_where_make_is_given_no_other():
    """RM is a variable of make's own."""
    said = subprocess.run(["make", "-n", "eval"], cwd=PROJECT, capture_output=True, text=True).stdout
    assert "scripts/run.py" in said and "stage=bench" in said


def test_a_sweep_has_its_shared_inputs_once_wherever_its_flag_stands(command: Command, results: Path):
    sweep = ["stage=rm", "loss=bt,bsr", "seed=0,1", "scale=smoke", "action=plan", f"run.root={results}"]
    done = command("run.py", "-m", *sweep)
    assert done.code == 0 and not done.err
    names = sorted(line.split()[1] for line in done.lines[:-1])
    probes = [name for name in names if name.startswith("data/scenarios")]  # each seed's own
    assert len(probes) == 2 and names == [
        *("data/preferences-s0", "data/preferences-s1", *probes, "data/sft-s0"),
        *("rm/bsr-s0", "rm/bsr-s1", "rm/bt-s0", "rm/bt-s1", "sft/r0"),
    ]
    assert command("run.py", *sweep, "-m") == done


def test_planning_a_sweep_leaves_no_files(command: Command, tmp_path: Path):
    command("run.py", "stage=sft", "seed=0,1", "action=plan", "scale=smoke", "-m", f"run.root={tmp_path / 'results'}")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["here"]


def test_two_commands_at_once_make_one_set_of_artefacts_and_a_third_makes_none(
    command: Command, results: Path, tmp_path: Path
):
    arguments = ["stage=data", "action=run", "scale=smoke", f"run.root={results}", *SMALL]
    both = [end(process) for process in [start("run.py", *arguments, cwd=tmp_path) for _ in range(2)]]
    assert [done.code for done in both] == [0, 0], both
    assert sum(int(n) for done in both for n in re.findall(r"^made (\d+) of", done.out, re.MULTILINE)) == 11
    made = dict(store.scan(results / "runs"))
    assert len(made) == 11 and all(set(found["files"]) == {"card.json", "rows.parquet"} for found in made.values())
    assert not any(store.damage(folder, found["files"]) for folder, found in made.items())
    third = command("run.py", *arguments)
    assert (third.code, third.lines[0], third.err) == (0, "nothing to run: 11 artefacts are there", "")
