"""Rewards of a language model beside the one that it was: plain log-probabilities, in every layout, and DPO's loss."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peer
import pytest
import tiny
import torch
from test_training import as_in_a_job, make, one_tokenizer  # noqa: F401  # shared fixtures
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from pipeline import (
    attention,
    chat,
    contract,
    doctor,
    external,
    implicit,
    losses,
    models,
    packing,
    proxy,
    rows,
    scoring,
    stopping,
)
from pipeline.config import experiment
from pipeline.dist import Learner
from pipeline.errors import ConfigError
from pipeline.implicit import Implicit
from pipeline.packing import Group
from pipeline.stage import Inputs, view
from pipeline.stages import STAGES
from pipeline.stages import external as external_stage
from pipeline.stages.rm import encode, forward

TOLERANCE = 1e-5
BETA = 0.3
PAIRS = [Group([3, 4, 5], [[6, 7, 8, 9], [7, 2]]), Group([8, 3], [[5, 5], [4, 9, 3]]), Group([8], [[1], [9]])]
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "implicit_beta": BETA,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=False),
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),  # tied, and caps its logits
}


def moved(family: str = "llama", mode: packing.Mode = "padded") -> Implicit:
    """With a policy that is no longer its reference."""
    config = CONFIGS[family]()
    made = implicit.kind(config)(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    attention.use(made, mode)
    return made


def plain(model: Implicit, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """One unpadded sequence after the other, by transformers' own logits; hidden states by its own hooks."""
    reward, hidden = [], []
    for group in groups:
        for response in group.responses:
            ids = torch.tensor([group.prompt + response])
            at = slice(len(group.prompt) - 1, -1)
            own = model(input_ids=ids, output_hidden_states=True)
            logits = own.logits[0, at], model.reference(input_ids=ids).logits[0, at].detach()
            said = (each.double().log_softmax(-1)[range(len(response)), response].sum() for each in logits)
            policy, reference = said
            reward.append(BETA * (policy - reference))
            hidden.append(own.hidden_states[-1][0, -1])
    return torch.stack(reward), torch.stack(hidden)


