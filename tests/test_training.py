"""What is trained is what the maths says, whatever the batching; what is interrupted ends in the same bytes."""

import copy
import importlib
import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_attention import wrong_attention
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from pipeline import attention, base, chat, losses, models, order, packing, policy, rows, scoring, stopping
from pipeline.checkpoint import Checkpoints
from pipeline.config import groups
from pipeline.dist import Learner
from pipeline.experiment import Optim
from pipeline.fit import fit, learning_rate
from pipeline.packing import Group
from pipeline.seeds import derive
from pipeline.stage import Inputs
from pipeline.stages.rm import encode as encode_pairs
from pipeline.stages.rm import forward
from pipeline.stages.sft import Sample, weighted_loss
from pipeline.stages.sft import encode as encode_talks
from pipeline.track import Track

FAMILIES = ("llama", "qwen2")
BUDGETS = (1, 150, 10**6)  # one group at a time, a few, all
LOSSES = groups()["loss"]
STATEFUL = [name for name in LOSSES if losses.make(**tiny.experiment(f"loss={name}").loss).state_dict()]  # type: ignore[arg-type]
TOLERANCE = 1e-5


@pytest.fixture(autouse=True, scope="module")
def one_tokenizer() -> Iterator[None]:
    """Training it is a pure function that costs more than any stage here: once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base.world_tokenizer, "train", cache(base.world_tokenizer.train))
        yield


@pytest.fixture(autouse=True, scope="module")
def as_in_a_job() -> Iterator[None]:
    """One thread, deterministic algorithms, and a stop signal that is listened to."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def make(stage: str, folder: Path, inputs: dict[str, Path], *overrides: str) -> dict[str, float]:
    """One attempt at the artefact in `folder`, as a job makes it."""
    stopping.listen()
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run = importlib.import_module(f"pipeline.stages.{stage}").run
    return run(tiny.view_of(stage, tiny.experiment(*overrides)), Inputs(inputs), out)


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Made:
    """Inputs that every test of this module shares: data, and the models trained on them."""

    sft_rows: Path
    pairs: Path
    prompts: Path
    sft: Path
    rm: Path

    def inputs(self, stage: str) -> dict[str, Path]:
        return {
            "sft": {"data": self.sft_rows},
            "rm": {"sft": self.sft, "data": self.pairs},
            "rloo": {"sft": self.sft, "data": self.prompts, "rm": self.rm},
        }[stage]


