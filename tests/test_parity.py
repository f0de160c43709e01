"""The rm stage beside others' code, step by step: TRL's RewardTrainer, and a plain loop whose losses and gradients are
NumPy's. Same model, same pairs, same batches; ours in padded mode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peer
import pytest
import tiny
import torch
from scores import YAML, section
from test_losses import Arrays, Oracle
from test_training import as_in_a_job, make, one_tokenizer  # noqa: F401  # shared fixtures
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PrinterCallback

from pipeline import order, rows
from pipeline.fit import learning_rate
from pipeline.packing import Group
from pipeline.seeds import derive
from pipeline.stages.rm import encode

STEPS, BATCH = 20, 4
TOLERANCE = 1e-5  # of a step's loss, relative
WEIGHTED = 3e-5  # with weights up to 20, of distances between representations that nearly agree in fp32
COEF = 0.3  # of penalties: large enough that an error in one shows
PENALISED = ("center", "bsr")
LOSSES = YAML | {name: section(name, coef=COEF) for name in PENALISED}
SETTINGS = (
    *("run.packing=padded", f"rm.batch={BATCH}", "rm.epochs=1", "rm.head_init=stiennon"),
    *("rm.optim.lr=1e-3", "rm.optim.schedule=cosine", "rm.optim.warmup=0", "rm.optim.weight_decay=0.01"),
)
OPTIM = tiny.experiment(*SETTINGS).rm.optim


class Start:
    """What all begin with, as files: a reward model before its first step, and pairs."""

    def __init__(self, folder: Path):
        self.pairs = tiny.data(folder / "pairs", "preferences", STEPS * BATCH)
        sft = tiny.data(folder / "sft rows", "sft", 24)
        make("sft", folder / "sft", {"data": sft})
        self.inputs = {"sft": folder / "sft" / "out", "data": self.pairs}
        make("rm", folder / "start", self.inputs, *SETTINGS, "rm.epochs=0")
        self.model = folder / "start" / "out"
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        groups, _, counts = encode(tokenizer, rows.read(self.pairs), tiny.experiment(*SETTINGS).rm.max_length)
        assert counts["dropped"] == 0
        seed = derive(tiny.experiment().seed, "rm")
        self.batches = [[groups[i] for i in order.step_rows(len(groups), BATCH, seed, step)] for step in range(STEPS)]

    def load(self) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(self.model, attn_implementation="eager").train()


@pytest.fixture(scope="module")
def start(one_tokenizer: None, tmp_path_factory: pytest.TempPathFactory) -> Start:  # noqa: F811
    return Start(tmp_path_factory.mktemp("start"))


def ours(start: Start, folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses by step, and weights by step and pair, as recorded by the stage."""
    more = [f"loss.coef={COEF}"] if name in PENALISED else []
    make("rm", folder, start.inputs, *SETTINGS, f"loss={name}", *more)
    loss = [row["loss"] for row in rows.read(folder / "out", "steps")]
    weight = [row["weight"] for row in rows.read(folder / "out", "dynamics")]
    assert len(loss) == STEPS
    return np.array(loss), np.array(weight).reshape(STEPS, BATCH)


def assert_same(got: np.ndarray, expected: Any, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance)
    assert np.ptp(got) > 0.1 * np.abs(got).mean()  # training has moved them


# --- TRL ---


