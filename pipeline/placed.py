"""Where a frozen model lies while others work: RLOO's reference and its reward model.

device: whole on every process's device, all the time. offload: in main memory; each of its phases copies it to the
device and ends by letting the copy go, since nothing has changed it. shard: each process has its part of every layer;
in its phase layers are fetched one after the other, by all processes together.

Left out: one copy in main memory for all processes of a node; weights that are read from disk each time.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pipeline import dist
from pipeline.dist import Call
from pipeline.errors import check
from pipeline.experiment import Run, Where


def check_places(run: Run) -> None:
    """Before anything is loaded."""
    for name in ("reference", "reward"):
        where = getattr(run, name)
        possible = where != "shard" or dist.world() > 1
        check(possible, f"run.{name}", where, "one process has nobody to share it with: say offload, or start several")


class Placed:
    """Calling it is a phase of one call; a phase of several is `with placed.here() as call`."""

    def __init__(self, model: PreTrainedModel, function: Callable[..., Any], where: Where = "device"):
        """`function(model, ...)` is what it is asked for, without gradient. The model is taken over."""
        self.call = Call(model.eval().requires_grad_(False), function, again=False)
        if where == "shard":
            self.call = dist.shards(self.call)
        self.kept = [(p, offloaded(p)) for p in model.parameters()] if where == "offload" else []
        self.most = self.here_now()

    @torch.no_grad()
    def __call__(self, *args: Any) -> Any:
        with self.here() as call:
            return call(*args)

    @contextmanager
    def here(self) -> Iterator[Callable[..., Any]]:
        """All processes must ask."""
        for weight, kept in self.kept:
            weight.untyped_storage().resize_(kept.nbytes)
            weight.data.copy_(kept, non_blocking=True)
        self.most = self.here_now()
        yield self.call
        for weight, _ in self.kept:
            weight.untyped_storage().resize_(0)

    def here_now(self) -> int:
        return held(self.call.parameters())

    def taken(self) -> int:
        """The most bytes that its weights had on this device since this was last asked."""
        most, self.most = self.most, self.here_now()
        return most


def offloaded(weight: Tensor) -> Tensor:
    """The weight in main memory; its own tensor has a storage of its own from here on, with nothing in it."""
    kept = weight.detach().to("cpu", copy=True)
    weight.data = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    weight.untyped_storage().resize_(0)
    return kept.pin_memory() if weight.is_cuda else kept


def held(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of their storages, each counted once; of a sharded one this process's part."""
    own = [t.to_local() if isinstance(t, DTensor) else t for t in tensors if t is not None]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in own)}
    return sum(storages.values())


@contextmanager
def abreast(model: PreTrainedModel) -> Iterator[None]:
    """While this is open the processes may run unequal numbers of forward passes of a sharded model, each announced to
    the others; who has no more runs some of a single token until all are done."""
    body: Any = model.base_model
    announced = body.register_forward_pre_hook(lambda *_: tell_of_a_pass())
    yield
    announced.remove()
    while dist.any_of(False)[0]:
        with torch.no_grad():
            body(input_ids=torch.zeros(1, 1, dtype=torch.long, device=dist.device()), use_cache=False)


def tell_of_a_pass() -> None:
    dist.any_of(True)
