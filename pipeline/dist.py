"""How torch computes here: in which precision, on which device, and as one of how many processes.

Every process has the same model. In a training loop each runs its share of a step's groups (`deal`), while a loss sees
the whole step, the same bits everywhere (`Learner.whole`), and gradients are added up: the same step as of one process.
Weights are replicated (DDP) or sharded by layer (FSDP2). That begins and ends with `spread`: before it all processes do
the same, after it the first one goes on alone. Weights that will be sharded wait on the CPU, where they are the mapped
pages of their file if that is in fp32; a device has its shards, and one layer at a time is whole on it. Left out:
sampling and scoring, which run on one process.
"""

import copy
import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from pipeline import attention, packing
from pipeline.errors import check
from pipeline.launch import launched
from pipeline.packing import Group, Layout, Mode

Parallel = Literal["ddp", "fsdp"]
Recompute = Literal["none", "layers", "batches"]
TIMEOUT = timedelta(hours=2)  # the others wait while the first process writes a checkpoint


class _Here:
    rank, world, local = 0, 1, 0
    half = False


class Released(BaseException):
    """This process has done its share: the first one goes on alone."""


def prepare(threads: int, precision: Literal["fp32", "bf16"] = "fp32") -> None:
    """Before the first operation: the thread count is part of a result's identity, and so is the order of additions."""
    torch.set_num_threads(threads)
    _Here.half = precision == "bf16"
    gpu = device().type == "cuda"
    if gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True, warn_only=gpu)  # some kernels have no deterministic form on a GPU


def device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _Here.local % torch.cuda.device_count())


def autocast() -> torch.autocast:
    """Around what runs the model's body: bf16, if compute.precision says so; weights and heads are fp32 in any case."""
    return torch.autocast(device().type, torch.bfloat16, enabled=_Here.half)


@contextmanager
def single() -> Iterator[None]:
    """fp32 in here, whatever compute.precision says."""
    half, _Here.half = _Here.half, False
    try:
        yield
    finally:
        _Here.half = half


# --- processes ---


def rank() -> int:
    return _Here.rank


def world() -> int:
    return _Here.world


def first() -> bool:
    """Does this process write files? One does."""
    return _Here.rank == 0


@contextmanager
def together() -> Iterator[None]:
    """While this is open, this process is one of those that were started together."""
    _Here.rank, _Here.world, _Here.local = launched()
    try:
        if _Here.world > 1:
            gpu = device().type == "cuda"
            if gpu:
                torch.cuda.set_device(device())
            os.environ.update(RANK=str(_Here.rank), WORLD_SIZE=str(_Here.world))
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=TIMEOUT)
        yield
    finally:
        part()
        _Here.rank = _Here.local = 0


def part() -> None:
    """From here on each is alone."""
    if _Here.world > 1:
        distributed.destroy_process_group()
    _Here.world = 1


def share(n: int) -> range:
    """Which of n things this process does, where each does some."""
    return range(rank(), n, world())


def tell(number: int) -> int:
    """The first process's number, on all of them."""
    return int(over_all(torch.tensor(number if first() else 0)))


def any_of(*flags: bool) -> list[bool]:
    """Which of these hold on any process: on all of them the same answer."""
    return [n > 0 for n in over_all(torch.tensor(flags).long()).tolist()]


def over_all(value: Tensor) -> Tensor:
    """The sum over all processes, on all of them the same bits."""
    if _Here.world > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


# --- which groups, where, in which pass ---


def cost(groups: Sequence[Group], mode: Mode) -> int:
    """Tokens of a forward pass over these groups."""
    if mode == "padded":
        return sum(len(g.responses) for g in groups) * max(len(g.prompt) + max(map(len, g.responses)) for g in groups)
    if mode == "packed":
        return sum(g.tokens for g in groups)
    return sum(len(g.prompt) + sum(map(len, g.responses)) for g in groups)