def theirs(start: Start, folder: Path, center: float | None) -> list[float]:
    """Losses of TRL's trainer, setting by setting."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: make setup EXTRAS=dev,peers")
    from datasets import Dataset

    losses: list[float] = []

    class Trainer(trl.RewardTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(*args, **kwargs)
            losses.append(float(found.detach()))  # in full: the trainer's log is rounded
            return found

        def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
            return [name for name, _ in model.named_parameters()]  # as torch's AdamW and ours; theirs spares norms

    pairs = [g for batch in start.batches for g in batch]  # in our order
    chosen, rejected = ([g.prompt + g.responses[i] for g in pairs] for i in range(2))
    settings = trl.RewardConfig(
        output_dir=str(folder),
        center_rewards_coefficient=center,  # loss.coef of `center`; None: `bt`
        per_device_train_batch_size=BATCH,  # rm.batch: pairs, two rows each
        gradient_accumulation_steps=1,  # our micro_tokens holds a step
        num_train_epochs=1,
        train_sampling_strategy="sequential",  # the pairs stand in our order
        max_length=None,  # nothing is over rm.max_length
        learning_rate=OPTIM.lr,
        lr_scheduler_type="cosine",  # down to 0 after the last step, as fit.learning_rate
        warmup_steps=0,  # their warm-up starts at 0, ours does not
        optim="adamw_torch_fused",
        adam_beta1=OPTIM.betas[0],
        adam_beta2=OPTIM.betas[1],
        adam_epsilon=1e-8,  # torch's default, which ours is
        weight_decay=OPTIM.weight_decay,
        max_grad_norm=OPTIM.clip,
        disable_dropout=True,  # ours refuses a model that has any
        **peer.QUIET,
    )
    model = start.load()
    data = Dataset.from_dict({"chosen_ids": chosen, "rejected_ids": rejected})
    tokenizer = AutoTokenizer.from_pretrained(start.model)
    trainer = Trainer(model, settings, train_dataset=data, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return losses


@pytest.mark.peer
@pytest.mark.parametrize("name", ["bt", "center"])
def test_the_losses_are_those_of_trl(start: Start, tmp_path: Path, name: str) -> None:
    loss, _ = ours(start, tmp_path / "ours", name)
    assert_same(loss, theirs(start, tmp_path / "trl", COEF if name == "center" else None))


# --- NumPy ---


def scored(model: PreTrainedModel, batch: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """(2n,) rewards and (2n, d) representations, the chosen first: transformers' own forward with a padding mask."""
    sequences = [torch.tensor(g.prompt + g.responses[i]) for i in range(2) for g in batch]
    lengths = torch.tensor([len(ids) for ids in sequences])
    ids = pad_sequence(sequences, batch_first=True)
    body: Any = model.base_model
    states = body(input_ids=ids, attention_mask=torch.arange(ids.shape[1]) < lengths[:, None]).last_hidden_state
    h = states[torch.arange(len(ids)), lengths - 1]
    return model.score(h).squeeze(-1), h  # type: ignore[operator]


def arrays(reward: Tensor, h: Tensor) -> Arrays:
    r, of = reward.detach().double().numpy(), h.detach().double().numpy()
    return Arrays(r[:BATCH], r[BATCH:], of[:BATCH], of[BATCH:], np.zeros(BATCH), done=None)


def by_hand(start: Start, name: str) -> tuple[list[float], list[np.ndarray]]:
    """Losses and weights of a loop without autograd at the loss: NumPy says its gradient for each reward."""
    model = start.load()
    adamw = torch.optim.AdamW(
        model.parameters(), betas=(OPTIM.betas[0], OPTIM.betas[1]), weight_decay=OPTIM.weight_decay
    )
    value, weight, slopes = (Oracle(LOSSES[name]) for _ in range(3))  # each moves a μ of its own, once a step
    losses, weights = [], []
    for step, batch in enumerate(start.batches):
        reward, h = scored(model, batch)
        b = arrays(reward, h)
        losses.append(value(b))
        weights.append(weight.weight(b))
        adamw.zero_grad()
        reward.backward(torch.from_numpy(np.concatenate(slopes.gradients(b))).float())
        nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip)
        adamw.param_groups[0]["lr"] = learning_rate(OPTIM, step, STEPS)
        adamw.step()
    return losses, weights


@pytest.mark.parametrize("name", ["bt", "center", "norm_bt", "bsr"])
def test_the_losses_are_those_of_a_plain_loop(start: Start, tmp_path: Path, name: str) -> None:
    loss, weight = ours(start, tmp_path, name)
    expected, weights = by_hand(start, name)
    assert_same(loss, expected, WEIGHTED if name == "norm_bt" else TOLERANCE)
    np.testing.assert_allclose(weight, weights, rtol=0, atol=TOLERANCE * np.max(weights))