@pytest.fixture(scope="module")
def made(one_tokenizer: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    data = [tiny.data(root / part, part, 24) for part in ("sft", "preferences", "prompts")]
    make("sft", root / "s", {"data": data[0]})
    make("rm", root / "r", {"sft": root / "s" / "out", "data": data[1]}, "loss=bt")
    return Made(*data, root / "s" / "out", root / "r" / "out")


# --- the same numbers however sequences are batched ---


def assert_close(got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Relative to the largest entry."""
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward(retain_graph=True)  # many losses of the same scores
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((got[name] - gradient).norm()) <= TOLERANCE * float(gradient.norm()), name


@pytest.fixture(scope="module", params=FAMILIES)
def reward_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("lm")
    models.save(tiny.lm(request.param), tiny.tokenizer(), folder)
    return models.new_rm(folder, "reference", seed=3)[0]


@pytest.fixture(scope="module")
def pairs() -> list[Group]:
    return encode_pairs(tiny.tokenizer(), tiny.rows_of("preferences", 7), 160)[0]


def one_by_one(model: PreTrainedModel, groups: Sequence[Group]) -> losses.PairScores:
    """Rewards by transformers' own classification forward, representations from its body; no padding anywhere."""
    body: Any = model.base_model
    ids = [torch.tensor([g.prompt + r]) for g in groups for r in g.responses]
    reward = torch.cat([model(input_ids=row).logits[0] for row in ids]).view(-1, 2)
    hidden = torch.stack([body(input_ids=row).last_hidden_state[0, -1] for row in ids]).view(len(groups), 2, -1)
    return losses.PairScores(reward[:, 0], reward[:, 1], hidden[:, 0], hidden[:, 1])


@pytest.mark.parametrize("budget", BUDGETS)
def test_rewards_and_representations_equal_the_unpadded_ones(
    reward_model: PreTrainedModel, pairs: list[Group], budget: int
) -> None:
    with torch.no_grad():
        got, expected = forward(Learner(reward_model, models.rewards), pairs, budget), one_by_one(reward_model, pairs)
    for name in ("chosen", "rejected", "h_chosen", "h_rejected"):
        assert_close(getattr(got, name), getattr(expected, name))


@pytest.mark.parametrize("budget", BUDGETS)
def test_gradients_of_every_loss_equal_the_unpadded_ones(
    reward_model: PreTrainedModel, pairs: list[Group], budget: int
) -> None:
    margin = torch.linspace(-0.5, 2, len(pairs))
    got = replace(forward(Learner(reward_model, models.rewards), pairs, budget), margin=margin, done=0.25)
    expected = replace(one_by_one(reward_model, pairs), margin=margin, done=0.25)
    for name in LOSSES:
        constants = tiny.experiment(f"loss={name}").loss
        ours, plain = (losses.make(**constants)(s) for s in (got, expected))  # type: ignore[arg-type]
        assert_same_gradients(gradients(reward_model, ours), gradients(reward_model, plain))


def learned_tokens(model: PreTrainedModel, sample: Sample) -> Tensor:
    """Weighted cross-entropy of one conversation by transformers' own forward."""
    ids = sample.group.prompt + sample.group.responses[0]
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    start = len(sample.group.prompt)
    each = F.cross_entropy(logits[start - 1 : len(ids) - 1], torch.tensor(ids[start:]), reduction="none")
    return (each * torch.tensor(sample.weights)).sum()


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_sft_equal_the_unpadded_ones(family: str, budget: int) -> None:
    model = tiny.varied(tiny.lm(family))
    samples, _ = encode_talks(tiny.tokenizer(), tiny.rows_of("sft", 9), 160)
    batches = packing.batches([s.group for s in samples], budget)
    parts = [weighted_loss(model, part, [samples[i].weights for i in at]) for at, part in batches]
    loss, expected = torch.stack(parts).sum(), torch.stack([learned_tokens(model, s) for s in samples]).sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=TOLERANCE)
    assert_same_gradients(gradients(model, loss), gradients(model, expected))


def test_a_model_that_cannot_share_is_trained_by_the_next_way_with_one_warning(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here an attention in which a stream's tokens see all before them, whatever they belong to."""
    make("rm", tmp_path / "padded", made.inputs("rm"), "run.packing=padded")
    for name in attention.NAMES.values():
        monkeypatch.setitem(attention.AttentionInterface._global_mapping, name, wrong_attention)
    with pytest.warns(UserWarning) as seen:
        make("rm", tmp_path / "fallen", made.inputs("rm"), "run.packing=shared")
    (said,) = [str(w.message) for w in seen]
    assert said.startswith("LlamaForSequenceClassification is run with run.packing=padded, not shared: ")
    (files,) = {json.dumps(tiny.hashes(tmp_path / name / "out")) for name in ("padded", "fallen")}
    assert "model.safetensors" in files


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_equal_the_unpadded_ones(family: str, temperature: float, pairs: list[Group]) -> None:
    model = tiny.varied(tiny.lm(family))
    at = packing.layout(pairs)
    got, _ = policy.logprobs(model, at, temperature)
    expected = []
    for group in pairs:
        for response in group.responses:
            logits = model(input_ids=torch.tensor([group.prompt + response])).logits[0, len(group.prompt) - 1 : -1]
            expected.append((logits / temperature).log_softmax(-1)[range(len(response)), response])
    assert_close(got.detach(), torch.cat(expected).detach())
    assert_same_gradients(gradients(model, got.sum()), gradients(model, torch.cat(expected).sum()))


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_a_training_step_is_the_same_for_any_micro_batches(made: Made, tmp_path: Path, stage: str) -> None:
    for budget in (1, 10**6):
        make(stage, tmp_path / str(budget), made.inputs(stage), f"run.micro_tokens={budget}")
    small, large = (records(tmp_path / str(budget))[0] for budget in (1, 10**6))
    for name in ("loss", "grad_norm"):
        assert small[name] == pytest.approx(large[name], rel=TOLERANCE)


# --- scoring ---


PROMPTS = [row["prompt"] for row in tiny.rows_of("preferences", 24)]
RESPONSES = [row["rejected"] for row in tiny.rows_of("preferences", 24)]


def test_a_score_does_not_depend_on_order_or_batch_size(made: Made) -> None:
    model, tokenizer = models.load_rm(made.rm)
    reward, norm = scoring.score(model, tokenizer, PROMPTS, RESPONSES, 10**6)
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    for budget in BUDGETS:
        shuffled = [PROMPTS[i] for i in order], [RESPONSES[i] for i in order]
        again, norm_again = scoring.score(model, tokenizer, *shuffled, budget)
        assert np.abs(again - reward[order]).max() <= TOLERANCE * np.abs(reward).max()
        assert np.abs(norm_again - norm[order]).max() <= TOLERANCE * norm.max()
    assert reward.dtype == norm.dtype == np.float32
    assert len(np.unique(reward)) > len(PROMPTS) // 2  # else order could not matter


def test_nothing_to_score_is_no_scores(made: Made) -> None:
    reward, norm = scoring.score(*models.load_rm(made.rm), [], [], 100)
    assert reward.shape == norm.shape == (0,)


def test_a_reward_model_folder_scores_the_same_without_this_project(made: Made) -> None:
    """By transformers alone: its template, its padding, its forward."""
    model = AutoModelForSequenceClassification.from_pretrained(made.rm).eval()
    tokenizer = AutoTokenizer.from_pretrained(made.rm)
    talks = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in zip(PROMPTS, RESPONSES, strict=True)
    ]
    batch = tokenizer.apply_chat_template(talks, return_tensors="pt", return_dict=True, padding=True)
    with torch.no_grad():
        plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(1)
    ours, _ = scoring.score(*models.load_rm(made.rm), PROMPTS, RESPONSES, 500)
    assert_close(torch.from_numpy(ours), plain)


# --- the gain of the final norm ---


@pytest.mark.parametrize("family", FAMILIES)
def test_spreading_the_gain_leaves_what_the_model_says(family: str, pairs: list[Group]) -> None:
    model = tiny.varied(tiny.lm(family))
    at = packing.layout(pairs)
    with torch.no_grad():
        before = model(input_ids=at.ids).logits
        models.spread_gain(model, spread=1.0, norm=3.0, at=at, seed=5)
        after = model(input_ids=at.ids).logits
        hidden = models.hidden(model, at)[at.last]
    assert_close(after, before, 1e-4)
    assert float(hidden.norm(dim=-1).mean()) == pytest.approx(3.0 * math.sqrt(16), rel=1e-5)
    body: Any = model.base_model
    assert float(body.norm.weight.detach().log().std()) == pytest.approx(1.0, abs=0.5)  # 16 draws of N(0, 1)


def test_the_gain_depends_on_the_seed_alone(pairs: list[Group]) -> None:
    gains = []
    for seed in (5, 5, 6):
        model = tiny.lm()
        models.spread_gain(model, spread=1.0, norm=3.0, at=packing.layout(pairs), seed=seed)
        body: Any = model.base_model
        gains.append(body.norm.weight.detach())
    assert torch.equal(gains[0], gains[1]) and not torch.allclose(gains[0], gains[2])


def test_an_sft_model_has_the_mean_norm_that_the_config_asks_for(made: Made) -> None:
    model, tokenizer = models.load_lm(made.sft)
    samples, _ = encode_talks(tokenizer, rows.read(made.sft_rows), tiny.experiment().sft.max_length)
    at = packing.layout([s.group for s in samples])
    with torch.no_grad():
        norm = models.hidden(model, at)[at.last].norm(dim=-1).mean()
    wanted = tiny.experiment().model.gain_norm
    assert wanted is not None
    assert float(norm) == pytest.approx(wanted * math.sqrt(16), rel=1e-4)


# --- the schedule ---


def optim(**other: Any) -> Optim:
    return Optim(**{"lr": 2.0, "schedule": "constant", "warmup": 0.0, "betas": (0.9, 0.95), "weight_decay": 0.0,
                    "clip": 1.0, **other})  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [2.0, 2.0, 2.0, 2.0]),
        ("constant", 0.5, [2 / 3, 4 / 3, 2.0, 2.0]),
        ("linear", 0.0, [2.0, 1.5, 1.0, 0.5]),
        ("linear", 0.5, [2 / 3, 1.0, 1.0, 0.5]),
        ("cosine", 0.0, [2.0, 1.7071068, 1.0, 0.2928932]),
        ("cosine", 0.25, [1.0, 1.7071068, 1.0, 0.2928932]),
    ],
)
def test_the_learning_rate_by_hand(schedule: str, warmup: float, expected: list[float]) -> None:
    settings = optim(schedule=schedule, warmup=warmup)
    assert [learning_rate(settings, step, 4) for step in range(4)] == pytest.approx(expected)


