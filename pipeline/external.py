"""Reward models made elsewhere: where one lies, and what identifies it. No torch."""

import hashlib
from pathlib import Path

from pipeline import config, hub
from pipeline.errors import ConfigError, check
from pipeline.store import sha256

READ = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # by whoever loads a model and its tokenizer


def find(rm: str, root: str | None = None) -> Path:
    """The folder of a reward model: a folder, a name in conf/model, or a hub id, perhaps id@revision; of the last two
    under the root, if there is one."""
    id, _, revision = (rm, "", "") if Path(rm).is_dir() else known(rm).partition("@")
    try:
        folder = hub.model(id, revision or None, root).folder
    except ConfigError as e:
        raise ConfigError("rm", rm, f"neither a folder nor a model that the hub gives: {e.remedy}") from e
    check((folder / "config.json").is_file(), "rm", rm, "has no config.json: name a model's own folder")
    return folder


def known(rm: str) -> str:
    """id@revision of a name in conf/model."""
    if rm not in config.groups()["model"]:
        return rm
    said = config.load_yaml(config.CONF / "model" / f"{rm}.yaml")
    check(said.get("source") == "hub", "rm", rm, "is no model of the hub")
    return f"{said['id']}@{said['revision']}"


def files(folder: Path) -> list[Path]:
    return sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()})


def fingerprint(folder: Path) -> str:
    """Of every byte that is read: a folder is what it holds, wherever it lies."""
    lines = (f"{path.name} {sha256(path)}\n" for path in files(folder))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
