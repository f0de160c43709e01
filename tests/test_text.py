"""GRM's text term against plain passes over one sequence at a time, and that nothing of it stays in the folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
import torch
from safetensors import safe_open
from test_training import Made, as_in_a_job, assert_same_gradients, gradients, made, make, one_by_one, one_tokenizer  # noqa: F401  # shared fixtures
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pipeline import attention, chat, contract, lora, losses, models, order, packing, rows, text
from pipeline.dist import Learner
from pipeline.errors import ConfigError
from pipeline.experiment import Lora, Text
from pipeline.packing import Group
from pipeline.seeds import derive
from pipeline.stages.rm import encode, forward

COEF = 0.3
ANSWERS = (
    ("It is 5.", "It is 6."),
    ("It is 5. Surely it is.", "It is 5."),
    ("no", "yes"),
    ("", "x"),
    ("A B C", "A B D"),
)
ALIKE = [{"prompt": f"{i} + 3?", "chosen": f"It is {i + 3}.", "rejected": f"It is {i + 2}."} for i in range(0, 240, 10)]
DATA = [{"prompt": f"What is {i} + 3?", "chosen": c, "rejected": r} for i, (c, r) in enumerate(ANSWERS)]


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    models.save(tiny.varied(tiny.lm()), tiny.tokenizer(), folder)
    return folder


def new(sft: Path, mode: packing.Mode = "padded") -> PreTrainedModel:
    model, _ = models.new_rm(sft, "reference", 3, mode)
    text.keep_lm_head(model, sft)
    return model


def pairs(data: Sequence[dict[str, str]] = DATA) -> list[Group]:
    return encode(tiny.tokenizer(), data, 160, whole=True)[0]


def plain_mean(model: PreTrainedModel, data: Sequence[dict[str, str]] = DATA) -> Tensor:
    """Cross-entropy of each chosen answer's tokens by the LM head, end of turn included, a sequence at a time."""
    body: Any = model.base_model
    each = []
    for row in data:
        (cue,) = chat.prompts(tiny.tokenizer(), [row["prompt"]])
        (ids,) = chat.answered(tiny.tokenizer(), [row["prompt"]], [row["chosen"]])
        assert ids[: len(cue)] == cue
        hidden = body(input_ids=torch.tensor([ids])).last_hidden_state[0, len(cue) - 1 : -1]
        each.append(F.cross_entropy(model.lm_head(hidden), torch.tensor(ids[len(cue) :]), reduction="none"))  # type: ignore[operator]
    return torch.cat(each).mean()


def test_pairs_are_split_where_their_answers_begin() -> None:
    """Not where they begin to differ: what they share is learned as well."""
    tokenizer, shared = tiny.tokenizer(), encode(tiny.tokenizer(), DATA, 160)[0]
    for ours, other, row in zip(pairs(), shared, DATA, strict=True):
        (cue,) = chat.prompts(tokenizer, [row["prompt"]])
        assert ours.prompt == cue
        assert [ours.prompt + r for r in ours.responses] == [other.prompt + r for r in other.responses]
    assert len(shared[0].prompt) > len(pairs()[0].prompt)


@pytest.mark.parametrize("asked", ["Is it?", "Is it? " * 40])
def test_what_is_cut_is_split_where_its_answers_begin(asked: str) -> None:
    """Also where the prompt has lost tokens, as for scoring: of a limit of 48 a response keeps some."""
    tokenizer, said = tiny.tokenizer(), ["yes " * 40, "yes no " * 40]
    (group,), *_ = encode(tokenizer, [{"prompt": asked, "chosen": said[0], "rejected": said[1]}], 48, "cut", whole=True)
    (cue,) = chat.prompts(tokenizer, [asked])
    left = 48 - len(group.responses[0])
    assert group.prompt == [*cue[:1], *cue[1 + len(cue) - left :]]
    for ids, response in zip(chat.answered(tokenizer, [asked] * 2, said), group.responses, strict=True):
        own = ids[len(cue) :]
        assert len(response) < len(own) and response == [*own[: len(response) - 1], own[-1]]


@pytest.mark.parametrize("budget", [1, 60, 10**6])
@pytest.mark.parametrize("mode", packing.MODES)
def test_the_term_and_all_gradients_equal_the_unpadded_ones(sft: Path, mode: packing.Mode, budget: int) -> None:
    model = new(sft, mode)
    assert attention.mode(model) == mode
    seen = forward(Learner(model, text.rewards), pairs(), budget)
    total, said = text.added(losses.make("bt")(seen), seen, pairs(), Text(COEF))
    model.set_attn_implementation("eager")
    plain = plain_mean(model)
    assert float(said["text"]) == pytest.approx(float(plain.detach()), rel=1e-5)
    expected = losses.make("bt")(one_by_one(model, pairs())) + COEF * plain
    got = gradients(model, total)
    assert_same_gradients(got, gradients(model, expected))
    assert {"score.weight", "lm_head.weight", "model.embed_tokens.weight"} <= got.keys()