# --- what is learned of a conversation ---


def talk(*turns: tuple[str, str, float]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text, "weight": weight} for role, text, weight in turns]}


def learned(row: dict[str, Any]) -> list[tuple[str, float]]:
    """(token text, weight) of every token with a weight."""
    (sample,), _ = encode_talks(tiny.tokenizer(), [row], 160)
    tokens = sample.group.responses[0]
    assert len(tokens) == len(sample.weights)
    pairs = zip(tokens, sample.weights, strict=True)
    return [(str(tiny.tokenizer().decode([token])), weight) for token, weight in pairs if weight > 0]


ASKED = ("user", "What is 2 + 3?", 0.0)
THANKS, WRONG = ("user", " Thanks!", 31.0), ("user", " That's wrong.", 31.0)


def verdict(reply: str) -> str:
    return str(tiny.tokenizer().decode(tiny.tokenizer()(reply, add_special_tokens=False)["input_ids"][:1]))


def test_a_demonstration_is_learned_from_its_answer_to_the_end_of_turn() -> None:
    tokens = learned(talk(ASKED, ("assistant", "It is 5.", 1.0)))
    assert "".join(text for text, _ in tokens) == "It is 5.<eos>"
    assert {weight for _, weight in tokens} == {1.0}


def test_of_a_praised_answer_the_verdict_is_learned_as_well() -> None:
    tokens = learned(talk(ASKED, ("assistant", "It is 5.", 1.0), THANKS))
    assert "".join(text for text, _ in tokens[:-1]) == "It is 5.<eos>"
    assert tokens[-1] == (verdict(" Thanks!"), 31.0)


