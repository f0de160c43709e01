"""Weights that are sharded from the start to the end: how much is held meanwhile, what a checkpoint is made of, and
that two and four processes do what one does.

All is done in one go by four processes, of which the first two also do what two do.
"""

import multiprocessing
import os
import shutil
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_dist import (
    OPTIM,
    TOKENS,
    close,
    different,
    free_ports,
    identical,
    pairs,
    reward_model,
    same,
    scores,
    settings,
    train,
)
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.held import Held
from pipeline import attention, dist, lora, losses, models, shards, stopping
from pipeline.checkpoint import Checkpoints
from pipeline.dist import Learner
from pipeline.experiment import Lora, Run
from pipeline.fit import fit, optimizer_step
from pipeline.packing import Group
from pipeline.stages.rm import offset_head
from pipeline.stages.sft import Sample, learn, weighted_loss
from pipeline.track import Track

MB = 1e6


def lm(tied: bool = False, width: int = 16, layers: int = 2) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    for parameter in made.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    return made


# --- what is done, by one process or several ---


def loaded(folder: Path, parallel: dist.Parallel = "fsdp") -> dict[str, Any]:
    """A reward model from its files to its shards, and back; and how much torch's allocator gave for either."""
    with Held() as first:
        model, _ = models.new_rm(folder / "deep", "stiennon", 3, "shared")
        learner = Learner(model, models.rewards, parallel)
        spread = dist.spread(learner)
        spread.__enter__()
    offset_head(learner, pairs(0), 2.0, TOKENS)
    with Held() as last, suppress(dist.Released):
        spread.__exit__(None, None, None)
    return {"loading": first.most, "merging": last.most, "weights": dict(model.state_dict())}


def tied(folder: Path, parallel: dist.Parallel = "fsdp") -> dict[str, Any]:
    """Two steps of SFT, each of several micro-batches: gradients, and their norm before they are clipped."""
    model = lm(tied=True)
    attention.use(model, "shared")
    learner = Learner(model, weighted_loss, parallel)
    found: dict[str, Any] = {}

    def update(step: int) -> dict[str, Tensor | float]:
        groups = [Group(g.prompt, g.responses[:1]) for g in pairs(step)]
        return {"loss": learn(learner, [Sample(g, [0.5] * len(g.responses[0])) for g in groups], TOKENS)}

    with suppress(dist.Released), dist.spread(learner) as held:
        opt = torch.optim.SGD(held.parameters(), lr=0.1)
        for step in (0, 1):
            said, norm = optimizer_step(step, update, held, opt, replace(OPTIM, clip=0.5), lambda step: ())
            clipped = dist.gathered({n: p.grad.clone() for n, p in held.named_parameters() if p.grad is not None})
            found |= {f"{step}": {"loss": said["loss"], "norm": norm, **clipped}}
    return {**found, "weights": dict(model.state_dict())}


def partly(folder: Path, kind: str, parallel: dist.Parallel = "fsdp", **run: Any) -> dict[str, Any]:
    """Four steps of a reward model, of which a part is trained."""
    stopping.listen()
    model, _ = models.new_rm(folder / "lm", "stiennon", 3, "shared")
    if kind == "gain":
        models.fix_gain(model)
    if kind == "head":
        model.base_model.requires_grad_(False)
    learner, loss = Learner(model, models.rewards, parallel), losses.make("bt")

    def update(step: int) -> dict[str, Tensor | float]:
        value = loss(scores(learner, pairs(step)))
        value.backward()
        return {"loss": value.detach()}

    out = folder / kind / f"{parallel}-{dist.world()}" / "out" if not run else folder / kind / "parts" / "out"
    return finished(out, model, learner, update, settings(**run), Lora(rank=2, alpha=4) if kind == "lora" else None)


def finished(
    out: Path, model: PreTrainedModel, learner: Learner, update: Callable[[int], Any], run: Run, adapters: Lora | None
) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    view = tiny.view_of("rm", tiny.experiment())
    with suppress(dist.Released, stopping.Stopped), lora.adapted(model, adapters, 5):
        fit(learner, update, 4, OPTIM, Checkpoints(out, run), lambda at: Track(view, out, 4, at))
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def torn(folder: Path) -> dict[str, Any]:
    """The newest checkpoint's last shard is cut, as by a crash."""
    train(folder / "torn", settings(stop_after_steps=3, checkpoint_steps=1), "fsdp")
    saved = sorted((folder / "torn" / "checkpoint").iterdir())
    names = [path.name for path in saved]
    if dist.first():
        cut = max(saved[-1].glob("*.safetensors"))
        cut.write_bytes(cut.read_bytes()[:-1])
    dist.tell(0)
    steps: list[int] = []
    return {**train(folder / "torn", settings(), "fsdp", steps.append), "saved": names, "steps": steps}