def test_rewards_are_those_without_the_term(sft: Path) -> None:
    model = new(sft, "shared")
    with torch.no_grad():
        both, alone = (forward(Learner(model, f), pairs(), 10**6) for f in (text.rewards, models.rewards))
    for name in ("chosen", "rejected", "h_chosen", "h_rejected"):
        assert torch.equal(getattr(both, name), getattr(alone, name))
    assert alone.nll is None and both.nll is not None
    assert text.added(torch.tensor(2.0), alone, pairs(), None) == (torch.tensor(2.0), {})


def test_each_pair_has_the_log_probability_of_its_own_answer(sft: Path) -> None:
    model = new(sft, "shared")
    with torch.no_grad():
        nll = forward(Learner(model, text.rewards), pairs(), 60).nll
        expected = [float(plain_mean(model, [row])) for row in DATA]
    assert nll is not None
    lengths = torch.tensor([len(g.responses[0]) for g in pairs()])
    assert (nll / lengths).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_lm_head_of_tied_embeddings_is_the_embedding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny.tokenizer()), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=True
    )  # fmt: skip
    models.save(LlamaForCausalLM(config), tiny.tokenizer(), tmp_path)
    model = new(tmp_path)
    assert model.lm_head.weight is model.get_input_embeddings().weight  # type: ignore[union-attr]
    seen = forward(Learner(model, text.rewards), pairs(), 10**6)
    total, _ = text.added(losses.make("bt")(seen), seen, pairs(), Text(COEF))
    expected = losses.make("bt")(one_by_one(model, pairs())) + COEF * plain_mean(model)
    assert_same_gradients(gradients(model, total), gradients(model, expected))


def test_beside_adapters_the_lm_head_is_frozen_and_learned_through(sft: Path) -> None:
    pytest.importorskip("peft")
    model = new(sft)
    with lora.adapted(model, Lora(rank=2, alpha=4.0), seed=1):
        seen = forward(Learner(model, text.rewards), pairs(), 10**6)
        text.added(seen.chosen.sum() * 0, seen, pairs(), Text(COEF))[0].backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert "lm_head.weight" not in trained and "score.weight" in trained
    assert any(float(grad.norm()) > 0 for name, grad in trained.items() if "lora_B" in name and grad is not None)


def test_a_folder_without_an_lm_head_is_refused(made: Made) -> None:  # noqa: F811
    model, _ = models.load_rm(made.rm)
    with pytest.raises(ConfigError, match=r"^rm\.text = .*needs a language model, and this folder has no lm_head"):
        text.keep_lm_head(model, made.rm)


@pytest.fixture(scope="module")
def trained(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:  # noqa: F811
    folder = tmp_path_factory.mktemp("text")
    (folder / "data").mkdir()
    rows.write(folder / "data", ALIKE)
    return folder / "out", make("rm", folder, {**made.inputs("rm"), "data": folder / "data"}, "rm.text={coef: 1.0}")


def test_the_term_is_learned_and_recorded(made: Made, trained: tuple[Path, dict[str, float]]) -> None:  # noqa: F811
    """From what the SFT model says of the first step's chosen answers."""
    folder, metrics = trained
    curve = pq.read_table(folder / "steps.parquet")["text"].to_pylist()
    first = [ALIKE[i] for i in order.step_rows(len(ALIKE), 4, derive(tiny.experiment().seed, "rm"), 0)]
    assert curve[0] == pytest.approx(float(plain_mean(new(made.sft), first).detach()), rel=1e-5)
    assert len(curve) == 6 and curve[-1] < curve[0]
    assert metrics["text"] == pytest.approx(curve[-1], rel=1e-6)  # late: the last quarter, one step


def test_the_folder_is_that_of_any_reward_model(made: Made, trained: tuple[Path, dict[str, float]]) -> None:  # noqa: F811
    folder, _ = trained
    with safe_open(folder / "model.safetensors", "pt") as ours, safe_open(made.rm / "model.safetensors", "pt") as other:
        assert list(ours.keys()) == list(other.keys())
        assert not torch.equal(ours.get_tensor("score.weight"), other.get_tensor("score.weight"))
    assert (folder / "config.json").read_text() == (made.rm / "config.json").read_text()
    model, _ = contract.load(folder)
    assert model.get_output_embeddings() is None
    names = pq.read_schema(made.rm / "steps.parquet").names
    assert "text" not in names and pq.read_schema(folder / "steps.parquet").names == [*names, "text"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rm.text={coef: 0}"], r"^rm\.text\.coef = 0.*must be positive; without the term: rm\.text=null"),
        (["rm.text={coef: 0.1}", "rm.trains=head"], r"^rm\.text = .*no body to keep"),
        (["rm.text={coef: 0.1}", "rm.epochs=0"], r"^rm\.text = .*no meaning without training"),
        (["rm.text={coef: 0.1}", "rm.norm_before_head=true"], r"^rm\.text = .*set norm_before_head to null"),
        (["rm.text={coef: 0.1}", "rm.head_init=verdict"], r"^rm\.text = .*the verdict would not be the SFT model's"),
    ],
    ids=["coef", "head", "untrained", "norm", "verdict"],
)
def test_where_it_has_no_meaning_it_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.experiment(*overrides)