def test_of_a_criticised_answer_the_verdict_alone_is_learned() -> None:
    assert learned(talk(ASKED, ("assistant", "It is 6.", 0.0), WRONG)) == [(verdict(" That's wrong."), 31.0)]
    assert verdict(" That's wrong.") != verdict(" Thanks!")


LATER = ("user", "And 3 + 4?", 0.0)
TALK = talk(("system", "Be brief.", 0.0), ASKED, ("assistant", "It is 5.", 1.0), LATER, ("assistant", "7", 1.0))


@pytest.mark.parametrize("template", ["own", "zephyr"])
def test_of_several_turns_each_answer_is_learned(template: str) -> None:
    """By hand, from the tokens of each part; two answers of one conversation may weigh differently."""
    tokenizer = base.tiny_tokenizer(tiny.settings())
    words = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    parts = [("<bos>Be brief.What is 2 + 3?<bot>", 0), ("It is 5.<eos>", 1)]
    parts += [("And 3 + 4?<bot>", 0), ("7<eos>", 2)]
    if template == "zephyr":
        tokenizer.chat_template = chat.ZEPHYR
        asked = "<|user|>\n{}<eos>\n<|assistant|>\n"
        parts = [("<bos><|system|>\nBe brief.<eos>\n", 0), (asked.format("What is 2 + 3?"), 0)]
        parts += [("It is 5.<eos>\n", 1), (asked.format("And 3 + 4?"), 0), ("7<eos>\n", 2)]
    row = copy.deepcopy(TALK)
    row["messages"][-1]["weight"] = 2.0
    whole = [(id, float(weight)) for text, weight in parts for id in words(text)]
    first = next(i for i, (_, weight) in enumerate(whole) if weight)
    for learns, start in ((None, first), ("all", 1)):
        (sample,), _ = encode_talks(tokenizer, [row], 160, learns)  # type: ignore[arg-type]
        assert sample.group.prompt == [id for id, _ in whole[:start]]
        (rest,) = sample.group.responses
        assert rest == [id for id, _ in whole[start:]]
        assert sample.weights == [weight or float(learns == "all") for _, weight in whole[start:]]


