"""The rloo stage: what it refuses before its first step, whose words the reward model reads, what it leaves."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import toy_policy as toy
from test_training import Made, as_in_a_job, made, make, one_tokenizer, records  # noqa: F401  # shared fixtures
from transformers import AutoModelForCausalLM

from pipeline import contract, dist, models, proxy, rollout, rows, stopping, watch
from pipeline.errors import ConfigError
from pipeline.packing import Group
from pipeline.rollout import Prompt, Rollouts

# --- a reward model that speaks another language ---


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.reward_folder(tmp_path_factory.mktemp("other"))


def by_hand(asked: Sequence[str], said: Sequence[str]) -> list[float]:
    """Its own template and tokenizer on the text, unpadded, transformers' own forward."""
    model, found = toy.reward_model(), []
    for question, answer in zip(asked, said, strict=True):
        ids = toy.reward_tokenizer()(f"[u]{question}[a]{answer}|")["input_ids"]
        with torch.no_grad():
            found.append(float(model(input_ids=torch.tensor([ids])).logits))
    return found


def test_the_reward_model_reads_the_text_in_its_own_words(made: Made, other: Path, tmp_path: Path) -> None:  # noqa: F811
    seen: list[tuple[Sequence[str], Sequence[str], list[float]]] = []
    score = proxy.scoring.score

    def spy(model: Any, tokenizer: Any, asked: Sequence[str], said: Sequence[str], tokens: int) -> Any:
        found = score(model, tokenizer, asked, said, tokens)
        seen.append((asked, said, found[0].tolist()))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.scoring, "score", spy)
        make("rloo", tmp_path, {**made.inputs("rloo"), "rm": other}, "rloo.steps=1")
    asked, said, found = seen[-1]
    assert found == pytest.approx(by_hand(asked, said), rel=1e-4, abs=1e-5)
    assert json.loads((tmp_path / "out" / "curve.json").read_text())[0]["proxy"] == pytest.approx(sum(found) / 4)
    whitening = json.loads((tmp_path / "out" / "whitening.json").read_text())
    first = torch.tensor(next(reward for asked, _, reward in seen if len(asked) == 4))  # after the canaries
    assert whitening == pytest.approx({"mean": float(first.mean()), "std": float(first.std())})
    assert not any("<eos>" in text for text in said)


