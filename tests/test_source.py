"""A stage whose code has another meaning than when its artefacts were made is found out; other edits are not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from artefacts import finish, planned

from pipeline import plan, source
from pipeline.stages import STAGES

STAGE = '''"""What it does."""

from pipeline import losses
from pipeline.config import leaves


def run(x: int) -> int:
    """Twice."""
    return 2 * losses.value(x)  # doubled
'''
FILES = {
    "__init__.py": "",
    "config.py": "leaves = 1\n",
    "losses.py": "import pipeline.order\n\nvalue = pipeline.order.same\n",
    "order.py": "def same(x):\n    return x\n",
    "unused.py": "value = 3\n",
    "stages/alpha.py": STAGE,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small project of its own; returns its package."""
    package = tmp_path / "pipeline"
    for name, text in FILES.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(source, "PROJECT", tmp_path)
    source.reached.cache_clear()
    yield package
    source.reached.cache_clear()


def made(root: Path) -> plan.Graph:
    """The graph of one artefact that the project's code has made."""
    finish(planned(root, targets=("alpha",))["alpha"], code="pipeline.stages.alpha")
    return {node.key: node for node in planned(root, targets=("alpha",)).values()}


def test_a_stage_is_its_module_and_what_that_reaches_but_for_plumbing(project: Path):
    assert list(source.of("pipeline.stages.alpha")) == [
        "pipeline/__init__.py",
        "pipeline/losses.py",
        "pipeline/order.py",
        "pipeline/stages/alpha.py",
    ]


def test_a_module_that_is_not_ours_has_no_source(project: Path):
    assert source.of("json") == {}


def test_nothing_has_drifted_at_first(project: Path, tmp_path: Path):
    assert source.drifted(made(tmp_path / "runs")) == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# doubled", "# said differently"),
        ('"""Twice."""', '"""Two times,\n    as it were."""'),
        ('"""What it does."""\n', ""),
        ("return 2 * losses", "return  2*losses"),
        ("\n\n\ndef", "\n\n\n\n\ndef"),
        ("2 * losses.value(x)", "(2 * losses.value(x))"),
    ],
)
def test_comments_docstrings_and_layout_mean_nothing(project: Path, tmp_path: Path, old: str, new: str):
    graph = made(tmp_path / "runs")
    assert STAGE.replace(old, new) != STAGE
    (project / "stages" / "alpha.py").write_text(STAGE.replace(old, new))
    assert source.drifted(graph) == {}


@pytest.mark.parametrize(
    ("old", "new"), [("2 *", "3 *"), ("def run(x", "def run(y"), ("2 * ", ""), ("losses.", "-losses.")]
)
def test_another_meaning_is_found_and_its_file_named(project: Path, tmp_path: Path, old: str, new: str):
    graph = made(tmp_path / "runs")
    (project / "stages" / "alpha.py").write_text(STAGE.replace(old, new))
    assert source.drifted(graph) == {("alpha", "pipeline/stages/alpha.py"): 1}


def test_a_change_is_found_however_far_below(project: Path, tmp_path: Path):
    graph = made(tmp_path / "runs")
    (project / "order.py").write_text("def same(x):\n    return x + 1\n")
    assert source.drifted(graph) == {("alpha", "pipeline/order.py"): 1}


def test_a_file_that_is_gone_is_a_change(project: Path, tmp_path: Path):
    graph = made(tmp_path / "runs")
    (project / "order.py").unlink()
    assert source.drifted(graph) == {("alpha", "pipeline/order.py"): 1}


@pytest.mark.parametrize("name", ["config.py", "unused.py"])
def test_plumbing_and_what_is_not_reached_may_change(project: Path, tmp_path: Path, name: str):
    graph = made(tmp_path / "runs")
    (project / name).write_text("value = 'another'\n")
    assert source.drifted(graph) == {}


def test_every_artefact_to_be_reused_counts(project: Path, tmp_path: Path):
    graph = made(tmp_path / "runs")
    finish(planned(tmp_path / "runs", {"seed": 1}, targets=("alpha",))["alpha"], code="pipeline.stages.alpha")
    both = graph | {n.key: n for n in planned(tmp_path / "runs", {"seed": 1}, targets=("alpha",)).values()}
    missing = {n.key: n for n in planned(tmp_path / "runs", {"seed": 2}, targets=("alpha",)).values()}
    (project / "order.py").write_text("same = abs\n")
    assert source.drifted(both | missing) == {("alpha", "pipeline/order.py"): 2}


@pytest.mark.parametrize("name", STAGES)
def test_the_source_of_each_stage_is_what_computes_it(name: str):
    files = set(source.of(STAGES[name].code))
    assert f"pipeline/stages/{name}.py" in files
    assert ("pipeline/losses.py" in files) == (
        name in ("rm", "rank")
    )  # the effective rank stands beside the records of training
    assert ("pipeline/sample.py" in files) == (name in ("generate", "rloo"))
    assert ("pipeline/metrics/rm_bench.py" in files) == (name in ("bench", "data"))  # which knows the set's columns


def test_a_new_setting_is_no_change_of_any_stage():
    """Settings are in the key; were their dataclasses' file counted too, a new one would warn of every artefact."""
    files = {name for stage in STAGES.values() for name in source.of(stage.code)}
    assert not {"pipeline/experiment.py", "pipeline/errors.py"} & files