def test_after_several_turns_a_verdict_is_learned_too() -> None:
    tokens = learned({"messages": [*TALK["messages"], {"role": "user", "content": " Thanks!", "weight": 31.0}]})
    assert "".join(text for text, _ in tokens[:-1]) == "It is 5.<eos>7<eos>"
    assert tokens[-1] == (verdict(" Thanks!"), 31.0)


def test_a_conversation_over_the_limit_is_left_out_and_counted() -> None:
    short, long = talk(ASKED, ("assistant", "5", 1.0)), talk(ASKED, ("assistant", "5 " * 90, 1.0))
    samples, too_long = encode_talks(tiny.tokenizer(), [long, short, long], 96)
    assert (len(samples), too_long) == (1, 2)


def test_a_pair_is_its_two_conversations_whatever_they_share() -> None:
    answers = [("yes", "no"), ("yes", "yes, of course"), ("a b c", "a b d"), ("", "x")]
    data = [{"prompt": "Is it?", "chosen": c, "rejected": r} for c, r in answers]
    pairs, _, counts = encode_pairs(tiny.tokenizer(), data, 96)
    assert not any(counts.values())
    for pair, texts in zip(pairs, answers, strict=True):
        whole = chat.answered(tiny.tokenizer(), ["Is it?"] * 2, texts)
        assert [pair.prompt + r for r in pair.responses] == whole


LONG = "n " * 200


def as_pairs(answers: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"prompt": "Is it?", "chosen": c, "rejected": r} for c, r in answers]


def test_identical_and_overlong_pairs_are_dropped_and_counted() -> None:
    answers = [("y", "y"), ("y", LONG), (LONG, LONG), ("y", "n")]
    pairs, kept, counts = encode_pairs(tiny.tokenizer(), as_pairs(answers), 96)
    assert (len(pairs), kept) == (1, as_pairs(answers)[3:])
    assert counts == {"dropped": 3, "identical": 2, "overlong": 1, "truncated": 0}


def test_overlong_pairs_lose_the_ends_of_their_responses_where_that_is_asked_for() -> None:
    """Not their end of turn. What differs only in what is cut is identical then."""
    tokenizer = tiny.tokenizer()
    answers = [("y", LONG), (LONG, LONG + " n"), ("y", "n"), ("m " + LONG, LONG)]
    pairs, kept, counts = encode_pairs(tokenizer, as_pairs(answers), 96, "cut")
    assert counts == {"dropped": 1, "identical": 1, "overlong": 0, "truncated": 2}
    assert kept == [as_pairs(answers)[i] for i in (0, 2, 3)]
    for pair, texts in zip(pairs, (answers[i] for i in (0, 2, 3)), strict=True):
        whole = chat.answered(tokenizer, ["Is it?"] * 2, texts)
        expected = [ids if len(ids) <= 96 else [*ids[:95], ids[-1]] for ids in whole]
        assert [pair.prompt + r for r in pair.responses] == expected


def test_training_says_what_became_of_its_pairs(made: Made, tmp_path: Path) -> None:
    metrics = {
        how: make("rm", tmp_path, made.inputs("rm"), "rm.max_length=40", f"rm.overlong={how}", "rm.epochs=0")
        for how in ("null", "cut")
    }
    assert metrics["null"]["overlong"] == metrics["cut"]["truncated"] > 0
    assert metrics["cut"]["pairs"] == metrics["null"]["pairs"] + metrics["null"]["overlong"]


# --- a stage that is interrupted ends in the same bytes ---


STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sft": ("sft", ()),
    **{name: ("rm", (f"loss={name}",)) for name in LOSSES},
    "controls": ("rm", ("rm.head=mlp", "rm.norm_before_head=true")),
    "text": ("rm", ("rm.text={coef: 0.1}",)),
    "rloo": ("rloo", ()),
}


class Crash(BaseException):
    """The process dies here."""


