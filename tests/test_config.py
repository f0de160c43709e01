"""From conf/ to an experiment: every choice composes, and everything wrong is refused with key, value and remedy."""

import dataclasses
import json
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pipeline import config
from pipeline.config import CONF, compose, experiment, from_values, plain_values, put
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment
from pipeline.world.spec import World

SCALES = config.groups()["scale"]
CHOICES = [(group, option) for group, options in config.groups().items() for option in options]
VARIED = [(group, option) for group, option in CHOICES if len(config.groups()[group]) > 1]
# An option with one file is part of every composition; once is enough to choose it by name.
COMBINED = [
    *((scale, group, option) for scale in SCALES for group, option in VARIED if group != "scale"),
    *(("micro", group, option) for group, option in CHOICES if (group, option) not in VARIED or group == "scale"),
]
# What an option needs beside it to make sense at a scale that is not its own.
COMPANIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("data", "micro"): {"world": "knows"},
    ("data", "micro_local"): {"world": "knows"},
    **{("model", name): {"model.positions": 4096} for name in config.groups()["model"] if name.startswith("tiny")},
    ("model", "tiny-bert"): {"model.positions": 4096, "sft.steps": 0, "sft.epochs": None},
}


def values(**settings: Any) -> dict[str, Any]:
    return plain_values((), settings)


def overrides(scale: str, group: str, option: str) -> tuple[str, ...]:
    return (f"scale={option}",) if group == "scale" else (f"scale={scale}", f"{group}={option}")


