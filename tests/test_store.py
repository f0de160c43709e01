"""Done means one thing: a manifest that was written last. Every other state of the disk is found out."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from pipeline.store import Damaged


class Crash(BaseException):
    """The machine stops here."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artefact's folder in a store."""
    made = tmp_path / "runs" / "rm" / "bt-s0-0123456789abcdef"
    made.mkdir(parents=True)
    return made


def attempt(folder: Path, text: str = "text", name: str = "attempt-1") -> Path:
    made = folder / name
    (made / "deep").mkdir(parents=True)
    (made / "a.txt").write_text(text)
    (made / "deep" / "b.bin").write_bytes(bytes(range(256)))
    return made


@pytest.fixture
def artefact(folder: Path) -> Path:
    store.publish(folder, attempt(folder), {"key": "k"})
    return folder


def files(folder: Path) -> dict[str, Any]:
    found = store.manifest(folder)
    assert found is not None
    return found["files"]


# --- publishing ---


def test_a_manifest_names_every_file_with_size_and_hash(artefact: Path):
    assert store.manifest(artefact) == {
        "key": "k",
        "files": {
            "a.txt": {"size": 4, "sha256": "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"},
            "deep/b.bin": {"size": 256, "sha256": "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880"},
        },
    }
    assert sorted(p.name for p in artefact.iterdir()) == ["manifest.json", "out"]


def test_nothing_published_is_not_done(folder: Path):
    assert store.manifest(folder) is None
    attempt(folder)
    assert store.manifest(folder) is None


def steps(monkeypatch: pytest.MonkeyPatch, crash_at: int) -> list[str]:
    """Counts what `publish` does to the disk, and stops the machine before one of it."""
    seen: list[str] = []

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            seen.append(name)
            if len(seen) - 1 == crash_at:
                raise Crash
            return real(*args, **more)

        return call

    monkeypatch.setattr(Path, "rename", counted("rename", Path.rename))
    monkeypatch.setattr(Path, "write_text", counted("write", Path.write_text))
    monkeypatch.setattr(store.shutil, "rmtree", counted("rmtree", store.shutil.rmtree))
    monkeypatch.setattr(store.os, "fsync", counted("fsync", store.os.fsync))
    return seen


def test_the_manifest_is_written_after_all_else_is_on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Two files and two folders are synced, then `out` appears, then the manifest: staged, synced, renamed, synced."""
    made = attempt(folder)
    seen = steps(monkeypatch, crash_at=-1)
    store.publish(folder, made, {})
    assert seen == [*["fsync"] * 4, "rename", "write", "fsync", "rename", "fsync"]


@pytest.mark.parametrize("crash_at", range(8))
def test_a_crash_while_publishing_is_not_done_and_the_next_attempt_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
):
    made = attempt(folder)
    with monkeypatch.context() as patch:
        steps(patch, crash_at)
        with pytest.raises(Crash):
            store.publish(folder, made, {"try": 1})
    assert store.manifest(folder) is None
    store.publish(folder, attempt(folder, "other", "attempt-2"), {"try": 2})
    assert (folder / "out" / "a.txt").read_text() == "other"
    assert store.damage(folder, files(folder)) is None


@pytest.mark.parametrize("crash_at", range(10))
def test_a_crash_while_replacing_a_damaged_artefact_never_shows_a_mixture(
    artefact: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
):
    store.retract(artefact)
    made = attempt(artefact, "new text")
    with monkeypatch.context() as patch:
        steps(patch, crash_at)
        with suppress(Crash):
            store.publish(artefact, made, {})
    found = store.manifest(artefact)
    assert found is None or store.damage(artefact, found["files"]) is None


def test_an_empty_result_can_be_published(folder: Path):
    (folder / "attempt-1").mkdir()
    store.publish(folder, folder / "attempt-1", {})
    assert files(folder) == {} and (folder / "out").is_dir()


def test_writing_atomically_leaves_the_old_text_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.json"
    store.write_atomically(path, "old")
    for crash_at in range(3):
        with monkeypatch.context() as patch:
            steps(patch, crash_at)
            with pytest.raises(Crash):
                store.write_atomically(path, "new")
        assert path.read_text() == "old"
    store.write_atomically(path, "new")
    assert path.read_text() == "new"


# --- damage ---


@pytest.mark.parametrize("name", ["a.txt", "deep/b.bin"])
def test_a_missing_file_is_found(artefact: Path, name: str):
    (artefact / "out" / name).unlink()
    assert store.missing_file(artefact, files(artefact)) == f"out/{name} is missing"
    assert store.damage(artefact, files(artefact)) == f"out/{name} is missing"


def test_a_missing_folder_is_found(artefact: Path):
    store.shutil.rmtree(artefact / "out")
    assert store.missing_file(artefact, files(artefact)) == "out/a.txt is missing"


def test_another_size_is_found_without_reading(artefact: Path):
    (artefact / "out" / "a.txt").write_text("longer")
    assert store.missing_file(artefact, files(artefact)) == "out/a.txt has 6 bytes instead of 4"


def test_another_content_of_the_same_size_is_found_by_reading(artefact: Path):
    (artefact / "out" / "a.txt").write_text("tent")
    assert store.missing_file(artefact, files(artefact)) is None
    assert store.damage(artefact, files(artefact)) == "out/a.txt has another content than when it was made"


def test_an_intact_artefact_opens(artefact: Path):
    assert store.open_intact(artefact) == store.manifest(artefact)


@pytest.mark.parametrize("text", [None, "tent", "longer"])
def test_opening_a_damaged_artefact_raises_and_takes_it_back(artefact: Path, text: str | None):
    before = store.manifest(artefact)
    path = artefact / "out" / "a.txt"
    path.write_text(text) if text else path.unlink()
    with pytest.raises(Damaged, match=r"^rm/bt-s0-0123456789abcdef: out/a\.txt (is missing|has )") as caught:
        store.open_intact(artefact)
    assert caught.value.folder == artefact
    assert store.manifest(artefact) is None
    assert json.loads((artefact / "manifest.damaged.json").read_text()) == before


def test_opening_what_is_not_there_raises(folder: Path):
    with pytest.raises(Damaged, match="is not there"):
        store.open_intact(folder)


def test_two_who_find_the_same_damage_both_say_so(artefact: Path):
    """Both have read the manifest; one has already taken it back."""
    (artefact / "out" / "a.txt").unlink()
    store.retract(artefact)
    store.retract(artefact)
    assert store.manifest(artefact) is None


@pytest.mark.parametrize("text", ["", "{"])
def test_a_damaged_manifest_is_not_done(artefact: Path, text: str):
    """A full disk or a careless editor: the plan must go on and make the artefact again."""
    (artefact / "manifest.json").write_text(text)
    assert store.manifest(artefact) is None


# --- the whole store ---


def test_scan_finds_what_is_done_by_stage_and_name(tmp_path: Path):
    for name in ("sft/b", "rm/z", "rm/a"):
        made = tmp_path / name
        made.mkdir(parents=True)
        store.publish(made, attempt(made), {"name": name})
    (tmp_path / "rm" / "unfinished" / "log").mkdir(parents=True)
    assert [found["name"] for _, found in store.scan(tmp_path)] == ["rm/a", "rm/z", "sft/b"]


def test_scan_of_no_store_finds_nothing(tmp_path: Path):
    assert list(store.scan(tmp_path / "nothing")) == []