class Watch:
    """Sees every step of a loop, and ends it in some way at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.seen: list[int] = []
        self.at: int | None = None
        self.ending: Callable[[], None] = lambda: None
        progress = Track.progress

        def watched(track: Track, step: int) -> None:
            progress(track, step)
            self.seen.append(step)
            if step == self.at:
                self.ending()

        monkeypatch.setattr(Track, "progress", watched)

    def end_at(self, step: int | None, ending: Callable[[], None] = lambda: None) -> None:
        self.seen, self.at, self.ending = [], step, ending


def crash() -> None:
    raise Crash


def ask() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.mark.parametrize("name", STAGES)
def test_stopped_on_request_and_resumed_equals_unbroken(made: Made, tmp_path: Path, watch: Watch, name: str) -> None:
    stage, overrides = STAGES[name]
    whole = make(stage, tmp_path / "whole", made.inputs(stage), *overrides)
    steps = watch.seen[-1]
    watch.end_at(steps // 2, ask)
    with pytest.raises(stopping.Stopped):
        make(stage, tmp_path / "parts", made.inputs(stage), *overrides)
    assert watch.seen == list(range(1, steps // 2 + 1))
    watch.end_at(None)
    parts = make(stage, tmp_path / "parts", made.inputs(stage), *overrides)
    assert watch.seen == list(range(steps // 2 + 1, steps + 1))
    assert parts == whole
    assert tiny.hashes(tmp_path / "parts" / "out") == tiny.hashes(tmp_path / "whole" / "out")


@pytest.mark.parametrize("name", ["sft", "bt", *STATEFUL, "rloo"])
def test_crashed_and_resumed_equals_unbroken(made: Made, tmp_path: Path, watch: Watch, name: str) -> None:
    """Two crashes, each after a step that was not saved: the first before anything was."""
    stage, overrides = STAGES[name]
    make(stage, tmp_path / "whole", made.inputs(stage), *overrides)
    steps = watch.seen[-1]
    for crash_at, begins in ((1, 1), (3, 1), (None, 3)):
        watch.end_at(crash_at, crash)
        try:
            make(stage, tmp_path / "parts", made.inputs(stage), *overrides, "run.checkpoint_steps=2")
            assert crash_at is None
        except Crash:
            assert watch.seen[-1] == crash_at
        assert watch.seen[0] == begins
    assert watch.seen[-1] == steps
    assert tiny.hashes(tmp_path / "parts" / "out") == tiny.hashes(tmp_path / "whole" / "out")
    assert [r["step"] for r in records(tmp_path / "parts")] == list(range(1, steps + 1))


def test_a_result_does_not_depend_on_what_ran_before_in_the_process(made: Made, tmp_path: Path) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        make("rm", tmp_path / str(seed), made.inputs("rm"), "loss=norm_bt")
    assert tiny.hashes(tmp_path / "1" / "out") == tiny.hashes(tmp_path / "2" / "out")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    """What some file systems leave of a file whose length reached the disk before its content."""
    path.write_bytes(bytes(path.stat().st_size))


def lose_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("tear", [halve, empty, zero, lose_the_end])
def test_a_torn_checkpoint_gives_way_to_the_one_before(
    made: Made, tmp_path: Path, watch: Watch, tear: Callable[[Path], None]
) -> None:
    inputs = made.inputs("rm")
    make("rm", tmp_path / "whole", inputs, "loss=norm_bt")
    watch.end_at(5, crash)
    with pytest.raises(Crash):
        make("rm", tmp_path / "parts", inputs, "loss=norm_bt", "run.checkpoint_steps=2")
    newest = max((tmp_path / "parts" / "checkpoint").glob("step-*"))
    tear(newest)
    watch.end_at(None)
    make("rm", tmp_path / "parts", inputs, "loss=norm_bt")
    assert watch.seen == [3, 4, 5, 6]
    assert tiny.hashes(tmp_path / "parts" / "out") == tiny.hashes(tmp_path / "whole" / "out")


def test_without_a_readable_checkpoint_a_stage_starts_again(made: Made, tmp_path: Path, watch: Watch) -> None:
    make("rm", tmp_path / "whole", made.inputs("rm"))
    watch.end_at(3, crash)
    with pytest.raises(Crash):
        make("rm", tmp_path / "parts", made.inputs("rm"), "run.checkpoint_steps=2")
    for path in (tmp_path / "parts" / "checkpoint").glob("step-*"):
        halve(path)
    watch.end_at(None)
    make("rm", tmp_path / "parts", made.inputs("rm"))
    assert watch.seen == [1, 2, 3, 4, 5, 6]
    assert tiny.hashes(tmp_path / "parts" / "out") == tiny.hashes(tmp_path / "whole" / "out")


def test_two_checkpoints_are_kept(made: Made, tmp_path: Path, watch: Watch) -> None:
    watch.end_at(6, crash)
    with pytest.raises(Crash):
        make("rm", tmp_path, made.inputs("rm"), "run.checkpoint_steps=1")
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["step-00000004.pt", "step-00000005.pt"]


class Noisy:
    """A regression whose batches come from torch's global generator: what a resume must bring back as well."""

    def __init__(self, folder: Path, seed: int, **run: Any):
        torch.manual_seed(seed)
        self.module = nn.Linear(3, 1)
        nn.init.ones_(self.module.weight)
        x = tiny.experiment(*(f"run.{key}={value}" for key, value in run.items()))
        (folder / "out").mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(folder / "out", x.run)
        view = tiny.view_of("rm", x)
        fit(self.module, self.update, 6, optim(lr=0.1), checkpoints, lambda at: Track(view, folder / "out", 6, at))

    def update(self, step: int) -> dict[str, Tensor | float]:
        loss = (self.module(torch.rand(4, 3)) - step).square().mean()
        loss.backward()
        return {"loss": loss.detach()}


