"""Who says that a setting has this value: the mark at the end of the line in conf/ that gives it.

    lr: 5e-6 # [paper] BSR A.2: models of 1B and 1.5B

The comment is the only place where it stands, so that nothing can contradict it. A line's mark holds for all that is
on it and below it, up to a line with its own. Where the line of an option's file has none, that of the line which chose
the option holds. Never part of a key.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.config import CONF, dotted, groups, leaves, load_yaml
from pipeline.errors import check
from pipeline.experiment import NEVER_HASHED, Experiment

# Who says something: the authors' paper or code; somebody who quotes them; somebody who ran it; we, from these; we
Mark = Literal["paper", "code", "second-hand", "third party", "inferred", "ours"]
COMMENT = re.compile(r"""((?:[^"#]|"[^"]*"|(?<!\s)#)*)(?:\s#\s*(.*))?""")
MARKED = re.compile(r"\[([a-z -]+)\]\s*(.*)")
KEY = re.compile(r"""(?:override )?/?("[^"]*"|[^"{\[:]+):(?:\s|$)""")


@dataclass(frozen=True)
class Said:
    mark: Mark
    reason: str  # what else the comment says
    where: str  # the file, below conf/


COMMAND_LINE = Said("ours", "said on the command line", "")
Settings = Mapping[str, tuple[Any, Said | None]]  # group, or dotted key: its option or value, and who says so


@cache
def lines(path: Path) -> dict[str, str]:
    """{dotted key of a line: its comment}. Items of a list are counted; one of a defaults list is called by the place
    that it fills."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # indentation and key of the lines that this one is below
    items: dict[str, int] = {}
    for text in path.read_text().splitlines():
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        code, comment = typing.cast(re.Match, COMMENT.fullmatch(text)).groups()
        body, indent = code.strip(), len(code) - len(code.lstrip())
        while above and above[-1][0] >= indent:
            above.pop()
        parent = above[-1][1] if above else ""
        items[parent] = items.get(parent, -1) + body.startswith("- ")
        key = dotted(parent, called(body, items[parent], parent == "defaults"))
        found[key] = comment or ""
        above.append((indent, key))
    return found


def called(body: str, number: int, default: bool) -> str:
    key = KEY.match(body.removeprefix("- "))
    if body.startswith("- "):
        place = key[1].split("@")[-1] if key and default and not key[1].startswith("optional ") else None
        return place or str(number)
    assert key is not None, f"conf/ is read line by line, and this has no key: {body}"
    return key[1].strip('"')


def said(path: Path, key: str) -> Said | None:
    """What the nearest marked line says, from a key's own upwards."""
    while key:
        found = MARKED.match(lines(path).get(key, ""))
        if found:
            known = typing.get_args(Mark)
            check(found[1] in known, f"{path.name}: {key}", found[1], f"no such mark; known: {', '.join(known)}")
            return Said(typing.cast(Mark, found[1]), found[2], path.relative_to(CONF).as_posix())
        key = key.rpartition(".")[0]
    return None


def gives(path: Path, key: str) -> bool:
    """Its value, or that of what it is part of."""
    while key and key not in given(path):
        key = key.rpartition(".")[0]
    return bool(key)


@cache
def given(path: Path) -> frozenset[str]:
    return frozenset(leaves(load_yaml(path)) if path.exists() else ())


@cache
def defaults(path: Path) -> tuple[Any, ...]:
    return tuple(load_yaml(path).get("defaults", ()))


def of_option(path: Path, key: str, null: bool = False) -> Said | None:
    """What an option's file says, or those that it takes in."""
    if gives(path, key):
        return said(path, key)
    for entry in defaults(path):
        if isinstance(entry, str) and entry != "_self_":
            return of_option(path.with_stem(entry), key, null)
        name, option = next(iter(entry.items())) if isinstance(entry, Mapping) else ("", "")
        group, _, place = name.partition("@")
        if place and key.startswith(f"{place}."):
            folder = CONF / group[1:] if group.startswith("/") else path.parent / group
            inner = of_option(folder / f"{option}.yaml", key.removeprefix(f"{place}."), null)
            return inner or (None if null else said(path, f"defaults.{place}"))
    return None


def choices(overrides: Sequence[str], settings: Settings) -> dict[str, tuple[str, Said | None]]:
    """{group: its option, and what the line that chose it says}."""
    given = {key: (option, COMMAND_LINE) for key, _, option in (o.partition("=") for o in overrides) if key in groups()}
    first = chosen_in(CONF / "experiment.yaml")
    scale, _ = given.get("scale", first["scale"])
    by_table = {group: choice for group, choice in settings.items() if group in groups()}
    return {**first, **chosen_in(CONF / "scale" / f"{scale}.yaml"), **given, **by_table}


def chosen_in(path: Path) -> dict[str, tuple[str, Said | None]]:
    found = {}
    for entry in defaults(path):
        for name, option in entry.items() if isinstance(entry, Mapping) else ():
            group = name.removeprefix("override ").removeprefix("/")
            found |= {group: (option, said(path, f"defaults.{group}"))} if group in groups() else {}
    return found


class Sources:
    """Who says each setting of an experiment that was made of these overrides and a table's settings."""

    def __init__(self, overrides: Sequence[str], settings: Settings):
        self.choices = choices(overrides, settings)
        keys = (o.partition("=")[0].lstrip("+~") for o in overrides)
        self.last = {**dict.fromkeys(keys, COMMAND_LINE), **{key: who for key, (_, who) in settings.items()}}

    def all(self, x: Experiment) -> dict[str, Said | None]:
        """{dotted key: who says it}; what is null because no line says it is left out."""
        loss = {f"loss.{key}": who for key, who in self.of_loss(x.loss).items()}
        rest = leaves({k: v for k, v in dataclasses.asdict(x).items() if k not in (*NO_VALUE, "loss")})
        found = {key: self.of(key, null=value is None) for key, value in rest.items()}
        return {key: who for key, who in found.items() if who or rest[key] is not None} | loss

    def of(self, key: str, null: bool = False) -> Said | None:
        """Whoever gives the value last: a table, the command line, the dialect, the scale, an option's own file. Who
        chose the option does not speak for what it leaves null."""
        for own, who in self.last.items():
            if own not in groups() and within(key, own):
                return who
        dialect, scale, rm = (self.choices[group][0] for group in ("dialect", "scale", "rm"))
        whole = (f"dialect/rm/{dialect}_{rm}", f"dialect/{dialect}", f"scale/{scale}", "experiment")
        for path in (CONF / f"{name}.yaml" for name in whole):
            if gives(path, key):
                return said(path, key)
        group, _, inner = key.partition(".")
        option, who = self.choices.get(group, (None, None))
        return (of_option(CONF / group / f"{option}.yaml", inner, null) if option else None) or (None if null else who)

    def of_loss(self, loss: Mapping[str, Any]) -> dict[str, Said | None]:
        """A constant's line is in the file of its loss, or in the dialect's or the scale's for it, wherever the loss
        stands."""
        found: dict[str, Said | None] = {}
        files = [CONF / g / "loss" / f"{self.choices[g][0]}_{loss['name']}.yaml" for g in ("dialect", "scale")]
        for key, value in loss.items():
            if isinstance(value, Mapping):
                found |= {f"{key}.{inner}": who for inner, who in self.of_loss(value).items()}
                continue
            path = next((file for file in files if gives(file, key)), CONF / "loss" / f"{loss['name']}.yaml")
            found[key] = self.last.get(f"loss.{key}") or said(path, key) or self.choices["loss"][1]
        return found


NO_VALUE = (*NEVER_HASHED, "size", "dialect", "seed", "source", "external")  # of the papers


def within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
