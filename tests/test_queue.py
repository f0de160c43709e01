"""The commands that submit, look, wait, cancel and retry, against a SLURM that is made up: what is asked of it, and
what people are told. What real jobs do is tested in tests/slurm."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from artefacts import fail, finish, toys
from fake_slurm import Slurm
from submitit.core.utils import DelayedSubmission

from pipeline import plan
from pipeline.config import experiment
from pipeline.errors import ConfigError
from pipeline.experiment import Cluster, Resources
from pipeline.plan import Node
from pipeline.slurm import client, queue, snapshot, submit, watch
from pipeline.slurm.check import check_cluster
from pipeline.slurm.ledger import Ledger

SIZE = Resources(minutes=60, cpus=2, memory_gb=4, nodes=1, gpus=0)
CLUSTER = Cluster("slurm", default=SIZE)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setattr(snapshot, "take", lambda home, dirty: snapshot.Snapshot(home / "code" / "now", "c0ffee", None))
    monkeypatch.setattr("pipeline.slurm.check.STAGES", toys())
    monkeypatch.setattr(submit, "SETTLE_SECONDS", 0)
    return Slurm(tmp_path / "slurm", monkeypatch)


class Asked:
    """A graph of three toys for each seed, and the commands on it."""

    def __init__(self, results: Path, seeds: int = 1):
        self.home = results / "slurm"
        stages = toys(
            alpha={"slug": lambda x: f"a-s{x.seed}"},
            beta={"slug": lambda x: f"b-s{x.seed}"},
            gamma={"slug": lambda x: f"g-s{x.seed}"},
        )
        self.xs = [experiment((), {"loss": "bsr", "seed": seed, "loss.coef": 0.1 + seed}) for seed in range(seeds)]
        self.graph, self.targets = plan.build(stages, results / "runs", [("gamma", x) for x in self.xs])

    def node(self, name: str) -> Node:
        return next(node for node in self.graph.values() if node.name == name)

    def submit(self, x: Cluster = CLUSTER, report: list[str] | None = None) -> submit.Submission:
        return submit.submit(self.graph, self.targets, x, self.home, report)

    def status(self) -> dict[str, tuple[str, str]]:
        """{artefact: (state, text)}; under "" the last line."""
        plan.judge(self.graph, self.targets)
        *lines, last = watch.status_lines(self.graph, self.home)
        found = {line.split()[1]: (line.split()[0], " ".join(line.split()[3:])) for line in lines}
        return {**found, "": ("", last)}

    def wait(self) -> int:
        plan.judge(self.graph, self.targets)
        return watch.wait(self.graph, self.targets, self.home, 0.0)


@pytest.fixture
def asked(results: Path, slurm: Slurm) -> Asked:
    return Asked(results)


def counts(done: submit.Submission) -> tuple[int, int, int]:
    return done.submitted, done.adopted, done.cancelled


# --- submit ---


def test_the_whole_graph_is_submitted_inputs_first(results: Path, slurm: Slurm):
    asked = Asked(results, seeds=2)
    assert counts(asked.submit()) == (6, 0, 0)
    told = [(f["job-name"], f["array"], f.get("dependency")) for f in map(slurm.flags, (1, 2, 3))]
    assert told == [
        ("alpha/a-s*", "0,1", None),
        ("beta/b-s*", "0,1", "aftercorr:1"),
        ("gamma/g-s*", "0,1", "aftercorr:1,aftercorr:2"),
    ]
    assert "kill-on-invalid-dep" not in slurm.flags(1) and slurm.flags(2)["kill-on-invalid-dep"] == "yes"
    keys = ",".join(node.key for node in asked.graph.values() if node.stage.name == "beta")
    assert slurm.flags(2)["comment"].split(" ") == [Ledger(asked.home).read()[1].token, keys]


def test_a_batch_script_asks_for_what_the_cluster_describes(
    asked: Asked, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
):
    words = {
        "account": "mine",
        "partition": "main",
        "qos": "high",
        "constraint": "ib",
        "flags": {"reservation": "icml"},
    }
    own = {"beta": Resources(minutes=90, cpus=8, memory_gb=1.5, nodes=2, gpus=4), "gamma": Resources(gpus=1, tasks=2)}
    asked_for = replace(CLUSTER, setup=("module load cuda",), stages=own, signal_seconds=300, **words)
    monkeypatch.setattr("pipeline.job.SHARED", ("beta", "gamma"))
    asked.submit(asked_for)
    alpha, beta, gamma = (slurm.flags(n) for n in (1, 2, 3))
    for flags in (alpha, beta, gamma):
        assert {name: flags[name] for name in ("account", "partition", "qos", "constraint", "reservation")} == {
            **{name: value for name, value in words.items() if name != "flags"},
            "reservation": "icml",
        }
        assert flags["signal"] == "USR2@300" and "requeue" in flags and flags["chdir"].endswith("code/now")
    names = ("time", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "gpus-per-node")
    assert [alpha.get(name) for name in names] == ["60", "1", "1", "2", "4096M", None]
    assert [beta.get(name) for name in names] == ["90", "2", "4", "8", "1536M", "4"]
    assert [gamma.get(name) for name in names] == ["60", "1", "2", "2", "4096M", "1"]
    assert "gres" not in beta
    text = slurm.script(2)
    before, _, started = text.partition("srun ")
    assert "module load cuda" in before and "--cpus-per-task=8" in started
    # Each task of an element says what it says in a file that bears the element's name; the last --output holds.
    assert started.rpartition("--output=")[2].split()[0] == str(asked.home / "submitit" / "%A_%a_%t.out")


def test_gpus_are_asked_for_in_the_way_of_the_site(asked: Asked, slurm: Slurm):
    asked.submit(replace(CLUSTER, gres="gpu:a100", stages={"beta": Resources(gpus=1)}))
    assert slurm.flags(2)["gres"] == "gpu:a100:1" and "gpus-per-node" not in slurm.flags(2)
    assert "gres" not in slurm.flags(1)


def test_submitits_count_of_time_outs_ends_no_job(asked: Asked, slurm: Slurm):
    """It takes whoever is signalled within 12.5 minutes of the limit for timed out; before a stage listens itself,
    submitit is asked to queue the job again, and must not run out of patience."""
    asked.submit(replace(CLUSTER, signal_seconds=10, default=replace(SIZE, minutes=1)))
    call = DelayedSubmission.load(asked.home / "submitit" / "1_0_submitted.pkl")
    assert call._timeout_countdown >= 10**6 and hasattr(call.function, "checkpoint")
    assert call.args[0] == "artefact" and call.args[1]["seconds"] == 50


def test_what_is_queued_is_adopted(asked: Asked, slurm: Slurm):
    asked.submit()
    slurm.now["1_0"] = {"state": "RUNNING"}
    assert counts(asked.submit()) == (0, 3, 0) and slurm.names() == ["1_0", "2_0", "3_0"]
    finish(asked.node("alpha/a-s0"))
    slurm.end("1_0")
    assert counts(asked.submit()) == (0, 2, 0)


def test_the_number_of_an_array_is_found_by_its_token(asked: Asked, slurm: Slurm):
    """Its submitter died before it could write the answer down."""
    asked.submit()
    book = Ledger(asked.home)
    for record in book.read():
        book.write(replace(record, job=None))
        (asked.home / "submitit" / f"{record.job}_0_submitted.pkl").unlink()
    assert counts(asked.submit()) == (0, 3, 0)
    assert [record.job for record in book.read()] == ["1", "2", "3"]
    assert len(list((asked.home / "submitit").glob("*_0_submitted.pkl"))) == 3


def test_a_question_that_was_never_asked_is_forgotten(asked: Asked, slurm: Slurm):
    asked.submit()
    book = Ledger(asked.home)
    (lost,) = (record for record in book.read() if record.name.startswith("gamma"))
    book.write(replace(lost, job=None))
    slurm.end("3_0")
    assert counts(asked.submit()) == (1, 2, 0)
    assert lost.token not in [record.token for record in book.read()]


def test_a_number_that_slurm_gave_twice_is_another_job(asked: Asked, slurm: Slurm):
    asked.submit()
    slurm.tokens = {"1": "somebody-else", "2": "of-us", "3": ""}
    assert counts(asked.submit()) == (3, 0, 0)
    assert slurm.queued() == [f"{n}_0" for n in range(1, 7)]


@pytest.mark.parametrize("reason", ["DependencyNeverSatisfied", "InvalidQOS", "PartitionTimeLimit"])
def test_what_can_never_start_is_replaced(asked: Asked, slurm: Slurm, reason: str):
    asked.submit()
    finish(asked.node("alpha/a-s0"))
    slurm.end("1_0")
    slurm.now["2_0"] = {"reason": reason}
    assert counts(asked.submit()) == (2, 0, 2)
    assert slurm.queued() == ["4_0", "5_0"]


def test_who_waits_for_what_has_failed_is_replaced_and_who_runs_is_kept(asked: Asked, slurm: Slurm):
    asked.submit()
    slurm.end("1_0", "FAILED", "1:0")
    slurm.now["2_0"] = {"state": "RUNNING"}
    assert counts(asked.submit()) == (2, 1, 1)
    assert slurm.queued() == ["2_0", "4_0", "5_0"] and slurm.flags(5)["dependency"] == "aftercorr:2,aftercorr:4"
    slurm.now["2_0"] = {"reason": "Dependency"}
    slurm.end("4_0", "FAILED", "1:0")
    assert counts(asked.submit()) == (3, 0, 2)


def test_what_sbatch_refuses_leaves_nothing(asked: Asked, slurm: Slurm):
    (slurm.folder / "refuse").write_text("Batch job submission failed: Invalid account")
    with pytest.raises(client.SlurmError, match=r"sbatch refuses alpha/a-s0: sbatch: error: .*Invalid account"):
        asked.submit()
    assert Ledger(asked.home).read() == []


def test_a_job_that_submits_tells_nothing_of_itself(asked: Asked, slurm: Slurm, monkeypatch: pytest.MonkeyPatch):
    told = {
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "1",
        "SBATCH_GRES": "gpu:9",
        "SUBMITIT_EXECUTOR": "slurm",
        "RANK": "3",
    }
    for name, value in {**told, "SLURM_CONF": "/site/slurm.conf"}.items():
        monkeypatch.setenv(name, value)
    asked.submit()
    seen = dict(line.split("=", 1) for line in (slurm.folder / "environment-1").read_text().splitlines() if "=" in line)
    assert not set(told) & set(seen) and seen["SLURM_CONF"] == "/site/slurm.conf"
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_one_job_renders_the_table_when_all_have_ended(asked: Asked, slurm: Slurm):
    done = asked.submit(report=["table=cross"])
    assert done.report == "4_0" and slurm.flags(4)["dependency"] == "afterany:1:2:3"
    assert asked.submit(report=["table=cross"]).report == "4_0"
    slurm.end("3_0", "FAILED", "1:0")
    assert asked.submit(report=["table=cross"]).report == "6_0"
    assert slurm.queued() == ["1_0", "2_0", "5_0", "6_0"]
    assert slurm.flags(6)["dependency"] == "afterany:1:2:5"


def test_what_has_ended_well_is_forgotten(asked: Asked, slurm: Slurm):
    asked.submit()
    for n, name in ((1, "alpha/a-s0"), (2, "beta/b-s0")):
        finish(asked.node(name))
        slurm.end(f"{n}_0")
    slurm.end("3_0", "FAILED", "1:0")
    asked.submit()
    assert [record.job for record in Ledger(asked.home).read()] == ["4"]
    assert [path.name for path in (asked.home / "submitit").glob("*_0_submitted.pkl")] == ["4_0_submitted.pkl"]


def test_what_another_graph_lacks_is_remembered(results: Path, slurm: Slurm):
    """The next submit of this one must not forget how that one failed."""
    other = Asked(results)
    other.submit()
    for n in (1, 2, 3):
        slurm.end(f"{n}_0", "OUT_OF_MEMORY", "0:125")
    alone = Asked(results, seeds=2)
    alone.targets = [node for node in alone.targets if node.name == "gamma/g-s1"]
    assert counts(alone.submit()) == (3, 0, 0)
    assert other.status()["alpha/a-s0"] == ("failed", "out of memory; raise memory_gb in cluster.stages (job 1_0)")


def test_what_is_there_is_not_submitted(asked: Asked, slurm: Slurm):
    for node in asked.graph.values():
        finish(node)
    assert counts(asked.submit()) == (0, 0, 0) and slurm.names() == []


def test_gpus_that_the_partition_has_not_are_refused(slurm: Slurm):
    wanted = replace(CLUSTER, partition="low", default=replace(SIZE, minutes=10**6, gpus=1))
    with pytest.raises(ConfigError, match=r"cluster.stages.beta.gpus = 1: the partition has none; name another one"):
        check_cluster(wanted, ["beta"])
    check_cluster(replace(wanted, partition="main", default=replace(SIZE, gpus=1)), ["beta"])


# --- status ---


@pytest.mark.parametrize(
    ("now", "state", "text"),
    [
        ({}, "queued", "job 1_0: others are ahead in the queue"),
        ({"reason": "(Resources)"}, "queued", "job 1_0: first in the queue; waits for free resources"),
        ({"reason": "ReqNodeNotAvail, May be reserved"}, "queued", "job 1_0: nodes that it needs are down or reserved"),
        ({"reason": "Of3ThingsNoneKnown"}, "queued", "job 1_0: Of3ThingsNoneKnown"),
        ({"reason": "BeginTime", "restarts": "2"}, "queued", "queued again; may start in a moment, 2 restarts"),
        ({"state": "RUNNING", "nodes": "n1", "restarts": "1"}, "running", "on n1 0:07/1:00:00, 1 restarts; step 4"),
        ({"state": "COMPLETING", "nodes": "n1"}, "running", "on n1 0:07/1:00:00 completing; step 4"),
    ],
    ids=str,
)
def test_where_a_job_stands(asked: Asked, slurm: Slurm, now: dict[str, str], state: str, text: str):
    asked.submit()
    (asked.node("alpha/a-s0").folder / "log" / "console.log").write_text("step 3\nstep 4\n")
    slurm.now["1_0"] = now
    told = asked.status()["alpha/a-s0"]
    assert told[0] == state and text in told[1], told


@pytest.mark.parametrize(
    ("state", "code", "text"),
    [
        ("TIMEOUT", "0:0", "ran into its time limit of 01:00:00; raise minutes in cluster.stages (job 1_0)"),
        ("OUT_OF_MEMORY", "0:125", "out of memory; raise memory_gb in cluster.stages (job 1_0)"),
        ("CANCELLED by 0", "0:0", "cancelled (job 1_0)"),
        ("FAILED", "9:0", "failed, exit code 9:0 (job 1_0)"),
    ],
)
@pytest.mark.parametrize("accounting", [True, False])
def test_how_a_job_ended(asked: Asked, slurm: Slurm, state: str, code: str, text: str, accounting: bool):
    asked.submit()
    slurm.accounting = accounting
    slurm.end("1_0", state if accounting else state.partition(" ")[0], code)
    slurm.end("2_0", "CANCELLED")
    slurm.end("3_0", "CANCELLED")
    told = asked.status()
    assert told["alpha/a-s0"] == ("failed", text)
    assert told["beta/b-s0"] == told["gamma/g-s0"] == ("missing", "alpha/a-s0 failed")
    remark = "no accounting here (sacct): how a job ended is known only while slurmctld remembers it"
    assert told[""][1] == ("1 failed, 2 missing" if accounting else remark)


def test_without_accounting_what_slurmctld_has_forgotten_is_merely_missing(asked: Asked, slurm: Slurm):
    asked.submit()
    slurm.accounting, slurm.remembers = False, False
    for name in slurm.names():
        slurm.end(name, "TIMEOUT")
    assert asked.status()["alpha/a-s0"] == ("missing", "")


def test_what_ended_well_and_is_gone_has_not_failed(asked: Asked, slurm: Slurm):
    asked.submit()
    slurm.end("1_0")
    assert asked.status()["alpha/a-s0"] == ("missing", "")


def test_what_raised_is_told_with_its_job(asked: Asked, slurm: Slurm):
    asked.submit()
    fail(asked.node("alpha/a-s0"), "ValueError: no luck")
    slurm.end("1_0", "FAILED", "1:0")
    assert asked.status()["alpha/a-s0"] == ("failed", "ValueError: no luck (job 1_0)")


# --- wait ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Time that passes only while somebody sleeps, ten seconds at once; then it does what it is given."""
    now = [0.0]
    do: list[Callable[[], None]] = []

    def sleep(seconds: float) -> None:
        now[0] += 10
        if do:
            do.pop(0)()

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    return lambda *steps: do.extend(steps)


