"""Identity: what moves an artefact's key, what does not, and that a stage can read nothing else."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline import config, plan, table
from pipeline.config import experiment, from_values, leaves, plain_values
from pipeline.errors import ConfigError
from pipeline.experiment import NEVER_HASHED, Experiment
from pipeline.stage import Inputs, Stage, Undeclared, find, identity, plain, view
from pipeline.stages import STAGES

Golden = Callable[[str, str], None]

# Leaves whose other value is not simply the next one. None: it cannot be changed alone.
OTHER: dict[str, Any] = {
    **dict.fromkeys(("run.retention.sft", "run.retention.rm", "run.retention.rloo"), "scores"),
    "policy.model": {"source": "hub", "id": "org/other", "revision": "main"},
    "policy.sft": {**json.loads(json.dumps(dataclasses.asdict(experiment().sft))), "steps": 7},
    "policy.data": {"kind": "world", "part": "sft", "n": 64},
    "bench.outliers": 1.0,
    "bench.blind": "longer",
    "rm.draw": 1,
    "rm.read": None,  # a tiny model's own template writes nothing after the end of turn
    "rm.bos": "never",
    "rm.overlong": "cut",
    "rm.head": "mlp",
    "rm.norm_before_head": True,
    "rm.implicit": {"beta": 0.1},
    "rm.text": {"coef": 0.1},
    "sft.learns": "all",
    "model.template": "zephyr",
    "rm.head_offset": 12.0,
    "rm.trains": "head",
    "run.external": "elsewhere",
    "external": None,  # set by make eval
    "data.gold": {"id": "org/other", "revision": "main"},
    "data.scratch": None,  # made of many settings: tests/test_scenarios.py
    "source": None,  # set by the stage that asks
    "split": None,
    "gold": None,
    "generate.samples": None,  # the same
    "best_of_n.ns": [1, 2],
    "most_seeds": 2,
    "replicas": 1,
    "model.source": None,  # tiny and hub need other keys
    "model.family": "qwen2",
    "model.hidden": 128,
    "model.heads": 8,
    "model.id": None,
    "model.revision": None,
    **{f"model.{name}": None for name in ("bos", "eos", "pad", "layer")},
    "world.critiques": "all",
    "world.knowledge": "unsure",
    "sft.epochs": None,  # either steps or epochs
    "sft.seed": 5,
    "sft.optim.schedule": "linear",
    "rm.optim.schedule": "linear",
    "rm.head_init": "hf",
    "rloo.optim.schedule": "cosine",
    "rloo.reward": "gold",
    "rloo.reward_transform": "none",
    "rloo.trained": "first",
    "rloo.kl_estimator": "k3",
    "rloo.long_prompts": "cut",
    "rloo.clip_reward": 5.0,
    "loss.name": None,  # comes with its constants
    "loss.of": "dr",
    "loss.group": 8,
    "loss.times_group": True,
    "loss.distance": "cosine",
    "loss.mu": "batch",
    "loss.cap": 4.0,
    "loss.mean_one": True,
    "generate.policy": "sft",
    "judge.kind": None,  # kinds need other keys
    "judge.id": None,
    "judge.revision": None,
    "judge.trust_remote_code": None,
    "judge.prompt": None,
    "judge.prompt_sha256": None,
    "calibration.kind": None,
    "calibration.file": None,
    "calibration.sha256": None,
    "calibration.id": None,
    "calibration.revision": None,
    "alpaca_eval.baseline": "given",
    "alpaca_eval.fold_order": "legacy",
    "compute.precision": "bf16",
    **{f"{stage}.optim.lora": {"rank": 8, "alpha": 16.0} for stage in ("sft", "rm", "rloo")},
    "run.packing": "packed",
    "run.parallel": "fsdp",
    "run.recompute": "layers",
    "run.reference": "offload",
    "run.reward": "offload",
    "run.stop_after_seconds": 60.0,
    "cluster.kind": None,
    **{f"cluster.{name}": "theirs" for name in ("account", "partition", "qos", "constraint", "gres")},
    **{f"cluster.default.{name}": 7 for name in ("minutes", "cpus", "memory_gb", "nodes", "gpus", "tasks")},
    "cluster.setup": ["module load cuda"],
    "cluster.dirty": True,
    "run.jobs": 3,
    "run.checkpoint_steps": 3,
    "run.stop_after_steps": 3,
    "run.endpoint.url": "http://here/v1",
    "run.endpoint.price_per_million": [1.0, 2.0],
    "run.endpoint.max_cost": None,  # needs a price
    "hub.root": "theirs",
    "log.mode": "offline",
    "log.entity": "somebody",
}
# Of a source: no other value fits the same world.
ORIGIN = (
    "kind",
    "part",
    "seed",
    "id",
    "revision",
    "split",
    "config",
    "file",
    "path",
    "schema",
    "every",
    "bad",
    "sha256",
)
ORIGIN += ("licence", "sets")
BELOW_LOSS = ["alpaca_eval", "bench", "best_of_n", "dynamics", "generate", "judge", "rloo", "rm", "score"]
BELOW_LOSS += ["score (samples)"]


def stage(**more: Any) -> Stage:
    made: dict[str, Any] = {
        "name": "toy",
        "version": 1,
        "reads": ("seed",),
        "needs": lambda x: {},
        "slug": lambda x: "t",
    }
    return Stage(**{**made, **more})


def key(sections: dict[str, Any], inputs: dict[str, str] | None = None, **more: Any) -> str:
    return identity(stage(**more), plain(sections), inputs or {})


# --- keys ---


def test_the_keys_of_the_cross_table_are_pinned(golden: Golden, tmp_path: Path):
    """A key that moves makes everybody's artefacts anew. Move them only with a stage's version or a setting."""
    spec = table.load("cross", STAGES, [0])
    made = table.experiments(spec, ["scale=smoke"])
    graph, _ = plan.build(STAGES, tmp_path, table.wanted(spec, made))
    keys = {node.name: node.key for node in graph.values()}
    assert len(keys) == len(graph)
    golden("keys.json", json.dumps(keys, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1e3}, {"a": 1000}),
        ({"a": -0.0}, {"a": 0}),
        ({"a": {"b": 1, "c": None}}, {"a": {"b": 1}}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": (1, 2)}, {"a": [1, 2.0]}),
    ],
    ids=str,
)
def test_the_same_setting_has_the_same_key(one: dict[str, Any], other: dict[str, Any]):
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": 0.1}, {"a": 0.1 + 1e-17 * 8}),
        ({"a": 2.0**53}, {"a": 2.0**53 + 2}),
        ({"a": 0}, {"a": None}),
        ({"a": ""}, {"a": None}),
        ({"a": {"b": 1}}, {"a": 1}),
        ({"a": 1}, {"b": 1}),
    ],
    ids=str,
)
def test_another_setting_has_another_key(one: dict[str, Any], other: dict[str, Any]):
    assert key(one) != key(other)


def test_name_version_and_inputs_are_part_of_the_key():
    base = key({"a": 1}, {"in": "0"})
    others = [
        key({"a": 1}, {"in": "0"}, version=2),
        key({"a": 1}, {"in": "0"}, name="other"),
        key({"a": 1}, {"in": "1"}),
        key({"a": 1}, {"out": "0"}),
        key({"a": 1}, {"in": "0", "more": "0"}),
        key({"a": 1}),
    ]
    assert len({base, *others}) == 7


def test_what_only_names_things_is_no_part_of_the_key():
    assert key({"a": 1}) == key({"a": 1}, slug=lambda x: "other", ready=lambda x: "never")


def test_a_key_is_sixteen_hex_digits():
    assert len(key({})) == 16 and int(key({}), 16) >= 0


def test_a_new_optional_setting_moves_no_key():
    @dataclasses.dataclass(frozen=True)
    class Before:
        a: int

    @dataclasses.dataclass(frozen=True)
    class After:
        a: int
        b: int | None = None

    assert key({"s": Before(1)}) == key({"s": After(1)}) != key({"s": After(1, 2)})


@pytest.mark.parametrize("section", NEVER_HASHED)
def test_no_stage_may_declare_what_must_not_matter(section: str):
    with pytest.raises(AssertionError, match="must not matter"):
        key({}, reads=(section,))
    assert all(section not in s.reads for s in STAGES.values())


def test_every_stage_declares_sections_that_exist():
    for s in STAGES.values():
        assert set(s.reads) <= set(config.hints(Experiment)), s.name


def test_a_stage_is_found_by_name_or_a_better_one_named():
    assert find(STAGES, "rm") is STAGES["rm"]
    with pytest.raises(ConfigError, match=r"^stage = 'benhc': no such stage; did you mean 'bench'\?"):
        find(STAGES, "benhc")


# --- which settings replan which stages ---


def replanned(before: Experiment, after: Experiment) -> list[str]:
    """The artefacts of a whole chain whose key differs."""
    old, new = keys_of(before), keys_of(after)
    return sorted(label for label in old.keys() | new.keys() if old.get(label) != new.get(label))


def keys_of(x: Experiment) -> dict[str, str]:
    """{artefact: key}; data by whom it feeds, responses of the baseline and its references apart from the policy's."""
    ends = ("bench", "dynamics", "rloo", "alpaca_eval", "best_of_n")
    graph, targets = plan.build(STAGES, Path(), [(name, x) for name in ends])
    labels = {node.stage.name: node.key for node in targets}
    for node in graph.values():
        for name, need in node.inputs.items():
            user = "samples" if need.name.startswith("data/best_of_n") else node.stage.name
            whose = f"data of {user}" if name == "data" else f"data of bench: {name}"
            again = name.startswith(("baseline", "reference", "samples"))
            role = need.stage.name + f" ({name})" * again + " (untrained)" * ("/untrained-" in need.name)
            if (node.stage.name, name) == ("best_of_n", "score"):
                role = "score (samples)"
            labels[whose if need.stage.name == "data" else role] = need.key
    return labels