def deal(groups: Sequence[Group], processes: int, tokens: int, mode: Mode) -> list[list[list[int]]]:
    """Positions of the groups by round and process. In each round every process has a micro-batch (sharded weights are
    fetched together), of about as many tokens as the others', and of no more than `tokens` where that can be."""
    check(len(groups) >= processes, "batch", len(groups), f"{processes} processes need a group each in every step")
    sizes = [cost([g], mode) for g in groups]
    most = len(groups) // processes
    bins: list[list[int]] = []
    for rounds in range(min(most, max(1, math.ceil(sum(sizes) / (processes * tokens)))), most + 1):
        bins = level(sizes, rounds * processes)
        if all(cost([groups[i] for i in each], mode) <= tokens for each in bins):
            break
    dealt = [bins[at : at + processes] for at in range(0, len(bins), processes)]
    return [each[::-1] if n % 2 else each for n, each in enumerate(dealt)]  # so that none has the fuller one each time


def level(sizes: Sequence[int], bins: int) -> list[list[int]]:
    """Positions in so many bins of about the same total, the fullest first, none empty."""
    heap = [(0, b) for b in range(bins)]
    found: list[list[int]] = [[] for _ in heap]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        total, b = heap[0]
        found[b].append(i)
        heapq.heapreplace(heap, (total + sizes[i], b))
    return sorted(found, key=lambda each: -sum(sizes[i] for i in each))


# --- a model in training ---


class Call(nn.Module):
    """A function of a model as a module's forward: what DDP and FSDP wrap."""

    def __init__(self, model: PreTrainedModel, function: Callable[..., Any], again: bool):
        super().__init__()
        self.model, self.function, self.again = model, function, again

    def forward(self, *args: Any) -> Any:
        if self.again and torch.is_grad_enabled():  # nothing in it is random
            out = checkpoint(self.function, self.model, *args, use_reentrant=False, preserve_rng_state=False)
        else:
            out = self.function(self.model, *args)
        if isinstance(self, FSDPModule):  # its hooks are lost on views
            return out.clone() if isinstance(out, Tensor) else tuple(x.clone() for x in out)
        return out


class Learner(nn.Module):
    """A model in training: `learner(...)` is `function(model, ...)` on this process's part of a step."""

    def __init__(
        self,
        model: PreTrainedModel,
        function: Callable[..., Any],
        parallel: Parallel = "ddp",
        recompute: Recompute = "none",
    ):
        super().__init__()
        self.parallel = parallel
        self.call = Call(model, function, recompute == "batches")
        self.spread: DistributedDataParallel | Call | None = None  # stands in for `call` on several processes
        if recompute == "layers":
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        if parallel == "ddp" or world() == 1:
            self.to(device())

    def forward(self, *args: Any) -> Any:
        return (self.call if self.spread is None else self.spread)(*args)

    @property
    def model(self) -> PreTrainedModel:
        return self.call.model

    @property
    def held(self) -> PreTrainedModel:
        """What holds the weights now: the model, or its sharded copy."""
        return self.spread.model if isinstance(self.spread, Call) else self.model

    @contextmanager
    def entire(self) -> Iterator[PreTrainedModel]:
        """The model with all its weights, on each device, for what is not a part of a step. All processes must ask."""
        fetch(self.model, self.held)
        yield self.model
        if self.held is not self.model:
            drop(self.model.parameters())

    def layout(self, groups: Sequence[Group]) -> Layout:
        """As the model reads it."""
        return packing.layout(groups, attention.mode(self.model), str(self.model.device))

    def batches(self, groups: Sequence[Group], tokens: int) -> Iterator[tuple[list[int], list[Group]]]:
        """This process's part of a step as micro-batches, with positions in the step."""
        mode = attention.mode(self.model)
        if self.spread is None:
            yield from packing.batches(groups, tokens, mode)
            return
        rounds = deal(groups, world(), tokens, mode)
        for n, each in enumerate(rounds, 1):
            more = n < len(rounds)
            with self.spread.no_sync() if more and isinstance(self.spread, DistributedDataParallel) else nullcontext():
                yield each[rank()], [groups[i] for i in each[rank()]]

    def whole(self, own: Tensor, at: Sequence[int], n: int) -> Tensor:
        """(n, …) rows of the whole step in order, from this process's rows and their positions. On all processes the
        same bits; the gradient reaches the process's own."""
        place = torch.tensor(at, device=own.device)
        if self.spread is None:
            return own[place.argsort()]
        rows = over_all(own.new_zeros(n, *own.shape[1:]).index_copy(0, place, own.detach()))
        return rows.index_copy(0, place, own)

    def total(self, own: Tensor) -> Tensor:
        """The sum of all processes' parts."""
        return own if self.spread is None else over_all(own)


