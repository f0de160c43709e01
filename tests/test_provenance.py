"""Every value of a preset says who says so, and the comments of conf/ are read as they stand."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline import actions, config, provenance, table
from pipeline.config import CONF, leaves
from pipeline.errors import ConfigError
from pipeline.provenance import Said, Sources
from pipeline.stages import STAGES

FILES = sorted(CONF.rglob("*.yaml"))


def said(scale: str, **settings: Any) -> dict[str, Said | None]:
    given = {key.replace("__", "."): value for key, value in settings.items()}
    overrides = (f"scale={scale}", *(f"{key}={value}" for key, value in given.items()))
    return Sources(overrides, {}).all(config.experiment(overrides))


def mark(found: dict[str, Said | None], key: str) -> str | None:
    who = found[key]
    return None if who is None else who.mark


def tables(scale: str) -> list[str]:
    return [name for name in table.names() if scale in (table.read(name, STAGES).scales or (scale,))]


@cache
def of_table(name: str, scale: str) -> dict[str, dict[str, Said | None]]:
    overrides = (f"scale={scale}",)
    spec = table.load(name, STAGES, [0], overrides)
    return table.sources(name, spec, table.experiments(spec, overrides), overrides)


# --- every value has a mark ---


@pytest.mark.parametrize("scale", ["paper", "small"])
def test_every_setting_of_a_table_has_a_mark(scale: str):
    unsaid = {
        f"{name}: {row}: {key}"
        for name in tables(scale)
        for row, found in of_table(name, scale).items()
        for key, who in found.items()
        if who is None
    }
    assert not unsaid


@pytest.mark.parametrize("scale", ["micro", "smoke"])
def test_every_setting_of_a_step_has_a_mark_in_the_micro_world_too(scale: str):
    found = said(scale)
    assert not {k for k, who in found.items() if who is None and k.split(".")[0] in ("sft", "rm", "rloo", "loss")} - {
        "loss.name"
    }


@pytest.mark.parametrize("name", [name for name in table.names() if name.startswith("normbt")])
def test_no_recipe_of_normbt_is_passed_off_as_its_papers(name: str):
    """Its body could not be read: nothing is [paper] or [code], but for what BSR says of both."""
    for found in of_table(name, "paper").values():
        firm = {k for k, w in found.items() if k.split(".")[0] in ("rm", "loss") and w and w.mark in ("paper", "code")}
        assert firm <= {"rm.head", "rm.trains"}


@pytest.mark.parametrize(
    ("name", "row", "key", "mark"),
    [
        ("bsr-2", "BSR λ = 1e-4", "loss.coef", "paper"),
        ("bsr-2", "BSR λ = 1e-4", "rm.optim.lr", "paper"),
        ("bsr-2", "BSR λ = 1e-4", "model.id", "code"),
        ("bsr-2", "BSR λ = 1e-4", "sft.steps", "code"),
        ("bsr-2", "BT (λ = 0), our own", "loss.name", "ours"),
        ("bsr-3", "SFT", "policy.model.id", "paper"),
        ("bsr-3", "SFT", "policy.sft.optim.lr", "inferred"),
        ("bsr-5", "Llama-3.2-1B, BT-Hinge", "loss.margin", "ours"),
        ("bsr-5", "Llama-3.2-1B, BT-Hinge", "rm.optim.lr", "paper"),
        ("bsr-5", "Llama-3.2-1B, BT-Hinge", "rm.epochs", "code"),
        ("normbt-1a", "gemma-2b-it, NormBT", "loss.decay", "second-hand"),
        ("normbt-1a", "gemma-2b-it, NormBT", "loss.eps", "third party"),
        ("normbt-1a", "gemma-2b-it, NormBT", "rm.optim.lr", "inferred"),
        ("normbt-1a", "gemma-2b-it, NormBT", "rm.optim.lora.rank", "inferred"),
        ("normbt-bon", "NormBT on label smoothing", "loss.of.alpha", "inferred"),
        ("normbt-grid", "BT, 2e-5", "rm.optim.lr", "ours"),
    ],
)
def test_the_mark_is_that_of_whoever_gives_the_value_last(name: str, row: str, key: str, mark: str):
    who = of_table(name, "paper")[row][key]
    assert who is not None and who.mark == mark


def test_a_table_of_settings_shows_who_says_them(tmp_path: Path):
    filled = actions.Table("bsr-4", ["scale=paper", f"run.root={tmp_path}"]).filled()
    assert (
        "| ours | 2e-06 [paper] | 0.05 [paper] | 2 [paper] | 128 [paper] | 433 [inferred] | 0.03 [paper] | 0.7 [code] |"
        in (table.markdown(filled).splitlines())
    )
    cells = json.loads(table.FORMATS["json"](filled))["cells"]
    assert [c["mark"] for c in cells if c.get("setting") == 433] == ["inferred"]
    changed = actions.Table("bsr-4", ["scale=paper", "rloo.k=3", f"run.root={tmp_path}"]).filled()
    assert "| 3 [ours] |" in table.markdown(changed)


def test_what_rows_have_in_common_is_one_line():
    """And no setting that no artefact of the table depends on."""
    made = actions.Table("bsr-2", ["scale=paper"])
    lines = list(table.setting_lines("bsr-2", made.spec, made.made, ["scale=paper"], made.graph))
    assert lines.count("| rm.batch | 128 | paper | BSR A.2 |") == 1
    assert [line for line in lines if line.startswith("| loss.coef |")] == [
        f"| loss.coef | {value} (BSR λ = {label}) | paper | BSR Table 2 |"
        for label, value in (("1e-4", "0.0001"), ("1e-3", "0.001"), ("1e-2", "0.01"))
    ]
    shown = {line.split(" | ")[0].removeprefix("| ") for line in lines[2:]}
    assert {"seed", "most_seeds", "sft.steps", "data.preferences.id", "data.benchmarks.rm_bench.id"} - shown == {"seed"}
    assert not {key for key in shown if key.startswith(("policy", "rloo", "data.sft", "data.prompts", "sft.optim"))}


# --- in which order ---


def test_a_scale_speaks_before_an_options_file_and_the_command_line_before_both():
    assert mark(said("paper"), "rloo.k") == "paper" and mark(said("micro"), "rloo.k") == "ours"
    found = said("paper", rloo__k=8)
    assert found["rloo.k"] == provenance.COMMAND_LINE and mark(found, "rloo.kl") == "paper"


def test_the_dialect_speaks_before_the_scale():
    found = said("paper", dialect="reference", loss="bsr")
    assert [mark(found, k) for k in ("rm.read", "rm.max_length", "loss.group")] == ["code", "code", "code"]
    assert found["loss.coef"] == Said(
        "paper", "λ; with the group's 16 in effect 0.016", "dialect/loss/reference_bsr.yaml"
    )


def test_a_scales_constant_of_a_loss_speaks_before_its_file():
    found = {scale: said(scale, loss="bsr")["loss.coef"] for scale in ("micro", "paper")}
    assert [who.where for who in found.values() if who] == ["loss/bsr.yaml", "scale/loss/paper_bsr.yaml"]


def test_what_an_option_takes_in_from_another_keeps_its_own_mark():
    assert mark(said("micro", rm="linear"), "rm.epochs") == "ours"
    assert said("micro", rm="linear")["rm.batch"] == said("micro")["rm.batch"]


def test_where_an_options_file_is_silent_the_line_that_chose_it_speaks():
    who = said("paper")["model.id"]
    assert who and (who.mark, who.where) == ("paper", "scale/paper.yaml")
    assert said("paper", model="llama-3.2-3b")["model.id"] == provenance.COMMAND_LINE


def test_who_says_it_is_no_part_of_a_key():
    assert not {"mark", "reason", "provenance"} & {
        part for key in leaves(config.plain_values((), {})) for part in key.split(".")
    }


# --- reading lines ---


def keys(values: Any, at: str = "") -> set[str]:
    """Dotted keys of what YAML reads, those of a defaults list by the place that they fill."""
    found = set()
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in pairs:
        name = f"{at}.{key}" if at else str(key)
        if at == "defaults" and isinstance(value, dict) and not next(iter(value)).startswith("optional "):
            (place,) = value
            name = f"defaults.{place.removeprefix('override ').removeprefix('/').split('@')[-1]}"
        found |= {name, *keys(value, name)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONF).as_posix())
def test_lines_are_the_keys_that_yaml_reads(path: Path):
    """Every key is on or below a line, and every line is about a key."""
    values = config.load_yaml(path) if "hydra" not in path.read_text() else None
    if values is None:
        return
    known, found = keys(values), set(provenance.lines(path))
    assert found <= known
    assert {key.split(".")[0] for key in known} == {key.split(".")[0] for key in found}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name != "cost.yaml"], ids=lambda p: p.relative_to(CONF).as_posix()
)
def test_every_mark_is_known(path: Path):
    for key in provenance.lines(path):
        provenance.said(path, key)


def written(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(provenance, "CONF", folder)
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def test_a_mark_holds_for_its_line_and_what_is_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = """# [paper] of no line
a: 1 # [code] why not
b: {c: 2, d: 3} # [ours]
e: # [paper] both
  f: "# [code] is text"
  g: it's # [inferred] own
  h.i: 4
j: 5 # said [paper] elsewhere
k:
  - {l: 6} # [third party]
  - {l: 7}
"""
    path = written(tmp_path, text, monkeypatch)
    found = {
        key: provenance.said(path, key) for key in ("a", "b.c", "b.d", "e.f", "e.g", "e.h.i", "j", "k.0.l", "k.1.l")
    }
    assert [who and who.mark for who in found.values()] == [
        "code", "ours", "ours", "paper", "inferred", "paper", None, "third party", None
    ]  # fmt: skip
    assert found["a"] == Said("code", "why not", "x.yaml")


def test_an_unknown_mark_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path, "a: 1 # [papr] Table 4\n", monkeypatch)
    with pytest.raises(
        ConfigError, match=r"^x\.yaml: a = 'papr': no such mark; known: paper, code, second-hand, third"
    ):
        provenance.said(path, "a")
