"""Folders and files that somebody else made: on this disk, or from the hub at a given revision.

With a root all comes from ordinary folders, ROOT/models/ORG/NAME and ROOT/datasets/ORG/NAME, and nothing is fetched.
Without, from the hub's own cache, into which is fetched what it lacks; where there is no route, or HF_HUB_OFFLINE=1, a
refusal names the command that fetches it elsewhere. No pickles are fetched, and code only for a gold reward model
whose section says trust_remote_code. What a file holds can be checked by its SHA-256.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from pipeline import store
from pipeline.config import PROJECT
from pipeline.errors import ConfigError, check

Kind = Literal["model", "dataset"]
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
NO_MODEL_FILES = ("*/*", "consolidated*")  # other formats of the same weights
CARD = "README.md"
SMALL = (".gitattributes", CARD, "config.json")  # some of them are in every repository


@dataclass(frozen=True)
class Found:
    """A folder that holds what was asked for, and the commit it is of; None: it is somebody's own."""

    folder: Path
    commit: str | None


@dataclass(frozen=True)
class Repository:
    """One of the hub's, at a revision."""

    kind: Kind
    id: str
    revision: str | None
    root: str | None = None
    part: str = ""  # of it, as make prefetch is told: SPLIT=train

    @property
    def name(self) -> str:
        return f"{self.id}@{self.revision or 'main'}"

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{'datasets/' * (self.kind == 'dataset')}{self.id}"

    @property
    def own(self) -> Path | None:
        """Its folder under the root."""
        return None if self.root is None else PROJECT / self.root / f"{self.kind}s" / self.id

    def get(self, patterns: Sequence[str], without: Sequence[str] = (), quiet: bool = True) -> Found:
        """Its folder with all its files of these names, fetched if need be; with progress bars unless quiet."""
        if self.own is not None:
            check(self.own.is_dir(), "hub.root", self.root, f"no folder {self.own}: put {self.id} there")
            return Found(self.own, None)
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

        (disable_progress_bars if quiet else enable_progress_bars)()
        with self.refusals():
            folder = Path(
                snapshot_download(
                    self.id,
                    repo_type=self.kind,
                    revision=self.revision,
                    allow_patterns=list(patterns),
                    ignore_patterns=list(without),
                )
            )
        return Found(folder, folder.name)

    def names(self) -> list[str]:
        """All its files."""
        if self.own is not None:
            folder = self.get(()).folder
            return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return sorted(self.files()[1])

    def files(self) -> tuple[Path, dict[str, int]]:
        """The folder in the hub's cache, and the sizes of all that the repository has, here or not."""
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        found = self.get(SMALL)
        try:
            tree = get_cached_repo_tree(self.id, repo_type=self.kind, revision=found.commit)
        except CachedRepoTreeNotFoundError as e:
            raise ConfigError("hub", self.name, f"what it holds is not known here: {self.remedy}") from e
        return found.folder, {file.path: file.size for file in tree}

    @property
    def remedy(self) -> str:
        return f"where there is a route to the hub, say make prefetch {self.kind.upper()}={self.name}{self.part}"

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What the hub's client says, with what to do about it."""
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as e:
            remedy = f"its owner gives access on request: ask at {self.page}, then say hf auth login"
            raise ConfigError("hub", self.name, remedy) from e
        except errors.RepositoryNotFoundError as e:
            remedy = f"the hub has no such {self.kind}, or shows it to others only: see {self.page}, and hf auth login"
            raise ConfigError("hub", self.name, remedy) from e
        except errors.RevisionNotFoundError as e:
            raise ConfigError("hub", self.name, f"no such revision: see {self.page}/commits/main") from e
        except errors.LocalEntryNotFoundError as e:
            raise ConfigError("hub", self.name, f"not all of it is here, and no route to the hub: {self.remedy}") from e
        except (OSError, ValueError) as e:  # a bad name, a server's error, a connection that broke
            reason = next(iter(str(e).strip().splitlines()), type(e).__name__)
            raise ConfigError("hub", self.name, f"{reason}; {self.remedy}") from e


def chosen(names: Iterable[str], patterns: Sequence[str], without: Sequence[str] = ()) -> list[str]:
    """As the hub's client chooses."""
    return [n for n in names if any(fnmatch(n, p) for p in patterns) and not any(fnmatch(n, p) for p in without)]


def model(id: str, revision: str | None, root: str | None = None, code: bool = False) -> Found:
    """The folder of a model: `id` names one that is here, or a hub repository. With `code` what it would run too."""
    if Path(id).is_dir():
        return Found(Path(id), None)
    return Repository("model", id, revision, root).get(model_files(code), NO_MODEL_FILES)


def model_files(code: bool) -> list[str]:
    return [*MODEL_FILES, *["*.py"] * code]


def data_file(name: str, id: str, revision: str | None, root: str | None = None) -> Path:
    """One file of a hub data set."""
    return Repository("dataset", id, revision, root, f" FILE={name}").get([name]).folder / name


def check_content(path: Path, sha256: str, section: str) -> None:
    check(path.is_file(), f"{section}.file", str(path), "no such file")
    found = store.sha256(path)
    check(found == sha256, f"{section}.sha256", sha256, f"{path} has {found}: name the content that is meant")
