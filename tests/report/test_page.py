"""The report: every number leads back to the store, nothing is fetched, texts stay texts, the same store same bytes."""

import json
import random
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline import config, plan, rows, store
from pipeline.config import PROJECT
from pipeline.report import against, forest, markup, page, ran, tables, verdicts
from pipeline.report.forest import Effect
from pipeline.report.found import Found
from pipeline.stages import STAGES
from report import results as made


class Reader(HTMLParser):
    """Elements with their attributes, and the text of each script of JSON."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str):
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and attributes.get("id"):
            self.data[str(attributes["id"])] = json.loads(data)
        self.texts.append(data)


@pytest.fixture(scope="module")
def text(found: Found) -> str:
    return page.page(found)


@pytest.fixture(scope="module")
def reader(text: str) -> Reader:
    return Reader(text)


# --- numbers ---


def test_ten_random_cells_lead_back_to_the_store(found: Found, reader: Reader):
    """From the page's own data to manifests, and accuracy to its examples."""
    cells = reader.data["cell-data"]
    names = random.Random(0).sample(sorted(cells), 10)
    own = [name for name in cells if cells[name]["metric"] == "in_domain/accuracy"]
    assert len(own) == 3
    for name in {*names, *own}:
        cell = cells[name]
        assert len(cell["values"]) == len(cell["seeds"]) == len(made.SEEDS)
        for value, artefact in zip(cell["values"], cell["artefacts"], strict=True):
            folder = found.results / "runs" / artefact
            entry = store.open_intact(folder)
            assert entry["key"] == artefact[-16:] and value == cell["scale"] * entry["metrics"][cell["metric"]]
            if name in own:
                right = [row["correct"] for row in rows.read(folder / "out", "examples") if row["set"] == "in_domain"]
                assert value == 100 * sum(right) / len(right)


def test_a_cells_command_makes_that_very_artefact(found: Found, reader: Reader):
    builder = plan.Builder(STAGES, found.results / "runs")
    for cell in reader.data["cell-data"].values():
        command = shlex.split(cell["commands"][0])
        assert command[:2] == [".venv/bin/python", "scripts/run.py"] and command[2].startswith("stage=")
        node = builder.add(command[2].removeprefix("stage="), config.experiment(command[3:]))
        assert node.key == cell["artefacts"][0][-16:]
    of = found.cell("cross", "BSR", "RewardBench")
    assert of is not None
    command = shlex.split(next(tables.commands("cross", "micro", "bench", {**of, "seeds": [2]})))
    assert builder.add("bench", config.experiment(command[3:])).key == of["keys"][2]


def test_what_a_cell_shows_is_its_mean_spread_difference_and_the_paper():
    column = {"label": "acc", "digits": 1}
    difference = {"values": [1.0, 2.0], "interval": {"mean": 1.5, "low": 0.25, "high": 2.75}}
    said = {"value": 80.04, "mark": "paper", "source": "Table 1"}
    cell = {"missing": None, "values": [80.0, 82.0], "difference": difference, "published": said}
    shown = markup.joined(tables.content(cell, column, "t.0"))
    assert ">81.0 ± 1.4</button>" in shown and ">+1.50<br>[+0.25, +2.75]<" in shown
    assert "difference outside" in shown and "published 80.0" in shown
    difference["interval"]["low"] = -0.25
    assert "outside" not in markup.joined(tables.content(cell, column, "t.0"))


def test_time_is_summed_over_all_that_the_page_is_made_of(found: Found):
    stages = [entry["stage"] for entry in found.ran]
    # three losses and seeds; data of two benchmarks and seeds; the reward model of BT under claims
    assert (stages.count("bench"), stages.count("data"), stages.count("rm")) == (9, 6, 3)
    last = re.findall(r"<tr><th scope=\"row\">all</th><td>(\d+)</td>", ran.budget(found))
    assert last == [str(len(stages))]