def make(asked: Asked, slurm: Slurm, n: int) -> Callable[[], None]:
    node = list(asked.graph.values())[n]
    return lambda: (finish(node), slurm.end(f"{n + 1}_0"))[0]


def test_waiting_ends_when_all_is_there(asked: Asked, slurm: Slurm, clock, capsys: pytest.CaptureFixture[str]):
    asked.submit()
    clock(*(make(asked, slurm, n) for n in range(3)))
    assert asked.wait() == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 queued",
        "1 done, 2 queued",
        "2 done, 1 queued",
        "all 1 there",
    ]


def test_waiting_goes_through_the_moment_when_a_lost_job_is_in_no_queue(asked: Asked, slurm: Slurm, clock):
    """Between NODE_FAIL and its return squeue does not show it."""
    asked.submit()
    lost = dict.fromkeys(slurm.names(), ("NODE_FAIL", "0:0", "00:00:07", "01:00:00"))
    clock(lambda: slurm.over.update(lost), lambda: None, lambda: slurm.over.clear())
    clock(*(make(asked, slurm, n) for n in range(3)))
    assert asked.wait() == 0


def test_waiting_ends_when_nothing_more_can_come(asked: Asked, slurm: Slurm, clock, capsys: pytest.CaptureFixture[str]):
    asked.submit()

    def end() -> None:
        fail(asked.node("alpha/a-s0"), "ValueError: no luck", log="line 1\nline 2\n")
        slurm.end("1_0", "FAILED", "1:0")
        slurm.end("2_0", "CANCELLED")
        slurm.end("3_0", "CANCELLED")

    clock(end)
    assert asked.wait() == 1
    key = asked.node("alpha/a-s0").key
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"FAILED alpha/a-s0 ({key}): ValueError: no luck (job 1_0)",
        "    line 1",
        "    line 2",
    ]