def close(got: Tensor, expected: Tensor) -> bool:
    return float((got - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


# --- the maths ---


@pytest.mark.parametrize("mode", packing.MODES)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_reward_is_beta_times_a_ratio_of_plain_log_probabilities(family: str, mode: packing.Mode) -> None:
    model = moved(family, mode)
    assert attention.mode(model) == attention.mode(model.reference) == mode
    with torch.no_grad():
        got, h = models.rewards(model, packing.layout(PAIRS, mode))
        model.set_attn_implementation("eager")
        expected, hidden = plain(model, PAIRS)
    assert float(expected.abs().min()) > 0.01
    assert close(got, expected) and close(h, hidden)


@pytest.mark.parametrize("loss", ["bt", "norm_bt", "bsr"])
def test_gradients_are_autograds_and_the_reference_has_none(loss: str) -> None:
    model, beside = moved(mode="shared"), moved()
    seen = forward(Learner(model, models.rewards), PAIRS, 12)
    made = losses.make(**tiny.experiment(f"loss={loss}").loss)  # type: ignore[arg-type]  # constants
    made(seen).backward()
    reward, hidden = plain(beside, PAIRS)
    (r, h) = reward.view(-1, 2), hidden.view(-1, 2, hidden.shape[-1])
    other = losses.make(**tiny.experiment(f"loss={loss}").loss)  # type: ignore[arg-type]
    other(losses.PairScores(r[:, 0], r[:, 1], h[:, 0], h[:, 1])).backward()
    expected = dict(beside.named_parameters())
    for name, parameter in model.named_parameters():
        if name.startswith("reference."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and close(parameter.grad, expected[name].grad), name  # type: ignore[arg-type]


def test_the_bt_loss_of_implicit_rewards_is_dpos() -> None:
    """Eq. 7 of its paper, written out."""
    model = moved()
    with torch.no_grad():
        value = losses.make("bt")(forward(Learner(model, models.rewards), PAIRS, 1000))
        r = plain(model, PAIRS)[0].view(-1, 2)
    by_pair = [math.log1p(math.exp(-float(chosen - rejected))) for chosen, rejected in r]
    assert float(value) == pytest.approx(np.mean(by_pair), rel=1e-5)


# --- from a folder to a folder ---


@pytest.fixture(scope="module")
def folders(as_in_a_job: None, one_tokenizer: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """sft: a language model with opinions; rm: a policy trained beside it; what a chain needs besides."""
    root = tmp_path_factory.mktemp("implicit")
    models.save(tiny.varied(tiny.lm()), tiny.tokenizer(), root / "sft")
    for part, n in (("preferences", 24), ("scenarios", 3), ("reward_bench", 4), ("prompts", 24)):
        tiny.data(root / part, part, n)
    (root / "metrics.json").write_text(json.dumps(make("rm", root / "rm", inputs(root), *TRAINING)))
    return root


TRAINING = ("rm=implicit", "rm.epochs=3", "rm.optim.lr=3e-3", "loss=norm_bt", "rm.probe_every=9")


def inputs(root: Path) -> dict[str, Path]:
    return {"sft": root / "sft", "data": root / "preferences", "probe": root / "scenarios"}


def texts(root: Path) -> tuple[list[str], list[str]]:
    data = rows.read(root / "scenarios")
    both = [(row["prompt"], said) for row in data for said in row["responses"]]
    return [prompt for prompt, _ in both], [said for _, said in both]


def by_text(model: Implicit, words: Any, asked: str, said: str) -> float:
    """Of all tokens after the cue to speak, the end of turn with them."""
    (cue,), (ids,) = chat.prompts(words, [asked]), chat.answered(words, [asked], [said])
    assert ids[: len(cue)] == cue and ids[-1] == words.eos_token_id
    with torch.no_grad():
        at = slice(len(cue) - 1, -1)
        each = [m(input_ids=torch.tensor([ids])).logits[0, at].log_softmax(-1) for m in (model, model.reference)]
    return model.config.implicit_beta * float((each[0] - each[1])[range(len(ids) - len(cue)), ids[len(cue) :]].sum())


def test_training_starts_at_rewards_of_exactly_zero_and_a_loss_of_log_2(folders: Path) -> None:
    first = [row for row in rows.read(folders / "rm" / "out", "dynamics") if row["step"] == 0]
    assert first and all(row["r_w"] == row["r_l"] == 0 for row in first)
    steps = rows.read(folders / "rm" / "out", "steps")
    assert steps[0]["loss"] == pytest.approx(math.log(2) * np.mean([row["weight"] for row in first]), rel=1e-6)
    for mode in packing.MODES:
        model = implicit.new(folders / "sft", 0.1)
        attention.use(model, mode)
        reward, _ = models.rewards(model, packing.layout(PAIRS, mode))
        assert not reward.any()


def test_training_moves_the_policy_and_not_the_reference(folders: Path) -> None:
    model, _ = contract.load(folders / "rm" / "out")
    assert isinstance(model, Implicit) and model.config.implicit_beta == 0.1
    before = AutoModelForCausalLM.from_pretrained(folders / "sft").state_dict()
    assert all(torch.equal(before[name], value) for name, value in model.reference.state_dict().items())
    assert not any(torch.equal(before[name], model.state_dict()[name]) for name in before)
    accuracy = [row["accuracy"] for row in rows.read(folders / "rm" / "out", "steps")]
    assert np.mean(accuracy[-4:]) > 0.75  # pairs that it has seen twice before


def test_transformers_alone_finds_the_policy_in_the_folder(folders: Path) -> None:
    ours, _ = contract.load(folders / "rm" / "out")
    theirs = AutoModelForCausalLM.from_pretrained(folders / "rm" / "out").state_dict()
    assert theirs.keys() == {name for name in ours.state_dict() if not name.startswith("reference.")}
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.items())


def test_a_text_is_scored_from_the_cue_to_the_end_of_turn_in_any_company(folders: Path) -> None:
    asked, said = texts(folders)
    said[1] = said[0] + " And so on."  # with a beginning in common, which is a part of both
    padded, words = contract.load(folders / "rm" / "out")
    assert isinstance(padded, Implicit)
    expected = [by_text(padded, words, *both) for both in zip(asked, said, strict=True)]
    assert np.ptp(expected) > 0.01
    for mode in packing.MODES:
        model, _ = contract.load(folders / "rm" / "out", mode)
        together, _ = scoring.score(model, words, asked, said, 1000)
        alone = [scoring.score(model, words, [a], [b], 1000)[0][0] for a, b in zip(asked[:3], said[:3], strict=True)]
        assert together == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert alone == pytest.approx(expected[:3], rel=1e-4, abs=1e-5)
    reward, norms = scoring.score(padded, words, asked, said, 1000)
    padded.config.implicit_beta = 0.2
    assert scoring.score(padded, words, asked, said, 1000)[0] == pytest.approx(2 * reward, rel=1e-6)
    assert norms.min() > 0


def test_what_is_cut_counts_what_is_left_of_the_response() -> None:
    """By hand: a limit that takes a response's end, then one that takes the prompt's beginning with it."""
    words = tiny.tokenizer()
    row = {"prompt": "Name a fruit.", "chosen": "Pears are one, and so are plums and apples.", "rejected": "No."}
    (cue,) = chat.prompts(words, [row["prompt"]])
    long, short = (chat.answered(words, [row["prompt"]], [row[name]])[0] for name in ("chosen", "rejected"))
    ((group,), _, found) = encode(words, [row], len(long) - 2, "cut", whole=True)
    assert group.prompt == cue and found["truncated"] == 1
    assert group.responses == [[*long[len(cue) : -3], words.eos_token_id], short[len(cue) :]]
    row["prompt"] = "Name a fruit. " * 6
    (cue,) = chat.prompts(words, [row["prompt"]])
    alike = {**row, "chosen": "It is a fig.", "rejected": "It is a date."}
    ((group,), *_) = encode(words, [alike], 160, whole=True)
    assert group.prompt == cue and group.responses[0][:2] == group.responses[1][:2]
    none, _, found = encode(words, [row], len(cue) + 2, "cut", whole=True)
    assert not none and found["overlong"] == 1  # their prompts are no longer the same
    same = {**row, "rejected": "Figs are one, and dates are one, too."}
    ((group,), _, found) = encode(words, [same], len(cue) + 2, "cut", whole=True)
    assert group.prompt[0] == cue[0] and cue[-len(group.prompt) + 1 :] == group.prompt[1:]
    assert len(group.prompt) < len(cue) and found["truncated"] == 1
    limit = len(cue) + 2
    (talks,) = scoring.conversations(words, [scoring.Asked(row["prompt"], [row["chosen"]])], [0], limit, whole=True)
    assert talks[0].start == len(group.prompt) and talks[0].ids == [*group.prompt, *group.responses[0]]


def test_the_contract_says_what_a_reward_is(folders: Path, tmp_path: Path) -> None:
    written = json.loads((folders / "rm" / "out" / contract.NAME).read_text())
    assert (written["implicit"], written["read"]) == (0.1, "all tokens of the response")
    for path in (folders / "rm" / "out").iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    changed = json.loads((folders / "rm" / "out" / "config.json").read_text()) | {"implicit_beta": 0.2}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=r"implicit = 0\.2"):
        contract.load(tmp_path)


def test_records_have_norms_and_nothing_of_a_head(folders: Path, tmp_path: Path) -> None:
    out, metrics = folders / "rm" / "out", json.loads((folders / "metrics.json").read_text())
    assert not [name for name in metrics if "head" in name or "gradient" in name]
    assert {"norm_std", "distance", "growth_delta", "probe/mutual/norm_std", "effective_rank"} <= metrics.keys()
    assert all(row["head_norm"] is None for row in rows.read(out, "steps")) and not (out / "gradients.parquet").exists()
    model, words = contract.load(out)
    asked, said = texts(folders)
    reward, norms = scoring.score(model, words, asked, said, 1000)
    last = [row for row in rows.read(out, "probe") if row["step"] == 18]
    assert [row["reward"] for row in last] == pytest.approx(reward.tolist(), rel=1e-4, abs=1e-5)
    assert [row["norm"] for row in last] == pytest.approx(norms.tolist(), rel=1e-5)
    given = {"rm": out, "data": folders / "preferences", "score": tmp_path}
    rows.write(tmp_path, [scored(row, i, said) for row in BENCH for i, said in enumerate(row["responses"])], "scores")
    made = make("dynamics", tmp_path / "d", {**given, "reward_bench": folders / "reward_bench"})
    assert not [name for name in made if "head" in name or "gradient" in name or "far_over" in name]
    assert {"distance_median/part1", "norm_growth/mutual", "reward_bench/distance/Chat"} <= made.keys()


BENCH = [{**row, "responses": rows.responses_of(row)} for row in tiny.rows_of("reward_bench", 4)]


def scored(row: rows.Row, i: int, said: str) -> rows.Row:
    return {"set": "reward_bench", "id": row["id"], "response": i, "reward": float(len(said)), "norm": 1.0,
            "distances": [float(abs(i - j)) for j in range(len(row["responses"]))]}  # fmt: skip


def test_stopped_and_resumed_ends_in_the_same_bytes(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(stopping.Stopped):
        make("rm", tmp_path, inputs(folders), *TRAINING, "run.stop_after_steps=2")
    saved = torch.load(next((tmp_path / "checkpoint").iterdir()), weights_only=True)
    assert not [name for name in saved["module"] if name.startswith("reference.")]
    make("rm", tmp_path, inputs(folders), *TRAINING)
    assert tiny.hashes(tmp_path / "out") == tiny.hashes(folders / "rm" / "out")


def test_the_doctor_sees_nothing_wrong(folders: Path) -> None:
    patient = doctor.open_model(folders / "rm" / "out", doctor.easy()[:4])
    found = {check.name: check.look(patient) for check in doctor.CHECKS}
    for name in ("output", "template", "read position", "batch", "contract"):
        assert found[name][0] == "good", found[name]
    assert "all tokens" in found["read position"][1] and "norm" not in found["head"][1]
    with torch.no_grad():
        patient.model.lm_head.weight[5] += 0.1  # type: ignore[index]
    assert doctor.CHECKS[-1].look(patient)[0] == "FAIL"


def test_a_folder_from_elsewhere_is_taken(folders: Path, tmp_path: Path) -> None:
    x = experiment(("scale=smoke",))
    out = folders / "rm" / "out"
    sections = {"external": {"sha256": external.fingerprint(out)}, **tiny.plain({"run": x.run, "log": x.log})}
    sections["run"]["external"] = str(out)
    external_stage.run(view("external", sections), Inputs(), tmp_path)
    assert isinstance(contract.load(tmp_path)[0], Implicit)


def test_a_policy_is_trained_on_implicit_rewards(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^run\.reward = 'shard': an implicit reward is of two models"):
        proxy.learned(folders / "rm" / "out", "padded", 500, "shard")
    given = {"sft": folders / "sft", "data": folders / "prompts", "rm": folders / "rm" / "out"}
    assert math.isfinite(make("rloo", tmp_path, given, "rloo.steps=1")["final_proxy"])


def test_adapters_are_of_the_policy(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed: make setup EXTRAS=dev,lora")
    make("rm", tmp_path, inputs(folders), *TRAINING, "rm.optim.lora={rank: 2, alpha: 4}")
    model, _ = contract.load(tmp_path / "out")
    assert isinstance(model, Implicit)
    before = AutoModelForCausalLM.from_pretrained(folders / "sft").state_dict()
    assert all(torch.equal(before[name], value) for name, value in model.reference.state_dict().items())
    changed = {name for name in before if not torch.equal(before[name], model.state_dict()[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}


def test_tied_embeddings_stay_tied_in_a_folder(tmp_path: Path) -> None:
    model = moved("gemma2")
    with torch.no_grad():
        expected, _ = models.rewards(model, packing.layout(PAIRS))
    models.save(model, tiny.tokenizer(), tmp_path)
    loaded, _ = models.load_rm(tmp_path)
    for each in (loaded, loaded.reference):  # type: ignore[union-attr]
        assert each.get_output_embeddings().weight is each.get_input_embeddings().weight  # type: ignore[operator,union-attr]
    with torch.no_grad():
        assert torch.equal(models.rewards(loaded, packing.layout(PAIRS))[0], expected)


# --- as a setting ---


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("rm.head=mlp", "head = 'mlp'"),
        ("rm.norm_before_head=true", "norm_before_head = True"),
        ("rm.head_offset=1.0", "head_offset = 1.0"),
        ("rm.trains=head", "trains = 'head'"),
        ("rm.head_init=verdict", "head_init = 'verdict'"),
    ],
)
def test_what_is_said_of_a_head_is_refused(setting: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^rm\.{key}: an implicit reward has no score head"):
        tiny.experiment("rm=implicit", setting)


def test_beta_is_positive() -> None:
    with pytest.raises(ConfigError, match="beta = 0"):
        tiny.experiment("rm=implicit", "rm.implicit.beta=0")


def test_the_frozen_sft_model_is_the_same_for_both_kinds(tmp_path: Path) -> None:
    kinds = (experiment(("bench.frozen=true", kind)) for kind in ("rm=default", "rm=implicit"))
    explicit, own = (STAGES["bench"].needs(x)["frozen"][1].rm for x in kinds)
    assert explicit == own


# --- beside TRL ---


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # TRL asks for it
def test_loss_and_rewards_are_those_of_trls_dpo(folders: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed: make setup EXTRAS=dev,peers")
    from datasets import Dataset

    ours, words = contract.load(folders / "rm" / "out")
    assert isinstance(ours, Implicit)
    groups, kept, _ = encode(words, rows.read(folders / "preferences"), 160, whole=True)
    with torch.no_grad():
        seen = forward(Learner(ours, models.rewards), groups, 1000)
    settings = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(groups), beta=0.1, max_length=None, **peer.QUIET
    )
    talks = {"prompt": [chat.user(row["prompt"]) for row in kept]}
    talks |= {name: [scoring.talk("", row[name])[1:] for row in kept] for name in ("chosen", "rejected")}
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(folders / "rm" / "out"),
        AutoModelForCausalLM.from_pretrained(folders / "sft"),
        settings,
        train_dataset=Dataset.from_dict(talks),
        processing_class=words,
    )
    (batch,) = trainer.get_train_dataloader()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model.train(), batch)
    assert float(losses.make("bt")(seen)) == pytest.approx(float(loss), rel=TOLERANCE)
    told = trainer._metrics["train"]
    assert float(seen.chosen.mean()) == pytest.approx(told["rewards/chosen"][-1], rel=1e-4)
    assert float(seen.rejected.mean()) == pytest.approx(told["rewards/rejected"][-1], rel=1e-4)