def test_in_words_what_lies_above_and_below():
    def cell(column: str, low: float, high: float) -> dict[str, Any]:
        return {"column": column, "difference": {"baseline": "BT", "interval": {"low": low, "high": high}}}

    said = markup.joined(against.summed([cell("a", 0.1, 1), cell("b", -1, 0.1), cell("c", -2, -1)], "X"))
    assert said == "<b>X</b> of 3 measures: above BT on 1 (a); below on 1 (c); not told apart on 1."


def test_what_a_paper_says_of_a_measure_stands_beside_it(found: Found):
    """The claim about NormBT's RewardBench average, in the table's unit."""
    said = found.asked["normbt-average"]["published"]["value"]
    cell = found.cell("cross", "NormBT", "RewardBench")
    assert cell is not None and against.effect(found, cell).published == pytest.approx(100 * said)
    other = found.cell("cross", "BSR", "RewardBench")
    assert other is not None and against.effect(found, other).published is None


# --- claims ---


def claim(**changed: Any) -> dict[str, Any]:
    interval = {"mean": 3.0, "low": 2.0, "high": 4.0}
    same = {"verdict": "reproduced", "role": "secondary", "direction": "higher", "minimum": 0.5, "detectable": 1.0}
    return {
        **same,
        "interval": interval,
        "published": None,
        "powered": None,
        "seeds_needed": 3,
        "relative": False,
        **changed,
    }


def test_large_is_what_would_have_been_seen_and_no_identity():
    assert verdicts.strength(claim()) == 2
    assert verdicts.strength(claim(direction="same", verdict="contradicted")) == 3
    assert verdicts.strength(claim(detectable=1e-9, minimum=0)) == 0
    for verdict in ("underpowered", "not tested", "paper-sized effect excluded"):
        assert verdicts.strength(claim(verdict=verdict)) == 0


def test_mechanisms_are_large_effects_in_training_alone(found: Found):
    shown = verdicts.mechanisms(found)
    assert markup.joined(found.asked["far-pairs-dominate"]["statement"]) in shown
    for other in ("head-identity", "normbt-average", "gradient-grows-with-distance"):
        assert markup.joined(found.asked[other]["statement"]) not in shown


def test_power_says_from_where_on_an_effect_is_seen():
    def said(**changed: Any) -> str:
        of = claim(**changed)
        return markup.joined(verdicts.power(of, Effect(0, 0, 0)))

    assert said() == "from +1.5 on"
    assert said(direction="lower") == "from −1.5 on"
    assert said(powered=True) == "<b>yes</b>, from +1.5 on"
    assert said(powered=False, seeds_needed=12) == "<b>no</b>, from +1.5 on; 12 SFT models would do"
    assert said(powered=False, seeds_needed=None) == "<b>no</b>, from +1.5 on; over 1,000 SFT models would do"


def test_a_control_that_must_not_be_found_says_what_it_could_have_seen():
    null = {"control": "must not be found", "held": "held", "detectable": 0.5, "minimum": 0.0}
    assert verdicts.checked(claim(**null)).endswith("; only from ± 0.5 on it would have been seen")
    assert verdicts.checked(claim(**{**null, "control": "must be found"})).startswith("held, ")
    assert "seen" not in verdicts.checked(claim(**{**null, "control": "must be found"}))


def test_a_drawing_is_to_scale():
    drawn = Reader(forest.drawing(Effect(1.0, -0.5, 2.0, seen=1.0, published=-2.0))).elements
    half = forest.WIDTH / 2 - forest.EDGE
    by = {str(attributes.get("class")): attributes for _, attributes in drawn}
    assert float(str(by["mean"]["cx"])) == forest.WIDTH / 2 + half / 2
    assert float(str(by["interval"]["x"])) == forest.WIDTH / 2 - half / 4
    assert float(str(by["interval"]["width"])) == half * 2.5 / 2
    assert float(str(by["unseen"]["width"])) == half
    assert str(by["published"]["d"]).split("L")[1].startswith(f"{forest.EDGE:.1f} ")


# --- one file ---


def test_the_same_store_gives_the_same_bytes(found: Found, text: str):
    assert page.page(Found(found.results, found.size)) == text


