"""Gold rewards of models: one that loads like any other, ArmoRM, and one with code of its own, which is refused unless
the switch and a pinned revision say otherwise."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import patients
import pytest
import tiny
import torch
from transformers import LlamaConfig, dynamic_module_utils

from pipeline import armorm, chat, config, gold_model, hub, models, rows, scoring, stopping
from pipeline.conversations import Prompt
from pipeline.errors import ConfigError
from pipeline.experiment import Gold, Judge
from pipeline.rows import Row
from pipeline.stage import Inputs, Sections, plain, view
from pipeline.stages import gold as gold_stage
from pipeline.stages.gold import run as gold
from pipeline.stages.judge import run as judge

SAID = [
    ("What is 72 + 6?", "It is 78."),
    ("What is 72 + 6?", "2 + 6 = 9, so it is 79."),
    ("Where does Mira live?", "In Oslo, with a cat."),
    ("Where does Mira live?", "No idea!"),
    ("Name a fruit.", "It is 78."),
]
PROMPTS: list[Prompt]
PROMPTS, ANSWERS = (list(each) for each in zip(*SAID, strict=True))
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Reward: the mean token id. It says so where it would see padding.
CODE = """
from types import SimpleNamespace
import torch
from transformers import LlamaPreTrainedModel

class Own(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def forward(self, input_ids, attention_mask):
        assert attention_mask.all()
        return SimpleNamespace(logits=self.scale * input_ids.float().mean(-1, keepdim=True))
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reward model's folder with code of its own."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = patients.save(tmp_path / "own", patients.model(tiny.tokenizer()), tiny.tokenizer())
    (folder / "own.py").write_text(CODE)
    from safetensors.torch import save_file

    save_file({"scale": torch.full((1,), 2.0)}, folder / "model.safetensors", {"format": "pt"})
    changed(folder, auto_map={"AutoModelForSequenceClassification": "own.Own"}, architectures=["Own"])
    return folder


def changed(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewards(folder: Path | str, revision: str, trusted: Any = None, tokens: int = 4096) -> np.ndarray:
    return gold_model.scorer(Gold(str(folder), revision, trusted), tokens)(PROMPTS, ANSWERS)


# --- code of its own ---


def test_code_is_refused_without_the_switch_and_not_run(foreign: Path):
    with pytest.raises(
        ConfigError, match=r"^trust_remote_code = None: .*needs its own code \(own\.py\): read it, then"
    ):
        rewards(foreign, "main")
    assert not [name for name in sys.modules if name.startswith("transformers_modules") and name.endswith("own")]


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper(), f"{COMMIT}\n"])
def test_the_switch_needs_a_commit(revision: str):
    for section in (Gold, lambda *a: Judge("gold", 1.0, 0.0, a[0], a[1], trust_remote_code=a[2])):
        with pytest.raises(ConfigError, match=r"^revision = .*trust_remote_code=true needs a pinned one: the commit"):
            section("org/model", revision, True)


def test_code_that_was_looked_at_runs_with_a_warning(foreign: Path):
    seen = gold_model.fingerprint(foreign)
    for tokens in (1, 64, 4096):
        with pytest.warns(gold_model.RunsForeignCode, match=rf"running code of {foreign} at {seen}: own\.py"):
            made = rewards(foreign, seen, True, tokens)
        whole = chat.answered(tiny.tokenizer(), [str(p) for p in PROMPTS], ANSWERS)
        assert made.tolist() == pytest.approx([2.0 * np.mean(ids) for ids in whole])


def test_code_that_has_changed_since_is_refused(foreign: Path):
    seen = gold_model.fingerprint(foreign)
    (foreign / "own.py").write_text(f"{CODE}\n# harmless\n")
    with pytest.raises(ConfigError, match=r"^revision = .*look what changed"):
        rewards(foreign, seen, True)
    with pytest.raises(ConfigError, match=r"^revision = .*look what changed"):
        rewards(foreign, COMMIT, True)  # nor is any name enough


def test_code_of_another_repository_has_no_revision(foreign: Path):
    changed(foreign, auto_map={"AutoModelForSequenceClassification": "somebody/else--own.Own"})
    with pytest.raises(ConfigError, match=r"^trust_remote_code = True: its code lies in another repository"):
        rewards(foreign, gold_model.fingerprint(foreign), True)


