"""Tables: a spec that means one thing, cells from manifests, and the same text every time."""

import csv
import io
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from artefacts import fail, finish, toy

from pipeline import config, plan, store, table
from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.stage import Stage
from pipeline.stages import STAGES
from pipeline.table import Spec, Table, formats
from pipeline.table import spec as spec_module

Golden = Callable[[str, str], None]

# Their keys are made of whole numbers that the rows set: no file of conf/ moves the golden files.
TOYS: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        toy("bench", ("seed", "replicas"), slug=lambda x: f"{x.loss['name']}-s{x.seed}"),
        toy("eval", ("seed", "replicas"), ("bench",), slug=lambda x: f"{x.loss['name']}-s{x.seed}"),
    )
}
SPEC: dict[str, Any] = {
    "title": "Toys",
    "seeds": [0, 1],
    "rows": [
        {"label": "BT", "set": {"loss": "bt", "replicas": 3}},
        {"label": "BSR, λ = 0.01", "set": {"loss": "bsr", "replicas": 4}},
        {"label": "ceiling", "set": {"judge.temperature": 1.0, "replicas": 5}, "stages": ["eval"]},
        {"label": "theirs", "set": {}, "stages": []},
    ],
    "baseline": "BT",
    "primary": ["τ"],
    "published": {
        "BT": {"τ": {"value": 0.51, "mark": "paper", "source": "Table 5"}},
        "theirs": {
            "accuracy": {"value": 70.1, "mark": "second-hand", "source": "Table 2 & notes"},
            "τ": {"value": 0.5, "mark": "paper", "source": "Table 5"},
        },
    },
    "columns": [
        {"label": "accuracy", "stage": "bench", "metric": "in_domain/accuracy", "scale": 100, "digits": 1},
        {"label": "τ", "stage": "bench", "metric": "tau"},
        {"label": "win rate", "stage": "eval", "metric": "win_rate", "digits": 0},
    ],
}


# No row is compared with another, or with what was published.
PLAIN: dict[str, Any] = {"baseline": None, "primary": None, "published": None, "rows": SPEC["rows"][:3]}


def values(**changed: Any) -> dict[str, Any]:
    own = PLAIN if {"rows", "columns"} & changed.keys() else {}
    return {**SPEC, **own, **changed}


def spec(**changed: Any) -> Spec:
    return build(Spec, values(**changed), "table")


def filled(root: Path, made_of: Spec | None = None, overrides: Sequence[str] = ()) -> Table:
    made_of = made_of or spec()
    return table.fill("toys", made_of, table.experiments(made_of, overrides), TOYS, root)


def make(root: Path, skip: Sequence[str] = ()) -> None:
    """Artefacts of the table with metrics that differ by row and seed, but for those of `skip`."""
    graph, _ = plan.build(TOYS, root, table.wanted(spec(), table.experiments(spec(), ())))
    for i, node in enumerate(graph.values()):
        bench = {"in_domain/accuracy": 0.6 + i / 64, "tau": 0.125 * i}
        if node.name not in skip:
            finish(node, bench if node.stage.name == "bench" else {"win_rate": 50.0 + 3 * i})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


# --- specs ---


@pytest.mark.parametrize("name", table.names())
@pytest.mark.parametrize("scale", config.groups()["scale"])
def test_every_table_can_be_planned_at_its_scales(name: str, scale: str, root: Path):
    scales = table.read(name, STAGES).scales
    if scales is not None and scale not in scales:
        with pytest.raises(ConfigError, match=f"^scale = '{scale}': this table has a meaning at"):
            table.load(name, STAGES, overrides=[f"scale={scale}"])
        return
    loaded = table.load(name, STAGES, overrides=[f"scale={scale}"])
    graph, targets = plan.build(STAGES, root, table.wanted(loaded, table.experiments(loaded, [f"scale={scale}"])))
    assert set(targets) <= set(graph.values())
    assert bool(targets) == any(column.stage for column in loaded.columns)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of table files of the test's own."""
    monkeypatch.setattr(spec_module, "FOLDER", tmp_path)
    return tmp_path