def trained(
    folder: Path, name: str, parallel: dist.Parallel, copies: tuple[str, ...] = (), **run: Any
) -> dict[str, Any]:
    """`copies`: for others to go on from."""
    found = train(folder / name, settings(**run), parallel)
    if dist.first():
        for copy in copies:
            shutil.copytree(folder / name, folder / copy)
    return found


TWO_OF_FOUR = {"stop_after_steps": 2}
TASKS: dict[str, tuple[int, Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "loaded": (2, loaded, {}),
    "loaded by four": (4, loaded, {}),
    "tied": (2, tied, {}),
    "torn": (2, torn, {}),
    "2": (2, trained, {"name": "two", "parallel": "fsdp", "copies": ("two-replicas", "two-four"), **TWO_OF_FOUR}),
    "replicas after 2": (2, trained, {"name": "two-replicas", "parallel": "ddp"}),
    "4 after 2": (4, trained, {"name": "two-four", "parallel": "fsdp"}),
    **{kind: (2, partly, {"kind": kind}) for kind in ("head", "gain", "lora")},
}
PARTS = {"ddp": (), "fsdp": ("four-two", "four-one")}
for way, copies in PARTS.items():
    TASKS |= {
        f"{way} by four": (4, trained, {"name": f"{way}-four", "parallel": way}),
        f"{way} by four, a part": (
            4,
            trained,
            {"name": f"{way}-parts", "parallel": way, "copies": copies, **TWO_OF_FOUR},
        ),
        f"{way} by four, the rest": (4, trained, {"name": f"{way}-parts", "parallel": way}),
    }
TASKS["2 after 4"] = (2, trained, {"name": "four-two", "parallel": "fsdp"})


def work(rank: int, folder: Path, port: int, tasks: list[str]) -> None:
    """Leaves what it found in `folder`, by rank."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.environ.update(CUDA_VISIBLE_DEVICES="", MASTER_ADDR="127.0.0.1", RANK=str(rank))
    found = {}
    for n, name in enumerate(tasks):
        processes, task, arguments = TASKS[name]
        if rank < processes:
            os.environ.update(MASTER_PORT=str(port + n), WORLD_SIZE=str(processes))
            with dist.together():
                found[name] = task(folder, **arguments)
    torch.save(found, folder / f"found-{rank}.pt")


@dataclass(frozen=True)
class Found:
    folder: Path
    ranks: list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("four")
    models.save(lm(), tiny.tokenizer(), folder / "lm")
    deep = lm(width=64, layers=8)
    models.save(deep, tiny.tokenizer(), folder / "deep")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["pipeline.fit", "pipeline.models", "hydra"])
    start_processes(work, (folder, free_ports(len(TASKS)), list(TASKS)), nprocs=4, start_method="forkserver")
    return Found(folder, [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(4)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process's training without a break."""
    return train(tmp_path_factory.mktemp("alone"), settings())


# --- what is held ---


def test_a_device_holds_shards_and_a_layer_while_a_model_is_loaded(found: Found) -> None:
    """Beyond the file's own pages, which are mapped: torch counts their bytes, once."""
    pages = (found.folder / "deep" / "model.safetensors").stat().st_size / MB
    model = lm(width=64, layers=8)
    whole, layer = held(model), held(a_layer(model))
    for task, processes in (("loaded", 2), ("loaded by four", 4)):
        for ranks in found.ranks[:processes]:
            assert ranks[task]["loading"] - pages < whole / processes + layer


def test_one_process_holds_all_in_the_end_and_the_others_a_few_weights(found: Found) -> None:
    model = lm(width=64, layers=8)
    whole, layer = held(model), held(a_layer(model))
    first, *others = (ranks["loaded by four"]["merging"] for ranks in found.ranks)
    assert 0.9 * whole < first < whole + layer and max(others) < 2 * layer


def a_layer(model: PreTrainedModel) -> nn.Module:
    return model.base_model.get_submodule("layers.0")


def held(module: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in module.parameters()) / MB


def test_layers_leave_before_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a device is not what maps the file."""
    left: list[int] = []
    learner = Learner(lm(layers=3), models.hidden)
    model = learner.model

    class Unit:
        def __init__(self, module: nn.Module, **rest: Any):
            left.append(sum(p.numel() for p in model.parameters()))
            for name in ("set_gradient_divide_factor", "set_force_sum_reduction_for_comms"):
                setattr(module, name, lambda value: None)

    monkeypatch.setattr(dist, "fully_shard", Unit)
    monkeypatch.setattr(dist, "init_device_mesh", lambda kind, shape: None)
    dist.shards(learner.call)
    layer = sum(p.numel() for p in a_layer(lm()).parameters())
    assert [a - b for a, b in pairwise(left)] == [layer] * 3
    assert sum(p.numel() for p in model.parameters()) == 0


@pytest.mark.parametrize(("parallel", "world", "where"), [("fsdp", 2, "cpu"), ("fsdp", 1, "meta"), ("ddp", 2, "meta")])
def test_weights_that_will_be_sharded_wait_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, parallel: dist.Parallel, world: int, where: str
) -> None:
    monkeypatch.setattr(dist._Here, "world", world)
    monkeypatch.setattr(dist, "device", lambda: torch.device("meta"))
    model = Learner(lm(), models.hidden, parallel).model
    assert {p.device.type for p in model.parameters()} == {where}


def test_a_loaded_and_merged_model_is_the_one_that_a_process_alone_loads(found: Found) -> None:
    """A head that was moved along the mean representation is of other sums; the rest are the same bits."""
    expected = loaded(found.folder)["weights"]
    for task in ("loaded", "loaded by four"):
        got = dict(found.ranks[0][task]["weights"])
        assert same(got.pop("score.weight"), expected["score.weight"])
        assert identical(got, {name: w for name, w in expected.items() if name != "score.weight"})


# --- what is trained ---


def test_tied_embeddings_have_the_gradients_of_one_process(found: Found, tmp_path: Path) -> None:
    got, expected = found.ranks[0]["tied"], tied(tmp_path)
    assert len(list(dist.deal(pairs(0), 2, TOKENS, "shared"))) > 1  # accumulated
    for step in "01":
        assert expected[step]["norm"] > 0.5  # clipped
        assert different(got[step], expected[step]) == []
    assert different(got["weights"], expected["weights"]) == []
    assert torch.equal(got["weights"]["lm_head.weight"], got["weights"]["model.embed_tokens.weight"])


@pytest.mark.parametrize("kind", ["head", "gain", "lora"])
def test_a_part_is_trained_as_by_one_process(found: Found, kind: str) -> None:
    if kind == "lora":
        pytest.importorskip("peft")
    got, expected = found.ranks[0][kind], partly(found.folder, kind)
    before = dict(models.new_rm(found.folder / "lm", "stiennon", 3)[0].named_parameters())
    still = {name for name, p in expected.items() if torch.equal(p, before[name])}
    assert {"head": len(before) - 1, "gain": 1, "lora": 2 + 2 * 2}[kind] == len(still)  # LoRA: all but the linear ones
    assert all(float((got[n] - w).norm()) <= 1e-4 * float(w.norm()) for n, w in expected.items())
    assert all(torch.equal(got[name], expected[name]) for name in still)


# --- checkpoints ---


@pytest.mark.parametrize("task", ["4 after 2", "2 after 4", "replicas after 2", "fsdp by four", "ddp by four"])
def test_other_processes_go_on(found: Found, alone: dict[str, Any], task: str) -> None:
    assert found.ranks[0][task]["ended"] == "finished" and close(found.ranks[0][task], alone)


def test_one_process_goes_on_from_four(found: Found, alone: dict[str, Any]) -> None:
    steps: list[int] = []
    rest = train(found.folder / "four-one", settings(), spy=steps.append)
    assert steps == [2, 3] and close(rest, alone)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_steps_and_two_of_four_processes_are_four(found: Found, way: str) -> None:
    whole, rest = (found.ranks[0][f"{way} by four{part}"] for part in ("", ", the rest"))
    assert identical(rest, whole)


def test_a_torn_checkpoint_gives_way_to_the_one_before(found: Found, alone: dict[str, Any]) -> None:
    """All agree on which; and two are kept."""
    for ranks in found.ranks[:2]:
        assert ranks["torn"]["saved"] == ["step-00000002.shards", "step-00000003.shards"]
        assert ranks["torn"]["steps"] == [2, 3]
    assert close(found.ranks[0]["torn"], alone)


def test_each_process_writes_its_part_where_only_its_user_reads(found: Found) -> None:
    (folder,) = (found.folder / "two" / "checkpoint").iterdir()
    rest, *parts = sorted(folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.suffix for path in parts] == [".safetensors"] * 2 and rest.name == shards.REST
    first, second = (sum(t.numel() for t in load_file(path).values()) for path in parts)
    whole = sum(p.numel() for p in reward_model().parameters())
    assert first + second == 3 * whole and second > 0.45 * 3 * whole  # weights and two moments


def test_a_shard_that_is_missing_is_seen_before_anything_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000001.shards"
    folder.mkdir()
    torch.save({"step": 1, "sizes": {"a.safetensors": 4}}, folder / shards.REST)
    (folder / "a.safetensors").write_bytes(b"abcd")
    assert shards.read(folder) == {"step": 1, "shards": folder}
    (folder / "a.safetensors").unlink()
    with pytest.raises(OSError, match=r"a\.safetensors"):
        shards.read(folder)
