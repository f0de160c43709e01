"""Two processes take the steps of one: with replicas and with sharded weights, interrupted or not.

The processes are forked from one that has imported torch: an import costs more than all that they do here.
"""

import dataclasses
import json
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
import torch
import toy_policy
from scores import CASES
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedModel

from pipeline import attention, config, dist, implicit, losses, models, packing, proxy, stopping, text
from pipeline.checkpoint import Checkpoints
from pipeline.dist import Learner
from pipeline.errors import ConfigError
from pipeline.experiment import Optim, Run, Text, Where
from pipeline.fit import fit
from pipeline.losses import PairScores
from pipeline.packing import Group
from pipeline.proxy import Reward
from pipeline.stages.rm import forward
from pipeline.track import Track

TOLERANCE = 1e-5
LOSSES = {name: config.load_yaml(config.CONF / "loss" / f"{name}.yaml") for name in config.groups()["loss"]}
STATEFUL = {name: constants for name, constants in CASES.items() if losses.make(**constants).state_dict()}
KINDS = ("ddp", "fsdp")
STEPS, BATCH, TOKENS = 4, 7, 25  # an odd batch, in two or three rounds of micro-batches
OPTIM = Optim(lr=1e-2, schedule="cosine", warmup=0.0, betas=(0.9, 0.95), weight_decay=0.01, clip=1.0)


# --- the smallest reward model, and its training ---


