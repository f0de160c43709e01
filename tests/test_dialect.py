"""The published code's way beside ours: what conversations look like, where a reward is read, which constants a loss
has."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scores import pairs, value
from test_training import make
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from pipeline import chat, config, contract, doctor, losses, rows, scoring
from pipeline.doctor import reading
from pipeline.errors import ConfigError
from pipeline.stages import STAGES
from pipeline.stages.sft import encode

PAD, BOS, EOS, USER, BOT, LINE, HI, YES, OK, BYE = range(10)
WORDS = ("<pad>", "<bos>", "<eos>", "<|user|>", "<|assistant|>", "\n", "hi", "yes", "ok", "bye")
ONE = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
THREE = [*ONE, {"role": "user", "content": "ok"}]
FOUR = [*THREE, {"role": "assistant", "content": "bye"}]
# As Qwen's: a line after each turn, written with loops and lines of Jinja.
LINES = """{% for message in messages %}
{{ message['content'] + eos_token }}
{% endfor %}
"""
TIGHT = LINES.replace("\n", "")


def words(template: str, bos: str | None = "<bos>") -> PreTrainedTokenizerFast:
    """A tokenizer whose ids are written above."""
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|<\|\w+\|>"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token=bos, eos_token="<eos>", chat_template=template
    )


def test_a_chat_of_three_turns_token_by_token() -> None:
    (ids,) = chat.ids(words(chat.ZEPHYR), [THREE])
    assert ids == [BOS, USER, LINE, HI, EOS, LINE, BOT, LINE, YES, EOS, LINE, USER, LINE, OK, EOS, LINE]
    assert chat.prompts(words(chat.ZEPHYR), ["hi"]) == [[BOS, USER, LINE, HI, EOS, LINE, BOT, LINE]]
    assert chat.prompts(words(chat.ZEPHYR, bos=None), ["hi"]) == [[USER, LINE, HI, EOS, LINE, BOT, LINE]]


@pytest.mark.parametrize(("after_eos", "last"), [(False, []), (True, [LINE])])
@pytest.mark.parametrize(("bos", "first"), [(True, [BOS]), (False, [])])
def test_the_last_token_is_where_the_reward_is_read(
    after_eos: bool, bos: bool, first: list[int], last: list[int]
) -> None:
    tokenizer = words(chat.ZEPHYR)
    chat.end(tokenizer, after_eos, bos)
    asked, told = [USER, LINE, HI, EOS, LINE, BOT, LINE], [USER, LINE, OK, EOS, LINE, BOT, LINE]
    assert chat.answered(tokenizer, ["hi"], ["yes"]) == [[*first, *asked, YES, EOS, *last]]
    assert chat.ids(tokenizer, [FOUR]) == [[*first, *asked, YES, EOS, LINE, *told, BYE, EOS, *last]]
    assert chat.ids(tokenizer, [THREE]) == [[*first, *asked, YES, EOS, LINE, *told[:5]]]  # nothing to read yet
    assert chat.prompts(tokenizer, ["hi"]) == [[*first, *asked]]


def test_a_template_of_many_lines_is_left_as_it_is_but_for_its_end() -> None:
    tokenizer, own = words(LINES), words(LINES)
    chat.end(tokenizer, after_eos=False, bos=True)
    assert chat.ids(tokenizer, [ONE]) == [[HI, EOS, LINE, YES, EOS]]
    for talk in ([ONE], [THREE]):
        assert chat.ids(tokenizer, talk, cue=True) == chat.ids(own, talk, cue=True)
    assert chat.ids(tokenizer, [THREE]) == chat.ids(own, [THREE])


def test_a_template_that_ends_with_the_turn_is_not_touched() -> None:
    tokenizer = words(TIGHT)
    before = tokenizer.chat_template
    chat.end(tokenizer, after_eos=False, bos=True)
    chat.end(tokenizer, after_eos=False, bos=False)  # there is none
    assert tokenizer.chat_template == before


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TIGHT, "rm.read = 'after_eos': this template writes nothing after the end of turn"),
        (LINES.replace(" + eos_token", ""), "model.template = None: the tokenizer's own does not end an answer"),
        (LINES.replace("eos_token", "(eos_token if message['role'] == 'user' else '')"), "model.template = None: "),
    ],
)
def test_what_cannot_be_read_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chat.end(words(template), after_eos=True, bos=True)
    assert str(caught.value).startswith(message)


# --- settings ---


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        tiny.experiment(*overrides)
    return str(caught.value)


def test_clean_is_the_default_and_says_nothing() -> None:
    assert config.experiment() == config.experiment(("dialect=clean",))
    x = config.experiment()
    assert (x.model.template, x.rm.read, x.rm.bos, x.sft.learns) == (None, None, None, None)


def test_reference_is_the_published_codes() -> None:
    x = config.experiment(("dialect=reference", "scale=paper"))
    assert (x.model.template, x.rm.read, x.rm.bos, x.sft.learns) == ("zephyr", "after_eos", "never", "all")
    assert (x.rm.head_init, x.rm.max_length) == ("reference", None)


def test_a_policy_of_its_own_writes_alike() -> None:
    x = config.experiment(("dialect=reference", "policy=tiny-qwen2", "sft.max_length=160"))
    _, chain = STAGES["rloo"].needs(x)["sft"]
    assert (chain.model.family, chain.model.template) == ("qwen2", "zephyr")


REFERENCE = {"name": "bsr", "of": {"name": "bt"}, "coef": 1e-3, "group": 16, "times_group": True}


def test_a_loss_has_its_dialects_constants_and_what_is_asked_for_wins() -> None:
    def loss(*overrides: str, **settings: Any) -> dict[str, Any]:
        return config.experiment(overrides, settings).loss

    assert loss("dialect=reference", "loss=bsr") == loss("dialect=reference", loss="bsr") == REFERENCE
    assert loss(dialect="reference", loss="bsr") == REFERENCE
    assert loss("dialect=reference", "loss=bsr", "loss.group=4") == {**REFERENCE, "group": 4}
    assert loss("dialect=reference", "loss=center", "loss.of=bsr")["of"] == REFERENCE
    assert loss("dialect=reference", "loss=hinge")["margin"] == 0
    assert loss("dialect=reference", loss="norm_bt") == loss(loss="norm_bt")
    assert loss(loss="bsr")["group"] is None


def test_every_file_of_a_dialect_is_of_a_loss_and_changes_it() -> None:
    for path in (config.CONF / "dialect" / "loss").glob("*.yaml"):
        dialect, _, name = path.stem.partition("_")
        assert dialect in config.groups()["dialect"] and name in config.groups()["loss"]
        assert config.load_yaml(path).keys() <= config.load_yaml(config.CONF / "loss" / f"{name}.yaml").keys()


def test_what_cannot_go_together_is_refused() -> None:
    assert refused("rm.read=after_eos").startswith("rm.read = 'after_eos': a tiny model's own template writes nothing")


def test_a_verdict_has_its_own_head_and_needs_a_tiny_models_own_template() -> None:
    """A table's row of it is blocked under another dialect, not another model by that name."""
    for overrides, there in (((), True), (("dialect=reference",), False), (("scale=paper",), False)):
        x = config.experiment((*overrides, "rm=verdict"))
        assert x.rm.head_init == "verdict"
        assert STAGES["rm"].ready is not None and (STAGES["rm"].ready(x) is None) == there
        assert STAGES["rm"].ready(config.experiment(overrides)) is None
    assert config.experiment(("dialect=reference", "rm=linear")).rm.head_init == "reference"