def test_it_scores_in_fp32_whatever_the_policy_computes_in(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = proxy.learned(other, "shared", 1000)
    expected = reward(["a b"], ["c"])
    monkeypatch.setattr(dist._Here, "half", True)
    assert torch.equal(reward(["a b"], ["c"]), expected) and dist._Here.half


# --- what is refused before the first step ---


def refused(made: Made, folder: Path, *overrides: str, **inputs: Path) -> str:  # noqa: F811
    with pytest.raises((ConfigError, ValueError)) as caught:
        make("rloo", folder, made.inputs("rloo") | inputs, *overrides)
    assert not (folder / "log").exists()  # no step was taken
    return str(caught.value)


def damaged(other: Path, folder: Path, contract_too: bool) -> Path:
    """Its head gives no numbers; perhaps it never did, and the contract is gone."""
    shutil.copytree(other, folder)
    model, tokenizer = models.load_rm(folder)
    torch.nn.init.constant_(models.head(model).weight, math.nan)
    models.save(model, tokenizer, folder)
    if contract_too:
        (folder / contract.NAME).unlink()
    return folder


def test_a_reward_that_is_no_number(made: Made, other: Path, tmp_path: Path) -> None:  # noqa: F811
    said = refused(made, tmp_path / "x", rm=damaged(other, tmp_path / "rm", contract_too=False))
    assert said.startswith("rm = 'no number': it cannot score what it scored when it was saved")


def test_nor_may_the_first_samples_get_one(other: Path) -> None:
    def score(samples: Rollouts) -> torch.Tensor:
        raise FloatingPointError("row 1: a reward is [nan]")

    with pytest.raises(ConfigError, match=r"^rm = 'no number': it cannot score what the SFT model says: row 1"):
        proxy.probed(score, Rollouts([], [], [], []), tiny.experiment().rloo)


def test_a_reward_model_without_a_contract(made: Made, other: Path, tmp_path: Path) -> None:  # noqa: F811
    rm = damaged(other, tmp_path / "rm", contract_too=True)
    assert f"rm = '{rm}': has no scoring.json" in refused(made, tmp_path / "x", rm=rm)


def test_a_prompt_over_the_limit(made: Made, tmp_path: Path) -> None:  # noqa: F811
    said = refused(made, tmp_path, "rloo.max_prompt=9")
    assert said.startswith("rloo.max_prompt = 9: ") and "rloo.long_prompts=drop" in said


def test_no_prompts_and_too_few(made: Made, tmp_path: Path) -> None:  # noqa: F811
    for n, message in ((0, "data.prompts = 0: there is no prompt"), (1, "rloo.prompts = 2: 1 prompts are left")):
        folder = tmp_path / str(n)
        folder.mkdir()
        rows.write(folder, list(tiny.rows_of("prompts", 24))[:n])
        assert refused(made, tmp_path / f"x{n}", data=folder).startswith(message)


def test_a_tokenizer_that_ends_nothing(made: Made, tmp_path: Path) -> None:  # noqa: F811
    model, tokenizer = models.load_lm(made.sft)
    tokenizer.eos_token = None
    models.save(model, tokenizer, tmp_path / "sft")
    assert "no end-of-sequence token" in refused(made, tmp_path / "x", sft=tmp_path / "sft")


def test_the_gold_reward_of_prompts_that_have_none(made: Made, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "data").mkdir()
    rows.write(tmp_path / "data", [{"prompt": f"Who is number {i}?"} for i in range(8)])
    said = refused(made, tmp_path / "x", "rloo.reward=gold", data=tmp_path / "data")
    assert said.startswith("rloo.reward = 'gold': ")


def test_a_reward_without_spread_cannot_be_whitened() -> None:
    samples = Rollouts([], ["q"] * 3, ["a"] * 3, [True] * 3)
    settings = tiny.experiment().rloo
    with pytest.raises(ConfigError, match="no scale"):
        proxy.probed(lambda samples: torch.ones(len(samples.said)), samples, settings)


# --- prompts, rewards, records ---


def test_long_prompts_are_left_out_or_lose_their_end() -> None:
    texts = [row["prompt"] for row in tiny.rows_of("prompts", 24)]
    whole = rollout.read(tiny.tokenizer(), texts, tiny.experiment().rloo)
    lengths = sorted(len(p.ids) for p in whole)
    limit = lengths[12]
    assert limit < lengths[-1]
    short = (f"rloo.max_prompt={limit}",)
    dropped = rollout.read(tiny.tokenizer(), texts, tiny.experiment(*short, "rloo.long_prompts=drop").rloo)
    cut = rollout.read(tiny.tokenizer(), texts, tiny.experiment(*short, "rloo.long_prompts=cut").rloo)
    assert dropped == [p for p in whole if len(p.ids) <= limit]
    assert cut == [Prompt(p.text, p.ids[:limit]) for p in whole]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("rloo.reward_transform=none", "rloo.missing_eos=0"), [1.0, 5.0, -9.0]),
        (("rloo.reward_transform=whiten_sft", "rloo.missing_eos=0"), [-0.5, 1.5, -5.5]),
        (("rloo.reward_transform=whiten_sft", "rloo.missing_eos=1"), [-0.5, 0.5, -5.5]),
        (("rloo.reward_transform=whiten_sft", "rloo.missing_eos=1", "rloo.clip_reward=1"), [-0.5, 0.0, -1.0]),
    ],
)
def test_rewards_are_whitened_then_clipped_then_fined(overrides: tuple[str, ...], expected: list[float]) -> None:
    raw, ended = torch.tensor([1.0, 5.0, -9.0]), [True, False, True]
    reward = proxy.transformed(raw, ended, tiny.experiment(*overrides).rloo, proxy.Whitening(mean=2.0, std=2.0))
    assert reward.tolist() == pytest.approx(expected)


ROLLOUTS = Rollouts(
    [Group([9], [[3, 4, 1], [3, 4, 3, 4]]), Group([8], [[5, 1], [5, 5, 5, 5]])],
    ["q", "q", "r", "r"],
    ["good", "bad", "worse", "best"],
    [True, False, True, False],
)