def test_waiting_bears_a_slurm_that_does_not_answer_for_a_while(asked: Asked, slurm: Slurm, clock):
    asked.submit()
    clock(lambda: setattr(slurm, "answers", False), *[lambda: None] * 20, lambda: setattr(slurm, "answers", True))
    clock(*(make(asked, slurm, n) for n in range(3)))
    assert asked.wait() == 0


def test_waiting_gives_up_on_a_slurm_that_never_answers(asked: Asked, slurm: Slurm, clock):
    asked.submit()
    slurm.answers = False
    with pytest.raises(client.SlurmError, match="has not answered"):
        asked.wait()


# --- cancel, retry, logs ---


def test_cancelling_takes_along_what_waits_for_it_and_nothing_else(results: Path, slurm: Slurm):
    asked = Asked(results, seeds=2)
    asked.submit()
    assert watch.cancel(asked.graph, asked.home, "beta/b-s1") == 2
    assert slurm.queued() == ["1_0", "1_1", "2_0", "3_0"]
    assert watch.cancel(asked.graph, asked.home, None) == 4 and slurm.queued() == []


@pytest.mark.parametrize(("key", "remedy"), [("alpha/b", "no such artefact"), ("", "fits several artefacts")])
def test_a_key_must_be_one_artefacts(asked: Asked, key: str, remedy: str):
    with pytest.raises(ConfigError, match=remedy):
        watch.cancel(asked.graph, asked.home, key)