def test_bsr_of_the_reference_is_the_codes_sum_over_devices() -> None:
    """λ S² / (4b), S the sum of the 2b rewards that a device sees, averaged over devices."""
    s, (n, b) = pairs(12), (12, 4)
    sums = (s.chosen + s.rejected).numpy().astype(float).reshape(n // b, b).sum(1)
    penalty = value(losses.make(**{**REFERENCE, "group": b, "coef": 0.3}), s) - value(losses.make("bt"), s)
    assert penalty == pytest.approx(float(np.mean(0.3 * sums**2 / (4 * b))), rel=1e-4)


# --- at micro scale ---


@pytest.mark.parametrize(("template", "verdict"), [(None, " That's wrong."), ("zephyr", "That's wrong.")])
def test_the_verdict_is_learned_by_its_first_word(template: str | None, verdict: str) -> None:
    """After a line its space is a token of its own, and all verdicts have it."""
    tokenizer = tiny.base.tiny_tokenizer(tiny.settings(template=template))
    talk = [("user", "What is 2 + 3?", 0.0), ("assistant", "6", 0.0), ("user", " That's wrong.", 31.0)]
    row = {"messages": [dict(zip(("role", "content", "weight"), turn, strict=True)) for turn in talk]}
    for learns in (None, "all"):
        ((sample,), _) = encode(tokenizer, [row], 160, learns)
        (ids,), (told,) = sample.group.responses, tokenizer([verdict], add_special_tokens=False)["input_ids"]
        assert len(ids) == len(sample.weights) and (ids[-1], sample.weights[-1]) == (told[0], 31.0)
        learned = [i for i, w in zip(ids, sample.weights, strict=True) if w == 1]
        (cue,) = chat.prompts(tokenizer, ["What is 2 + 3?"])
        assert learned == (cue[1:] if learns else []) and sum(sample.weights) == 31 + len(learned)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reward models on one SFT model: as the published code reads them, and at the end of turn."""
    root = tmp_path_factory.mktemp("dialect")
    data = {part: tiny.data(root / part, part, 24) for part in ("sft", "preferences")}
    asked = ("dialect=reference", "loss=bsr", "loss.group=2", "sft.max_length=160")
    make("sft", root / "lm", {"data": data["sft"]}, *asked)
    for name, more in (("reference", ()), ("at_eos", ("rm.read=null", "rm.bos=null"))):
        make("rm", root / name, {"sft": root / "lm" / "out", "data": data["preferences"]}, *asked, *more)
    return {name: root / name / "out" for name in ("reference", "at_eos")}


@pytest.mark.parametrize(("name", "ending", "times"), [("reference", 2, 0), ("at_eos", 1, 1)])
def test_the_folder_carries_where_its_reward_is_read(
    folders: dict[str, Path], name: str, ending: int, times: int
) -> None:
    """In its template: so any tool reads there, and the contract says so."""
    model, tokenizer = contract.load(folders[name])
    said = json.loads((folders[name] / contract.NAME).read_text())
    assert (len(said["ending"]), said["ending"][0], said["bos"]["times"]) == (ending, "<eos>", times)
    data = tiny.rows_of("preferences", 6)
    asked, answers = [row["prompt"] for row in data], [row["chosen"] for row in data]
    ours, _ = scoring.score(model, tokenizer, asked, answers, 500)
    talks = [scoring.talk(q, a) for q, a in zip(asked, answers, strict=True)]
    batch = tokenizer.apply_chat_template(talks, return_tensors="pt", return_dict=True, padding=True)
    plain = AutoModelForSequenceClassification.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        theirs = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(1)
    assert np.abs(ours - theirs.numpy()).max() <= 1e-5 * np.abs(ours).max()
    patient = doctor.open_model(folders[name], ())
    state, told, _ = reading.read_position(patient)
    assert (state, "which ends no turn" in told) == (("warn", True) if ending == 2 else ("good", False))


def test_where_it_is_read_moves_rewards(folders: dict[str, Path]) -> None:
    steps = [rows.read(folder, "steps")[0] for folder in folders.values()]
    assert steps[0] != steps[1]
