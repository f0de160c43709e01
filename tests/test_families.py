"""Each family's conversations, token by token: as its template writes them, with one BOS, ended where a reward is read,
and the same in every stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import tiny
import torch
from families import FAMILIES
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline import base, chat, config, models, rollout, scoring
from pipeline.conversations import Asked
from pipeline.errors import ConfigError
from pipeline.stages import rm, sft

TALK = [
    *({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}),
    *({"role": "user", "content": "ok"}, {"role": "assistant", "content": "fine"}),
]


def llama(*told: str) -> tuple[str, ...]:
    """Turns of Llama 3: (role, what is said), …"""
    pairs = zip(told[::2], told[1::2], strict=True)
    turns = [("<|start_header_id|>", r, "<|end_header_id|>", "\n\n", said, "<|eot_id|>") for r, said in pairs]
    return tuple(token for turn in turns for token in turn)


def chatml(*told: str) -> tuple[str, ...]:
    pairs = zip(told[::2], told[1::2], strict=True)
    return tuple(t for role, said in pairs for t in ("<|im_start|>", role, "\n", said, "<|im_end|>", "\n"))


ASKED = ("user", "hi", "assistant", "yes", "user", "ok")
DATES = (
    *("<|start_header_id|>", "system", "<|end_header_id|>", "\n\n"),
    *("Cutting", " Knowledge", " Date", ":", " December", " ", "2", "0", "2", "3", "\n"),
    *("Today", " Date", ":", " ", "2", "6", " Jul", " ", "2", "0", "2", "4", "\n\n", "<|eot_id|>"),
)
HELPFUL = ("<|im_start|>", "system", "\n", "You", " are", " a", " helpful", " assistant", ".", "<|im_end|>", "\n")
GEMMA_ASKED = (
    *("<bos>", "<start_of_turn>", "user", "\n", "hi", "<end_of_turn>", "\n"),
    *("<start_of_turn>", "model", "\n", "yes", "<end_of_turn>", "\n"),
    *("<start_of_turn>", "user", "\n", "ok", "<end_of_turn>", "\n", "<start_of_turn>", "model", "\n"),
)
GEMMA_SAID = (GEMMA_ASKED, ("fine", "<end_of_turn>"), ("\n",))
# What is asked with the cue to speak, the answer with its end of turn, and what the template writes after that.
WRITTEN: dict[str, tuple[tuple[str, ...], ...]] = {
    "llama-3.2-3b": (
        ("<|begin_of_text|>", *llama(*ASKED), "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"),
        ("fine", "<|eot_id|>"),
        (),
    ),
    "llama-3.2-3b-instruct": (
        ("<|begin_of_text|>", *DATES, *llama(*ASKED), "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"),
        ("fine", "<|eot_id|>"),
        (),
    ),
    "qwen2.5-0.5b": (
        (*HELPFUL, *chatml(*ASKED), "<|im_start|>", "assistant", "\n"),
        ("fine", "<|im_end|>"),
        ("\n",),
    ),
    "gemma-2b-it": GEMMA_SAID,
    "gemma-2-2b-it": GEMMA_SAID,
    "mistral-7b-instruct-v0.2": (
        ("<s>", " [INST]", " hi", " [/INST]", " yes", "</s>", " [INST]", " ok", " [/INST]"),
        (" fine", "</s>"),
        (),
    ),
}
BOS = {name: asked[0] for name, (asked, *_) in WRITTEN.items() if not name.startswith("qwen")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The hub's, by name."""
    root = tmp_path_factory.mktemp("hub")
    return {name: families.write(root / name, family) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def started(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the `sft` stage leaves of each if nothing is trained."""
    root = tmp_path_factory.mktemp("sft")
    for name, folder in folders.items():
        model, tokenizer = base.make(families.settings(name, folder), 0)
        models.save(model, tokenizer, root / name)
    return {name: root / name for name in folders}


def read(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_chat_of_three_turns_and_an_answer_token_by_token(started: dict[str, Path], name: str) -> None:
    asked, answer, after = (families.ids(FAMILIES[name], tokens) for tokens in WRITTEN[name])
    tokenizer = read(started[name])
    assert chat.ids(tokenizer, [TALK[:3]], cue=True) == [asked]
    assert chat.ids(tokenizer, [TALK]) == [asked + answer + after]
    chat.end(tokenizer, after_eos=False, bos=True)
    assert chat.ids(tokenizer, [TALK]) == [asked + answer]
    assert chat.ids(tokenizer, [TALK[:3]], cue=True) == [asked]


@pytest.mark.parametrize("name", WRITTEN)
def test_plain_transformers_writes_the_same_with_one_bos(started: dict[str, Path], name: str) -> None:
    asked, answer, after = WRITTEN[name]
    tokenizer = read(started[name])
    got: Any = tokenizer.apply_chat_template(TALK, return_dict=False)
    assert got == families.ids(FAMILIES[name], asked + answer + after)
    bos = [] if name not in BOS else families.ids(FAMILIES[name], [BOS[name]])
    assert [i for i in got if i == tokenizer.bos_token_id] == bos == got[: len(bos)]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_stage_reads_the_same_ids(started: dict[str, Path], tmp_path: Path, name: str) -> None:
    asked, answer, after = (families.ids(FAMILIES[name], tokens) for tokens in WRITTEN[name])
    tokenizer = read(started[name])
    # SFT: what is learned begins where the assistant's first answer does
    talk = [{**turn, "weight": 1.0} for turn in TALK]
    ((sample,), _) = sft.encode(tokenizer, [{"messages": talk}], 100)
    assert sample.group.prompt + sample.group.responses[0] == asked + answer + after
    learned = [i for i, w in zip(sample.group.responses[0], sample.weights, strict=True) if w]
    assert learned[-len(answer + after) :] == answer + after
    # the policy: what it is asked, and what it says
    asking = chat.prompts(tokenizer, ["hi"])[0]
    settings = replace(tiny.experiment().rloo, prompts=1)
    assert [p.ids for p in rollout.read(tokenizer, ["hi"], settings)] == [asking]
    said = tokenizer.batch_decode([answer], skip_special_tokens=True)
    assert said == ["fine"]
    # the reward model: training, and scoring by whoever scores
    chat.end(tokenizer, after_eos=False, bos=True)
    pair = {"prompt": "hi", "chosen": said[0], "rejected": "ok"}
    (group,), *_ = rm.encode(tokenizer, [pair], 100)
    assert group.prompt + group.responses[0] == asking + answer
    ((scored,),) = scoring.conversations(tokenizer, [Asked(TALK[:3], ["fine"])], [0], 100)
    assert scored.ids == asked + answer
    ((scored, *_),) = scoring.conversations(tokenizer, [Asked("hi", ["fine"])], [0], 100)
    assert scored.ids == asking + answer


# --- what is told to transformers ---


@pytest.mark.parametrize("name", FAMILIES)
def test_the_folder_says_what_the_yaml_says(started: dict[str, Path], name: str) -> None:
    tokenizer, said = read(started[name]), config.load_yaml(config.CONF / "model" / f"{name}.yaml")
    model = models.load_lm(started[name])[0]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (said["eos"], said["pad"])
    assert said["bos"] in (None, tokenizer.bos_token)
    assert (model.config.pad_token_id, model.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert model.config.pad_token_id != model.config.eos_token_id
    assert model.generation_config is not None
    stops = {chat.eos(tokenizer), chat.eos(families.tokenizer(FAMILIES[name]))}  # its own too: it may still say it
    assert model.generation_config.eos_token_id == sorted(stops)
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_to_shard_are_those_of_the_class(started: dict[str, Path], name: str) -> None:
    """A reward model's too: what run.parallel=fsdp goes by."""
    layer = config.load_yaml(config.CONF / "model" / f"{name}.yaml")["layer"]
    model = models.new_rm(started[name], "stiennon", 0)[0]
    found = [m for m in model.modules() if type(m).__name__ in (model._no_split_modules or ())]
    assert [type(m).__name__ for m in found] == [layer] * 2


def test_every_model_of_the_hub_states_its_tokens_or_is_a_reward_model() -> None:
    for option in config.groups()["model"]:
        said = config.load_yaml(config.CONF / "model" / f"{option}.yaml")
        if said.get("source") != "hub":
            continue
        text = (config.CONF / "model" / f"{option}.yaml").read_text()
        told = [said[key] is not None for key in ("eos", "pad", "layer")]
        assert all(told) or (not any(told) and f"make eval RM={option}" in text), option
        assert {"bos", "template", "revision"} <= set(said)


# --- a day is always the same ---


def test_no_day_reaches_a_template(folders: dict[str, Path]) -> None:
    name = "llama-3.2-3b-instruct"
    own, pinned = read(folders[name]), chat.load(folders[name])
    expected = families.ids(FAMILIES[name], ("<|begin_of_text|>", *DATES))
    rendered = chat.ids(own, [TALK])[0]
    assert rendered[: len(expected)] != expected  # today is another day
    assert chat.ids(pinned, [TALK])[0][: len(expected)] == expected
    chat.end(pinned, after_eos=False, bos=False)
    assert chat.ids(pinned, [TALK])[0][: len(expected) - 1] == expected[1:]
    told = pinned.chat_template
    pinned.save_pretrained(folders[name].parent / "pinned")
    assert chat.load(folders[name].parent / "pinned").chat_template == told  # once


# --- refused ---


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("qwen2.5-0.5b", {"eos": None, "pad": None}, "model.pad = '<|endoftext|>': must not be EOS"),
        ("qwen2.5-0.5b", {"eos": None}, "model.pad = '<|endoftext|>': must not be EOS"),
        ("mistral-7b-instruct-v0.2", {"pad": None}, "model.pad = None: must not be EOS"),
        ("gemma-2b-it", {"eos": None}, "model.eos = '<eos>': the template ends no answer with it"),
        ("gemma-2b-it", {"eos": "<|im_end|>"}, "model.eos = '<|im_end|>': the tokenizer of "),
        ("gemma-2b-it", {"bos": "<s>"}, "model.bos = '<s>': the tokenizer of "),
        ("smollm2-1.7b-instruct", {"bos": "<|im_start|>"}, None),
        ("llama-3.2-3b", {"template": None}, "model.template = None: "),
        ("qwen2.5-0.5b", {"layer": "LlamaDecoderLayer"}, "model.layer = 'LlamaDecoderLayer': Qwen2For"),
    ],
)  # fmt: skip
def test_what_a_tokenizer_does_not_say_is_refused(
    folders: dict[str, Path], name: str, changed: dict[str, Any], message: str | None
) -> None:
    asked = families.settings(name, folders[name], **changed)
    if message is None:
        base.make(asked, 0)
        return
    with pytest.raises(ConfigError) as caught:
        base.make(asked, 0)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("begins", ["", "{{ bos_token }}"])
def test_another_number_of_bos_than_one_is_refused(folders: dict[str, Path], begins: str) -> None:
    name = "gemma-2b-it"
    tokenizer = read(folders[name])
    tokenizer.chat_template = families.GEMMA.replace("{{ bos_token }}", 2 * begins)
    with pytest.raises(ConfigError, match=r"^model\.bos = '<bos>': the template begins a conversation with"):
        base.settle(tokenizer, families.settings(name, folders[name]))


@pytest.mark.parametrize(
    "name", ["mistral-7b-instruct-v0.2", "gemma-2b-it"]
)  # of the second, embeddings would stand in
def test_a_reward_model_is_no_language_model(started: dict[str, Path], tmp_path: Path, name: str) -> None:
    models.save(*models.new_rm(started[name], "stiennon", 0), tmp_path)
    with pytest.raises(ConfigError, match=r"^model\.id = .*: it is no language model \(.*score\.weight\); make eval"):
        base.make(families.settings(name, tmp_path), 0)
