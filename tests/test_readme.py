"""README.md and CONTRIBUTING.md: links lead somewhere, commands exist, the table is the one that was made."""

import re
import sys

import pytest

from pipeline.config import PROJECT, groups

sys.path.insert(0, str(PROJECT / "scripts"))
import readme

PAGES = ("README.md", "CONTRIBUTING.md", "docs/evaluate.md")
TARGETS = set(re.findall(r"^([a-z][a-z -]*)(?=:)", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    links = re.findall(r"\]\(([^)#]+)\)", (PROJECT / page).read_text())
    assert not [link for link in links if not link.startswith("https://") and not (PROJECT / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str):
    known = {name for line in TARGETS for name in line.split()}
    asked = set(
        re.findall(r"\bmake ([a-z][a-z-]*)", re.sub(r"```.*?```", lambda m: m[0], (PROJECT / page).read_text()))
    )
    patterns = ("reproduce-table-", "plan-", "submit-")
    assert asked and not {a for a in asked if a not in known and not a.startswith(patterns)}


def test_the_doctors_lines_are_its_checks():
    from pipeline.doctor import CHECKS  # torch

    text = (PROJECT / "docs" / "evaluate.md").read_text()
    assert re.findall(r"^good  (.{13}) ", text, re.MULTILINE) == [f"{each.name:13}" for each in CHECKS]


def test_best_of_n_is_shown_for_the_ns_of_its_config():
    from pipeline.config import experiment

    rows = re.findall(r"^\| (\d+) \|", (PROJECT / "docs" / "evaluate.md").read_text(), re.MULTILINE)
    assert tuple(map(int, rows)) == experiment().best_of_n.ns


def test_the_table_is_the_one_that_was_made():
    text = (PROJECT / "README.md").read_text()
    assert readme.filled(text) == text, "say `make readme`"


def test_a_block_may_take_some_rows_of_a_table():
    table = "| | x |\n|---|---|\n| BT | 1 |\n| NormBT | 2 |\n| NormBT, published | 3 |\n| NormBT − BT | 1 |\n\nNotes.\n"
    assert readme.some(table, None) == table
    assert readme.some(table, "BT") == "| | x |\n|---|---|\n| BT | 1 |\n\nNotes.\n"
    assert readme.some(table, "NormBT") == table.replace("| BT | 1 |\n", "")


def test_the_scales_are_those_of_conf():
    rows = re.findall(r"^\| `(\w+)` \|", (PROJECT / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(groups()["scale"])


def test_the_readme_is_short():
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 200
