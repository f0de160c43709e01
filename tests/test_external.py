"""A reward model of somebody else: found, or refused with a remedy; identified by what it holds."""

from dataclasses import replace
from pathlib import Path

import patients
import pytest
import tiny

from pipeline import contract, external, hub, plan
from pipeline.config import experiment
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment, External
from pipeline.stage import Inputs, view
from pipeline.stages import STAGES
from pipeline.stages import external as stage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "rm"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(name)
    return folder


def test_a_hub_id_may_name_its_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    given = hub.Found(folder, None)
    monkeypatch.setattr(hub, "model", lambda *asks: asked.append(asks) or given)
    assert external.find("org/rm@abc") == external.find("org/rm", "root") == external.find(str(folder)) == folder
    assert asked == [("org/rm", "abc", None), ("org/rm", None, "root"), (str(folder), None, None)]
    assert external.find("skywork-reward-llama-3.1-8b-v0.2") == folder  # of conf/model
    assert asked[-1] == ("Skywork/Skywork-Reward-Llama-3.1-8B-v0.2", "main", None)


def test_a_tiny_model_of_conf_is_no_reward_model() -> None:
    with pytest.raises(ConfigError, match=r"^rm = 'tiny-llama': is no model of the hub$"):
        external.find("tiny-llama")


def test_a_folder_with_an_at_sign_is_a_folder(folder: Path) -> None:
    other = folder.rename(folder.with_name("rm@home"))
    assert external.find(str(other)) == other


def test_a_model_that_the_hub_does_not_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*asks: object) -> hub.Found:
        raise ConfigError("hub", "org/rm", "no network")

    monkeypatch.setattr(hub, "model", no_network)
    with pytest.raises(ConfigError, match=r"^rm = 'org/rm': .*nor a model that the hub gives: no network$"):
        external.find("org/rm")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        external.find(str(tmp_path))


def test_a_model_is_what_it_holds_and_not_where(folder: Path, tmp_path: Path) -> None:
    before = external.fingerprint(folder)
    (folder / "README.md").write_text("about it")
    moved = folder.rename(tmp_path / "elsewhere")
    assert external.fingerprint(moved) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_any_byte_that_is_read_makes_it_another(folder: Path, name: str) -> None:
    before = external.fingerprint(folder)
    (folder / name).write_text(name.upper())
    changed = external.fingerprint(folder)
    (folder / name).rename(folder / f"x{name}")
    assert len({before, changed, external.fingerprint(folder)}) == 3


# --- as a stage ---


def outside(folder: str, sha256: str, *overrides: str) -> Experiment:
    x = experiment(("scale=smoke", *overrides))
    return replace(x, external=External(sha256), run=replace(x.run, external=folder))


def test_it_takes_the_place_of_the_trained_one(tmp_path: Path) -> None:
    """And nothing is planned that only training needs; the folder and the loss that it was not trained with are
    nothing to its key."""
    graphs = [
        plan.build(STAGES, tmp_path, [("bench", outside(where, "ab" * 32, loss))])
        for where, loss in (("here", "loss=bt"), ("there", "loss=bsr"))
    ]
    assert {node.stage.name for node in graphs[0][0].values()} == {"data", "external", "score", "bench"}
    assert graphs[0][0].keys() == graphs[1][0].keys()
    other, _ = plan.build(STAGES, tmp_path, [("bench", outside("here", "cd" * 32))])
    changed = {node.stage.name for key, node in other.items() if key not in graphs[0][0]}
    assert changed == {"external", "score", "bench"}


def test_without_a_folder_it_is_blocked() -> None:
    x = experiment(("scale=smoke",))
    assert "make eval" in (STAGES["external"].ready(replace(x, external=External("ab" * 32))) or "")
    assert STAGES["external"].ready(outside("here", "ab" * 32)) is None


def test_its_artefact_is_links_and_a_contract(tmp_path: Path) -> None:
    folder, out = patients.sound(tmp_path / "rm"), tmp_path / "out"
    out.mkdir()
    x = outside(str(folder), external.fingerprint(folder))
    sections = {"external": {"sha256": x.external.sha256}, **tiny.plain({"run": x.run, "log": x.log})}  # type: ignore[union-attr]
    metrics = stage.run(view("external", sections), Inputs(), out)
    assert metrics["parameters"] > 1000
    assert {p.name for p in out.iterdir() if p.is_symlink()} == {p.name for p in external.files(folder)}
    assert not (folder / contract.NAME).exists() and not (out / contract.NAME).is_symlink()
    contract.load(out)
    patients.tokenizer(model_max_length=50).save_pretrained(folder)
    with pytest.raises(ValueError, match="has changed since it was planned"):
        stage.run(view("external", sections), Inputs(), out)