def refused(settings: Mapping[str, Any], *arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        experiment(arguments, settings)
    return str(caught.value)


# --- every choice ---


@pytest.mark.parametrize(("scale", "group", "option"), COMBINED)
def test_every_option_builds_at_every_scale(scale: str, group: str, option: str):
    made = experiment(overrides(scale, group, option), COMPANIONS.get((group, option), {}))
    assert made.size == (option if group == "scale" else scale)


@pytest.mark.parametrize(("scale", "group", "option"), COMBINED)
def test_putting_a_groups_file_in_place_is_what_hydra_composes(scale: str, group: str, option: str):
    by_hydra = json.loads(compose(overrides(scale, group, option)))
    assert plain_values((f"scale={scale}",), {group: option}) == by_hydra


def test_a_loss_is_put_in_place_without_hydra():
    assert all(config.swappable("loss", option, ()) for option in config.groups()["loss"])


@pytest.mark.parametrize(
    ("group", "option", "beside"),
    [
        ("loss", "bsr", ("loss.coef=0.5",)),  # Hydra applies the value after the choice
        ("scale", "smoke", ()),
        ("data", "micro", ()),  # the scales have something to say about it
        ("rloo", "default", ()),
    ],
)
def test_hydra_composes_where_a_file_is_not_the_whole_truth(group: str, option: str, beside: tuple[str, ...]):
    assert not config.swappable(group, option, beside)


def test_every_scale_names_itself():
    """Output folders are told apart by it."""
    assert {scale: experiment((f"scale={scale}",)).size for scale in SCALES} == {scale: scale for scale in SCALES}


def test_every_file_of_a_group_is_an_option():
    files = {p.relative_to(CONF).as_posix() for p in CONF.rglob("*.yaml")}
    options = {f"{group}/{option}.yaml" for group, option in CHOICES}
    asking = {p.relative_to(CONF).as_posix() for folder in config.ASKING for p in (CONF / folder).iterdir()}
    inner = ("*/loss/*.yaml", "dialect/*/*.yaml", "data/set/*.yaml")  # what options are put together from
    of_others = {p.relative_to(CONF).as_posix() for pattern in inner for p in CONF.glob(pattern)}
    assert files - options - asking - of_others == {"experiment.yaml", "stage.yaml", "cost.yaml"}


# --- how overrides and settings come together ---


def test_settings_win_over_overrides():
    assert experiment(("loss=bsr",), {"loss": "norm_bt"}).loss["name"] == "norm_bt"
    assert experiment(("rm.batch=8",), {"rm.batch": 4}).rm.batch == 4


def test_the_scale_wins_over_the_groups_and_a_value_over_the_scale():
    assert experiment(("scale=smoke",)).sft.steps == 240
    assert experiment(("scale=smoke", "sft.steps=7")).sft.steps == 7


def test_a_setting_of_one_experiment_does_not_reach_the_next():
    """Options are cached; a value put into one must not stay there."""
    usual = experiment((), {"loss": "bsr"}).loss["coef"]
    assert experiment((), {"loss": "bsr", "loss.coef": 0.625}).loss["coef"] == 0.625
    assert experiment((), {"loss": "bsr"}).loss["coef"] == usual


def test_sections_that_say_the_same_are_one_object():
    """A large plan is fast by it."""
    one, other = experiment((), {"seed": 0, "rm.batch": 8}), experiment((), {"seed": 1, "rm.batch": 16})
    assert one.data is other.data and one.run is other.run
    assert (one.rm.batch, other.rm.batch) == (8, 16)


def test_a_setting_reaches_the_option_that_is_chosen_with_it():
    assert experiment((), {"loss": "norm_bt", "loss.decay": 0.5}).loss["decay"] == 0.5


HINGE = {"name": "hinge", "margin": 1}


@pytest.mark.parametrize("setting", ["hinge", HINGE])
def test_a_loss_that_another_stands_on_is_named_or_written_out(setting: Any):
    written = setting if isinstance(setting, str) else "{name: hinge, margin: 1}"
    by_argument = experiment(("loss=norm_bt", f"loss.of={written}"))
    for made in (by_argument, experiment((), {"loss": "norm_bt", "loss.of": setting})):
        assert made.loss["of"] == HINGE and made.loss["name"] == "norm_bt"


def test_losses_stand_on_each_other_to_any_depth():
    of = experiment((), {"loss": "bsr", "loss.of": "norm_bt"}).loss["of"]
    assert isinstance(of, dict) and of["decay"] == 0.9 and of["of"] == {"name": "bt"}


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("hing", "loss.of = 'hing': no such loss; did you mean 'hinge'?"),
        ({"name": "hing"}, "loss.of.name = 'hing': no such loss; did you mean 'hinge'?"),
        ({"name": "hinge"}, "loss.of.margin = None: loss hinge needs it; choose it by its option: loss.of=hinge"),
        ({**HINGE, "margin": "wide"}, "loss.of.margin = 'wide': expected a number, not negative"),
        ({**HINGE, "decay": 0.5}, "loss.of.decay = 0.5: loss hinge has no such constant; "),
        ("norm_bt", "loss.of.name = 'norm_bt': stands twice in one loss"),
        (3, "loss.of = 3: expected a loss"),
    ],
)
def test_a_wrong_loss_below_another_is_refused_where_it_stands(of: Any, message: str):
    assert refused({"loss": "norm_bt", "loss.of": of}).startswith(message)


def test_groups_of_a_loss_divide_the_batch():
    assert experiment((), {"loss": "bsr", "loss.group": 16}).loss["group"] == 16
    assert refused({"loss": "bsr", "loss.group": 5}) == "loss.group = 5: must divide rm.batch=32"


@pytest.mark.parametrize("key", ["loss.coef", "loss.decay"])
def test_has_tells_which_choice_knows_a_key(key: str):
    knows = {option: config.has(key, (), {"loss": option}) for option in ("bt", "bsr", "norm_bt")}
    assert knows == {"bt": False, "bsr": key == "loss.coef", "norm_bt": key == "loss.decay"}


@pytest.mark.parametrize(
    "setting", ["rm.optim.lr", "compute.threads", "sft.seed", "run.jobs", "data.benchmarks.rm_bench.n"]
)
def test_put_sets_exactly_one_leaf(setting: str):
    before, after = values(), values()
    put(after, setting, 3)
    differ = {k for k, v in config.leaves(after).items() if v != config.leaves(before)[k]}
    assert differ == {setting} and config.leaves(after)[setting] == 3