def test_a_hub_model_with_code_is_pinned_by_a_commit(foreign: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(gold_model.hub, "model", lambda *a: asked.append(a) or hub.Found(foreign, COMMIT))
    with pytest.raises(ConfigError, match=r"^revision = .*of a hub model is a commit"):
        rewards("org/model", "0" * 64, True)
    with pytest.warns(gold_model.RunsForeignCode, match=f"org/model at {COMMIT}"):
        rewards("org/model", COMMIT, True)
    assert asked == [("org/model", "0" * 64, None, True), ("org/model", COMMIT, None, True)]


# --- like any other ---


def test_an_ordinary_model_is_scored_by_the_contract_and_says_nothing(under_contract: Path):
    model, words = models.load_rm(under_contract)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = rewards(under_contract, "1")
    expected = scoring.score(model, words, PROMPTS, ANSWERS, 4096)[0]
    assert made.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    for prompt, answer, reward in zip(PROMPTS, ANSWERS, made, strict=True):  # transformers alone
        (ids,) = chat.ids(words, [scoring.talk(prompt, answer)])
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).logits
        assert float(alone) == pytest.approx(float(reward), abs=1e-5)


def test_code_is_fetched_for_nobody_else(under_contract: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(gold_model.hub, "model", lambda *a: asked.append(a) or hub.Found(under_contract, COMMIT))
    gold_model.scorer(Gold("org/model", "main"), 4096, "elsewhere")
    assert asked == [("org/model", "main", "elsewhere", False)]


def test_a_model_of_several_numbers_is_no_gold_reward(tmp_path: Path):
    folder = patients.save(tmp_path / "two", patients.model(tiny.tokenizer(), num_labels=2), tiny.tokenizer())
    with pytest.raises(ConfigError, match="gives 2 numbers to a conversation"):
        rewards(folder, "1")


# --- ArmoRM ---

TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content']"
    " + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def armo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the published one's names of weights and template, and its shape but for sizes."""
    words = patients.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]})
    words.chat_template, words.model_max_length = TEMPLATE, 512
    settings = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    settings.update({"num_objectives": 5, "gating_hidden_dim": 8, "gating_n_hidden": 3, "gating_temperature": 10})
    torch.manual_seed(0)
    model = armorm.ArmoRM(settings)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=draw)
    torch.nn.init.normal_(model.reward_transform_matrix, generator=draw)
    torch.nn.init.constant_(model.gating.logit_scale, 1.5)
    folder = tmp_path_factory.mktemp("armorm") / "model"
    folder.mkdir()
    models.save(model, words, folder)
    changed(folder, architectures=[armorm.ARCHITECTURE], auto_map={"AutoModel": "modeling_custom.Never"})
    return folder


def by_numpy(folder: Path, prompt: Prompt, answer: str) -> float:
    """From hidden states and the weights on disk."""
    from safetensors.numpy import load_file

    w = load_file(folder / "model.safetensors")
    model, words = armorm.load(folder)
    (ids,) = chat.ids(words, [scoring.talk(prompt, answer)])
    with torch.no_grad():
        h = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    end = words.convert_tokens_to_ids("<|eot_id|>")
    of_turns = [at for at, id in enumerate(ids) if id == end]
    gate = h[of_turns[-2]]  # the last user's
    for layer in range(3):
        gate = np.maximum(w[f"gating.layers.{layer}.weight"] @ gate + w[f"gating.layers.{layer}.bias"], 0)
    gate = np.exp((w["gating.layers.3.weight"] @ gate + w["gating.layers.3.bias"]) / 10)
    weights = gate / gate.sum() * w["gating.logit_scale"]
    return float(weights @ (w["regression_layer.weight"] @ h[of_turns[-1]] @ w["reward_transform_matrix"]))


def test_armorm_by_numpy(armo: Path):
    for tokens in (1, 4096):
        made = rewards(armo, "main", tokens=tokens)
        assert made.tolist() == pytest.approx([by_numpy(armo, *one) for one in SAID], abs=1e-4)
    assert np.ptp(made) > 0.1


def test_armorms_gate_reads_the_last_turn_of_several(armo: Path):
    turns: Prompt = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "It is 4."},
        {"role": "user", "content": "And twice that?"},
    ]
    (made,) = gold_model.scorer(Gold(str(armo), "main"), 4096)([turns], ["It is 8."])
    assert float(made) == pytest.approx(by_numpy(armo, turns, "It is 8."), abs=1e-4)