def test_nothing_is_fetched(reader: Reader, text: str):
    for tag, attributes in reader.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base") and "srcset" not in attributes
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert tag == "a" or "href" not in attributes
    policies = [attributes["content"] for tag, attributes in reader.elements if "http-equiv" in attributes]
    assert policies == [page.POLICY] and policies[0].startswith("default-src 'none'; img-src data:;")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style


def test_it_is_small_and_refuses_to_be_large(found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page.write(found, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < page.MOST_BYTES
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(AssertionError, match="larger than"):
        page.write(found, tmp_path / "other.html")


def test_texts_stay_texts(reader: Reader, text: str):
    assert "alert(1)</script>" not in text and "<script>alert" not in text
    assert [row[3] for row in reader.data["example-data"]["rows"] if row[2] == "in_domain-0"] == [made.NASTY]
    (picture,) = [attributes for tag, attributes in reader.elements if tag == "img"]
    assert str(picture["alt"]).endswith(made.NASTY)


def test_markup_alone_is_not_escaped():
    inner = markup.tag("b", "a < b")
    assert markup.tag("p", "x & ", [inner, None, ["<"]], class_="k", title='"', hidden=True, open=False) == (
        '<p class="k" title="&quot;" hidden>x &amp; <b>a &lt; b</b>&lt;</p>'
    )
    assert "</" not in markup.data("d", "</script>")[len('<script type="application/json" id="d">') : -len("</script>")]


def test_prose_has_code_strong_and_links():
    said = markup.prose("a `x<y` [the `map`](docs/a.md) **b** [c](https://d)", base="../")
    assert said == (
        'a <code>x&lt;y</code> <a href="../docs/a.md">the <code>map</code></a> <strong>b</strong> <a href="https://d">c</a>'
    )


def test_every_element_is_closed_and_every_label_leads_somewhere(reader: Reader, text: str):
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes for _, attributes in reader.elements]
    for attribute in ("for", "aria-labelledby"):
        assert {a[attribute] for a in links if attribute in a} - {"source-title"} <= set(ids)
    assert {str(a["href"])[1:] for a in links if str(a.get("href", "")).startswith("#")} <= set(ids)
    for name in ("section", "div", "table", "tr", "td", "th", "p", "svg", "figure", "details"):
        assert len(re.findall(f"<{name}[ >]", text)) == text.count(f"</{name}>")


# --- what is not there ---


def test_what_is_missing_says_how_to_make_it(tmp_path: Path):
    text = page.page(Found(tmp_path, "micro"))
    commands = set(re.findall(r"To make it: <code>([^<]+)</code>", text))
    assert {"make reproduce", "make claims", "make figures", "make reproduce-table-cross"} <= commands
    assert "example-data" not in Reader(text).data


def test_a_table_of_an_older_version_is_named(found: Found, tmp_path: Path):
    """It had neither columns nor settings, nor what a difference could have shown."""
    old = dict(found.tables["cross"])
    del old["columns"]
    for cell in (cells := [dict(cell) for cell in old["cells"]]):
        del cell["set"]
    folder = tmp_path / "tables" / "micro"
    folder.mkdir(parents=True)
    (folder / "cross.json").write_text(json.dumps({**old, "cells": cells}))
    text = page.page(Found(tmp_path, "micro"))
    assert "make render TABLE=cross SCALE=micro" in text and "or of an older version" in text


def test_a_store_that_is_gone_leaves_tables_and_verdicts(found: Found, tmp_path: Path):
    for name in ("tables", "claims"):
        (tmp_path / name).symlink_to(found.results / name)
    text = page.page(Found(tmp_path, "micro"))
    assert "cell-data" in Reader(text).data and "NormBT against BT" in text and "example-data" not in Reader(text).data


def test_deviations_are_the_readmes(found: Found):
    readme = (PROJECT / "README.md").read_text()
    listed = readme.partition("## Deviations from the papers")[2].partition("\n## ")[0]
    assert len(found.deviations) == listed.count("\n- ") >= 5
    assert all(" ".join(item.split()) in " ".join(listed.split()) for item in found.deviations)
