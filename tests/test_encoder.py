"""An encoder as a reward model: read at its first token, which sees the whole text and no padding."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_training import as_in_a_job, make, one_tokenizer  # noqa: F401  # shared fixtures
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from pipeline import attention, base, contract, doctor, models, packing, plan, rows, scoring, stopping
from pipeline.errors import ConfigError
from pipeline.packing import Group
from pipeline.seeds import derive
from pipeline.stages import STAGES

TOLERANCE = 1e-5
CHOSEN = ("model=tiny-bert", "sft.steps=0", "run.packing=padded")
GROUPS = [Group([3, 4, 5], [[6, 7, 8, 9], [7, 2]]), Group([8, 3], [[5, 5], [4]])]


@pytest.fixture(scope="module")
def folders(as_in_a_job: None, one_tokenizer: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """sft: an encoder as it was made; rm: trained from there."""
    root = tmp_path_factory.mktemp("encoder")
    for part, n in (("preferences", 24), ("scenarios", 3)):
        tiny.data(root / part, part, n)
    make("sft", root / "sft", {}, *CHOSEN)
    metrics = make("rm", root / "rm", inputs(root), *CHOSEN, *TRAINING)
    (root / "metrics.json").write_text(json.dumps(metrics))
    return root


TRAINING = ("loss=bsr", "rm.epochs=3", "rm.optim.lr=3e-3", "rm.probe_every=9")


def inputs(root: Path) -> dict[str, Path]:
    return {"sft": root / "sft" / "out", "data": root / "preferences", "probe": root / "scenarios"}


def texts(root: Path) -> tuple[list[str], list[str]]:
    both = [(row["prompt"], said) for row in rows.read(root / "scenarios") for said in row["responses"]]
    return [prompt for prompt, _ in both], [said for _, said in both]


def alone(model: PreTrainedModel, ids: list[int]) -> tuple[float, Tensor]:
    """By transformers' own forward of one text: its reward, and what went into the last layer."""
    seen: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))  # type: ignore[operator,union-attr]
    with torch.no_grad():
        reward = float(model(input_ids=torch.tensor([ids])).logits)
    hook.remove()
    return reward, seen[0]


@pytest.fixture(scope="module")
def model(folders: Path) -> PreTrainedModel:
    """With a head that has opinions."""
    made, _ = models.new_rm(folders / "sft" / "out", "reference", seed=3)
    return made.eval()


def test_a_reward_is_read_at_the_first_token_whatever_stands_beside(model: PreTrainedModel) -> None:
    with torch.no_grad():
        got, h = models.rewards(model, packing.layout(GROUPS))
    each = [alone(model, g.prompt + r) for g in GROUPS for r in g.responses]
    assert np.ptp(got.numpy()) > 0.1
    assert got.tolist() == pytest.approx([reward for reward, _ in each], rel=TOLERANCE, abs=1e-6)
    assert float((h - torch.stack([x for _, x in each])).abs().max()) < TOLERANCE
    weight = models.head(model).weight.detach()[0]
    assert (h @ weight).tolist() == pytest.approx(got.tolist(), rel=TOLERANCE, abs=1e-6)


def test_tokens_see_those_that_come_after(model: PreTrainedModel) -> None:
    with torch.no_grad():
        one, other = (models.rewards(model, packing.layout([Group([3, 4], [[5, last]])]))[0] for last in (6, 7))
    assert abs(float(one - other)) > 1e-3


def test_a_stream_is_given_up_with_a_warning(folders: Path) -> None:
    with pytest.warns(UserWarning, match="run.packing=padded, not shared: each token of an encoder sees"):
        made, _ = models.new_rm(folders / "sft" / "out", "hf", 0, "shared")
    assert attention.mode(made) == "padded"
    with pytest.raises(AssertionError, match="would see each other"):
        models.rewards(made, packing.layout(GROUPS, "packed"))


def test_sft_leaves_it_as_it_was_made(folders: Path) -> None:
    x = tiny.experiment(*CHOSEN)
    assert x.sft.steps == 0 and x.model.family == "bert"
    body = AutoModelForSequenceClassification.from_pretrained(folders / "sft" / "out", num_labels=1).base_model
    words = base.tiny_tokenizer(x.model)
    fresh = base.tiny(x.model, words, base_seed(x.sft.seed))
    assert all(torch.equal(body.state_dict()[name], value) for name, value in fresh.state_dict().items())
    attention.refuse_dropout(body)