@cache
def base(loss: str) -> str:
    """Every setting of a chain as JSON, defaults that no YAML names included. Seed 1 has a replica of its own."""
    values = plain_values((), {"loss": loss, "seed": 1})
    return json.dumps(dataclasses.asdict(config.build(Experiment, values)))


def another(name: str, value: Any) -> Any:
    """Another valid value of a setting; None if there is none."""
    if name in OTHER:
        return OTHER[name]
    if name.startswith("data.") and name.endswith(ORIGIN):
        return None
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, list):
        return [v / 2 for v in value]
    assert isinstance(value, str), f"{name} = {value!r}: say in OTHER what else it can be"
    return f"other-{value}"


def replanned_by(name: str, loss: str = "bsr") -> list[str] | None:
    values = json.loads(base(loss))
    value = another(name, leaves(values)[name])
    if value is None:
        return None
    changed = json.loads(base(loss))
    config.put(changed, name, value)
    return replanned(from_values(values), from_values(changed))


LEAVES = sorted(leaves(json.loads(base("bsr"))))


def test_every_setting_replans_what_it_should(golden: Golden):
    """Nothing more: hours of work would be redone. Nothing less: results would be stale."""
    found = {name: replanned_by(name) for name in LEAVES}
    lines = ",\n".join(
        f" {json.dumps(name)}: {json.dumps(labels)}" for name, labels in found.items() if labels is not None
    )
    golden("replans.json", f"{{\n{lines}\n}}\n")


