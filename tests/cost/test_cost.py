"""What a plan costs: three cases by hand, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import actions, config, cost, plan
from pipeline.cost import sheet, show
from pipeline.cost.estimate import ESTIMATORS, ON_CPU, Cost, place
from pipeline.cost.fit import fit
from pipeline.cost.memory import Place
from pipeline.cost.sheet import Shape
from pipeline.errors import ConfigError
from pipeline.plan import Node
from pipeline.stages import STAGES

known = sheet.sheet()
PAPER = ("scale=paper", "model=llama-3.2-1b")  # 51,200 pairs, 128 in a step, one epoch
LORA = "rm.optim.lora={rank:16,alpha:32}"
GB = 1e9


@pytest.fixture(autouse=True)
def nothing_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "HUB", tmp_path / "hub")
    sheet.of_hub.cache_clear()


def node(stage: str, *overrides: str) -> Node:
    _, (target,) = plan.build(STAGES, Path(), [(stage, config.experiment(overrides))])
    return target


# --- shapes ---

# Parameters as the hub counts them.
PUBLISHED = {
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "google/gemma-2b-it": 2_506_172_416,
}


@pytest.mark.parametrize("id", PUBLISHED)
def test_a_shape_gives_the_published_number_of_parameters(id: str) -> None:
    assert sheet.of_hub(id).lm == PUBLISHED[id]


def test_what_has_no_known_shape_is_not_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = config.experiment(PAPER)
    graph, targets = plan.build(STAGES, tmp_path, [("rm", x)])
    plan.judge(graph, targets)
    monkeypatch.setattr(sheet, "sheet", lambda: replace(known, models={}))
    costs = cost.of(graph, cost.gpu("h200"), cost.given(x.cluster, None))
    assert dict(costs.unknown) == {f"{stage} (meta-llama/Llama-3.2-1B)": 1 for stage in ("sft", "rm")}


def test_a_fetched_config_is_preferred(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        '{"model_type": "qwen2", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,'
        ' "num_key_value_heads": 2, "intermediate_size": 12, "vocab_size": 10, "tie_word_embeddings": true}'
    )
    assert sheet.of_hub("Qwen/Qwen2.5-0.5B") == Shape(8, 2, 4, 2, 2, 12, 10, tied=True, qkv_bias=True)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigError, match="its shape is not known"):
        sheet.of_hub("some/model")


# --- by hand: a reward model's 51,200 pairs, 128 in a step, prompts of 180 tokens once, responses of 320 ---

TOKENS = 51_200 * (180 + 2 * 320)  # 41,984,000
STEP = 128 * (180 + 2 * 320)  # 104,960
SEQUENCES, LENGTH = 2 * 51_200, 180 + 320


def near(value: float) -> object:
    return pytest.approx(value, rel=0.02)


def test_one_billion_parameters_all_trained_on_one_gpu() -> None:
    """Llama-3.2-1B: d = 2048, 16 layers, 32 heads of 64, 8 for keys, MLP 8192; fp32, nothing computed again."""
    found = ESTIMATORS["rm"](node("rm", *PAPER), Place(1, "ddp", "none", 16_384, "fp32"), cost.gpu("h200"))
    weights = 1_235_814_400 + 2048  # and a head
    in_products = 16 * (2048 * (2048 + 512 + 512 + 2048) + 3 * 2048 * 8192)  # 973 M
    forward = 2 * in_products * TOKENS + 2 * 16 * 2048 * SEQUENCES * LENGTH**2  # 81.7 + 1.7 PFLOP
    assert found.tokens == TOKENS
    assert found.flops == near(3 * forward)  # 250 PFLOP
    assert found.seconds == near(3 * forward / (0.4 * 67e12))  # 2.6 hours
    # Two norms keep 2 × 2048 numbers each and products read 2 × 2048; attention 2048 + 2 × 512 and twice 2048; the MLP
    # 4 × 8192.
    layer = 4 * (6 * 2048 + 2048 + 2 * 512 + 2 * 2048 + 4 * 8192)  # 209 kB
    kept = STEP * (16 * layer + 2 * 4 * 2048)  # 352.5 GB: all passes of a step are alive
    # Gradients in one layer's MLP, 1.6 GB. Two as wide as its input take the place of what the last norm kept.
    work = 16_384 * 4 * 3 * 8192
    assert found.memory.weights == near(4 * weights) and found.memory.optimizer == near(8 * weights)
    assert found.memory.total == near(12 * weights + kept + work)  # 369 GB
    assert (found.weights, found.checkpoints) == (near(4 * weights), near(2 * 12 * weights))


def test_eight_billion_parameters_with_lora_on_one_gpu() -> None:
    """Llama-3.1-8B: d = 4096, 32 layers, 32 heads of 128, 8 for keys, MLP 14336; bf16, layers computed again."""
    rm = node("rm", "scale=paper", "model=llama-3.1-8b", "compute.precision=bf16", "run.recompute=layers", LORA)
    found = ESTIMATORS["rm"](rm, place(rm, 1), cost.gpu("a100-80"))
    frozen = 8_030_261_248 - 128_256 * 4096 + 4096  # a reward head for the LM's
    of_layer = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14_336)  # both widths of seven products
    trained = 32 * 16 * of_layer + 4096  # 41.9 M
    in_products = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14_336)  # 6.98 G
    forward = 2 * in_products * TOKENS + 2 * 32 * 4096 * SEQUENCES * LENGTH**2
    assert found.flops == near(3 * forward)  # forward, again, and backward to what goes in alone: 1.78 EFLOP
    assert found.seconds == near(3 * forward / (0.4 * 312e12))
    # Norms keep d in fp32, their gains being frozen; five bf16 copies of what products read; the rest in two bytes.
    layer = 2 * 4 * 4096 + 5 * 2 * 4096 + 2 * (3 * 4096 + 2 * 1024 + 4 * 14_336 + 7 * 16)
    work = 2 * 3 * 14_336 + 2 * 4 * 4096
    inputs = 4 * 4096 * 32 + 2 * 4 * 4096  # of each layer and what the last norm keeps
    acts = STEP * inputs + 16_384 * (layer - 4 * 4096 + work - 2 * 4 * 4096)
    copies = 2 * in_products
    assert found.memory.total == near(4 * (frozen + trained) + 8 * trained + copies + acts)  # 107.7 GB


def test_eight_billion_parameters_sharded_over_eight_gpus() -> None:
    """The same model, all of it trained, in bf16."""
    rm = node("rm", "scale=paper", "model=llama-3.1-8b", "compute.precision=bf16")
    usual, again = (
        ESTIMATORS["rm"](rm, Place(8, "fsdp", recompute, 16_384, "bf16"), cost.gpu("h200"))
        for recompute in ("none", "layers")
    )
    weights = 8_030_261_248 - 128_256 * 4096 + 4096
    of_layer = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14_336
    forward = 2 * 32 * of_layer * TOKENS + 2 * 32 * 4096 * SEQUENCES * LENGTH**2
    assert usual.seconds == near(3 * forward / (8 * 0.4 * 989e12))  # 0.16 hours
    assert again.seconds == near(4 * forward / (8 * 0.4 * 989e12))  # forward, again, backward
    # When the backward pass begins: weights and moments, 12 bytes, on eight GPUs; whole the embedding in fp32 with its
    # gradient, and two layers in bf16, of which one has gradients, added up in fp32. The step's 13,120 tokens a GPU are
    # one micro-batch.
    layer = 2 * 2 * 4 * 4096 + 5 * 2 * 4096 + 2 * (3 * 4096 + 2 * 1024 + 4 * 14_336)
    acts = STEP / 8 * (32 * layer + 2 * 3 * 14_336)
    whole = 8 * 128_256 * 4096 + (2 * 2 + 2 + 4) * of_layer
    assert usual.memory.copies == near(whole)  # 6.4 GB
    assert usual.memory.total == near(12 * weights / 8 + whole + acts)  # 125 GB
    # With layers computed again a step needs 28 GB, less than the first GPU needs to score its canaries when the shards
    # are gone: all weights in fp32, those of matrix products in bf16, the MLP's and attention's work on 16,384 tokens.
    acts = STEP / 8 * (32 * 4 * 4096 + layer - 4 * 4096 + 2 * 3 * 14_336)
    assert 12 * weights / 8 + whole + acts < 30e9
    work = 16_384 * (3 * 2 * 14_336 + 2 * 4 * 4096 + 2 * 2 * (4096 + 1024))
    assert again.memory.total == near(4 * weights + 2 * 32 * of_layer + work)  # 46.3 GB


# --- RLOO: Qwen2.5-1.5B and its reference, Qwen2.5-3B as reward model, in bf16 ---

POLICY, JUDGED = 4 * 1_543_714_304, 4 * (3_085_938_688 + 2048)  # bytes of their weights; a reward head
SIZES = ("run.micro_tokens=4096", "rloo.max_new=512")


def rloo(*overrides: str, gpus: int = 1) -> Cost:
    target = node("rloo", "scale=paper", *SIZES, *overrides)
    return ESTIMATORS["rloo"](target, place(target, gpus), cost.gpu("h200"))


def test_a_policy_has_its_reference_and_its_reward_model_beside_it() -> None:
    """By hand, with weights and two moments of the policy all the time."""
    found = rloo()
    phases = dict(found.phases)
    whole = 3 * POLICY + POLICY + JUDGED
    linear = 1536 * (2 * 1536 + 2 * 256) + 3 * 1536 * 8960  # of a layer of 28
    copies = 2 * (28 * linear + 151_936 * 1536)  # in bf16
    cells = 2 * 256 * 28 * 2 * 256 * (512 + 512)  # 128 prompts, two responses each, at full length
    words = (2 + 4 + 8 + 8) * 256 * 151_936
    assert phases["generate"] == near(whole + copies + cells + words + 16_384 * (3 * 2 * 8960 + 2 * 4 * 1536))
    assert phases["reward"] == near(whole + 4096 * (3 * 4 * 11_008 + 2 * 4 * 2048 + 2 * 4 * (2048 + 256)))
    assert phases["reference"] == near(whole + 2 * 151_936 * 1536 + 3 * 4 * 256 * 151_936)  # a block of its logits
    assert phases["update"] == found.memory.total == max(phases.values())
    assert phases["update"] > whole + POLICY  # gradients, and what autograd keeps


def test_offloaded_models_cost_memory_in_their_phases_and_the_way_there() -> None:
    here, away = rloo(), rloo("run.reference=offload", "run.reward=offload")
    less = {phase: size - dict(away.phases)[phase] for phase, size in here.phases}
    both = POLICY + JUDGED
    assert less == {"load": POLICY, "generate": both, "reward": POLICY, "reference": JUDGED, "update": both}
    steps = 433
    assert away.seconds - here.seconds == pytest.approx(steps * (POLICY + JUDGED) / 20e9)
    assert away.tokens == here.tokens and away.flops == here.flops


def test_sharded_models_leave_a_part_on_each_gpu() -> None:
    here, parts = rloo(gpus=4), rloo("run.reference=shard", "run.reward=shard", gpus=4)
    less = {phase: size - dict(parts.phases)[phase] for phase, size in here.phases}
    assert less["generate"] == less["update"] == pytest.approx(0.75 * (POLICY + JUDGED))
    layer = 2048 * (2 * 2048 + 2 * 256) + 3 * 2048 * 11_008 + (2048 + 2 * 256) + 2 * 2048
    fetched = JUDGED - 4 * 36 * layer + 2 * 4 * layer  # its words, and two layers, in fp32
    assert less["reward"] == pytest.approx(less["update"] - fetched)


def test_a_sharded_model_must_be_whole_before() -> None:
    """An 8B reward model in fp32, 30 GB, is loaded by GPUs of 24 GB beside the policy: it never was in its shards."""
    eight = node("rloo", "scale=paper", "model=llama-3.1-8b", "run.reference=shard", "run.reward=shard")
    assert fit(eight, cost.gpu("4090"), gpus=64).refused is not None
    judged = 4 * (8_030_261_248 - 128_256 * 4096 + 4096)
    found = ESTIMATORS["rloo"](eight, place(eight, 64), cost.gpu("4090"))
    assert dict(found.phases)["load"] == found.memory.total == POLICY + judged


def test_several_gpus_share_a_step_of_rloo() -> None:
    one, four = rloo(), rloo(gpus=4)
    assert one.flops == four.flops and one.seconds / 4 < four.seconds < one.seconds / 2
    assert fit(node("rloo", "scale=paper", *SIZES), cost.gpu("h200"), gpus=4).place.gpus == 4


def test_what_may_go_to_main_memory_is_offered() -> None:
    """On one GPU of 48 GB, of which policy, reference and reward model take 37 before anything is computed."""
    found = fit(node("rloo", "scale=paper"), cost.gpu("a6000"), gpus=1)
    assert found.refused is not None and found.ways[0].said == "run.micro_tokens=2048 run.reward=offload on 1 GPU"
    assert found.ways[0].bytes <= 0.92 * 48 * GB
    assert dict(found.cost.phases)["update"] == found.ways[0].bytes == found.cost.memory.total


# --- where it fits ---


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    found = fit(node("rm", "scale=paper", "model=llama-3.1-8b"), cost.gpu("a100-80"), gpus=None)
    assert found.refused is not None and found.refused[0] > 80 * GB
    said = [way.said for way in found.ways]
    assert any("run.parallel=fsdp" in s for s in said) and any("rm.optim.lora" in s for s in said)
    assert all(way.bytes <= 0.92 * 80 * GB for way in found.ways)
    assert found.place == found.ways[0].place


def test_what_fits_takes_the_fewest_gpus() -> None:
    """1B in fp32: on 141 GB from the number on at which a GPU's part of the step is small enough."""
    rm = node("rm", *PAPER)
    found = fit(rm, cost.gpu("h200"), gpus=None)
    assert found.refused is None and found.place.gpus == 4
    assert fit(rm, cost.gpu("h200"), gpus=2).refused is not None


