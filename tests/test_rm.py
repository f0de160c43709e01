"""Floors and controls: reward models that train less, start elsewhere, or are drawn again."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_attention import CONFIGS
from test_training import Made, as_in_a_job, made, make, one_tokenizer  # noqa: F401  # shared fixtures
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pipeline import chat, contract, doctor, losses, models, packing, rows, scoring
from pipeline.dist import Learner
from pipeline.errors import ConfigError
from pipeline.packing import Group
from pipeline.stages.rm import encode, forward, offset_head
from pipeline.world.sft import RIGHT_REPLY, WRONG_REPLY


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return models.load_rm(folder / "out")[0].state_dict()


def test_with_the_verdict_as_head_the_reward_is_the_log_odds_of_the_two_replies(made: Made, tmp_path: Path) -> None:  # noqa: F811
    make("rm", tmp_path, made.inputs("rm"), "rm.head_init=verdict", "rm.epochs=0")
    asked = rows.read(made.pairs)
    prompts, answers = [row["prompt"] for row in asked], [row["chosen"] for row in asked]
    reward, _ = scoring.score(*models.load_rm(tmp_path / "out"), prompts, answers, 1000)
    lm, tokenizer = models.load_lm(made.sft)
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        (ids,) = chat.answered(tokenizer, [prompt], [answer])
        said = [chat.ids(tokenizer, [[*turns(prompt, answer), *chat.user(r)]])[0] for r in (RIGHT_REPLY, WRONG_REPLY)]
        assert all(reply[: len(ids)] == ids for reply in said)
        with torch.no_grad():
            logits = lm(input_ids=torch.tensor([ids])).logits[0, -1]
        expected.append(float(logits[said[0][len(ids)]] - logits[said[1][len(ids)]]))
    assert reward == pytest.approx(expected, rel=1e-4, abs=1e-5)


def turns(prompt: str, answer: str) -> list[dict[str, str]]:
    return [*chat.user(prompt), {"role": "assistant", "content": answer}]


def test_a_pair_after_several_turns_is_read_with_all_of_them(made: Made) -> None:  # noqa: F811
    tokenizer = models.load_rm(made.rm)[1]
    several = [*chat.user("Hi."), {"role": "assistant", "content": "Hi!"}, *chat.user("What is 1 + 1?")]
    row = {"prompt": "Hi.\nHi!\nWhat is 1 + 1?", "turns": several, "chosen": "2.", "rejected": "3."}
    (group,), *_ = encode(tokenizer, [row], 160)
    (whole,) = chat.ids(tokenizer, [[*several, {"role": "assistant", "content": "2."}]])
    assert [*group.prompt, *group.responses[0]] == whole


def test_without_epochs_nothing_is_trained(made: Made, tmp_path: Path) -> None:  # noqa: F811
    metrics = make("rm", tmp_path, made.inputs("rm"), "rm.epochs=0")
    body = models.load_lm(made.sft)[0].base_model.state_dict()
    assert all(torch.equal(weights(tmp_path)[f"model.{name}"], value) for name, value in body.items())
    assert rows.read(tmp_path / "out", "steps") == [] and "loss" not in metrics


def test_a_frozen_body_stays_and_its_head_learns(made: Made, tmp_path: Path) -> None:  # noqa: F811
    before = {epochs: tmp_path / str(epochs) for epochs in (0, 2)}
    for epochs, folder in before.items():
        make("rm", folder, made.inputs("rm"), "rm.trains=head", f"rm.epochs={epochs}")
    start, end = (weights(folder) for folder in before.values())
    assert [name for name in start if not torch.equal(start[name], end[name])] == ["score.weight"]


def test_another_draw_is_another_head_and_order_on_the_same_pairs(made: Made, tmp_path: Path) -> None:  # noqa: F811
    heads = {}
    for draw in ("null", "1", "2"):
        make("rm", tmp_path / draw, made.inputs("rm"), "rm.epochs=0", f"rm.draw={draw}")
        heads[draw] = weights(tmp_path / draw)["score.weight"]
    assert not any(torch.equal(heads[a], heads[b]) for a, b in (("null", "1"), ("null", "2"), ("1", "2")))


def test_an_offset_moves_the_mean_reward_and_hardly_the_differences(made: Made) -> None:  # noqa: F811
    model, tokenizer = models.load_rm(made.rm)
    groups, *_ = encode(tokenizer, rows.read(made.pairs), 160)
    with torch.no_grad():
        before = forward(Learner(model, models.rewards), groups, 1000)
        offset_head(Learner(model, models.rewards), groups, 12.0, 1000)
        after = forward(Learner(model, models.rewards), groups, 1000)
    moved = torch.cat([after.chosen - before.chosen, after.rejected - before.rejected])
    assert float(moved.mean()) == pytest.approx(12.0, rel=1e-4)
    assert float((after.delta - before.delta).abs().mean()) < 4


def test_a_loss_is_told_how_much_of_training_is_done(
    made: Made,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[float | None] = []

    def watched(s: losses.PairScores, **constants: float) -> torch.Tensor:
        seen.append(s.done)
        return losses.bsr_schedule(s, **constants)  # type: ignore[arg-type]

    monkeypatch.setitem(losses.PENALTIES, "bsr_schedule", watched)
    make("rm", tmp_path, made.inputs("rm"), "loss=bsr_schedule")
    assert seen == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


# --- other heads ---

ASKED, ANSWERS = ["What is 2 + 3?", "Tell me of Rome"], ["It is 5.", "A city"]
IDS = [3, 17, 9, 40, 21]


def read_here(model: PreTrainedModel) -> tuple[float, np.ndarray, np.ndarray]:
    """Of IDS: the reward, what it is read from, and what the body made of the last token before its final norm."""
    seen: list[torch.Tensor] = []
    hook = model.base_model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))  # type: ignore[union-attr,operator]
    with torch.no_grad():
        reward, h = models.rewards(model, packing.layout([Group(IDS[:2], [IDS[2:]])]))
    hook.remove()
    return float(reward), h[0].numpy(), seen[0].numpy()


@pytest.fixture(scope="module")
def normed(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("normed")
    make("rm", folder, made.inputs("rm"), "loss=norm_bt", "rm.norm_before_head=true")
    return folder / "out"


def test_norm_before_the_head_gives_each_representation_one_norm(normed: Path) -> None:
    model, tokenizer = contract.load(normed)
    reward, h, x = read_here(model)
    assert h == pytest.approx(x / np.sqrt(np.mean(x**2)), rel=1e-4)
    assert reward == pytest.approx(float(h @ models.head(model).weight.detach().numpy()[0]), rel=1e-5)
    _, norms = scoring.score(model, tokenizer, ASKED, ANSWERS, 500)
    assert norms == pytest.approx([4.0, 4.0], rel=1e-3)  # sqrt(16)
    for row in rows.read(normed, "dynamics"):
        assert (row["norm_w"], row["norm_l"]) == pytest.approx((4.0, 4.0), rel=1e-3)


def test_norm_before_the_head_is_a_plain_folder(normed: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(normed).eval()
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([IDS])).logits.item()
    assert plain == pytest.approx(read_here(contract.load(normed)[0])[0], rel=1e-5)


def test_a_gain_that_is_stored_as_what_is_added_to_one_is_fixed_too() -> None:
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(CONFIGS["gemma2"]))
    torch.nn.init.normal_(model.base_model.norm.weight)  # type: ignore[union-attr,arg-type]
    models.fix_gain(model)
    _, h, x = read_here(model)
    assert h == pytest.approx(x / np.sqrt(np.mean(x**2)), rel=1e-4)
    assert not model.base_model.norm.weight.requires_grad  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def mlp(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:  # noqa: F811
    folder = tmp_path_factory.mktemp("mlp")
    return folder / "out", make("rm", folder, made.inputs("rm"), "rm.head=mlp")


def test_a_hidden_layer_stands_before_the_linear_head(mlp: tuple[Path, dict[str, float]]) -> None:
    """Of NumPy: r = w · max(0, A x), read from what w is multiplied by."""
    folder, metrics = mlp
    model, _ = contract.load(folder)
    inner, last = (model.get_parameter(f"score.{name}").detach().numpy() for name in ("inner.weight", "weight"))
    assert (inner.shape, last.shape) == ((32, 16), (1, 32))
    reward, h, x = read_here(model)
    gain = model.get_parameter("model.norm.weight").detach().numpy()
    expected = np.maximum(0, inner @ (gain * x / np.sqrt(np.mean(x**2) + model.config.rms_norm_eps)))
    assert h == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert reward == pytest.approx(float(last[0] @ expected), rel=1e-4, abs=1e-5)
    assert metrics["head_gradient_error"] < 1e-9  # the identity holds for what the last layer reads
    assert metrics["head_norm"] == pytest.approx(float(np.linalg.norm(last)), rel=1e-6)


def test_both_layers_learn(made: Made, mlp: tuple[Path, dict[str, float]], tmp_path: Path) -> None:  # noqa: F811
    make("rm", tmp_path, made.inputs("rm"), "rm.head=mlp", "rm.epochs=0")
    start, end = weights(tmp_path), models.load_rm(mlp[0])[0].state_dict()
    assert not any(torch.equal(start[name], end[name]) for name in ("score.weight", "score.inner.weight"))


def test_transformers_alone_refuses_a_head_with_a_hidden_layer(mlp: tuple[Path, dict[str, float]]) -> None:
    assert json.loads((mlp[0] / contract.NAME).read_text())["head"] == "mlp"
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForSequenceClassification.from_pretrained(mlp[0])


def test_the_doctor_sees_nothing_wrong_with_either(normed: Path, mlp: tuple[Path, dict[str, float]]) -> None:
    for folder in (normed, mlp[0]):
        patient = doctor.open_model(folder, doctor.easy()[:4])
        found = {check.name: check.look(patient) for check in doctor.CHECKS}
        for name in ("output", "read position", "batch", "contract"):
            assert found[name][0] == "good", found[name]


@pytest.mark.parametrize("control", ["rm.head=mlp", "rm.norm_before_head=true"])
def test_the_verdict_has_a_head_of_its_own(control: str) -> None:
    with pytest.raises(ConfigError, match=f"^{control.partition('=')[0]} = .*verdict"):
        tiny.experiment("rm.head_init=verdict", control)