def test_a_record_by_hand() -> None:
    sums = torch.tensor([[-3.0, 1.0, 0.5, 0.25, 6.0], [-4.0, 3.0, 1.5, 0.75, 7.0]]).repeat(2, 1)
    record = watch.record(ROLLOUTS, torch.tensor([1.0, 2, 3, 6]), torch.tensor([0.0, 1, 2, 5]), sums, judged=False)
    assert record == pytest.approx({
        "reward": 2.0, "proxy": 3.0, "kl": 2.0, "kl_k2": 1.0, "kl_k3": 0.5, "entropy": 26 / 13,
        "tokens": 13 / 4, "tokens_p95": 4.0, "ended": 0.5,
        "distinct_1": 4 / 13, "distinct_2": 5 / 9,
    })  # fmt: skip


def test_what_follows_a_phase_belongs_to_it_until_the_next_one() -> None:
    held = [0]
    clock = watch.Clock(lambda: held[0])
    for phase, inside, after in (("generate", 3, 3), ("update", 2, 7), ("generate", 1, 1)):
        with clock(phase):
            held[0] = inside
        held[0] = after
    found = clock.read(tokens=10)
    assert (found["bytes_generate"], found["bytes_update"]) == (3, 7)
    with clock("generate"):
        pass
    assert clock.read(tokens=10)["bytes_generate"] == 1  # what was read is forgotten


def test_samples_show_the_best_and_the_worst() -> None:
    reward = torch.tensor([2.0, -1.0, 0.0, 3.0])
    first, second = watch.samples(ROLLOUTS, 2 * reward, reward)
    assert first == {"prompt": "q", "best": "good", "best_reward": 2.0, "best_proxy": 4.0,
                     "worst": "bad", "worst_reward": -1.0, "worst_proxy": -2.0}  # fmt: skip
    assert (second["prompt"], second["best"], second["worst"]) == ("r", "best", "worse")


# --- what is left ---


@pytest.fixture(scope="module")
def done(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("done")
    make("rloo", folder, made.inputs("rloo"), "log.every=2")
    return folder


def test_a_policy_is_an_ordinary_folder(done: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(done / "out", dtype=torch.float32)
    expected, tokenizer = models.load_lm(done / "out", "shared")
    assert loaded.config._attn_implementation in ("sdpa", "eager")
    assert "stream" not in (done / "out" / "config.json").read_text()
    ids = torch.tensor([tokenizer("What is 2 + 3?")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected(input_ids=ids).logits)


def test_records_are_part_of_the_result_and_times_are_not(done: Path) -> None:
    curve, log = json.loads((done / "out" / "curve.json").read_text()), records(done)
    assert len(curve) == 4 and [r["step"] for r in log] == [2, 4]
    phases = {f"seconds_{phase}" for phase in ("generate", "reward", "reference", "update")}
    assert {*phases, "tokens_per_second", "sampled_per_second", "grad_norm", *curve[0]} <= log[0].keys()
    assert not any("second" in name for name in curve[0])
    assert {"gold", "proxy", "clipped", "entropy", "kl_k3"} <= curve[0].keys()
    samples = [json.loads(line) for line in (done / "log" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [2, 2, 4, 4]
    assert all(row["best_reward"] >= row["worst_reward"] for row in samples)


@pytest.fixture
def listening() -> Iterator[None]:
    stopping.listen()
    yield
    stopping._State.requested = False


def test_with_several_optimizer_steps_two_and_two_are_four(listening: None, tmp_path: Path) -> None:
    several = ("rloo.minibatches=2", "rloo.passes=2", "rloo.steps=4")
    whole = toy.trained(tmp_path / "whole", toy.count("a"), *several)
    with pytest.raises(stopping.Stopped):
        toy.trained(tmp_path / "parts", toy.count("a"), *several, stop_after_steps=2)
    stopping.listen()
    parts = toy.trained(tmp_path / "parts", toy.count("a"), *several)
    assert whole[1] == parts[1] and len(whole[1]) == 4
    for one, other in zip(whole[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_end_of_a_response_is_no_part_of_its_text() -> None:
    x = toy.settings()
    rolled = rollout.roll(toy.lm(), toy.tokenizer(), toy.PROMPTS, x.rloo, [1, 2, 3, 4], k=8)
    ends = [r[-1] == toy.tokenizer().eos_token_id for group in rolled.groups for r in group.responses]
    assert rolled.ended == ends and True in ends and False in ends
    assert not any("<eos>" in text for text in rolled.said) and any(rolled.said)
