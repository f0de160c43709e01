"""A folder whose model no longer scores as when it was saved is not loaded."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import patients
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import contract, dist, models, packing, scoring
from pipeline.config import PROJECT
from pipeline.errors import ConfigError


@pytest.fixture
def folder(under_contract: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(under_contract, tmp_path / "rm"))


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / contract.NAME).read_text())


def rewrite(folder: Path, **changed: Any) -> None:
    (folder / contract.NAME).write_text(json.dumps({**written(folder), **changed}))


def test_what_is_written(under_contract: Path) -> None:
    made = written(under_contract)
    canaries = made.pop("canaries")
    assert len(made.pop("template")) == 64
    assert made.pop("attention")
    assert made == {
        "bos": {"id": 1, "token": "<bos>", "times": 1},
        "eos": {"id": 3, "token": "<eos>"},
        "pad": {"id": 0, "token": "<pad>"},
        "ending": ["<eos>"],
        "read": "last token of the conversation",
        "max_length": 160,
        "truncation": "end of the response, not what the template writes after it",
        "head_dtype": "float32",
        "precision": "fp32",
        "tolerance": {"fp32": 1e-5, "bf16": 1e-2, "mixed": 5e-2},
    }
    assert len(canaries) == len({(c["prompt"], c["response"]) for c in canaries}) == 16


def test_canaries_have_the_rewards_of_the_model_alone(under_contract: Path) -> None:
    """One conversation at a time, by transformers' own forward; the long answers are cut."""
    model, tokenizer = models.load_rm(under_contract)
    cuts = 0
    for canary in written(under_contract)["canaries"]:
        text = f"<bos>{canary['prompt']}<bot>{canary['response']}"
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"][:159], 3]  # type: ignore[misc,index]  # ids
        cuts += len(ids) == 160
        with torch.no_grad():
            assert canary["reward"] == pytest.approx(float(model(input_ids=torch.tensor([ids])).logits), abs=1e-5)
    assert 0 < cuts < 16