def test_weights_that_are_not_armorms_are_refused(armo: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    for path in armo.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(armo / "model.safetensors")
    del weights["gating.layers.2.bias"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights are not ArmoRM's: gating\.layers\.2\.bias"):
        rewards(tmp_path, "main")


# --- the stages ---


def gold_view(section: dict[str, Any], **changed: Any) -> Sections:
    x = tiny.experiment()
    return view("gold", {"gold": section, "run": {**plain(x.run), **changed}, "log": plain(x.log), "hub": {}})


def at(folder: Path) -> Path:
    (folder / "out").mkdir(parents=True)
    return folder / "out"


def test_the_gold_stage_asks_the_model_that_is_named(under_contract: Path, tmp_path: Path):
    samples: list[Row] = [{"id": "b", "output": "x y", "ended": True}, {"id": "b", "output": "z", "ended": False}]
    data: list[Row] = [
        {"id": "a", "prompt": "What is 72 + 6?", "responses": ["It is 78.", "It is 79.", "No."]},
    ]
    for name, made in {
        "samples": samples,
        "data": [{"id": "b", "prompt": "Name a fruit."}],
        "own": data,
    }.items():
        (tmp_path / name).mkdir()
        rows.write(tmp_path / name, made)
    section = {"id": str(under_contract), "revision": "1", "compute": {"threads": 1, "precision": "fp32"}}
    x = gold_view(section)
    gold(x, Inputs({"data": tmp_path / "own"}), at(tmp_path / "1"))
    (own,) = rows.read(tmp_path / "1" / "out")
    metrics = gold(x, Inputs({"data": tmp_path / "data", "samples": tmp_path / "samples"}), at(tmp_path / "2"))
    (sampled,) = rows.read(tmp_path / "2" / "out")
    assert sampled["responses"] == ["x y", "z"] and metrics["responses"] == 2
    model, words = models.load_rm(under_contract)
    for row in (own, sampled):
        expected = scoring.score(model, words, [row["prompt"]] * len(row["responses"]), row["responses"], 4096)[0]
        assert row["gold"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_what_is_scored_when_the_gold_stage_is_stopped_is_not_scored_again(
    under_contract: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data: list[Row] = [
        {"id": str(i), "prompt": f"What is {i} + 6?", "responses": ["It is 8.", "No."]} for i in range(7)
    ]
    (tmp_path / "data").mkdir()
    rows.write(tmp_path / "data", data)
    section = {"id": str(under_contract), "revision": "1", "compute": {"threads": 1, "precision": "fp32"}}
    asked: list[int] = []
    made = gold_model.scorer

    def counted(named: Gold, tokens: int, root: str | None) -> gold_model.Scorer:
        inner = made(named, tokens, root)
        return lambda prompts, said: asked.append(len(said)) or inner(prompts, said)

    monkeypatch.setattr(gold_stage, "WINDOW", 3)
    monkeypatch.setattr(gold_model, "scorer", counted)
    monkeypatch.setattr(stopping._State, "requested", False)
    inputs, out = Inputs({"data": tmp_path / "data"}), at(tmp_path / "1")
    with pytest.raises(stopping.Stopped):
        gold(gold_view(section, stop_after_steps=1), inputs, out)
    stopping._State.requested = False
    gold(gold_view(section), inputs, out)
    gold(gold_view(section), inputs, at(tmp_path / "2"))
    assert asked == [6, 6, 2, 6, 6, 2]
    assert rows.read(out) == rows.read(tmp_path / "2" / "out")
    assert len({row["gold"][0] for row in rows.read(out)}) > 1


def test_the_gold_judge_takes_the_switch(foreign: Path, tmp_path: Path):
    for name, output in (("policy", "It is 78."), ("baseline", "It is 79, I think.")):
        (tmp_path / name).mkdir()
        rows.write(tmp_path / name, [{"id": "a", "prompt": "What is 72 + 6?", "output": output}])
    inputs, out = Inputs({name: tmp_path / name for name in ("policy", "baseline")}), tmp_path / "out"
    out.mkdir()

    def judged(**settings: Any) -> None:
        x = config.experiment((), {"judge": "gold_model", "judge.id": str(foreign), **settings})
        judge(
            view("judge", {name: plain(getattr(x, name)) for name in ("judge", "compute", "hub", "run", "log")}),
            inputs,
            out,
        )

    with pytest.raises(ConfigError, match=r"^trust_remote_code = None"):
        judged()
    with pytest.raises(ConfigError, match=r"^judge\.revision = 'main': trust_remote_code=true needs a pinned one"):
        judged(**{"judge.trust_remote_code": True})
    with pytest.warns(gold_model.RunsForeignCode):
        judged(**{"judge.trust_remote_code": True, "judge.revision": gold_model.fingerprint(foreign)})
    (row,) = rows.read(out)
    ids = chat.answered(tiny.tokenizer(), ["What is 72 + 6?"] * 2, ["It is 79, I think.", "It is 78."])
    assert (row["gold_1"], row["gold_2"]) == tuple(pytest.approx(2.0 * np.mean(i)) for i in ids)