def test_a_retry_asks_anew_for_what_waits_and_leaves_what_runs(
    asked: Asked, slurm: Slurm, results: Path, capsys: pytest.CaptureFixture[str]
):
    asked.submit()
    slurm.now["1_0"] = {"state": "RUNNING"}
    longer = replace(asked.xs[0], cluster=replace(CLUSTER, default=replace(SIZE, minutes=120)))
    assert queue.act("retry", asked.graph, asked.targets, longer, results, None) == 0
    assert capsys.readouterr().out.splitlines() == ["2 jobs cancelled", "2 submitted in 2 arrays, 1 queued before"]
    assert slurm.queued() == ["1_0", "4_0", "5_0"]
    assert [slurm.flags(n)["time"] for n in (1, 4, 5)] == ["60", "120", "120"]
    assert slurm.flags(4)["dependency"] == "aftercorr:1"


def test_a_retry_of_one_artefact_takes_that_one_back(asked: Asked, slurm: Slurm, results: Path):
    asked.submit()
    longer = replace(asked.xs[0], cluster=replace(CLUSTER, default=replace(SIZE, minutes=120)))
    queue.act("retry", asked.graph, asked.targets, longer, results, "gamma/g-s0")
    assert slurm.queued() == ["1_0", "2_0", "4_0"]