def reward_model(made: Callable[[LlamaConfig], Any] = LlamaForSequenceClassification) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_labels=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = made(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    attention.use(model, "shared")
    return model


def implicit_rewards() -> PreTrainedModel:
    """A language model and its frozen reference."""

    def made(config: LlamaConfig) -> PreTrainedModel:
        config.implicit_beta = 0.5
        return implicit.kind(config)(config)

    model = reward_model(made)
    model.reference.requires_grad_(False)  # type: ignore[operator,union-attr]  # a model
    return model


def pairs(step: int) -> list[Group]:
    """Of very different lengths."""
    draw = torch.Generator().manual_seed(step)

    def tokens(most: int) -> list[int]:
        length = int(torch.randint(1, most, (), generator=draw))
        return torch.randint(1, 50, (length,), generator=draw).tolist()

    return [Group(tokens(6), [tokens(2 + 2 * i), tokens(2 + 2 * i)]) for i in range(1, BATCH + 1)]


def settings(**run: Any) -> Run:
    return dataclasses.replace(tiny.experiment().run, **run)


def scores(learner: Learner, groups: Sequence[Group]) -> PairScores:
    seen = forward(learner, groups, TOKENS)
    return dataclasses.replace(seen, margin=torch.linspace(-0.5, 2, len(groups)), done=0.25)


def train(
    folder: Path, run: Run, parallel: dist.Parallel = "ddp", spy: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """The first steps under all losses that keep something, with or without a checkpoint before; weights and what each
    loss keeps at the end."""
    stopping.listen()
    model, kept = reward_model(), nn.ModuleDict({name: losses.make(**STATEFUL[name]) for name in STATEFUL})
    learner = Learner(model, models.rewards, parallel)
    curve: list[float] = []

    def update(step: int) -> dict[str, Tensor | float]:
        seen = scores(learner, pairs(step))
        value = torch.stack([loss(seen) for loss in kept.values()]).mean()
        value.backward()
        with torch.no_grad(), learner.entire() as whole:  # looking on the way changes nothing
            looked, _ = models.rewards(whole, learner.layout(pairs(99)))
            seen = scores(learner, pairs(99))
        assert same(torch.stack([seen.chosen, seen.rejected], dim=1).flatten(), looked)
        curve.append(float(value.detach()))
        spy(step)
        return {"loss": value.detach()}

    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    view = tiny.view_of("rm", tiny.experiment())
    ended = "finished"
    try:
        state = {"losses": kept, "curve": curve}
        fit(learner, update, STEPS, OPTIM, Checkpoints(out, run), lambda at: Track(view, out, STEPS, at), state)
    except (stopping.Stopped, dist.Released) as e:
        ended = type(e).__name__
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {"ended": ended, "curve": curve, "weights": weights, "losses": kept.state_dict()}


LOOKED_AT = ("chosen", "rejected", "h_chosen", "h_rejected")


def gradients(learner: Learner, name: str, held: nn.Module) -> dict[str, Any]:
    """Of one step, with all that the loss saw and keeps."""
    loss = losses.make(**LOSSES[name])
    held.zero_grad()
    seen = scores(learner, pairs(0))
    value = loss(seen)
    value.backward()
    grads = {n: p.grad.clone() for n, p in held.named_parameters() if p.grad is not None}  # the next step's are there
    rows = {f.name: getattr(seen, f.name).detach() for f in dataclasses.fields(seen) if f.name in LOOKED_AT}
    return dist.gathered({"grads": grads, "seen": rows, "value": value.detach(), "loss": loss.state_dict()})


# --- what two processes do, in one go ---


def work(rank: int, folder: Path, port: int) -> None:
    """Leaves what it found in `folder`, by rank."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.environ.update(CUDA_VISIBLE_DEVICES="", MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    found = {}
    for n, (name, (task, arguments)) in enumerate(TASKS.items()):
        os.environ["MASTER_PORT"] = str(port + n)
        with dist.together():
            found[name] = task(folder, **arguments)
    torch.save(found, folder / f"found-{rank}.pt")


def all_gradients(folder: Path, parallel: dist.Parallel, recompute: dist.Recompute = "none") -> dict[str, Any]:
    learner = Learner(reward_model().train(), models.rewards, parallel, recompute)
    found: dict[str, Any] = {}
    try:
        with dist.spread(learner) as held:
            for name in LOSSES:
                found[name] = gradients(learner, name, held)
    except dist.Released:
        assert dist.rank() == 1
    return found


def frozen(folder: Path, parallel: dist.Parallel) -> dict[str, Any]:
    """Beside what is trained there is as much that is not."""
    learner = Learner(implicit_rewards(), models.rewards, parallel)
    found: dict[str, Any] = {}
    try:
        with dist.spread(learner) as held:
            found = gradients(learner, "norm_bt", held)
    except dist.Released:
        pass
    return found


def half_rewards(model: PreTrainedModel, at: packing.Layout) -> tuple[Tensor, Tensor]:
    with dist.autocast():
        h = models.hidden(model, at)[at.last]
    return models.head(model)(h.float()).squeeze(-1), h


def half(folder: Path, parallel: dist.Parallel) -> dict[str, Any]:
    learner = Learner(reward_model(), half_rewards, parallel)
    found: dict[str, Any] = {}
    dist._Here.half = True
    try:
        with dist.spread(learner) as held:
            found = gradients(learner, "bsr", held)
    except dist.Released:
        pass
    finally:
        dist._Here.half = False
    return found


def with_text(folder: Path, parallel: dist.Parallel, recompute: dist.Recompute = "none") -> dict[str, Any]:
    """A step with GRM's text term."""
    model = reward_model().train()
    model.lm_head = nn.Linear(16, 50, bias=False)
    nn.init.normal_(model.lm_head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    learner = Learner(model, text.rewards, parallel, recompute)
    found: dict[str, Any] = {}
    try:
        with dist.spread(learner) as held:
            seen = scores(learner, pairs(0))
            total, said = text.added(losses.make("bt")(seen), seen, pairs(0), Text(coef=0.3))
            total.backward()
            grads = {n: p.grad for n, p in held.named_parameters()}
            found = dist.gathered({"grads": grads, "seen": {"value": total.detach(), **said}})
    except dist.Released:
        assert dist.rank() == 1
    return found


def sums(folder: Path, parallel: dist.Parallel) -> dict[str, Any]:
    """Each micro-batch has a backward pass of its own, as in SFT."""
    learner = Learner(reward_model(), models.rewards, parallel)
    found: dict[str, Any] = {}
    try:
        with dist.spread(learner) as held:
            assert parallel == "ddp" or not any(p.numel() for p in learner.model.parameters())  # shards alone take room
            found = squares(learner, held)
    except dist.Released:
        pass
    return found


def squares(learner: Learner, held: nn.Module) -> dict[str, Any]:
    value = torch.zeros(())
    for _, batch in learner.batches(pairs(0), TOKENS):
        part = learner(learner.layout(batch))[0].square().sum() / BATCH
        part.backward()
        value += part.detach()
    grads = dist.gathered({n: p.grad for n, p in held.named_parameters()})
    return {"value": learner.total(value), "grads": grads}


def trained(folder: Path, name: str, parallel: dist.Parallel, **run: Any) -> dict[str, Any]:
    return train(folder / name, settings(**run), parallel)


def asked(folder: Path) -> dict[str, Any]:
    """One process is asked to stop in the second step; the other is not."""

    def spy(step: int) -> None:
        if step == 1 and dist.rank() == 1:
            stopping.request()

    return train(folder / "asked", settings(), spy=spy)


def agreement(folder: Path) -> dict[str, Any]:
    return {"told": dist.tell(7 + dist.rank()), "any": dist.any_of(dist.rank() == 1, False, True)}


REWARD = toy_policy.count("a")


def policy(folder: Path, parallel: dist.Parallel, *overrides: str, reward: Reward = REWARD) -> dict[str, Any]:
    """Three steps of RLOO, sampling included; what is there when a process is let go counts for the others too."""
    found: dict[str, Any] = {}
    stopping.listen()
    try:
        model, curve = toy_policy.trained(folder / f"policy-{parallel}", reward, *RLOO, *overrides, parallel=parallel)
        found = {"weights": {n: p.detach().clone() for n, p in model.named_parameters()}, "curve": curve}
    except dist.Released:
        assert dist.rank() == 1
    return found


def several(folder: Path) -> dict[str, Any]:
    return policy(folder / "several", "ddp", *SEVERAL)


def judged(folder: Path, parallel: dist.Parallel, reference: Where = "device", reward: Where = "device") -> Any:
    """Of three prompts one process scores two, the other one, in unequal numbers of passes. And what was logged."""
    model = proxy.learned(folder / "rm", "shared", TOKENS, reward)
    found = policy(folder / "judged", parallel, "rloo.prompts=3", f"run.reference={reference}", reward=model)
    log = folder / "judged" / f"policy-{parallel}" / "log" / "metrics.jsonl"
    return {**found, "log": json.loads(log.read_text().splitlines()[-1]) if found else {}}


RLOO = ("rloo.steps=3", "rloo.kl=0.1", "run.micro_tokens=60", "rloo.temperature=0.8")
SEVERAL = ("rloo.minibatches=2", "rloo.passes=2", "rloo.trained=first")

Task = tuple[Callable[..., dict[str, Any]], dict[str, Any]]
TASKS: dict[str, Task] = {"agreement": (agreement, {}), "asked": (asked, {})}
for kind in KINDS:
    TASKS |= {
        f"{kind}": (all_gradients, {"parallel": kind}),
        f"{kind} layers": (all_gradients, {"parallel": kind, "recompute": "layers"}),
        f"{kind} batches": (all_gradients, {"parallel": kind, "recompute": "batches"}),
        f"{kind} text": (with_text, {"parallel": kind}),
        f"{kind} text batches": (with_text, {"parallel": kind, "recompute": "batches"}),
        f"{kind} sums": (sums, {"parallel": kind}),
        f"{kind} half": (half, {"parallel": kind}),
        f"{kind} frozen": (frozen, {"parallel": kind}),
        f"{kind} unbroken": (trained, {"name": f"{kind}-unbroken", "parallel": kind}),
        f"{kind} begun": (trained, {"name": f"{kind}-parts", "parallel": kind, "stop_after_steps": 2}),
        f"{kind} rest": (trained, {"name": f"{kind}-parts", "parallel": kind}),
        f"{kind} for one": (trained, {"name": f"{kind}-for-one", "parallel": kind, "stop_after_steps": 2}),
        f"{kind} policy": (policy, {"parallel": kind}),
        f"{kind} from one": (trained, {"name": f"{kind}-from-one", "parallel": kind}),
    }
TASKS["several updates"] = (several, {})
SHARDED: dict[str, dict[str, Any]] = {
    "both sharded": {"parallel": "ddp", "reference": "shard", "reward": "shard"},
    "all sharded": {"parallel": "fsdp", "reference": "shard", "reward": "shard"},
    "some offloaded": {"parallel": "fsdp", "reference": "offload", "reward": "shard"},
}
TASKS |= {name: (judged, where) for name, where in SHARDED.items()}


def free_ports(n: int) -> int:
    """The first of n free ones in a row."""
    for port in range(20_000 + os.getpid() % 10_000, 40_000, n):
        try:
            for each in range(port, port + n):
                with closing(socket.socket()) as s:
                    s.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise OSError("no free ports")


@dataclasses.dataclass(frozen=True)
class Found:
    folder: Path
    ranks: list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("two")
    (folder / "rm").mkdir()
    toy_policy.reward_folder(folder / "rm")
    for kind in KINDS:  # for two to go on from
        assert train(folder / f"{kind}-from-one", settings(stop_after_steps=2))["ended"] == "Stopped"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["pipeline.fit", "pipeline.models", "hydra"])
    start_processes(work, (folder, free_ports(len(TASKS))), nprocs=2, start_method="forkserver")
    return Found(folder, [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in (0, 1)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process's training without a break."""
    return train(tmp_path_factory.mktemp("alone"), settings())


@pytest.fixture(scope="module")
def own_gradients() -> dict[str, Any]:
    learner = Learner(reward_model(), models.rewards)
    found = {name: gradients(learner, name, learner.model) for name in LOSSES}
    learner.zero_grad()
    return found | {"sums": squares(learner, learner.model)}


def same(got: Tensor, expected: Tensor) -> bool:
    return got.shape == expected.shape and float((got - expected).norm()) <= TOLERANCE * float(expected.norm())


def different(got: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    assert got.keys() == expected.keys()
    return [name for name, value in expected.items() if not same(got[name], value)]


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


# --- gradients ---


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [f"{kind}{recompute}" for kind in KINDS for recompute in ("", " layers", " batches")])
def test_two_processes_have_the_gradients_of_one(
    found: Found, own_gradients: dict[str, Any], kind: str, name: str
) -> None:
    got, expected = found.ranks[0][kind][name], own_gradients[name]
    assert different(got["grads"], expected["grads"]) == []
    assert different(got["seen"] | {"value": got["value"]}, expected["seen"] | {"value": expected["value"]}) == []


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_sees_the_same_bits_on_every_process(found: Found, kind: str, name: str) -> None:
    """So what it keeps, NormBT's μ, is the same as well."""
    first, second = (ranks[kind][name] for ranks in found.ranks)
    assert identical(first["seen"], second["seen"]) and identical(first["value"], second["value"])
    assert identical(first["loss"], second["loss"])
    assert bool(first["loss"]) == (name in STATEFUL)


@pytest.mark.parametrize("kind", [f"{kind} text{recompute}" for kind in KINDS for recompute in ("", " batches")])
def test_two_processes_learn_texts_as_one_does(found: Found, tmp_path: Path, kind: str) -> None:
    got, expected = found.ranks[0][kind], with_text(tmp_path, "ddp")
    assert float(expected["grads"]["lm_head.weight"].norm()) > 0.01
    assert different(got["grads"], expected["grads"]) == []
    assert different(got["seen"], expected["seen"]) == []
    assert identical(got["seen"], found.ranks[1][kind]["seen"])


@pytest.mark.parametrize("kind", KINDS)
def test_backward_passes_of_micro_batches_add_up(found: Found, own_gradients: dict[str, Any], kind: str) -> None:
    assert len(dist.deal(pairs(0), 2, TOKENS, "shared")) > 1
    got, expected = found.ranks[0][f"{kind} sums"], own_gradients["sums"]
    assert different(got["grads"], expected["grads"]) == []
    assert same(got["value"], expected["value"]) and identical(got["value"], found.ranks[1][f"{kind} sums"]["value"])


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_gradients_of_one_beside_a_frozen_reference(found: Found, kind: str) -> None:
    learner = Learner(implicit_rewards(), models.rewards)
    got, expected = found.ranks[0][f"{kind} frozen"], gradients(learner, "norm_bt", learner.model)
    assert got["grads"] and not any(name.startswith("reference.") for name in got["grads"])
    assert different(got["grads"], expected["grads"]) == [] and different(got["seen"], expected["seen"]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_in_half_precision_weights_gradients_and_rewards_are_single(
    found: Found, own_gradients: dict[str, Any], kind: str
) -> None:
    got, expected = found.ranks[0][f"{kind} half"], own_gradients["bsr"]
    assert {g.dtype for g in got["grads"].values()} == {got["seen"]["chosen"].dtype} == {torch.float32}
    errors = [float((got["grads"][n] - g).norm() / g.norm()) for n, g in expected["grads"].items()]
    assert 1e-4 < max(errors) < 0.1  # bf16 has 8 bits


def test_what_one_process_knows_all_know(found: Found) -> None:
    assert [ranks["agreement"] for ranks in found.ranks] == [{"told": 7, "any": [True, False, True]}] * 2


# --- training ---


def close(got: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Adam divides each gradient by its size, and where that is next to nothing, so is what is left of its digits."""
    assert got["curve"] == pytest.approx(expected["curve"], rel=TOLERANCE)
    assert different(got["losses"], expected["losses"]) == []
    return all(float((got["weights"][n] - w).norm()) <= 1e-4 * float(w.norm()) for n, w in expected["weights"].items())


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_trains(found: Found, alone: dict[str, Any], kind: str) -> None:
    """In the end the first has all weights, and the other is released; with replicas it has them, too."""
    first, second = (ranks[f"{kind} unbroken"] for ranks in found.ranks)
    assert (first["ended"], second["ended"]) == ("finished", "Released")
    assert close(first, alone)
    assert identical(first["losses"], second["losses"]) and first["curve"] == second["curve"]
    left = {name: w if kind == "ddp" else w.new_empty(0) for name, w in first["weights"].items()}
    assert identical(second["weights"], left)


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_and_two_are_four(found: Found, kind: str) -> None:
    """To the last bit, weights and all that losses keep."""
    whole, begun, rest = (found.ranks[0][f"{kind} {part}"] for part in ("unbroken", "begun", "rest"))
    assert [ranks[f"{kind} begun"]["ended"] for ranks in found.ranks] == ["Stopped", "Stopped"]
    assert len(begun["curve"]) == 2 and identical(rest, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_from_two(found: Found, alone: dict[str, Any], kind: str) -> None:
    steps = []
    rest = train(found.folder / f"{kind}-for-one", settings(), spy=steps.append)
    assert steps == [2, 3] and close(rest, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_go_on_from_one(found: Found, alone: dict[str, Any], kind: str) -> None:
    assert close(found.ranks[0][f"{kind} from one"], alone)
    assert written(found.folder / f"{kind}-from-one") == [1, 2, 3, 4]


def written(folder: Path) -> list[int]:
    lines = (folder / "log" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_alone_writes(found: Found, kind: str) -> None:
    assert written(found.folder / f"{kind}-unbroken") == [1, 2, 3, 4]


def test_a_stop_that_one_process_is_asked_for_stops_all_after_the_same_step(found: Found) -> None:
    assert [(r["asked"]["ended"], len(r["asked"]["curve"])) for r in found.ranks] == [("Stopped", 2)] * 2
    assert [p.name for p in (found.folder / "asked" / "checkpoint").iterdir()] == ["step-00000002.pt"]


# --- one process ---


def test_two_steps_and_two_are_four_of_one_process(alone: dict[str, Any], tmp_path: Path) -> None:
    assert train(tmp_path, settings(stop_after_steps=2))["ended"] == "Stopped"
    assert identical(train(tmp_path, settings()), alone)


@pytest.mark.parametrize("name", STATEFUL)
def test_what_a_loss_keeps_moves_with_every_step(name: str) -> None:
    """Else a resume that forgot it would not be seen."""
    learner, loss = Learner(reward_model(), models.rewards), losses.make(**STATEFUL[name])
    for step in range(2):
        before = [value.clone() for value in loss.state_dict().values()]
        loss(scores(learner, pairs(step)))
        assert not any(map(torch.equal, before, loss.state_dict().values()))


@pytest.mark.parametrize("recompute", ["layers", "batches"])
def test_what_is_computed_again_changes_no_bit(own_gradients: dict[str, Any], recompute: dist.Recompute) -> None:
    learner = Learner(reward_model().train(), models.rewards, recompute=recompute)
    assert identical(gradients(learner, "norm_bt", learner.model), own_gradients["norm_bt"])


def test_what_is_computed_again_is_not_kept() -> None:
    kept = {}
    for recompute in get_args(dist.Recompute):
        learner = Learner(reward_model().train(), models.rewards, recompute=recompute)
        sizes: dict[int, int] = {}

        def keep(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            held = scores(learner, pairs(0))
        kept[recompute] = sum(sizes.values())
        del held
    assert kept["none"] > 2 * kept["layers"] > 2 * kept["batches"]


def test_a_bare_module_is_trained_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist._Here, "world", 2)
    with pytest.raises(AssertionError, match="one process alone"), dist.spread(nn.Linear(1, 1)):
        pass


def test_half_precision_is_of_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, row = nn.Linear(2, 2), torch.ones(1, 2)
    with dist.autocast():
        assert layer(row).dtype == torch.float32
    monkeypatch.setattr(dist._Here, "half", True)
    with dist.autocast():
        assert layer(row).dtype == torch.bfloat16
    assert layer(row).dtype == layer.weight.dtype == torch.float32


# --- who runs what ---


def test_every_bin_is_used_and_none_is_much_fuller() -> None:
    assert dist.level([9, 7, 6, 5, 4, 3], 2) == [[0, 3, 5], [1, 2, 4]]  # by hand: 9+5+3, 7+6+4
    assert dist.level([5, 5, 5], 3) == [[0], [1], [2]]
    assert dist.level([1, 8, 1], 2) == [[1], [0, 2]]


def groups_of(*lengths: int) -> list[Group]:
    return [Group([1], [[2] * (n - 2), [3]]) for n in lengths]  # n tokens shared, n + 1 packed


@pytest.mark.parametrize("mode", packing.MODES)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_step_is_dealt_as_a_whole(mode: packing.Mode, processes: int) -> None:
    groups = groups_of(*(3 + (7 * i) % 23 for i in range(20)))
    rounds = dist.deal(groups, processes, 50, mode)
    assert sorted(i for each in rounds for at in each for i in at) == list(range(20))
    assert all(len(each) == processes and all(each) for each in rounds)
    assert all(dist.cost([groups[i] for i in at], mode) <= 50 for each in rounds for at in each)
    loads = [sum(dist.cost([groups[i]], "shared") for each in rounds for i in each[r]) for r in range(processes)]
    assert max(loads) - min(loads) <= (25 if mode == "shared" else 50)


def test_groups_go_where_there_is_room() -> None:
    rounds = dist.deal(groups_of(40, 10, 10, 10, 10), 2, 100, "shared")
    assert rounds == [[[0], [1, 2, 3, 4]]]


def test_no_more_rounds_than_there_are_groups() -> None:
    assert dist.deal(groups_of(40, 50, 60), 2, 10, "shared") == [[[1, 0], [2]]]  # 90 and 60: too much, but no choice
    assert len(dist.deal(groups_of(*[40] * 5), 2, 10, "shared")) == 2


def test_a_process_without_a_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch = 1: 2 processes need a group each"):
        dist.deal(groups_of(5), 2, 100, "shared")


@pytest.mark.parametrize("mode", packing.MODES)
def test_the_cost_of_a_pass_is_the_tokens_of_its_layout(mode: packing.Mode) -> None:
    groups = groups_of(5, 9, 7)
    assert dist.cost(groups, mode) == packing.layout(groups, mode).ids.numel()


# --- a policy ---


@pytest.mark.parametrize(
    ("task", "overrides"), [("ddp policy", ()), ("fsdp policy", ()), ("several updates", SEVERAL)], ids=str
)
def test_two_processes_train_a_policy_as_one_does(
    found: Found, tmp_path: Path, task: str, overrides: tuple[str, ...]
) -> None:
    got, expected = found.ranks[0][task], policy(tmp_path, "ddp", *overrides)
    assert different(got["weights"], expected["weights"]) == []
    for ours, theirs in zip(got["curve"], expected["curve"], strict=True):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=1e-5)


@pytest.fixture(scope="module")
def one_judged(found: Found, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("one-judged")
    (folder / "rm").symlink_to(found.folder / "rm")
    return judged(folder, "ddp")


@pytest.mark.parametrize("name", SHARDED)
def test_frozen_models_that_are_sharded_teach_the_same(found: Found, one_judged: dict[str, Any], name: str) -> None:
    got = found.ranks[0][name]
    assert different(got["weights"], one_judged["weights"]) == []
    for ours, theirs in zip(got["curve"], one_judged["curve"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_each_process_has_its_part_of_them(found: Found, one_judged: dict[str, Any]) -> None:
    """All weights have an even number of rows: nothing is padded."""
    frozen = toy_policy.lm(), models.load_rm(found.folder / "rm")[0]
    reference, reward = (sum(4 * p.numel() for p in m.parameters()) for m in frozen)
    for phase in ("generate", "reward", "reference", "update"):
        less = one_judged["log"][f"bytes_{phase}"] - found.ranks[0]["both sharded"]["log"][f"bytes_{phase}"]
        assert less == pytest.approx((reference + reward) / 2, rel=0.02)