@contextmanager
def spread(module: nn.Module) -> Iterator[nn.Module]:
    """Over all processes, while a loop trains it; inside another `spread` it is already. Yields what holds the weights
    meanwhile; at the end they are back in the model, on the first process, and the others are released."""
    if world() == 1 or (isinstance(module, Learner) and module.spread is not None):
        yield module.held if isinstance(module, Learner) else module
        return
    assert isinstance(module, Learner), "one process alone can train a bare module"
    module.spread = replicas(module.call) if module.parallel == "ddp" else shards(module.call)
    yield module.held
    merge(module.model, module.held)
    module.spread = None
    part()
    if not first():
        raise Released


def replicas(call: Call) -> DistributedDataParallel:
    made = DistributedDataParallel(call, forward_sync_buffers=False, gradient_as_bucket_view=True)
    made.register_comm_hook(None, added)
    return made


def added(_: object, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[attr-defined]  # no stub
    """Gradients are sums over the processes, where DDP would average: each has its part of one loss. On a CPU one by
    one: in which order three or more numbers are added depends on where in a tensor they stand, and DDP fills its
    buckets anew after the first step, so that a resumed run would be of other bits."""
    whole = bucket.buffer()
    if whole.is_cuda:
        work = distributed.all_reduce(whole, async_op=True)
        assert work is not None, "asked for asynchronously"
        return work.get_future().then(lambda done: done.value()[0])
    for gradient in bucket.gradients():
        distributed.all_reduce(gradient)
    summed: torch.futures.Future[Tensor] = torch.futures.Future()
    summed.set_result(whole)
    return summed


def shards(call: Call) -> Call:
    """A copy whose weights are sharded by layer; meanwhile the model has none. One layer after the other is whole on
    the device, and at last what is outside them."""
    made = copy.deepcopy(call, {id(p): p for p in call.parameters()})  # these are not copied
    mesh = init_device_mesh(device().type, (world(),))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    kinds = made.model._no_split_modules or ()
    for unit in [*(m for m in made.model.modules() if type(m).__name__ in kinds), made]:
        whole = [p for p in unit.parameters() if not isinstance(p, DTensor)]
        # Outside the layers fp32, for the head's sake
        policy = half if _Here.half and unit is not made else MixedPrecisionPolicy()
        fully_shard(
            unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True
        )  # kept, it would be stale after a step
        unit.set_gradient_divide_factor(1.0)  # type: ignore[operator]  # sums, as in `added`
        unit.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # else another one, which gloo lacks
        drop(whole)
    call.to(device())  # what is left
    return made


def merge(model: PreTrainedModel, held: PreTrainedModel) -> None:
    """Brings sharded weights back to the first process, on its CPU: on a device one of them at a time is whole."""
    if held is not model:
        for p, shard in zip(model.parameters(), held.parameters(), strict=True):
            weight = gathered(shard.detach())
            if first():
                p.data = weight.cpu()


def fetch(model: PreTrainedModel, held: PreTrainedModel) -> None:
    """Brings sharded weights to all devices."""
    if held is not model:
        for p, shard in zip(model.parameters(), held.parameters(), strict=True):
            p.data = gathered(shard.detach())


def drop(weights: Iterable[Tensor]) -> None:
    for p in weights:
        p.data = p.data.new_empty(0)


# --- state: whole in a file, perhaps sharded here ---


def gathered(state: Any) -> Any:
    """A nest of dictionaries and lists with whole tensors. All processes must ask."""
    if isinstance(state, dict):
        return {name: gathered(value) for name, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    return state.full_tensor() if isinstance(state, DTensor) else state


def as_held(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as this process holds `like`: all of it, or its shard."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