def refused(folder: Path, **changed: Any) -> str:
    (folder / "mine.yaml").write_text(json.dumps(values(**changed)))  # JSON is YAML
    with pytest.raises(ConfigError) as caught:
        table.load("mine", TOYS)
    return str(caught.value)


def test_a_table_is_loaded_by_name(folder: Path):
    (folder / "mine.yaml").write_text(json.dumps(SPEC))
    assert table.load("mine", TOYS) == spec()
    assert table.load("mine", TOYS, seeds=[5]) == spec(seeds=[5])


def test_a_table_has_rows_columns_and_settings_of_a_scale(folder: Path):
    rows = [
        {"label": "BT", "set": {}},
        {"label": "tiny", "set": {}, "scales": ["micro"]},
        {"label": "large", "set": {}, "scales": ["paper"]},
    ]
    columns = [{"label": "a", "stage": "bench", "metric": "tau"},
               {"label": "b", "stage": "bench", "metric": "tau", "scales": ["paper"]}]  # fmt: skip
    one = {"value": 1.0, "mark": "paper", "source": "Table 1"}
    published = {"large": {"a": one, "b": one}, "tiny": {"b": one}}
    at = {"paper": {"rm.batch": 8}, "micro": {"rm.batch": 16}}
    whole = values(
        rows=rows, columns=columns, published=published, at=at, set={"seed": 1, "rm.batch": 4}, primary=["b"]
    )
    (folder / "mine.yaml").write_text(json.dumps(whole))

    def at_scale(scale: str) -> Spec:
        return table.load("mine", TOYS, overrides=[f"scale={scale}"])

    micro, paper = at_scale("micro"), at_scale("paper")
    assert [r.label for r in micro.rows] == ["BT", "tiny"] and [r.label for r in paper.rows] == ["BT", "large"]
    assert [c.label for c in micro.columns] == ["a"] and [c.label for c in paper.columns] == ["a", "b"]
    assert (micro.set, paper.set) == ({"seed": 1, "rm.batch": 16}, {"seed": 1, "rm.batch": 8})
    assert micro.published == {"tiny": {}} and set(paper.published or {}) == {"large"}
    assert (micro.primary, paper.primary) == ((), ("b",))
    assert {x.rm.batch for x in table.experiments(micro, ()).values()} == {16}


def test_a_row_of_published_numbers_has_some(folder: Path):
    rows = [*SPEC["rows"][:1], {"label": "theirs", "set": {}, "stages": []}]
    assert refused(folder, rows=rows) == (
        "table.rows[1].stages = (): no stage makes this row and nothing is published for it; remove it"
    )


def test_a_dear_column_has_the_first_seeds_only(root: Path):
    columns = [{"label": "a", "stage": "bench", "metric": "tau"},
               {"label": "b", "stage": "bench", "metric": "tau", "seeds": 1}]  # fmt: skip
    own = spec(rows=[{"label": "BT", "set": {}}], columns=columns)
    made = table.experiments(own, ())
    assert [(column, seed) for _, column, seed in made] == [("a", 0), ("a", 1), ("b", 0)]
    for i, x in enumerate(made.values()):
        finish(plan.Builder(TOYS, root).add("bench", x), {"tau": float(i)})
    whole = table.fill("toys", own, made, TOYS, root)
    assert [len(cell.values) for cell in whole.cells.values()] == [2, 1]
    assert "Seeds 0 only: b." in table.markdown(whole)
    assert [cell["seeds"] for cell in json.loads(formats.as_json(whole))["cells"]] == [[0, 1], [0]]


def test_an_unknown_table_is_refused_and_the_nearest_named(folder: Path):
    (folder / "mine.yaml").write_text(json.dumps(SPEC))
    with pytest.raises(ConfigError, match=r"^table = 'mini': no such table; did you mean 'mine'\?"):
        table.load("mini", TOYS)


