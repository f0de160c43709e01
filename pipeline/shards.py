"""An unfinished stage's state while its weights are sharded: each process writes its shards and reads what it will
hold, however many wrote them (torch.distributed.checkpoint).

The shards are safetensors; what is not sharded the first process writes beside them, with None where a sharded tensor
belongs. So nothing is unpickled.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from pipeline import dist
from pipeline.store import sync

REST = "rest.pt"


def of(state: Any, name: str = "") -> dict[str, DTensor]:
    """The sharded tensors in nested dictionaries, by where they stand."""
    if isinstance(state, dict):
        return {at: shard for key, value in state.items() for at, shard in of(value, f"{name}/{key}").items()}
    return {name: state} if isinstance(state, DTensor) else {}


def without(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: without(value) for key, value in state.items()}
    return None if isinstance(state, DTensor) else state


def write(folder: Path, state: dict[str, Any]) -> None:
    """By all processes. The folder is whole, and on the disk, when all have returned."""
    if dist.first():
        folder.mkdir(mode=0o700)
    dist.tell(0)  # none writes before
    save(of(state), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    if dist.first():
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        torch.save(without(state) | {"sizes": sizes}, folder / REST)
        sync(folder / REST)
        sync(folder)


def read(folder: Path) -> dict[str, Any]:
    """All but the shards, which `fill` reads. OSError if a file is not whole."""
    rest = torch.load(folder / REST, weights_only=True, map_location="cpu")
    for name, size in rest.pop("sizes").items():
        found = (folder / name).stat().st_size
        if found != size:
            raise OSError(f"{name} has {found} bytes instead of {size}")
    return {**rest, "shards": folder}


def fill(state: dict[str, Any], like: dict[str, Any]) -> None:
    """Puts tensors where `read` left None, held as the one at that place in `like` is: whole, or sharded in any way.
    All processes must ask."""
    wanted = dict(gaps(state, like))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process alone may ask
        load(wanted, storage_reader=HuggingFaceStorageReader(str(state["shards"])))


def gaps(state: dict[str, Any], like: dict[str, Any], name: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in like.items():
        if isinstance(value, dict):
            yield from gaps(state[key], value, f"{name}/{key}")
        elif key in state and state[key] is None:
            state[key] = torch.zeros_like(value)
            yield f"{name}/{key}", state[key]
