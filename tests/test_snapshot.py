"""The code of a submission: whole, named by its content, refused if it is not committed."""

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.slurm import snapshot


def git(project: Path, *words: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run(["git", "-C", project, *who, *words], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    for name, text in {"pipeline/a.py": "1\n", "conf/b.yaml": "2\n", "docs/c.md": "3\n"}.items():
        (made / name).parent.mkdir(parents=True)
        (made / name).write_text(text)
    (made / ".gitignore").write_text("__pycache__/\n")
    git(made, "init", "-q")
    git(made, "add", "-A")
    git(made, "commit", "-qm", "first")
    return made


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_code_is_copied_once(project: Path, tmp_path: Path):
    taken = snapshot.take(tmp_path, False, project)
    assert taken.dirty is None and taken.commit and taken.folder.name.startswith(taken.commit[:9])
    found = files(taken.folder)
    assert json.loads(found.pop("about.json")) == {"commit": taken.commit, "not committed": []}
    assert found == {"pipeline/a.py": "1\n", "conf/b.yaml": "2\n", "code.diff": ""}
    assert snapshot.take(tmp_path, False, project) == taken
    assert [path.name for path in (tmp_path / "code").iterdir()] == [taken.folder.name]


@pytest.mark.parametrize(("name", "text"), [("pipeline/a.py", "changed\n"), ("pipeline/new.py", "new\n")])
def test_what_is_not_committed_is_refused_unless_told(project: Path, tmp_path: Path, name: str, text: str):
    clean = snapshot.take(tmp_path, False, project)
    (project / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"cluster.dirty = False: not committed: {name}; commit, or say"):
        snapshot.take(tmp_path, False, project)
    taken = snapshot.take(tmp_path, True, project)
    assert taken.dirty and taken.folder != clean.folder and files(taken.folder)[name] == text
    assert files(clean.folder)["pipeline/a.py"] == "1\n"
    assert json.loads(files(taken.folder)["about.json"])["not committed"][0][3:] == name


def test_what_is_ignored_or_no_code_matters_not(project: Path, tmp_path: Path):
    clean = snapshot.take(tmp_path, False, project)
    (project / "pipeline" / "__pycache__").mkdir()
    (project / "pipeline" / "__pycache__" / "a.pyc").write_text("x")
    (project / "docs" / "c.md").write_text("4\n")
    assert snapshot.take(tmp_path, False, project) == clean


def test_outside_of_git_the_files_are_taken_as_they_are(project: Path, tmp_path: Path):
    (project / ".git").rename(tmp_path / "gone")
    taken = snapshot.take(tmp_path, False, project)
    assert (taken.commit, taken.dirty) == (None, None) and files(taken.folder)["pipeline/a.py"] == "1\n"


def test_snapshots_that_no_job_needs_are_deleted(project: Path, tmp_path: Path):
    old = snapshot.take(tmp_path, False, project)
    (project / "pipeline" / "a.py").write_text("changed\n")
    new = snapshot.take(tmp_path, True, project)
    snapshot.forget(tmp_path, {str(new.folder)})
    assert not old.folder.exists() and new.folder.exists()