def test_yaml_numbers_follow_omegaconf():
    """PyYAML alone reads 1e-3 as text."""
    assert experiment((), {"loss": "bsr"}).loss["coef"] == 1e-2
    assert isinstance(experiment().rm.optim.lr, float)


def test_whole_numbers_are_numbers_where_a_number_is_asked_for():
    made = experiment((), {"rm.optim.lr": 1})
    assert made.rm.optim.lr == 1.0 and isinstance(made.rm.optim.lr, float)


# --- replicas ---


@pytest.mark.parametrize(
    ("seed", "replicas", "expected"), [(0, 1, 0), (5, 1, 0), (0, 2, 0), (1, 2, 1), (2, 2, 0), (7, 3, 1), (2, 5, 2)]
)
def test_a_seed_starts_from_its_replica(seed: int, replicas: int, expected: int):
    assert experiment((), {"seed": seed, "replicas": replicas}).sft.seed == expected


@pytest.mark.parametrize("loss", config.groups()["loss"])
def test_the_replica_is_the_same_for_every_loss(loss: str):
    assert experiment((), {"seed": 5, "loss": loss}).sft.seed == 1


def test_a_replica_can_be_named():
    assert experiment((), {"seed": 3, "sft.seed": 11}).sft.seed == 11


# --- frozen ---


def sections(cls: type) -> Iterator[type]:
    yield cls
    for hint in config.hints(cls).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                yield from sections(typing.cast(type, part))


@pytest.mark.parametrize("cls", sorted(set(sections(Experiment)), key=lambda c: c.__name__))
def test_sections_are_frozen(cls: type):
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_nothing_of_an_experiment_can_be_assigned():
    made = experiment()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.rm.optim.lr = 1.0  # type: ignore[misc]


def test_what_is_composed_once_cannot_be_spoilt():
    first = plain_values((), {})
    first["rm"]["batch"] = -1
    first["data"]["benchmarks"].clear()
    assert experiment().rm.batch > 0 and experiment().data.benchmarks