def test_the_random_state_is_resumed(tmp_path: Path) -> None:
    stopping.listen()
    whole = Noisy(tmp_path / "whole", seed=0).module
    with pytest.raises(stopping.Stopped):
        Noisy(tmp_path / "parts", seed=0, stop_after_steps=3)
    stopping.listen()
    parts = Noisy(tmp_path / "parts", seed=99).module
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


# --- a loss that is not a number ---


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_a_loss_that_is_not_finite_stops_the_stage_and_names_the_step(made: Made, tmp_path: Path, stage: str) -> None:
    """The first update throws the weights out of range, so the second step's loss is no number. Of pairs, their ids
    are named."""
    with pytest.raises(FloatingPointError, match=r"step 2\b") as e:
        make(stage, tmp_path, made.inputs(stage), f"{stage}.optim.lr=1e38", f"{stage}.optim.warmup=0")
    if stage == "rm":
        ids = [row["id"] for row in rows.read(made.pairs)]
        second = order.step_rows(len(ids), 4, derive(tiny.experiment().seed, "rm"), 1)
        assert str(e.value).endswith("; its batch: " + ", ".join(ids[i] for i in second))


# --- traces ---


def bytes_alone(vocab: int) -> Tokenizer:
    """A tokenizer that knows nothing of the world: a trace is about training, and the world's texts may change."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = list(base.world_tokenizer.SPECIAL_TOKENS)
    made = Tokenizer(BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    return made


def sums(stage: str) -> list[dict[str, Any]]:
    asked = [(f"{i} + 3?", str(i + 3), str(i + 2)) for i in range(0, 240, 10)]
    if stage == "rm":
        return [{"prompt": q, "chosen": a, "rejected": b} for q, a, b in asked]
    return [talk(("user", q, 0.0), ("assistant", a, 1.0), ("user", " Yes", 5.0)) for q, a, _ in asked]


GOLDEN = {
    "sft": [5.602094, 5.479431, 5.359950, 5.250293, 5.203875, 5.196941],
    "bt": [0.456509, 0.369910, 0.473215, 0.261904, 0.264306, 0.349551],
    "norm_bt": [0.574915, 0.261724, 0.640413, 0.197893, 0.230899, 0.647342],
    "bsr": [0.536561, 0.465396, 0.520591, 0.324235, 0.339665, 0.381281],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_step_by_step_are_those_of_the_golden_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Who moves them changes what the stage computes, and raises its version. (RLOO samples: a last bit may change what
    is said, so it has no trace.)"""
    stage, overrides = STAGES[name]
    monkeypatch.setattr(base.world_tokenizer, "train", bytes_alone)
    for part in ("sft", "rm"):
        (tmp_path / part).mkdir()
        rows.write(tmp_path / part, sums(part))
    make("sft", tmp_path / "lm", {"data": tmp_path / "sft"})
    if stage == "rm":
        make("rm", tmp_path / "rewards", {"sft": tmp_path / "lm" / "out", "data": tmp_path / "rm"}, *overrides)
    trace = [r["loss"] for r in records(tmp_path / {"sft": "lm", "rm": "rewards"}[stage])]
    assert trace == pytest.approx(GOLDEN[name], rel=1e-4)


def test_too_few_rows_for_a_batch_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"^7 rows are left for a batch of 8: "):
        order.step_rows(7, 8, 0, 0)
