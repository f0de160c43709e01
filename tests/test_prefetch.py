"""Fetching what a table lacks, from a hub on loopback: exactly that, sizes first, on from where it broke off; then
without a route."""

from collections.abc import Iterator
from pathlib import Path

import hub_fixtures
import pytest
from hub_server import HubServer, use

from pipeline import hub, prefetch
from pipeline.errors import ConfigError

MODEL = "models/meta-llama/Llama-3.2-3B"
WEIGHTS = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "pytorch_model.bin": b"p" * 9000}
TRUSTED = {"trust_remote_code": True}
ABOUT = (".gitattributes", "README.md")
TABLE = ("table=cross", "scale=paper", "model=llama-3.2-3b", "policy=same", "data.benchmarks.reward_bench_2=null")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    root = hub_fixtures.write(tmp_path_factory.mktemp("hub"))
    made: dict[str, dict[str, bytes]] = {MODEL: WEIGHTS}
    for path in sorted(root.rglob("*.*")):
        kind, org, name, *rest = path.relative_to(root).parts
        if path.is_file():
            made.setdefault(f"{kind}/{org}/{name}", {})["/".join(rest)] = path.read_bytes()
    made["datasets/tatsu-lab/alpaca_eval"]["df_gamed.csv"] = b"model\n"
    return made


@pytest.fixture
def server(
    repositories: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    with HubServer(repositories) as made:
        made.revision = "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
        use(made, tmp_path / "cache", monkeypatch)
        yield made


def test_of_a_table_its_models_and_splits_are_fetched_and_nothing_else(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (*TABLE, f"run.root={tmp_path / 'results'}")
    assert prefetch.run([*asked, "fetch=false"]) == 0
    before = capsys.readouterr().out.splitlines()
    assert "model   meta-llama/Llama-3.2-3B@main: 5 kB, 5 kB to fetch" in before
    assert {name for name, _ in server.sent} <= {*ABOUT, "config.json"}

    assert prefetch.run(asked) == 0
    sent = {name for name, _ in server.sent}
    assert {"model.safetensors", "df_gamed.csv", "alpaca_eval_gpt4_baseline.json"} <= sent
    assert "data/train_sft-00000-of-00001.parquet" in sent and "data/test_sft-00000-of-00001.parquet" not in sent
    assert "pytorch_model.bin" not in sent and "alpaca_eval.py" not in sent
    kinds = [line.split(":")[0].split()[:2] for line in before[:-1]]
    assert ["dataset", "rm-robustness/ultrafeedback-valid-3-response-ood@main"] in kinds
    assert not any("Skywork" in line or "reward-bench-2" in line for line in before)

    use(None, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    server.sent.clear()
    assert prefetch.run(asked) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{len(before) - 1} of the hub, 0 B to fetch"


def test_what_broke_off_goes_on(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends after 2000 of 5000 bytes; nothing that came is asked for again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    server.breaks["model.safetensors"] = 2000
    assert prefetch.run(["repository=models/meta-llama/Llama-3.2-3B"]) == 0
    assert [begin for name, begin in server.sent if name == "model.safetensors"] == [0, 2000]
    (found,) = (tmp_path / "cache").rglob("model.safetensors")
    assert found.read_bytes() == WEIGHTS["model.safetensors"]


def test_what_is_gated_is_said_and_the_rest_is_fetched(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.gated.add(MODEL)
    assert prefetch.run([*TABLE, f"run.root={tmp_path / 'results'}"]) == 1
    said = capsys.readouterr()
    assert "model   meta-llama/Llama-3.2-3B@main: size unknown" in said.out
    assert said.out.splitlines()[-1].endswith(" to fetch, and 1 of unknown size")
    (error,) = (line for line in said.err.splitlines() if line.startswith("error: "))
    assert error.startswith("error: model meta-llama/Llama-3.2-3B@main: its owner gives access on request: ask at")
    assert "data/filtered-00000-of-00001.parquet" in dict(server.sent)


def test_what_is_blocked_for_now_is_fetched_too(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A judge's model, though two answers to an instruction are not judged."""
    more = ("judge=gold_model", "generate.samples=2", f"run.root={tmp_path / 'results'}", "fetch=false")
    assert prefetch.run([*TABLE, *more]) == 1
    assert "model   Skywork/Skywork-Reward-Llama-3.1-8B-v0.2@main: size unknown" in capsys.readouterr().out


def test_code_is_fetched_only_of_a_model_that_is_trusted() -> None:
    made = [prefetch.of_section("gold", {"id": "org/rm", "revision": "main", **more}) for more in ({}, TRUSTED)]
    assert [piece.code for piece in made if piece] == [False, True]
    assert "*.py" in hub.model_files(True) and "*.py" not in hub.model_files(False)


def test_one_split_of_a_data_set(server: HubServer) -> None:
    assert prefetch.run(["repository=datasets/HuggingFaceH4/ultrachat_200k", "split=test_sft"]) == 0
    assert {name for name, _ in server.sent} == {*ABOUT, "data/test_sft-00000-of-00001.parquet"}


@pytest.mark.parametrize(
    "arguments", [[], ["repository=models/org/a", "table=cross"], ["repository=org/a"], ["table=bsr-2", "hub.root=a"]]
)
def test_what_cannot_be_meant_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        prefetch.run(arguments)


def test_sizes_are_told_in_units() -> None:
    assert [prefetch.shown(size) for size in (0, 999, 5000, 6.43e9)] == ["0 B", "999 B", "5 kB", "6.43 GB"]