# --- what is wrong, and how it is said ---


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("rm.optim.lrr", 3, "rm.optim.lr"),
        ("rm.optm.lr", 3, "rm.optim.lr"),
        ("sed", 1, "seed"),
        ("sft.step", 1, "sft.steps"),
        ("data.benchmarks.rmbench.n", 1, "data.benchmarks.rm_bench.n"),
        ("rloo.klw", 1, "rloo.kl"),
        ("run.job", 1, "run.jobs"),
        ("rm.batch.size", 1, "rm.batch"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(key: str, value: int, meant: str):
    assert refused({key: value}) == f"{key} = {value!r}: unknown key; did you mean '{meant}'?"
    assert refused({}, f"{key}={value}") == f"{key} = '{value}': unknown key; did you mean '{meant}'?"


def test_a_section_is_no_value():
    assert refused({"rm.optim": 3}).startswith("rm.optim = 3: unknown key")


def test_a_benchmark_can_be_left_out():
    made = config.experiment((), {"data.benchmarks.rm_bench": None})
    assert made.data.benchmarks["rm_bench"] is None and made.data.benchmarks["in_domain"] is not None
    assert refused({"rm.optim": None}).startswith("rm.optim = None")


@pytest.mark.parametrize(
    ("group", "option", "remedy"),
    [
        ("loss", "bsrr", "did you mean 'bsr'?"),
        ("scale", "smok", "did you mean 'smoke'?"),
        ("model", "tiny-lama", "did you mean 'tiny-llama'?"),
        ("judge", "xyz", "known: gold"),
        ("loss", None, "known: "),
    ],
)
def test_an_unknown_option_is_refused_and_the_nearest_named(group: str, option: str | None, remedy: str):
    message = refused({group: option})
    assert message.startswith(f"{group} = {option!r}: no such option; ") and remedy in message
    if option:
        assert refused({}, f"{group}={option}") == message


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("seed", "one", "expected a whole number"),
        ("seed", 1.5, "expected a whole number"),
        ("seed", True, "expected a whole number"),
        ("seed", None, "expected a whole number"),
        ("seed", [0, 1], "expected a whole number"),
        ("replicas", "2", "expected a whole number"),
        ("rm.batch", 8.0, "expected a whole number"),
        ("rm.optim.lr", "fast", "expected a number"),
        ("rm.optim.lr", False, "expected a number"),
        ("rm.optim.lr", None, "expected a number"),
        ("rm.optim.betas", 0.9, "expected a list"),
        ("rm.optim.betas", "0.9", "expected a list"),
        ("rm.optim.schedule", "cosin", "must be one of cosine, linear, constant"),
        ("rm.head_init", "zero", "must be one of stiennon, hf, reference"),
        ("rloo.reward", "RM", "must be one of rm, gold"),
        ("generate.policy", 1, "must be one of sft, rloo"),
        ("compute.precision", "fp16", "must be one of fp32, bf16"),
        ("log.mode", "off", "must be one of disabled, offline, online"),
        ("log.entity", 3, "expected text"),
        ("run.root", 3, "expected text"),
        ("run.jobs", "all", "expected a whole number"),
        ("sft.seed", "first", "expected a whole number"),
        ("data.sft.kind", "web", "must be one of world, hub, local, sets"),
        ("cluster.kind", "k8s", "must be one of"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(key: str, value: object, remedy: str):
    assert refused({key: value}).startswith(f"{key} = {value!r}: {remedy}")


@pytest.mark.parametrize("name", ["rm", "data", "world", "data.benchmarks"])
def test_a_section_must_have_keys(name: str):
    made = values()
    *path, last = name.split(".")
    at = made
    for part in path:
        at = at[part]
    at[last] = 3
    with pytest.raises(ConfigError, match=f"^{name} = 3: expected a section with keys"):
        from_values(made)


@pytest.mark.parametrize("key", ["seed", "model.source", "rm.optim.lr", "data.sft.part", "rloo.k"])
def test_a_missing_value_is_named(key: str):
    made = values()
    *path, last = key.split(".")
    at = made
    for part in path:
        at = at[part]
    del at[last]
    with pytest.raises(ConfigError, match=f"^{key} = None: missing"):
        from_values(made)


@pytest.mark.parametrize("key", ["seed", "model.family", "rm.optim.lr", "data.benchmarks.rm_bench.n", "run.jobs"])
def test_a_required_choice_left_open_says_how_to_make_it(key: str):
    message = refused({key: "???"})
    assert message.startswith(f"{key} = '???': required and has no default") and f"{key}=..." in message


def test_an_unknown_key_in_a_section_is_refused():
    made = values()
    made["rm"]["bach"] = 1
    with pytest.raises(ConfigError, match=r"^rm\.bach = 1: unknown key; did you mean 'batch'\?"):
        from_values(made)


@pytest.mark.parametrize("settings", [{"model.id": "org/name"}, {"model": "qwen2.5-0.5b", "model.hidden": 64}], ids=str)
def test_a_key_of_the_other_kind_of_model_is_unknown(settings: dict[str, Any]):
    assert "unknown key" in refused(settings)


@pytest.mark.parametrize(
    ("at", "more", "message"),
    [
        ("model", {"id": "org/name"}, "model.id = 'org/name': has no meaning with source=tiny; remove it"),
        ("model", {"source": "hub"}, "model.id = None: source=hub needs it"),
        ("model", {"layers": None}, "model.layers = None: source=tiny needs it"),
        ("data.sft", {"id": "org/rows"}, "data.sft.id = 'org/rows': has no meaning with kind=world; remove it"),
        ("data.sft", {"kind": "hub"}, "data.sft.id = None: kind=hub needs it"),
        ("data.sft", {"n": None}, "data.sft.n = None: kind=world needs it"),
        ("", {"world": None}, "world = None: a source has kind=world; choose a world, e.g. world=knows"),
        (
            "",
            {"loss": {"coef": 1.0}},
            "loss.name = None: no such loss; known: bsr, bsr_adaptive, bsr_schedule, bsr_var, bt, bt_norm, center, dr,"
            " hinge, label_smoothing, margin, margin_out, norm_bt",
        ),
        ("sft", {"epochs": 1}, "sft.steps, epochs = (3000, 1): say one of them and set the other to null"),
        ("sft", {"steps": None}, "sft.steps, epochs = (None, None): say one of them and set the other to null"),
    ],
)
def test_contradictions_are_refused(at: str, more: dict[str, Any], message: str):
    made = values()
    section = made
    for part in filter(None, at.split(".")):
        section = section[part]
    section.update(more)
    with pytest.raises(ConfigError) as caught:
        from_values(made)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["sft", "preferences", "prompts", "alpaca_eval", "benchmarks.rm_bench"])
def test_every_source_from_the_world_needs_a_world(name: str):
    made = plain_values(("scale=small",), {})
    at = made["data"]
    *path, last = name.split(".")
    for part in path:
        at = at[part]
    at[last] = {"kind": "world", "part": last, "n": 8000}
    with pytest.raises(ConfigError, match=r"^world = None: a source has kind=world"):
        from_values(made)


@pytest.mark.parametrize("key", ["id", "revision", "split"])
def test_what_only_a_hub_data_set_has_is_refused_of_the_world(key: str):
    made = values()
    made["data"]["sft"][key] = "something"
    with pytest.raises(
        ConfigError, match=rf"^data\.sft\.{key} = 'something': has no meaning with kind=world; remove it"
    ):
        from_values(made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.heads": 5}, "model.heads = 5: must divide hidden=64"),
        ({"rm.batch": 1501}, "rm.batch = 1501: exceeds data.preferences.n=1500"),
        ({"sft.batch": 48001}, "sft.batch = 48001: exceeds data.sft.n=48000"),
        ({"rloo.prompts": 1921}, "rloo.prompts = 1921: exceeds data.prompts.n=1920"),
        ({"rm.max_length": 161}, "model.positions = 160: is shorter than the longest sequence asked for (161)"),
        ({"sft.max_length": 400}, "model.positions = 160: is shorter than the longest sequence asked for (400)"),
        ({"data.sft.part": "stf"}, "data.sft.part = 'stf'"),
        ({"loss.name": "bsr"}, "loss.of = None: loss bsr needs it; choose it by its option: loss=bsr"),
        ({"loss": "bsr", "loss.coef": "much"}, "loss.coef = 'much': expected a number"),
        ({"loss": "bsr", "loss.coef": True}, "loss.coef = True: expected a number"),
        ({"loss": "bsr", "loss.coef": None}, "loss.coef = None: expected a number"),
        ({"loss.name": "bst"}, "loss.name = 'bst': no such loss; did you mean 'bt'?"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_each_other_are_refused(settings: dict[str, Any], message: str):
    assert refused(settings).startswith(message)


def test_a_constant_that_a_loss_does_not_have_is_refused():
    made = values(loss="bsr")
    made["loss"]["decay"] = 0.9
    with pytest.raises(ConfigError, match=r"^loss\.decay = 0\.9"):
        from_values(made)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("replicas", 0),
        ("model.hidden", 0),
        ("model.layers", 0),
        ("model.heads", 0),
        ("model.mlp", -1),
        ("model.vocab", 0),
        ("model.positions", 0),
        ("data.sft.n", 0),
        ("data.benchmarks.rm_bench.n", -1),
        ("sft.steps", -1),
        ("sft.batch", 0),
        ("sft.max_length", 0),
        ("sft.optim.lr", 0.0),
        ("rm.epochs", -1),
        ("rm.batch", -4),
        ("rm.max_length", 0),
        ("rm.optim.lr", -1e-3),
        ("rm.optim.warmup", 1.0),
        ("rm.optim.warmup", -0.1),
        ("rm.optim.betas", [0.9]),
        ("rm.optim.betas", [0.9, 1.0]),
        ("rm.optim.weight_decay", -0.1),
        ("rm.optim.clip", 0.0),
        ("rloo.k", 1),
        ("rloo.steps", 0),
        ("rloo.prompts", 0),
        ("rloo.max_new", 0),
        ("rloo.kl", -0.1),
        ("rloo.temperature", 0.0),
        ("rloo.whiten_samples", 1),
        ("generate.temperature", -1.0),
        ("generate.max_new", 0),
        ("generate.samples", 0),
        ("generate.top_p", 0.0),
        ("generate.top_p", 1.5),
        ("generate.top_k", -1),
        ("judge.temperature", 0.0),
        ("bench.outliers", 0),
        ("compute.threads", 0),
        ("run.jobs", 0),
        ("run.checkpoint_seconds", 0),
        ("run.checkpoint_steps", 0),
        ("run.stop_after_steps", 0),
        ("run.micro_tokens", 0),
        ("run.progress_seconds", -1),
        ("run.lock_seconds", 0),
        ("log.every", 0),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_its_key(key: str, value: object):
    """Before anything runs: found by a stage it would cost everything above it."""
    section, _, last = key.rpartition(".")
    where = refused({key: value}).partition(" = ")[0]
    assert where.startswith(section) and last in where.removeprefix(f"{section}.").split(", ")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["rm.optim.lr", "rm.optim.weight_decay", "rloo.kl", "judge.temperature"])
def test_only_finite_numbers_are_settings(key: str, value: float):
    """JSON has no others, so no key could be made of them."""
    assert refused({key: value}).startswith(key)


def test_a_world_out_of_range_is_a_wrong_setting_too():
    made = values()
    made["world"]["flip"] = 2.0
    with pytest.raises(ConfigError, match=r"^world\.flip = 2\.0: is a share"):
        from_values(made)


def test_every_knob_of_the_world_can_be_turned():
    """A knob that no YAML names could not be set from a command line."""
    assert set(values()["world"]) == {field.name for field in dataclasses.fields(World)}


# --- command lines ---


@pytest.mark.parametrize(
    "argument",
    ["seed=0,1", "loss=bt,bsr", "hydra.verbose=true", "hydra/launcher=basic", "-m", "--cfg", "stage=rm", "loss.coef=1"],
)
def test_good_arguments_pass(argument: str):
    config.check_overrides([argument], ("stage",))


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=qwen2.5-0.5b", "model.revision=abc"],
        ["data=ultra", "~world", "data.sft.revision=abc"],
        ["scale=small", "model.id=org/name"],
    ],
    ids=" ".join,
)
def test_keys_of_a_chosen_option_are_known(arguments: list[str]):
    """They are not in the default composition; what is chosen beside them decides."""
    config.check_overrides(arguments, ())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed", "argument = 'seed': expected key=value"),
        ("stagee=rm", "stagee = 'rm': unknown key; did you mean 'stage'?"),
        ("loss=bt,bst", "loss = 'bst': no such option; did you mean 'bt'?"),
        ("loss.cof=1", "loss.cof = '1': unknown key; did you mean 'loss.coef'?"),
        ("+rm.new=1", "+rm.new = '1': unknown key"),
        ("~rm.batch=1", "~rm.batch = '1': unknown key"),
    ],
)
def test_bad_arguments_are_told_before_hydra_sees_them(argument: str, message: str):
    with pytest.raises(ConfigError) as caught:
        config.check_overrides([argument], ("stage",))
    assert str(caught.value).startswith(message)


def test_first_names_are_checked_without_composing():
    config.check_first_names(["table=cross", "rm.optim.anything=1", "scale=smoke"], ("table",))
    with pytest.raises(ConfigError, match=r"^tabel = .*: unknown key; did you mean 'table'\?"):
        config.check_first_names(["tabel=cross"], ("table",))


@pytest.mark.parametrize("override", ["rm.batch=[1", "rm.batch", "rm.batch=${nothing}"])
def test_what_hydra_cannot_read_is_one_line(override: str):
    message = refused({}, override)
    assert "\n" not in message and override.split("=")[-1] in message