def test_a_stage_of_one_process_is_given_one_gpu() -> None:
    assert fit(node("score", *PAPER), cost.gpu("h200"), gpus=8).place.gpus == 1


@pytest.mark.parametrize(("name", "mfu", "key"), [("h20", None, "gpu"), ("h200", 1.5, "mfu")])
def test_what_no_gpu_is_and_no_share_is_refused(name: str, mfu: float | None, key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} = "):
        cost.gpu(name, mfu)


def test_a_measured_share_takes_the_place_of_the_assumed_one() -> None:
    rm = node("rm", *PAPER)
    one, half = (ESTIMATORS["rm"](rm, place(rm, 1), cost.gpu("h200", mfu)) for mfu in (0.4, 0.2))
    assert half.seconds == pytest.approx(2 * one.seconds)


# --- what is said ---


def test_every_stage_is_estimated_or_known_to_need_no_gpu() -> None:
    assert {*ESTIMATORS, *ON_CPU} == set(STAGES)


def test_a_plan_with_a_gpu_says_its_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["table=bsr-5", "scale=paper", "action=plan", "gpu=4090", "seeds=[0]", f"run.root={tmp_path}"]
    assert actions.reproduce(arguments) == 1  # something is refused
    said = capsys.readouterr().out
    for part in ("on 4090: 24 GB", "assumed, not measured", "REFUSED as configured", "GPU-hours", "disk: weights"):
        assert part in said
    assert "Llama-3.2-1B" in said and "20 bench" in said