def test_only_known_settings_cannot_be_changed_alone():
    stuck = {name for name in LEAVES if replanned_by(name) is None}
    assert stuck == {n for n in LEAVES if OTHER.get(n, "") is None or (n.startswith("data.") and n.endswith(ORIGIN))}


UNREAD = ("run", "log", "size", "dialect", "most_seeds")
NOWHERE = [n for n in LEAVES if n.split(".")[0] in UNREAD and OTHER.get(n, "") is not None]


@pytest.mark.parametrize("name", NOWHERE)
def test_how_and_where_it_runs_replans_nothing(name: str):
    assert replanned_by(name) == []


def test_the_cluster_replans_nothing():
    x = experiment()
    elsewhere = dataclasses.replace(x, cluster=experiment(["cluster=slurm"]).cluster)
    assert elsewhere.cluster.kind == "slurm" and replanned(x, elsewhere) == []


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (loss, f"loss.{key}")
        for loss in config.groups()["loss"]
        for key in json.loads(base(loss))["loss"]
        if key != "name"
    ],
)
def test_a_constant_of_a_loss_replans_the_reward_model_and_what_is_below_it(loss: str, name: str):
    assert replanned_by(name, loss) == BELOW_LOSS


@pytest.mark.parametrize("loss", ["bt", "norm_bt"])
def test_another_loss_replans_the_reward_model_and_what_is_below_it(loss: str):
    assert replanned(experiment((), {"loss": "bsr"}), experiment((), {"loss": loss})) == BELOW_LOSS


