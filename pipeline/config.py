"""From `conf/` and overrides to an experiment.

A wrong key, type or combination raises ConfigError before anything runs; nothing is ever repaired silently. Hydra
composes group choices (slow, cached); plain values are put in place without it. No torch here.
"""

import difflib
import itertools
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.constants import check_constants
from pipeline.errors import ConfigError, check
from pipeline.experiment import Experiment, Scalar, Sft

PROJECT = Path(__file__).resolve().parent.parent
CONF = PROJECT / "conf"
ASKING = ("table", "claim", "figure")  # they are no groups
T = TypeVar("T")


def closest(word: object, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


@cache
def hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def build(cls: type[T], values: object, at: str = "") -> T:
    """A dataclass from nested plain values; strict about keys, types and missing values."""
    check(isinstance(values, Mapping), at or "config", values, "expected a section with keys")
    assert isinstance(values, Mapping)
    known = hints(cls)
    for key in values:
        if key not in known:
            raise ConfigError(dotted(at, key), values[key], f"unknown key; {closest(key, known)}")
    made = {}
    for field in fields(cls):  # type: ignore[arg-type]  # T is always one of our dataclasses
        key = dotted(at, field.name)
        if field.name in values:
            made[field.name] = convert(values[field.name], known[field.name], key)
        elif type(None) in typing.get_args(known[field.name]):
            made[field.name] = None
        elif field.default is field.default_factory:  # both are MISSING: there is no default
            raise ConfigError(key, None, "missing and has no default")
    try:
        return cls(**made)
    except ConfigError as e:
        raise ConfigError(dotted(at, e.key), e.value, e.remedy) from e


def dotted(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def convert(value: object, kind: Any, key: str) -> Any:
    if is_dataclass(value):  # made by `section`
        return value
    check(value != "???", key, value, f"required and has no default; set it, e.g. {key}=...")
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        if isinstance(value, Mapping) and dict[str, Any] in options:
            return dict(value)
        return convert(value, options[0], key) if len(options) == 1 else scalar(value, key)
    if origin is Literal:
        if value not in args:
            raise ConfigError(key, value, f"must be one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        check(isinstance(value, Sequence) and not isinstance(value, str), key, value, "expected a list")
        return tuple(convert(v, args[0], f"{key}[{i}]") for i, v in enumerate(typing.cast(Sequence, value)))
    if origin is dict:
        check(isinstance(value, Mapping), key, value, "expected a section with keys")
        return {k: convert(v, args[1], dotted(key, k)) for k, v in typing.cast(Mapping, value).items()}
    if is_dataclass(kind):
        return build(typing.cast(type, kind), value, key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    check(type(value) is kind, key, value, f"expected {names[kind]}")
    check(not isinstance(value, float) or math.isfinite(value), key, value, "expected a finite number")
    return value


def scalar(value: object, key: str) -> Scalar:
    check(value is None or isinstance(value, int | float | str | bool), key, value, "expected one plain value")
    return typing.cast(Scalar, value)


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Hydra groups of the experiment and their options: the folders of conf/ but those that ask for experiments."""
    folders = sorted(p for p in CONF.iterdir() if p.is_dir() and p.name not in ASKING)
    return {p.name: tuple(sorted(f.stem for f in p.glob("*.yaml"))) for p in folders}


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file with OmegaConf's rules (1e-3 is a number, duplicate keys are errors)."""
    return json.loads(yaml_as_json(path))


@cache
def yaml_as_json(path: Path) -> str:
    """As text, so that the cache cannot be spoilt by a caller."""
    from omegaconf import OmegaConf

    return json.dumps(OmegaConf.to_container(OmegaConf.load(path)))


@cache
def compose(overrides: tuple[str, ...]) -> str:
    """The composed experiment as JSON text: immutable, so that the cache cannot be spoilt by a caller."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return json.dumps(OmegaConf.to_container(hydra_compose("experiment", list(overrides)), resolve=True))
    except (HydraException, OmegaConfBaseException) as e:
        check_options(overrides)  # these say it better, if it is an option or a key
        if any(o.removeprefix("~").split("=", 1)[0] not in groups() for o in overrides):
            check_overrides(overrides, ())
        raise ConfigError("overrides", " ".join(overrides), str(e).splitlines()[0]) from e


def experiment(overrides: Sequence[str] = (), settings: Mapping[str, Any] | None = None) -> Experiment:
    """`overrides` in Hydra's syntax first, then `settings` (group: option, or dotted key: value), which win."""
    return from_values(plain_values(overrides, settings or {}))


def of_seeds(overrides: Sequence[str], settings: Mapping[str, Any], seeds: Sequence[int]) -> dict[int, Experiment]:
    """The same experiment for each of these seeds."""
    made = unseeded(plain_values(overrides, settings))
    return {seed: seeded(replace(made, seed=seed)) for seed in seeds}


def scale(overrides: Sequence[str]) -> Experiment:
    """What the scale that the overrides choose says, they themselves about seeds included."""
    return experiment([o for o in overrides if o.startswith(("scale=", "most_seeds="))])


def plain_values(overrides: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    choices = {k: v for k, v in settings.items() if k in groups()}
    for group, option in choices.items():
        if option not in groups()[group]:
            raise ConfigError(group, option, f"no such option; {closest(str(option), groups()[group])}")
    kept = [o for o in overrides if o.split("=", 1)[0] not in choices]
    asked = (*kept, *(f"{group}={choices[group]}" for group in ("scale", "dialect") if group in choices))
    swapped = {group for group, option in choices.items() if swappable(group, option, asked)}
    slow = [f"{group}={option}" for group, option in choices.items() if group not in swapped]
    values = json.loads(compose((*kept, *slow)))
    for group in swapped:
        values[group] = load_yaml(CONF / group / f"{choices[group]}.yaml")
    for key, value in settings.items():
        if key not in choices:
            put(values, key, value)
    return values


@cache
def swappable(group: str, option: object, overrides: tuple[str, ...]) -> bool:
    """Is choosing this option the same as putting its file in the section's place? Composing with Hydra costs 0.14
    CPU s, and a table chooses a loss for each row. A test compares both ways for every option."""
    text = (CONF / group / f"{option}.yaml").read_text()
    plain_file = not any(mark in text for mark in ("defaults:", "@package", "${"))
    presets = any(group in load_yaml(path) for path in (CONF / "scale").glob("*.yaml"))
    spoken = any(o.startswith((f"{group}.", "dialect=")) for o in overrides)
    scales = [o.removeprefix("scale=") for o in overrides if o.startswith("scale=")]
    tuned = group == "loss" and any((CONF / "scale" / "loss" / f"{s}_{option}.yaml").exists() for s in scales)
    return plain_file and not presets and not spoken and not tuned


def from_values(values: Mapping[str, Any]) -> Experiment:
    """The experiment from composed plain values."""
    return seeded(unseeded(values))


def unseeded(values: Mapping[str, Any]) -> Experiment:
    """Whose SFT model may be left to its seed."""
    loss = whole_loss(values["loss"], (f"scale/loss/{values['size']}", f"dialect/loss/{values['dialect']}"))
    check_loss(loss)
    check_constants(loss)
    sections = {name: section(name, json.dumps(value)) for name, value in values.items() if is_section(name, value)}
    return build(Experiment, {**values, **sections, "loss": loss})


def seeded(x: Experiment) -> Experiment:
    if x.sft.seed is not None:
        return x
    return replace(x, sft=replica(x.sft, x.seed % x.replicas))


@cache
def replica(sft: Sft, seed: int) -> Sft:
    return replace(sft, seed=seed)


def is_section(name: str, value: object) -> bool:
    return isinstance(value, Mapping) and name in hints(Experiment) and name != "loss"  # which is a mapping itself


@cache
def section(name: str, text: str) -> Any:
    """The section that this JSON text says. Alike ones of all experiments are one object: a large plan is then fast."""
    return convert(json.loads(text), hints(Experiment)[name], name)


def whole_loss(loss: Mapping[str, Any], beside: Sequence[str], at: str = "loss") -> dict[str, Any]:
    """A name in `of` stands for all that the file of that loss says, and the scale's and the dialect's beside it:
    loss=norm_bt loss.of=hinge."""
    of = loss.get("of")
    if isinstance(of, str):
        if of not in groups()["loss"]:
            raise ConfigError(f"{at}.of", of, f"no such loss; {closest(of, groups()['loss'])}")
        files = [CONF / "loss" / f"{of}.yaml", *(CONF / f"{name}_{of}.yaml" for name in beside)]
        of = {key: value for file in files if file.exists() for key, value in load_yaml(file).items()}
    return {**loss, "of": whole_loss(of, beside, f"{at}.of")} if isinstance(of, Mapping) else dict(loss)


def check_loss(loss: Mapping[str, Any], at: str = "loss") -> None:
    """A loss has the constants that its YAML has."""
    name = loss.get("name")
    known = groups()["loss"]
    if name not in known:
        raise ConfigError(f"{at}.name", name, f"no such loss; {closest(str(name), known)}")
    defaults = load_yaml(CONF / "loss" / f"{name}.yaml")
    for key in loss:
        if key not in defaults:
            raise ConfigError(f"{at}.{key}", loss[key], f"loss {name} has no such constant; {closest(key, defaults)}")
    for key in defaults:
        check(key in loss, f"{at}.{key}", None, f"loss {name} needs it; choose it by its option: {at}={name}")
    if isinstance(loss.get("of"), Mapping):
        check_loss(loss["of"], f"{at}.of")


def has(key: str, overrides: Sequence[str], settings: Mapping[str, Any]) -> bool:
    """Is there such a key under these choices?"""
    return key in leaves(plain_values(overrides, settings))


def put(values: dict[str, Any], key: str, value: object) -> None:
    """Sets an existing dotted key, or leaves a section out with null; a key that is not there is an error, with the
    nearest one that is."""
    *path, last = key.split(".")
    at: Any = values
    for name in path:
        at = at.get(name) if isinstance(at, dict) else None
    section = isinstance(at, dict) and isinstance(at.get(last), dict)
    if not isinstance(at, dict) or last not in at or (section and value is not None):
        raise ConfigError(key, value, f"unknown key; {closest(key, leaves(values))}")
    at[last] = value


def check_first_names(arguments: Iterable[str], extra: Sequence[str]) -> None:
    """Cheap: is each argument a key with a value, and the first part of its key known at all?"""
    known = {*hints(Experiment), *groups(), *extra}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        check(bool(equals) or key.startswith("~"), "argument", argument, "expected key=value")
        if key.lstrip("~").split(".")[0] not in known:
            raise ConfigError(key, value, f"unknown key; {closest(key.split('.')[0], known)}")


def leaves(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """{dotted key: plain value}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= leaves(value, dotted(at, key))
        else:
            flat[dotted(at, key)] = value
    return flat


def chosen_groups(arguments: Sequence[str]) -> dict[str, list[str]]:
    """{group: the options that a command line asks for, several in a sweep}."""
    pairs = (a.partition("=")[::2] for a in arguments)
    return {key: value.split(",") for key, value in pairs if key in groups()}


def check_options(arguments: Sequence[str]) -> None:
    for key, options in chosen_groups(arguments).items():
        for option in options:
            if option not in groups()[key]:
                raise ConfigError(key, option, f"no such option; {closest(option, groups()[key])}")


def known_keys(arguments: Sequence[str]) -> set[str]:
    """Every key that exists under one of the combinations of options asked for, and the constants of every loss."""
    chosen = chosen_groups(arguments)
    without = tuple(a for a in arguments if a.startswith("~") and a[1:] in groups())
    known: set[str] = set()
    for options in itertools.product(*chosen.values()):
        choices = tuple(f"{group}={option}" for group, option in zip(chosen, options, strict=True))
        known |= set(leaves(json.loads(compose((*without, *choices)))))
    for option in groups()["loss"]:
        known |= {f"loss.{key}" for key in load_yaml(CONF / "loss" / f"{option}.yaml")}
    return known


def check_overrides(arguments: Sequence[str], extra: Sequence[str]) -> None:
    """Unknown keys and options of a command line, found before Hydra sees them, since we know what was meant.

    `extra` are the script's own keys. Flags and Hydra's own keys pass through."""
    check_options(arguments)
    known = known_keys(arguments) | set(extra)
    for argument in arguments:
        if argument.startswith("-") or argument.removeprefix("~") in groups():  # a flag, or a group that is left out
            continue
        key, equals, value = argument.partition("=")
        check(bool(equals), "argument", argument, "expected key=value")
        if key.startswith(("hydra.", "hydra/")):
            continue
        if key not in known and key not in groups():
            raise ConfigError(key, value, f"unknown key; {closest(key, known | set(groups()))}")