def test_the_phase_of_rloo_that_decides_is_named() -> None:
    found = fit(node("rloo", "scale=paper"), cost.gpu("a6000"), gpus=1)
    said = "\n".join(show.of_stage("rloo", found, 1, cost.gpu("a6000")))
    assert "run.recompute=none run.reward=offload: weights 6.2" in said and "20 GB/s, assumed" in said
    assert "by phase: load 18.5, generate 41.0, reward 37.4, reference 25.6, update 42.4: most in update" in said


def test_seeds_and_losses_cost_the_same_and_are_counted_together(tmp_path: Path) -> None:
    wanted = [("rm", config.experiment(PAPER, {"seed": s, "loss": loss})) for s in (0, 1) for loss in ("bt", "bsr")]
    graph, targets = plan.build(STAGES, tmp_path, wanted)
    plan.judge(graph, targets)
    costs = cost.of(graph, cost.gpu("h200"), cost.given(wanted[0][1].cluster, None))
    assert {stage: n for (stage, _), n in costs.fits.items()} == {"sft": 1, "rm": 4}


def test_a_cluster_says_how_many_gpus_a_stage_has() -> None:
    x = config.experiment(("cluster=slurm-8gpu",))
    assert [cost.given(x.cluster, None)(stage) for stage in ("rm", "score", "bench")] == [16, 1, None]
    assert cost.given(x.cluster, 4)("rm") == 4
