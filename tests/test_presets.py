"""Every table at every scale, and every model with every data set: it composes, it validates, it can be planned."""

from pathlib import Path

import pytest

from pipeline import config, plan, table
from pipeline.config import CONF, experiment, groups
from pipeline.errors import ConfigError
from pipeline.stages import STAGES

SCALES = groups()["scale"]
REAL = [name for name in groups()["model"] if not name.startswith("tiny")]
HUB = [name for name in groups()["data"] if not name.startswith("micro")]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", table.names())
def test_every_table_composes_at_every_scale_where_it_has_a_meaning(name: str, scale: str):
    overrides = (f"scale={scale}",)
    scales = table.read(name, STAGES).scales
    if scales is not None and scale not in scales:
        with pytest.raises(ConfigError, match="has a meaning at"):
            table.load(name, STAGES, overrides=overrides)
        return
    spec = table.load(name, STAGES, [0], overrides)
    made = table.experiments(spec, overrides)
    assert {x.size for x in made.values()} == {scale}
    graph, targets = plan.build(STAGES, Path("/nowhere"), table.wanted(spec, made))
    plan.judge(graph, targets)
    assert graph or name == "bsr-4"
    kinds = {node.sections["source"]["kind"] for node in graph.values() if node.stage.name == "data"}
    assert kinds <= ({"hub", "sets"} if scale in ("small", "paper") else {"world"})


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("data", HUB)
def test_every_model_goes_with_every_data_set(data: str, scale: str):
    for model in REAL:
        made = experiment((f"scale={scale}", f"data={data}"), {"model": model})
        assert made.model == experiment((f"scale={scale}",), {"model": model}).model
        assert made.data.preferences == experiment((f"scale={scale}", f"data={data}")).data.preferences


@pytest.mark.parametrize(("scale", "seeds"), [("micro", 8), ("small", 3), ("paper", 4)])
def test_a_scale_bounds_the_seeds_of_a_table(scale: str, seeds: int):
    assert table.load("bsr-5", STAGES, overrides=(f"scale={scale}",)).seeds == tuple(range(seeds))
    assert table.load("bsr-5", STAGES, [7], (f"scale={scale}",)).seeds == (7,)
    assert table.load("bsr-5", STAGES, overrides=(f"scale={scale}", "most_seeds=2")).seeds == (0, 1)


@pytest.mark.parametrize("loss", groups()["loss"])
@pytest.mark.parametrize("dialect", groups()["dialect"])
def test_constants_of_a_loss_at_a_scale_reach_it_wherever_it_stands(loss: str, dialect: str):
    alone = experiment(("scale=paper", f"dialect={dialect}", f"loss={loss}")).loss
    assert experiment(("scale=paper", f"dialect={dialect}"), {"loss": loss}).loss == alone
    if loss not in ("center", "norm_bt"):
        stacked = experiment(("scale=paper", f"dialect={dialect}"), {"loss": "norm_bt", "loss.of": loss}).loss["of"]
        assert stacked == alone


def test_lambda_is_the_papers_at_its_scale():
    assert {scale: experiment((f"scale={scale}",), {"loss": "bsr"}).loss["coef"] for scale in SCALES} == {
        "micro": 1e-2, "smoke": 1e-2, "small": 1e-2, "paper": 1e-3
    }  # fmt: skip


# --- what the papers say (their tables and appendices), once more by hand ---

BSR_5 = {"Llama-3.2-1B": 5e-6, "Qwen2.5-1.5B": 5e-6, "Llama-3.2-3B": 3e-6, "Qwen2.5-3B": 3e-6}


def test_table_5_has_the_learning_rates_of_its_appendix():
    spec = table.load("bsr-5", STAGES, [0], ("scale=paper",))
    made = table.experiments(spec, ("scale=paper",))
    for (row, _, _), x in made.items():
        model = row.split(",")[0]
        assert x.rm.optim.lr == BSR_5[model] and str(x.model.id).endswith(f"/{model}")
        assert (x.rm.batch, x.rm.optim.schedule, x.rm.optim.warmup, x.sft.batch) == (128, "linear", 0.05, 512)


@pytest.mark.parametrize("name", ["bsr-1", "bsr-2", "bsr-3"])
def test_the_8b_models_are_the_recipes(name: str):
    overrides = ("scale=paper",)
    for x in table.experiments(table.load(name, STAGES, [0], overrides), overrides).values():
        assert (x.model.id, x.sft.steps) == ("meta-llama/Llama-3.1-8B-Instruct", 0)
        assert (x.rm.optim.lr, x.rm.batch, x.rm.optim.warmup, x.rm.max_length) == (2e-6, 128, 0.05, 2048)
        assert str(x.data.preferences.id).startswith("Skywork/Skywork-Reward-Preference-80K")


def test_the_two_rloo_runs_are_those_of_table_4():
    overrides = ("scale=paper",)
    first = experiment(overrides)
    third = next(iter(table.experiments(table.load("bsr-3", STAGES, [0], overrides), overrides).values()))
    for x, lr, data in ((first, 2e-6, None), (third, 1e-6, "allenai/tulu-3-sft-mixture")):
        assert x.policy.model is not None and x.policy.model.id == "Qwen/Qwen2.5-1.5B"
        assert (x.policy.data.id if x.policy.data else None) == data
        assert (x.rloo.optim.lr, x.rloo.kl, x.rloo.k, x.rloo.prompts, x.rloo.optim.warmup) == (lr, 0.05, 2, 128, 0.03)
        assert x.rloo.steps == 5 * 11_082 // 128 + 1
    tuned = third.policy.sft
    assert tuned is not None and (tuned.epochs, tuned.batch, tuned.optim.lr) == (1, 512, 1e-5)
    assert first.model.id == "Qwen/Qwen2.5-3B" and first.policy.sft is None and first.sft.epochs == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("normbt-1a", (1e-5, 24, 2, 1024, True)),
        ("normbt-2", (1e-5, 24, 2, 1024, True)),
        ("normbt-bon", (1e-5, 24, 2, 1024, True)),
        ("normbt-1b", (5e-6, 256, 1, 3000, False)),
    ],
)
def test_normbts_recipes_are_the_scripts_it_seems_to_be_built_on(name: str, expected: tuple[object, ...]):
    overrides = ("scale=paper",)
    for x in table.experiments(table.load(name, STAGES, [0], overrides), overrides).values():
        o = x.rm.optim
        assert (o.lr, x.rm.batch, x.rm.epochs, x.rm.max_length, o.lora is not None) == expected
        assert (o.schedule, o.warmup, o.clip, x.sft.steps) == ("cosine", 0.03, 5.0, 0)


def test_the_grid_is_one_for_every_loss():
    spec = table.load("normbt-grid", STAGES, overrides=("scale=paper",))
    found: dict[object, set[object]] = {}
    for row in spec.rows:
        found.setdefault(row.set["loss"], set()).add(row.set["rm.optim.lr"])
    assert found.keys() == {"bt", "margin", "margin_out", "label_smoothing", "norm_bt"}
    assert all(each == {5e-6, 1e-5, 2e-5} for each in found.values())


def test_files_of_a_scales_constants_name_a_scale_and_a_loss():
    for path in (CONF / "scale" / "loss").glob("*.yaml"):
        scale, _, loss = path.stem.partition("_")
        assert (
            scale in SCALES and config.load_yaml(path).keys() <= config.load_yaml(CONF / "loss" / f"{loss}.yaml").keys()
        )