@pytest.mark.parametrize("what", ["rows", "columns"])
def test_two_with_one_label_are_refused(folder: Path, what: str):
    message = refused(folder, **{what: [*SPEC[what], SPEC[what][0]]})
    assert message == f"table.{what} = '{SPEC[what][0]['label']}': two have this label; cells would be ambiguous"


@pytest.mark.parametrize("seeds", [[], [0, 0], [1, 2, 1]], ids=str)
def test_seeds_are_named_and_each_once(folder: Path, seeds: list[int]):
    """The same seed twice would halve a spread that was never measured."""
    assert refused(folder, seeds=seeds).partition(" = ")[0] == "table.seeds"


def test_seeds_from_outside_are_checked_like_those_of_the_file(folder: Path):
    (folder / "mine.yaml").write_text(json.dumps(SPEC))
    with pytest.raises(ConfigError, match=r"seeds = .*3, 3"):
        table.load("mine", TOYS, seeds=[3, 3])


def column(**changed: Any) -> list[dict[str, Any]]:
    return [{**SPEC["columns"][0], **changed}]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": column(stage="bensh")}, "stage = 'bensh': no such stage; did you mean 'bench'?"),
        ({"columns": column(digit=1)}, "table.columns[0].digit = 1: unknown key; did you mean 'digits'?"),
        ({"columns": column(digits="two")}, "table.columns[0].digits = 'two': expected a whole number"),
        ({"columns": [{"label": "x", "stage": "bench"}]}, "table.columns[0].metric = None: missing"),
        ({"rows": [{"label": "x"}]}, "table.rows[0].set = None: missing"),
        (
            {"rows": [{"label": "x", "set": {"loss": ["bt"]}}]},
            "table.rows[0].set.loss = ['bt']: expected one plain value",
        ),
        (
            {"rows": [{"label": "x", "set": {}, "stages": ["evl"]}]},
            "stage = 'evl': no such stage; did you mean 'eval'?",
        ),
        ({"baseline": "BTT"}, "table.baseline = 'BTT': no such label; did you mean 'BT'?"),
        (
            {"rows": [{**SPEC["rows"][0], "baseline": "no"}]},
            "table.rows[0].baseline = 'no': no such label; known: BT",
        ),
        ({"primary": ["t"]}, "table.primary = 't': no such column"),
        ({"published": {"TB": {}}}, "table.published = 'TB': no such label; did you mean 'BT'?"),
        ({"published": {"BT": {"tau": SPEC["published"]["BT"]["τ"]}}}, "table.published.BT = 'tau': no such label"),
        (
            {"published": {"BT": {"τ": {"value": 1, "mark": "guessed", "source": "us"}}}},
            "table.published.BT.τ.mark = 'guessed': must be one of paper, code, second-hand",
        ),
        ({"published": {"BT": {"τ": {"value": 1, "mark": "paper"}}}}, "table.published.BT.τ.source = None: missing"),
        ({"columns": column(setting="seed")}, "table.columns[0].stage = 'bench': has no meaning beside setting"),
        ({"columns": [{"label": "x"}]}, "table.columns[0].stage = None: missing"),
        ({"rowss": []}, "table.rowss = []: unknown key; did you mean 'rows'?"),
        ({"seeds": ["one"]}, "table.seeds[0] = 'one': expected a whole number"),
        ({"title": 3}, "table.title = 3: expected text"),
    ],
    ids=str,
)
def test_a_wrong_spec_is_refused(folder: Path, changed: dict[str, Any], message: str):
    assert refused(folder, **changed).startswith(message)