def test_what_is_written_is_what_is_on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what some object in memory says: the folder is loaded anew."""
    loaded = []
    load = models.load_rm
    monkeypatch.setattr(models, "load_rm", lambda where: loaded.append(where) or load(where))
    before = written(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "score.weight": 2 * weights["score.weight"]}, folder / "model.safetensors", {"format": "pt"})
    contract.write(folder)
    assert loaded == [folder]
    then, now = ([c["reward"] for c in made["canaries"]] for made in (before, written(folder)))
    assert now == pytest.approx([2 * r for r in then], rel=1e-5)


def test_writing_twice_gives_the_same_bytes(folder: Path) -> None:
    before = (folder / contract.NAME).read_bytes()
    contract.write(folder)
    assert (folder / contract.NAME).read_bytes() == before


def test_a_sound_folder_loads(folder: Path) -> None:
    model, tokenizer = contract.load(folder)
    assert contract.replay(folder, model, tokenizer) <= 1
    assert not model.training


def test_a_folder_made_elsewhere_loads_unchecked(folder: Path) -> None:
    (folder / contract.NAME).unlink()
    assert contract.load(folder)[0].config.num_labels == 1


# --- what is refused ---


def test_a_folder_without_a_head_is_not_loaded(folder: Path) -> None:
    """Transformers would make up one, another at every load."""
    (folder / contract.NAME).unlink()
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"does not hold score\.weight"):
        contract.load(folder)


def move_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 0.05
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def scale_the_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] *= 1.0001
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def retokenize(**changed: Any) -> Callable[[Path], None]:
    return lambda folder: patients.tokenizer(**changed).save_pretrained(folder) and None


def reconfigure(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changed}))

    return change


TEMPLATE = str(patients.tokenizer().chat_template)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (move_a_weight, "canary"),
        (scale_the_head, "canary"),
        (reconfigure(rms_norm_eps=1e-3), "canary"),
        (retokenize(chat_template=TEMPLATE.replace("'<bot>'", "'<bot> '")), "template"),
        (retokenize(pad_token="<eos>"), "pad"),
        (retokenize(bos_token=None), "bos"),
        (retokenize(eos_token="<pad>"), "eos"),
        (retokenize(model_max_length=96), "max_length"),
        (reconfigure(max_position_embeddings=128), "max_length"),
        (lambda folder: rewrite(folder, ending=["<eos>", "\n"]), "ending"),
        (lambda folder: rewrite(folder, head_dtype="bfloat16"), "head_dtype"),
        (lambda folder: rewrite(folder, truncation="left"), "truncation"),
    ],
)
def test_a_folder_that_scores_otherwise_is_refused(folder: Path, change: Callable[[Path], None], key: str) -> None:
    change(folder)
    with pytest.raises(ConfigError, match=rf"rm/scoring\.json, {key}\b.*: .{{20,}}"):
        contract.load(folder)


@pytest.mark.parametrize(("key", "value"), [("attention", "another"), ("precision", "bf16")])
def test_names_that_are_recorded_only_refuse_nothing(folder: Path, key: str, value: str) -> None:
    rewrite(folder, **{key: value})
    contract.load(folder)


def test_a_contract_that_is_not_whole_is_refused(folder: Path) -> None:
    text = (folder / contract.NAME).read_text()
    (folder / contract.NAME).write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError, match="not whole"):
        contract.load(folder)
    made = json.loads(text)
    del made["ending"]
    (folder / contract.NAME).write_text(json.dumps(made))
    with pytest.raises(ConfigError, match="ending = None: missing"):
        contract.load(folder)


def test_a_reward_that_is_no_number_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "score", lambda *_: (np.full(16, np.nan, np.float32), np.zeros(16)))
    with pytest.raises(ConfigError, match="canary 1 = nan"):
        contract.load(folder)


@pytest.mark.parametrize(("then", "now", "off", "good"), [
    ("fp32", "fp32", 0.9e-5, True),
    ("fp32", "fp32", 1.2e-5, False),
    ("bf16", "bf16", 0.9e-2, True),
    ("bf16", "bf16", 1.2e-2, False),
    ("fp32", "bf16", 4.5e-2, True),
    ("bf16", "fp32", 4.5e-2, True),
    ("bf16", "fp32", 5.5e-2, False),
])  # fmt: skip
def test_the_tolerance_is_that_of_the_precision(
    folder: Path, monkeypatch: pytest.MonkeyPatch, then: str, now: str, off: float, good: bool
) -> None:
    model, tokenizer = models.load_rm(folder)
    rewrite(folder, precision=then)
    before = np.array([c["reward"] for c in written(folder)["canaries"]])
    after = before.copy()
    after[7] += off * max(1.0, np.abs(before).max())
    monkeypatch.setattr(scoring, "score", lambda *_: (after, after))
    monkeypatch.setattr(contract, "precision", lambda _: now)
    if good:
        assert contract.replay(folder, model, tokenizer) == pytest.approx(0.9, rel=0.01)
    else:
        with pytest.raises(ConfigError, match="canary 8 = "):
            contract.replay(folder, model, tokenizer)


def test_precision_is_that_of_the_body(under_contract: Path) -> None:
    model, tokenizer = models.load_rm(under_contract)
    assert contract.precision(model) == "fp32"
    dist.prepare(torch.get_num_threads(), "bf16")
    try:
        assert contract.precision(model) == "bf16"
        assert contract.replay(under_contract, model, tokenizer) > 1e-4  # it scores in bf16, and close enough
    finally:
        dist.prepare(torch.get_num_threads(), "fp32")
        torch.use_deterministic_algorithms(False)
    assert contract.precision(model.to(torch.bfloat16)) == "bf16"  # type: ignore[arg-type]  # a dtype


def test_large_rewards_are_tolerated_in_proportion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = models.load_rm(folder)
    canaries = [{**c, "reward": 100.0 + i} for i, c in enumerate(written(folder)["canaries"])]
    rewrite(folder, canaries=canaries)
    now = np.array([c["reward"] for c in canaries]) + 0.5e-3  # of 1e-5 * 115
    monkeypatch.setattr(scoring, "score", lambda *_: (now, now))
    assert contract.replay(folder, model, tokenizer) == pytest.approx(0.5 / 1.15, rel=1e-3)


def test_canaries_of_one_prompt_share_it(under_contract: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what shares prompts is under the contract as well."""
    seen: list[packing.Group] = []
    layout = packing.layout
    monkeypatch.setattr(packing, "layout", lambda groups, *how: seen.extend(groups) or layout(groups, *how))
    contract.load(under_contract)
    assert [len(g.responses) for g in seen] == [4, 4, 4, 4]


def test_nobody_loads_a_reward_model_without_its_contract() -> None:
    """`models.load_rm` is for the contract itself. (Folders made elsewhere have none; `contract.load` takes them.)"""
    allowed = {"models.py", "contract.py"}
    for path in sorted((PROJECT / "pipeline").rglob("*.py")):
        calls = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute) and n.attr == "load_rm"
        ]
        assert not calls or path.name in allowed, f"{path.name}: contract.load, not models.load_rm"