def test_the_gold_reward_needs_no_reward_model():
    x = experiment((), {"rloo.reward": "gold"})
    graph, _ = plan.build(STAGES, Path(), [("alpaca_eval", x)])
    assert "rm" not in {node.stage.name for node in graph.values()}
    assert replanned_by("loss.coef") == BELOW_LOSS
    other_loss = experiment((), {"rloo.reward": "gold", "loss": "bsr"})
    assert not {"rloo", "generate", "judge", "alpaca_eval"} & set(replanned(x, other_loss))


def test_a_policy_of_another_model_starts_from_its_own_sft_and_is_compared_with_that():
    def starts(x: Experiment) -> dict[str, str]:
        graph, _ = plan.build(STAGES, Path(), [("alpaca_eval", x)])
        return {f"{n.name}/{name}": need.key for n in graph.values() for name, need in n.inputs.items()}

    one, two = starts(experiment()), starts(experiment((), {"policy": "tiny-qwen2"}))
    assert one["rm/bt-s0/sft"] == one["rloo/bt-s0/sft"] == one["generate/sft-r0-s0/policy"] == two["rm/bt-s0/sft"]
    assert two["rloo/bt-s0/sft"] == two["generate/sft-r0-s0/policy"] != two["rm/bt-s0/sft"]


def test_seeds_of_one_replica_share_their_start():
    """SFT is the dearest stage: seeds 0 and 4 start from the same of four replicas."""
    first, third = (keys_of(experiment((), {"seed": seed})) for seed in (0, 4))
    assert {label for label in first if first[label] == third[label]} == {"sft", "data of sft"}


# --- what a stage can read ---


def seen(name: str) -> Any:
    x = experiment()
    sections = {section: plain(getattr(x, section)) for section in (*STAGES[name].reads, "run", "log")}
    return view(name, sections)


def test_a_stage_reads_what_it_declares_as_it_was():
    x, x_seen = experiment(), seen("rm")
    assert (x_seen.rm, x_seen.loss, x_seen.seed, x_seen.compute) == (x.rm, x.loss, x.seed, x.compute)


@pytest.mark.parametrize("name", [n for n in STAGES if n != "data"])
def test_reading_an_undeclared_section_raises(name: str):
    declared = {*STAGES[name].reads, "run", "log"}
    for section in {f.name for f in dataclasses.fields(Experiment)} - declared:
        with pytest.raises(Undeclared, match=f"stage {name} reads section '{section}'; add it to the stage's `reads`"):
            getattr(seen(name), section)


@pytest.mark.parametrize("name", [n for n in STAGES if n != "data"])
def test_run_and_log_can_be_read_everywhere(name: str):
    assert (seen(name).run, seen(name).log) == (experiment().run, experiment().log)


def test_a_section_that_was_none_is_undeclared_not_none():
    assert not hasattr(view("toy", {"seed": 1}), "world")


def test_an_undeclared_input_raises():
    inputs = Inputs({"sft": Path("a"), "data": Path("b")})
    assert inputs["sft"] == Path("a")
    with pytest.raises(Undeclared, match=r"no input 'rm'; declared: sft, data"):
        inputs["rm"]
    with pytest.raises(Undeclared, match=r"no input 'rm'; declared: none"):
        Inputs()["rm"]
