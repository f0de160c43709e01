"""docs/reproducing.md: its commands exist; those that need no network and no GPU run; its files are there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pipeline import actions, config
from pipeline.config import CONF, PROJECT, groups, load_yaml

PAGE = (PROJECT / "docs" / "reproducing.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = sorted({line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if "make " in line})
HERE = ("plan", "settings", "status", "render")  # what of a table needs neither


def script(command: str) -> list[str]:
    """What a command of make would run: the script and its arguments."""
    words = [*shlex.split(command.split(" #")[0]), "--no-print-directory", "-n", "-o", ".venv/ready"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next((shlex.split(line)[1:] for line in done.stdout.splitlines() if "scripts/" in line), [])


def made_here(command: str) -> bool:
    targets = [word for word in command.split() if word != "make"]
    return targets[0].startswith("plan-") or targets[0] in HERE or "action=plan" in command


def test_the_page_shows_commands_of_each_kind():
    first = {command.split()[1].split("-")[0] for command in COMMANDS if command.startswith("make ")}
    assert {"plan", "settings", "prefetch", "submit", "status", "render", "sft", "rm", "rloo", "alpaca"} <= first


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ") and not made_here(c)])
def test_what_needs_a_network_or_a_gpu_is_a_target(command: str):
    if " prefetch " in command and "\nprefetch:" not in (PROJECT / "Makefile").read_text():
        pytest.skip("make prefetch is not there yet")
    script(command)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ") and made_here(c)])
def test_what_needs_neither_runs(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name, *arguments = script(command)
    root = f"run.root={tmp_path}"
    if name == "scripts/reproduce.py":
        assert actions.reproduce([*arguments, root]) == 0
    else:
        config.check_overrides(arguments, ("stage", "action"))
        own = dict(word.split("=", 1) for word in arguments if word.startswith(("stage=", "action=")))
        x = config.experiment([*(word for word in arguments if not word.startswith(tuple(own))), root])
        assert actions.stages([(own["stage"], x)], {own["action"]}) == 0
    said = capsys.readouterr().out
    assert said.count("\n") > 2 and "| ? |" not in said


def test_the_settings_that_the_page_promises_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    actions.reproduce(["table=bsr-2", "scale=paper", "action=settings", f"run.root={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert "| rm.optim.lr | 2e-06 | paper | BSR A.2: models of 7B and 8B; its 8B recipe too |" in lines
    assert "| loss.coef | 0.0001 (BSR λ = 1e-4) | paper | BSR Table 2 |" in lines
    assert not [line for line in lines if line.startswith(("| sft.optim", "| rloo", "| generate", "| data.prompts"))]
    assert not list(tmp_path.iterdir())


def test_files_that_the_page_names_are_there():
    named = set(re.findall(r"conf/[\w/.-]+", PAGE))
    assert named and not [name for name in named if not (PROJECT / name).exists() and "mine" not in name]


def test_gated_models_are_those_that_the_tables_ask_for():
    """Each model of conf/ whose file calls it gated stands in the page's list."""
    gated = {load_yaml(p)["id"] for p in (CONF / "model").glob("*.yaml") if "Gated" in p.read_text()}
    assert gated and not [id for id in gated if id.split("/")[1] not in PAGE]


def test_options_that_the_page_names_exist():
    asked = re.findall(r"\b(data|loss|judge|calibration|dialect|rloo|cluster)=([\w-]+)", PAGE)
    assert asked and not [(g, o) for g, o in asked if o not in groups()[g] and (g, o) != ("cluster", "mine")]