def base_seed(seed: int | None) -> int:
    return derive(seed or 0, "sft", "init")


def test_its_head_learns_without_a_bias(folders: Path) -> None:
    out = folders / "rm" / "out"
    made, _ = contract.load(out)
    assert made.classifier.bias.item() == 0.0 and models.head(made) is made.classifier  # type: ignore[union-attr,operator]
    accuracy = [row["accuracy"] for row in rows.read(out, "steps")]
    assert np.mean(accuracy[-4:]) > 0.75  # pairs that it has seen twice before
    metrics = json.loads((folders / "metrics.json").read_text())
    assert metrics["head_gradient_error"] < 1e-9
    assert metrics["head_norm"] == pytest.approx(float(models.head(made).weight.detach().norm()), rel=1e-6)
    assert {"probe/mutual/norm_std", "probe/end/pearson", "growth_delta", "effective_rank"} <= metrics.keys()
    assert json.loads((out / contract.NAME).read_text())["read"] == "first token of the conversation"


@pytest.mark.filterwarnings("ignore:BertForSequenceClassification is run with run.packing=padded:UserWarning")
def test_plain_transformers_scores_a_padded_batch_the_same(folders: Path) -> None:
    out = folders / "rm" / "out"
    asked, said = texts(folders)
    ours, norms = scoring.score(*contract.load(out), asked, said, 1000)
    other, _ = scoring.score(*contract.load(out, "shared"), asked, said, 10**6)
    words = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    talks = [scoring.talk(q, a) for q, a in zip(asked, said, strict=True)]
    batch = words.apply_chat_template(talks, return_tensors="pt", return_dict=True, padding=True)
    assert (batch["attention_mask"] == 0).any() and np.ptp(ours) > 0.1
    with torch.no_grad():
        theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].numpy()
    assert max(np.abs(ours - theirs).max(), np.abs(ours - other).max()) <= TOLERANCE * np.abs(ours).max()
    last = [row["norm"] for row in rows.read(out, "probe") if row["step"] == 18]
    assert last == pytest.approx(norms.tolist(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:BertForSequenceClassification is run with run.packing=padded:UserWarning")
def test_the_doctor_sees_nothing_wrong(folders: Path) -> None:
    patient = doctor.open_model(folders / "rm" / "out", doctor.easy()[:4])
    found = {check.name: check.look(patient) for check in doctor.CHECKS}
    for name in ("output", "template", "PAD", "read position", "batch", "contract"):
        assert found[name][0] == "good", found[name]
    assert found["read position"][1] == "at '<bos>', id 1, the first token, pooled"


def test_stopped_and_resumed_ends_in_the_same_bytes(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(stopping.Stopped):
        make("rm", tmp_path, inputs(folders), *CHOSEN, *TRAINING, "run.stop_after_steps=7")
    make("rm", tmp_path, inputs(folders), *CHOSEN, *TRAINING)
    assert tiny.hashes(tmp_path / "out") == tiny.hashes(folders / "rm" / "out")


# --- what is refused before anything runs ---


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sft.steps=6", r"sft\.steps = 6: an encoder is no language model"),
        ("rm.head=mlp", r"rm\.head = 'mlp': is for decoders"),
        ("rm.norm_before_head=true", r"rm\.norm_before_head = True: is for decoders"),
        ("rm.implicit={beta: 0.1}", r"rm\.implicit = .*: is for decoders"),
        ("rm.head_init=verdict", r"rm\.head_init = 'verdict': an encoder says nothing"),
    ],
)
def test_what_it_cannot_do_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        tiny.experiment(*CHOSEN, setting)
    with pytest.raises(ConfigError, match=r"^model\.gain_spread = 1\.0: is for language models"):
        tiny.experiment("model.family=bert", "sft.steps=0")


@pytest.mark.parametrize("stage", ["rloo", "generate", "judge", "alpaca_eval", "best_of_n"])
def test_nothing_that_needs_a_policy_is_planned(stage: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.family = 'bert': an encoder has no answers for a policy"):
        plan.build(STAGES, tmp_path, [(stage, tiny.experiment(*CHOSEN))])
    graph, _ = plan.build(STAGES, tmp_path, [("bench", tiny.experiment(*CHOSEN)), ("rank", tiny.experiment(*CHOSEN))])
    assert "sft" in {node.stage.name for node in graph.values()}