@pytest.mark.parametrize(
    ("action", "key", "cluster", "message"),
    [
        ("retry", None, Cluster("local"), "cluster = 'local': say on which cluster, e.g. cluster=slurm"),
        ("cancel", None, CLUSTER, "key = None: say which artefact, or key=all"),
        ("logs", None, CLUSTER, "key = None: say which artefact"),
    ],
)
def test_a_command_says_what_it_needs(
    asked: Asked, results: Path, action: str, key: str | None, cluster: Cluster, message: str
):
    with pytest.raises(ConfigError, match=message):
        queue.act(action, asked.graph, asked.targets, replace(asked.xs[0], cluster=cluster), results, key)


def test_logs_are_what_the_stage_said_and_what_was_said_around_it(
    asked: Asked, results: Path, capsys: pytest.CaptureFixture[str]
):
    asked.submit()
    node = asked.node("beta/b-s0")
    for name, text in {"console.log": "step 1\nstep 2\n", "console-1.log": "follows\n"}.items():
        (node.folder / "log" / name).write_text(text)
    (asked.home / "submitit" / "2_0.out").write_text("srun: error: n1\n")
    (asked.home / "submitit" / "2_0_0.out").write_text("")
    (asked.home / "submitit" / "2_01_0.out").write_text("another element's\n")
    assert queue.act("logs", asked.graph, asked.targets, asked.xs[0], results, node.key[:9]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"==> {asked.home / 'submitit' / '2_0.out'}",
        "srun: error: n1",
        f"==> {node.folder / 'log' / 'console-1.log'}",
        "follows",
        f"==> {node.folder / 'log' / 'console.log'}",
        "step 1",
        "step 2",
    ]


def test_the_ledger_reads_what_it_wrote_and_skips_what_is_torn(asked: Asked, slurm: Slurm):
    asked.submit(report=["table=cross", "scale=smoke"])
    book = Ledger(asked.home)
    records = book.read()
    assert [(r.name, r.job, list(r.keys)) for r in records] == [
        ("alpha/a-s0", "1", [0]),
        ("beta/b-s0", "2", [0]),
        ("gamma/g-s0", "3", [0]),
        ("report/table=cross", "4", []),
    ]
    assert records[3].report == ("table=cross", "scale=smoke") and records[0].folder(0).name.startswith("a-s0-")
    (book.folder / f"{records[0].token}.json").write_text(json.dumps({})[:-1])
    assert [r.job for r in book.read()] == ["2", "3", "4"]
