"""What the hub gives, from a hub on loopback: which files, of which commit, and what is said where it cannot."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, use

from pipeline import hub
from pipeline.errors import ConfigError

MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 1000,
    "tokenizer.model": b"t",
    "pytorch_model.bin": b"pickle",
}
MODEL |= {"original/params.json": b"{}", "consolidated.safetensors": b"again", "modeling_own.py": b"code"}
FILES = {"README.md": b"---\n---\n", "data/train-00000-of-00001.parquet": b"PAR1", "data/test.jsonl": b"{}\n"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({"models/org/lm": MODEL, "datasets/org/rows": FILES}) as made:
        use(made, tmp_path / "cache", monkeypatch)
        yield made


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_fetched_without_pickles_code_and_second_copies(server: HubServer) -> None:
    found = hub.model("org/lm", "main")
    assert found.commit == server.commit("models/org/lm")
    assert names(found.folder) == {"config.json", "model.safetensors", "tokenizer.model"}
    assert (found.folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_what_is_there_is_found_without_a_route(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = hub.model("org/lm", "main"), hub.Repository("dataset", "org/rows", "main").names()
    use(None, tmp_path / "cache", monkeypatch)
    assert (hub.model("org/lm", "main"), hub.Repository("dataset", "org/rows", "main").names()) == online
    assert online[1] == sorted([".gitattributes", *FILES])


@pytest.mark.parametrize("offline", [False, True], ids=["no route", "HF_HUB_OFFLINE=1"])
def test_what_lacks_without_a_route_names_the_command(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    use(None, tmp_path, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(ConfigError, match=r"^hub = 'org/lm@main': .*make prefetch MODEL=org/lm@main$"):
        hub.model("org/lm", "main")
    with pytest.raises(ConfigError, match=r"make prefetch DATASET=org/rows@main$"):
        hub.Repository("dataset", "org/rows", "main").names()


def test_an_interrupted_model_is_incomplete_without_a_route_and_goes_on_with_one(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.model("org/lm", "main")
    commit = server.commit("models/org/lm")
    (tmp_path / "cache" / "models--org--lm" / "snapshots" / commit / "model.safetensors").unlink()
    use(None, tmp_path / "cache", monkeypatch)
    with pytest.raises(ConfigError, match="not all of it is here"):
        hub.model("org/lm", "main")
    use(server, tmp_path / "cache", monkeypatch)
    server.sent.clear()
    assert (hub.model("org/lm", "main").folder / "model.safetensors").is_file()
    assert {name for name, _ in server.sent} <= {"model.safetensors"}


def test_a_gated_model_says_where_to_ask(server: HubServer) -> None:
    server.gated.add("models/org/lm")
    with pytest.raises(ConfigError, match=r"ask at https://huggingface\.co/org/lm, then say hf auth login$"):
        hub.model("org/lm", "main")


def test_what_the_hub_does_not_have_is_refused(server: HubServer) -> None:
    with pytest.raises(ConfigError, match="no such revision"):
        hub.model("org/lm", "v9")
    with pytest.raises(ConfigError, match=r"no such dataset.*https://huggingface\.co/datasets/org/lm"):
        hub.Repository("dataset", "org/lm", "main").names()


def test_a_root_takes_the_place_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(None, tmp_path / "cache", monkeypatch)
    folder = tmp_path / "root" / "models" / "org" / "lm"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert hub.model("org/lm", "main", str(tmp_path / "root")) == hub.Found(folder, None)
    with pytest.raises(ConfigError, match=r"^hub\.root = .*no folder .*datasets/org/rows: put org/rows there"):
        hub.data_file("a.csv", "org/rows", "main", str(tmp_path / "root"))


def test_a_folder_of_ones_own_is_itself(tmp_path: Path) -> None:
    assert hub.model(str(tmp_path), None) == hub.Found(tmp_path, None)
