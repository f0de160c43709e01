"""Figures: a YAML that means one thing, pictures from the store alone, the same bytes every time."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Page

from pipeline import actions, plan, table
from pipeline.config import build, groups
from pipeline.errors import ConfigError
from pipeline.figures import draw, make, series, spec, style
from pipeline.stages import STAGES
from tests.figures import store

NAMES = spec.names()
SPEC = {"title": "t", "caption": "What.", "table": "cross", "rows": ["BT"], "stage": "bench", "label": "y"}
SPEC |= {"metrics": {"a": "in_domain/accuracy"}}


# --- specs ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", groups()["scale"])
def test_every_figure_can_be_planned_at_every_scale(name: str, scale: str, tmp_path: Path):
    of = spec.figure(name, STAGES, (f"scale={scale}",), [0])
    assert of.size == scale and set(of.nodes(plan.Builder(STAGES, tmp_path))) == set(of.made)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_shows_artefacts_of_its_table(name: str, tmp_path: Path):
    """Whatever is drawn is what the table counts, or is made from that."""
    of = store.figure(name)
    whole = table.load(of.spec.table, STAGES, of.seeds, ("scale=smoke",))
    counted, _ = plan.build(STAGES, tmp_path, table.wanted(whole, table.experiments(whole, ["scale=smoke"])))
    beyond = {node.stage.name for key, node in plan.build(STAGES, tmp_path, of.wanted)[0].items() if key not in counted}
    assert beyond <= {"dynamics"}


def test_rows_and_seeds_are_those_that_the_table_has_at_the_scale():
    here, there = (spec.figure("rloo", STAGES, (f"scale={scale}",)) for scale in ("micro", "paper"))
    assert here.rows == (*there.rows, "gold reward (ceiling)") and here.seeds == (0, 1, 2)
    assert spec.figure("scenarios", STAGES, ("scale=micro",)).seeds == (0, 1, 2, 3, 4, 5, 6, 7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spec, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "bar"}, "figure.kind = 'bar': did you mean 'bars'?"),
        ({"kind": None}, "figure.kind = None: "),
        ({"rows": ["BT", "NormBP"]}, "figure.rows = 'NormBP': table cross has no such row; did you mean 'NormBT'?"),
        ({"table": "cros"}, "table = 'cros': no such table; did you mean 'cross'?"),
        ({"stage": "bensh"}, "stage = 'bensh': no such stage; did you mean 'bench'?"),
        ({"labell": "y"}, "figure.labell = 'y': unknown key; did you mean 'label'?"),
        ({"mark": "lines"}, "figure.mark = 'lines': must be one of bars, dots"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_its_key(folder: Path, changed: dict, message: str):
    (folder / "mine.yaml").write_text(json.dumps({"kind": "bars", **SPEC, **changed}))  # JSON is YAML
    with pytest.raises(ConfigError) as caught:
        spec.load("mine", STAGES)
    assert str(caught.value).startswith(message)


def test_an_unknown_figure_is_refused_and_the_nearest_named():
    with pytest.raises(ConfigError, match=r"^figure = 'loo': no such figure; did you mean 'rloo'\?"):
        spec.load("loo", STAGES)


def test_a_caption_says_scale_seeds_and_what_the_marks_mean():
    assert spec.caption(store.figure("scenarios")).endswith(
        " Bars: mean over seeds; small dots: seeds. Scale `smoke`, seeds 0, 1."
    )
    assert spec.caption(store.figure("rloo", seeds=[3])).endswith(
        "bands reach from the smallest to the largest seed; all are running means over 5 steps. Scale `smoke`, seed 3."
    )
    assert "thin lines: seeds. Scale" in spec.caption(store.figure("head-norm"))
    assert "of 5 steps" not in spec.caption(store.figure("gold-by-kl")) and "and 5 steps" in spec.caption(
        store.figure("gold-by-kl")
    )


# --- pictures ---


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_from_what_it_reads(name: str, tmp_path: Path):
    of = store.figure(name)
    nodes = store.fill(tmp_path, of)
    with style.page(draw.height(of.spec)) as page:
        draw.draw(of.spec, draw.Found(of.rows, of.seeds, nodes), page)
        assert any(ax.has_data() for ax in page.axes)
        lettered = [ax.get_ylabel() for ax in page.axes] + [ax.get_xlabel() for ax in page.axes]
        assert any(lettered)


@pytest.mark.parametrize("name", ["rloo", "lengths", "error-bins"])
def test_nothing_is_written_beyond_the_page(name: str, tmp_path: Path):
    of = store.figure(name)
    with style.page(draw.height(of.spec)) as page:
        draw.draw(of.spec, draw.Found(of.rows, of.seeds, store.fill(tmp_path, of)), page)
        page.draw_without_rendering()  # the layout
        page.draw_without_rendering()  # the labels that follow it
        used = page.get_tightbbox()  # inches
        assert used.x0 > -0.01 and used.x1 < style.WIDTH + 0.01


@pytest.mark.parametrize("name", ["hidden-norms", "along-training"])
def test_the_same_artefacts_give_the_same_bytes(name: str, tmp_path: Path):
    of = store.figure(name)
    store.fill(tmp_path / "runs", of)
    first, second = (make.render(of, plan.Builder(STAGES, tmp_path / "runs"), tmp_path / at) for at in ("1", "2"))
    assert isinstance(first, list) and isinstance(second, list)
    assert [path.relative_to(tmp_path / "1").as_posix() for path in first] == [
        f"smoke/{name}.{suffix}" for suffix in ("svg", "pdf", "png", "json")
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"202" not in first[0].read_bytes()[:600] and b"CreationDate" not in first[1].read_bytes()


def test_beside_a_picture_stand_its_caption_and_its_artefacts(tmp_path: Path):
    of = store.figure("head-norm")
    nodes = store.fill(tmp_path / "runs", of)
    make.render(of, plan.Builder(STAGES, tmp_path / "runs"), tmp_path)
    found = json.loads((tmp_path / "smoke" / "head-norm.json").read_text())
    assert found["caption"] == spec.caption(of) and found["title"] == of.spec.title
    assert found["artefacts"] == [f"rm/{node.folder.name}" for node in nodes.values()]


@pytest.mark.parametrize("name", ["proxy", "gold-by-kl", "overoptimize"])
def test_what_is_computed_for_a_picture_alone_stands_under_it(name: str, tmp_path: Path):
    of = store.figure(name)
    nodes = store.fill(tmp_path / "runs", of)
    make.render(of, plan.Builder(STAGES, tmp_path / "runs"), tmp_path)
    caption = json.loads((tmp_path / "smoke" / f"{name}.json").read_text())["caption"]
    assert caption.startswith(spec.caption(of))
    said = caption.removeprefix(spec.caption(of))
    if name == "proxy":
        made = json.loads((nodes["BT", "rm", 0].folder / "out" / "gradients.json").read_text())
        r = {step: pearson([row for row in made if row["step"] == step]) for step in (0, 47)}
        assert said == f" Pearson's r: {r[0]:.2f} before training, {r[47]:.2f} after."
    else:
        d, gain = series.frontier([series.read(nodes[of.rows[0], "rloo", seed].folder, "curve") for seed in (0, 1)], 5)
        (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * np.log(d)], axis=1), gain, rcond=None)
        assert said.startswith(f" Fits: {of.rows[0]} α = {alpha:.3g}, β = {beta:.3g}; {of.rows[1]} α = ")


def pearson(rows: list[dict[str, float]]) -> float:
    x = np.array([row["distance"] for row in rows])
    y = np.sqrt(x**2 + np.array([row["backbone"] for row in rows]) ** 2)
    return float(np.mean((x - x.mean()) * (y - y.mean())) / (x.std() * y.std()))


# --- what is missing ---


def test_what_is_missing_is_named_and_the_others_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(spec, "names", lambda: ["head-norm", "rloo"])
    store.fill(tmp_path / "runs", store.figure("head-norm", f"run.root={tmp_path}"))
    given = ["scale=smoke", f"run.root={tmp_path}", "seeds=[0,1]", "action=render"]
    assert make.figures(given) == 1
    drawn, missing = capsys.readouterr().out.splitlines()
    assert drawn == f"head-norm: {tmp_path}/figures/smoke/head-norm.*"
    assert missing == "rloo: not made yet: rloo/bt-s0, rloo/bt-s1, rloo/norm_bt-s0, rloo/norm_bt-s1 and 4 more"
    assert {path.stem for path in (tmp_path / "figures" / "smoke").iterdir()} == {"head-norm"}


def test_what_is_dear_is_made_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(spec, "names", lambda: ["best-of-n", "head-norm"])
    asked: list[str] = []
    monkeypatch.setattr(make.actions, "execute", lambda graph, targets, of: asked.extend(n.stage.name for n in targets))
    store.fill(tmp_path / "runs", store.figure("head-norm", f"run.root={tmp_path}"))
    given = ["scale=smoke", f"run.root={tmp_path}", "seeds=[0,1]"]
    assert make.figures(given) == 0 and set(asked) == {"rm"}
    assert capsys.readouterr().out.splitlines()[0].startswith("best-of-n: not made yet: best_of_n/bt-s0")
    assert make.figures([*given, "figure=best-of-n"]) == 1 and set(asked) == {"rm", "best_of_n"}


def test_what_cannot_be_shown_is_a_reason_and_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of = store.figure("scenarios", seeds=[0])
    monkeypatch.setattr(store, "metrics", lambda of, rng: {"scenarios/prompt/tau": 0.5})
    store.fill(tmp_path / "runs", of)
    made = make.render(of, plan.Builder(STAGES, tmp_path / "runs"), tmp_path)
    wrong = "figure.metrics = 'scenarios/in_domain/tau': stage bench has no such metric; did you mean"
    assert isinstance(made, str) and made.startswith(wrong) and not (tmp_path / "smoke").exists()


def test_a_number_that_one_seed_lacks_does_not_hide_the_others(tmp_path: Path):
    of = store.figure("scenarios")
    nodes = store.fill(tmp_path, of)
    found = draw.Found(of.rows, of.seeds, nodes)
    path = nodes["BT", "bench", 1].folder / "manifest.json"
    entry = json.loads(path.read_text())
    del entry["metrics"]["scenarios/mutual/tau"]
    path.write_text(json.dumps(entry))
    page = Page()
    draw.draw(of.spec, found, page)
    first = entry_of(nodes["BT", "bench", 0].folder)["scenarios/mutual/tau"]
    assert page.axes[0].patches[3].get_height() == pytest.approx(first)  # type: ignore[attr-defined]  # a bar


def entry_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "manifest.json").read_text())["metrics"]


def test_a_run_plans_and_a_wrong_word_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert make.figures(["figure=pairs", "scale=smoke", f"run.root={tmp_path}", "seeds=[0]", "action=plan"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "12 to run, 0 to reuse, 0 blocked"
    with pytest.raises(SystemExit), actions.kind_errors():
        make.figures(["action=draw"])
    assert capsys.readouterr().err == "error: action = 'draw': known: plan, render, run\n"


def test_rows_look_the_same_in_every_figure():
    both, one = style.looks(("BT", "NormBT", "hinge")), style.looks(("dr", "NormBT"))
    assert both["NormBT"] == one["NormBT"] and both["BT"] != both["hinge"]
    many = style.looks(("a", "b", "c", "BT"))
    assert len({look["color"] for look in many.values()}) == 4


def test_a_spec_is_checked_like_all_settings():
    with pytest.raises(ConfigError, match=r"figure\.metrics = None: missing"):
        build(spec.Bars, {key: value for key, value in SPEC.items() if key != "metrics"}, "figure")