@pytest.mark.parametrize(
    ("set_", "message"),
    [
        ({"loss": "btt"}, "loss = 'btt': no such option; did you mean 'bt'?"),
        ({"rm.btch": 1}, "rm.btch = 1: unknown key; did you mean 'rm.batch'?"),
        ({"rloo.reward": "silver"}, "rloo.reward = 'silver': must be one of rm, gold"),
        ({"loss": "bt", "loss.coef": 1.0}, "loss.coef = 1.0: unknown key"),
    ],
    ids=str,
)
def test_a_row_that_sets_something_wrong_is_refused(set_: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        table.experiments(spec(rows=[{"label": "x", "set": set_}]), ())
    assert str(caught.value).startswith(message)


# --- overrides from outside ---


@pytest.mark.parametrize("override", ["loss=bt", "judge.temperature=2"])
def test_what_the_rows_set_cannot_be_set_from_outside(override: str):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{re.escape(key)} = .*this table sets it"):
        table.experiments(spec(), [override])


def test_an_override_reaches_every_row_and_seed():
    made = table.experiments(spec(), ["rm.batch=8", "scale=smoke"])
    assert {(x.rm.batch, x.size) for x in made.values()} == {(8, "smoke")}
    assert [seed for _, _, seed in made] == [x.seed for x in made.values()]
    assert {(row, seed) for row, _, seed in made} == {(r.label, seed) for r in spec().rows for seed in (0, 1)}


def test_a_constant_of_a_loss_reaches_the_rows_that_have_it():
    made = table.experiments(spec(), ["loss.coef=0.5"])
    losses = {row: x.loss for (row, _, _), x in made.items()}
    assert losses["BSR, λ = 0.01"]["coef"] == 0.5
    assert losses["BT"] == {"name": "bt"}


def test_a_constant_that_no_row_has_is_refused():
    with pytest.raises(ConfigError, match=r"^loss\.decay = .*no row of this table has this key"):
        table.experiments(spec(), ["loss.decay=0.5"])


def test_a_row_that_sets_a_constant_leaves_the_others_theirs():
    """Options are cached; two rows of one loss must not see each other's constants."""
    rows = [{"label": str(coef), "set": {"loss": "bsr", "loss.coef": coef}} for coef in (0.5, 0.25)]
    made = table.experiments(spec(rows=[*rows, {"label": "usual", "set": {"loss": "bsr"}}], seeds=[0]), ())
    coefs = {row: x.loss["coef"] for (row, _, _), x in made.items()}
    assert coefs == {"0.5": 0.5, "0.25": 0.25, "usual": config.experiment(("loss=bsr",)).loss["coef"]}


def test_settings_of_table_row_and_column_win_in_this_order():
    rows = [{"label": "row", "set": {"rm.batch": 2}}]
    columns = [{"label": str(own), "stage": "bench", "metric": "tau", "set": own} for own in (None, {"rm.batch": 4})]
    common = {"rm.batch": 8, "rm.epochs": 3}
    made = table.experiments(spec(rows=rows, columns=columns, seeds=[0], set=common), ())
    assert [(x.rm.batch, x.rm.epochs) for x in made.values()] == [(2, 3), (4, 3)]
    with pytest.raises(ConfigError, match=r"^rm\.epochs = '1': this table sets it"):
        table.experiments(spec(rows=rows, columns=columns, seeds=[0], set=common), ["rm.epochs=1"])


def test_an_unknown_override_is_refused():
    with pytest.raises(ConfigError, match=r"rm\.batchh = '8': unknown key; did you mean 'rm\.batch'\?"):
        table.experiments(spec(), ["rm.batchh=8"])


def test_a_row_for_some_stages_wants_only_those():
    made = table.experiments(spec(), ())
    wanted = [(stage, x.judge.temperature, x.seed) for stage, x in table.wanted(spec(), made)]
    assert [w for w in wanted if w[1] == 1.0] == [("eval", 1.0, 0), ("eval", 1.0, 1)]
    assert len(wanted) == 2 * 3 * 2 + 2


# --- cells ---


def test_a_cell_is_mean_and_standard_deviation_over_seeds(root: Path):
    make(root)
    whole = filled(root)
    value = whole.cells["BT", "accuracy"].values
    assert len(value) == 2
    text = f"{statistics.fmean(value):.1f} ± {statistics.stdev(value):.1f}"
    assert formats.shown(whole.cells["BT", "accuracy"], whole.spec.columns[0]) == text == "60.8 ± 1.1"


def test_one_seed_has_no_spread(root: Path):
    make(root)
    text = table.markdown(filled(root, spec(seeds=[0])))
    assert "| BT | 60.0 | 0.00 | 56 |" in text
    assert "±" not in "".join(line for line in text.splitlines() if line.startswith("|"))


def test_a_row_of_fewer_seeds_is_paired_with_as_many_of_its_baseline(root: Path):
    make(root)
    whole_row, few_seeds = SPEC["rows"][0], SPEC["rows"][1] | {"label": "BSR", "seeds": 1}
    made_of = spec(rows=[whole_row, few_seeds], baseline="BT")
    whole = filled(root, made_of)
    few, every = whole.cells["BSR", "accuracy"].values, whole.cells["BT", "accuracy"].values
    assert (len(few), len(every)) == (1, 2)
    assert whole.differences["BSR", "accuracy"].values == (few[0] - every[0],)
    assert "Seeds 0 only: BSR." in table.markdown(whole)
    lines = [line.split(",") for line in formats.as_csv(whole).splitlines()]
    assert [line[2] for line in lines if line[:2] == ["BSR", "accuracy"]] == ["0"]
    assert len(table.wanted(made_of, table.experiments(made_of, ()))) == 2 * 3 + 3
    with pytest.raises(ConfigError, match=r"seeds = 0: is how many"):
        spec(rows=[whole_row | {"seeds": 0}])


def test_a_metric_is_read_from_the_manifest_of_its_stage_row_and_seed(root: Path):
    make(root)
    for (_, label), cell in filled(root).cells.items():
        metric = next(c.metric for c in spec().columns if c.label == label)
        scale = 100 if label == "accuracy" else 1
        found = [store.manifest(node.folder) for node in cell.nodes]
        assert cell.values == tuple(m["metrics"][metric] * scale for m in found if m)


@pytest.mark.parametrize(("metric", "near"), [("in_domain/acuracy", "in_domain/accuracy"), ("tua", "tau")])
def test_an_unknown_metric_is_refused_and_the_nearest_named(root: Path, metric: str, near: str):
    make(root)
    with pytest.raises(ConfigError) as caught:
        filled(root, spec(columns=[{"label": "A", "stage": "bench", "metric": metric}], rows=SPEC["rows"][:1]))
    remedy = f"stage bench has no such metric; did you mean '{near}'?"
    assert str(caught.value) == f"table column A = '{metric}': {remedy}"


def test_a_missing_artefact_leaves_a_dash_and_says_which(root: Path):
    make(root, skip=["bench/bsr-s1"])
    text = table.markdown(filled(root))
    assert "| BSR, λ = 0.01 | – | – | " in text
    assert "– : bench/bsr-s1 is not made yet." in text


def test_a_failed_artefact_says_what_went_wrong(root: Path):
    make(root, skip=["bench/bsr-s1"])
    (node,) = [n for n in filled(root).cells["BSR, λ = 0.01", "τ"].nodes if n.slug == "bsr-s1"]
    fail(node, "FloatingPointError: the loss of step 3 is nan")
    assert "– : FloatingPointError: the loss of step 3 is nan." in table.markdown(filled(root))


def test_a_row_that_has_no_such_cell_says_for_what_it_is(root: Path):
    make(root)
    text = table.markdown(filled(root))
    assert "| ceiling | – | – | " in text and "– : a row for eval only." in text


def test_of_many_reasons_a_few_are_told_and_the_rest_counted(root: Path):
    rows = [{"label": loss, "set": {"loss": loss, "replicas": i}} for i, loss in enumerate(("bt", "bsr", "norm_bt"), 1)]
    text = table.markdown(filled(root, spec(rows=rows)))
    reasons = [line for line in text.splitlines() if line.startswith("– :")]
    assert len(reasons) == formats.SHOWN_REASONS + 1 and reasons[-1] == "– : and 2 more."


def test_a_setting_is_shown_as_the_row_has_it(root: Path):
    columns = [{"label": "batch", "setting": "rm.batch"}, {"label": "betas", "setting": "rm.optim.betas"}]
    rows = [{"label": "x", "set": {"rm.batch": 8}}]
    whole = filled(root, spec(rows=rows, columns=columns))
    assert "| x | 8 | [0.9, 0.95] |" in table.markdown(whole) and "standard deviation" not in table.markdown(whole)
    assert not table.wanted(whole.spec, table.experiments(whole.spec, ()))
    with pytest.raises(ConfigError, match=r"table column x = 'rm\.btch': did you mean 'rm\.batch'"):
        filled(root, spec(rows=rows, columns=[{"label": "x", "setting": "rm.btch"}]))


def test_one_metric_can_be_taken_from_another(root: Path):
    make(root)
    columns = [{"label": "gap", "stage": "bench", "metric": "in_domain/accuracy", "minus": "tau"}]
    cell = filled(root, spec(columns=columns, rows=SPEC["rows"][:2])).cells["BSR, λ = 0.01", "gap"]
    found = [store.manifest(node.folder) for node in cell.nodes]
    assert cell.values == tuple(m["metrics"]["in_domain/accuracy"] - m["metrics"]["tau"] for m in found if m)


# --- differences ---


def effects(root: Path, gains: Sequence[float], replicas: int, **changed: Any) -> Table:
    """BT and BSR over seeds; BSR's τ is BT's of the same seed and its gain."""
    stages = {**TOYS, "bench": toy("bench", ("seed", "replicas", "loss"))}
    rows = [{"label": name, "set": {"loss": name, "replicas": replicas}} for name in ("bt", "bsr")]
    own = spec(rows=rows, columns=SPEC["columns"][1:2], seeds=list(range(len(gains))), baseline="bt", **changed)
    made = table.experiments(own, ())
    for (row, _, seed), x in made.items():
        gain = gains[seed] if row == "bsr" else 0.0
        finish(plan.Builder(stages, root).add("bench", x), {"tau": 10.0 * seed + gain})
    return table.fill("toys", own, made, stages, root)


def test_a_difference_is_paired_by_seed_and_counts_an_sft_model_once(root: Path):
    whole = effects(root, [1, 2, 3, 5, 8, 10], replicas=4)
    found = whole.differences["bsr", "τ"]
    assert list(whole.differences) == [("bsr", "τ")] and found.baseline == "bt"
    assert found.values == pytest.approx((1, 2, 3, 5, 8, 10))
    assert found.estimate and found.estimate.means == pytest.approx((4.5, 6, 3, 5))
    assert f"| bsr − bt | {found.estimate.mean:+.3f} [{found.estimate.low:+.3f}, " in table.markdown(whole)
    assert "(4 SFT models). The differences are secondary" in table.markdown(whole)


def test_a_difference_of_one_seed_has_no_interval(root: Path):
    whole = effects(root, [0.25], replicas=1, primary=["τ"])
    assert "| bsr − bt | +0.250 |" in table.markdown(whole) and "interval" not in table.markdown(whole)
    (found,) = [c["difference"] for c in json.loads(formats.as_json(whole))["cells"] if c["difference"]]
    assert found == {"baseline": "bt", "values": [0.25], "interval": None, "detectable": None}


def test_a_row_has_a_baseline_of_its_own(root: Path):
    rows = [{**row, "baseline": base} for row, base in zip(SPEC["rows"], (None, None, "BT"), strict=False)]
    make(root)
    whole = filled(root, spec(rows=rows, columns=SPEC["columns"]))
    assert {key: d.baseline for key, d in whole.differences.items()} == {("ceiling", "win rate"): "BT"}


def test_a_row_without_its_baseline_has_no_difference(root: Path):
    make(root, skip=["bench/bt-s0"])
    whole = filled(root)
    assert ("BSR, λ = 0.01", "τ") not in whole.differences
    assert ("BSR, λ = 0.01", "win rate") in whole.differences


def test_a_cell_names_the_files_with_its_examples(root: Path):
    (node,) = [plan.Builder(TOYS, root).add("bench", x) for x in table.experiments(single(), ()).values()]
    finish(node, {"tau": 0.5}, files={"examples.parquet": "rows"})
    (cell,) = filled(root, single()).cells.values()
    assert cell.examples == (f"bench/{node.folder.name}/out/examples.parquet",)
    assert (root / cell.examples[0]).read_text() == "rows"


def single() -> Spec:
    return spec(rows=SPEC["rows"][:1], columns=SPEC["columns"][1:2], seeds=[0])


# --- text ---


@pytest.mark.parametrize("suffix", sorted(table.FORMATS))
def test_a_whole_table_is_pinned(root: Path, golden: Golden, suffix: str):
    make(root)
    golden(f"table.{suffix}", table.FORMATS[suffix](filled(root)))


@pytest.mark.parametrize("suffix", sorted(table.FORMATS))
def test_a_table_with_holes_is_pinned(root: Path, golden: Golden, suffix: str):
    make(root, skip=["bench/bsr-s1", "eval/bt-s0"])
    golden(f"table-holes.{suffix}", table.FORMATS[suffix](filled(root)))


def test_published_numbers_stand_below_their_row_with_their_sources(root: Path):
    make(root)
    text = table.markdown(filled(root))
    assert "| theirs, published | 70.1 | 0.50 |  |" in text and "| theirs |" not in text
    assert "Published: Table 2 & notes [second-hand]; Table 5 [paper]." in text
    assert "– : published only: nothing here makes it." not in text


def test_latex_is_whole(root: Path):
    """What a compiler would stumble over: other characters than ASCII, open groups, rows of another width."""
    make(root)
    text = formats.latex(filled(root))
    assert text.isascii()
    bare = re.sub(r"\\[\\%&$#_{}]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and "%" not in bare and "#" not in bare
    body = text[text.index("\\toprule") : text.index("\\bottomrule")].splitlines()
    rows = [re.sub(r"\\&", "", line) for line in body if line.endswith("\\\\")]
    assert len(rows) == 1 + 3 + 2 + 2 and {row.count("&") for row in rows} == {3}
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        ("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", table.names())
def test_latex_knows_every_character_of_the_tables(name: str):
    loaded = table.read(name, STAGES)
    labels = [loaded.title, *(part.label for part in (*loaded.rows, *loaded.columns))]
    assert all(formats.tex(text).isascii() for text in labels)


def test_csv_has_a_line_for_each_seed_of_each_cell_that_is_there(root: Path):
    make(root, skip=["bench/bsr-s1"])
    whole = filled(root)
    rows = list(csv.DictReader(io.StringIO(formats.as_csv(whole))))
    assert len(rows) == sum(len(cell.values) for cell in whole.cells.values()) == 5 * 2
    assert all(len(row["key"]) == 16 for row in rows)
    assert {row["row"] for row in rows if row["column"] == "τ"} == {"BT"}


def test_json_leads_from_each_cell_to_its_artefacts(root: Path):
    make(root)
    cells = json.loads(formats.as_json(filled(root)))["cells"]
    assert len(cells) == 12
    for cell in cells:
        assert all((root / name / "manifest.json").exists() for name in cell["artefacts"])
        assert [name.rpartition("-")[2] for name in cell["artefacts"]] == cell["keys"]
        assert len(cell["artefacts"]) == len(cell["seeds"]) == (0 if cell["missing"] else 2)


def test_rendering_writes_every_format_by_scale_and_again_the_same(root: Path, tmp_path: Path):
    make(root)
    paths = table.render(filled(root), tmp_path / "tables")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [f"tables/micro/toys.{s}" for s in table.FORMATS]
    before = [p.read_bytes() for p in paths]
    assert [p.read_bytes() for p in table.render(filled(root), tmp_path / "tables")] == before
    assert sorted(paths) == sorted((tmp_path / "tables" / "micro").iterdir())
