"""The processes of a run, as torchrun starts them: ranks, collectives, and how a failure of one becomes that of all.

Each process takes its shard of every batch, and DistributedDataParallel averages their gradients, so all hold the same
weights at every step. Rank zero alone reads the folder's state and writes into the folder. What only some processes do,
and what may fail in one of them alone, is run by `on_rank_zero` and `on_all_ranks`, where a failure of one process ends
all: the others would wait for it in vain.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import EXIT_STOPPED, EXIT_USER, RunFailed, Stopped, UserError, exit_status
from ..logs import log
from ..types import Batch, Output, Part, Shard

T = TypeVar("T")
P = ParamSpec("P")
COLLECTIVE_TIMEOUT = timedelta(days=30)  # a process may wait for a folder's lock; one that dies is noticed at once
SHUTDOWN_TIMEOUT = timedelta(seconds=20)  # torchrun gives its processes 30 to end


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run; of a run that torchrun did not start, this one alone.

    Args:
        size: Number of processes.
        local_rank: Rank among the processes of this machine.
        group: For collectives on tensors of the device that trains; None where that is the CPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The part of every batch that this process takes."""
        return Shard(self.rank, self.size)

    def for_device(self, device: torch.device) -> World:
        """The same processes, with a process group for tensors of their devices."""
        if self.size == 1 or device.type != "cuda":
            return self
        torch.cuda.set_device(device)
        return replace(self, group=_new_group("nccl"))

    # Control flow ---------------------------------------------------------------------------------------------------

    def on_all_ranks(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in every process; where it fails in one alone, the others fail with its message."""
        if self.size == 1:
            return function(*args, **kwargs)
        results: list[T] = []
        failure: Exception | None = None
        try:
            results.append(function(*args, **kwargs))
        except Exception as error:  # raised again below, when the others know
            failure = error
        own = None if failure is None else (exit_status(failure), str(failure) or type(failure).__name__)
        failures: list[tuple[int, str] | None] = [None] * self.size
        dist.all_gather_object(failures, own)
        if failure is not None:
            raise failure
        for status, message in filter(None, failures):
            raise {EXIT_USER: UserError, EXIT_STOPPED: Stopped}.get(status, RunFailed)(message)
        return results[0]

    def on_rank_zero(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in rank zero alone and return its result in all processes; results are pickled."""
        if self.size == 1:
            return function(*args, **kwargs)

        def call() -> list[T | None]:
            return [function(*args, **kwargs) if self.is_rank_zero else None]

        result = self.on_all_ranks(call)
        dist.broadcast_object_list(result, src=0)
        return cast(T, result[0])

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any of the processes."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(map(bool, votes.tolist()))

    # Tensors --------------------------------------------------------------------------------------------------------

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over the processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self._group_of(total))
        return total

    def all_gather(self, rows: Tensor, total: int) -> Tensor:
        """The rows of all processes in the order of the global batch, which has `total` rows; differentiable.

        The gradient is right for a value that every process computes from the same rows and weights by its share of the
        batch, in the mean over the processes.
        """
        if self.size == 1:
            return rows
        if 0 in rows.shape[1:]:
            return rows.new_empty(total, *rows.shape[1:])
        gathered: Tensor = _AllGather.apply(rows, total, self)
        return gathered

    def all_gather_output(self, output: Output, parts: frozenset[Part], total: int) -> Output:
        """Some parts of the output for the global batch; the others are left empty."""

        def gather(rows: Tensor) -> Tensor:
            return self.all_gather(rows, total)

        empty = output.logits.new_empty(total, 0)
        parts_of_exits: frozenset[Part] = frozenset({"logits", "embedding"})
        return Output(
            logits=gather(output.logits) if "logits" in parts else empty,
            embedding=gather(output.embedding) if "embedding" in parts else empty,
            maps=tuple(map(gather, output.maps)) if "maps" in parts else (),
            preacts=tuple(map(gather, output.preacts)) if "preacts" in parts else (),
            exits=tuple(self.all_gather_output(early, parts_of_exits, total) for early in output.exits)
            if "exits" in parts
            else (),
            stem=gather(output.stem) if "stem" in parts and output.stem is not None else None,
        )

    def all_gather_batch(self, batch: Batch, total: int) -> Batch:
        """The global batch without its images."""
        without_images = replace(batch, images=batch.images.new_empty(len(batch.labels), 0))
        return Batch(*(self.all_gather(rows, total) for rows in without_images))

    def convert_sync_batchnorm(self, module: nn.Module) -> nn.Module:
        """The module with batch norm over the global batch, where the device has such a batch norm."""
        if self.group is None:
            return module
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module, self.group)  # type: ignore[no-untyped-call]
        return converted

    @torch.no_grad()
    def sync_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Replace floating-point buffers, such as batch norm's running statistics, by their mean over the processes.

        Each process updates them by linear rules, so it does not matter when and how often that is done.
        """
        if self.size == 1:
            return
        for buffer in filter(torch.is_floating_point, buffers):
            dist.all_reduce(buffer, group=self._group_of(buffer))
            buffer.div_(self.size)

    def wrap_ddp(
        self, modules: Sequence[nn.Module], function: Callable[..., Any], *, find_unused: bool
    ) -> DistributedDataParallel:
        """The function as a module: the backward pass of its first result averages the gradients of all processes.

        Args:
            modules: Own the parameters.
            find_unused: Whether some of the parameters get no gradient.
        """
        return DistributedDataParallel(
            _FunctionModule(modules, function),
            process_group=self.group,
            find_unused_parameters=find_unused,
        )

    def _group_of(self, tensor: Tensor) -> dist.ProcessGroup | None:
        return self.group if tensor.is_cuda else None


SINGLE_PROCESS = World()


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int, world: World) -> Tensor:
        ctx.shard, ctx.factor = world.shard, total / len(rows)
        longest = -(-total // world.size)
        padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in range(world.size)]
        dist.all_gather(parts, padded, group=world._group_of(padded))
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # All processes have the same gradient of the same rows, so no communication is needed: the factor undoes the
        # mean over the processes. The share by which a process's loss is multiplied is in the gradient.
        return ctx.shard.of(gradients[0]) * ctx.factor, None, None


class _FunctionModule(nn.Module):
    """A function of the parameters of some modules, as the one module that DistributedDataParallel wraps.

    It has no buffers, which would be broadcast at every step: see `World.sync_buffers`.
    """

    def __init__(self, modules: Sequence[nn.Module], function: Callable[..., Any]) -> None:
        super().__init__()
        self.parameters_of_modules = nn.ParameterList(
            parameter for module in modules for parameter in module.parameters()
        )
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


@contextmanager
def init_distributed() -> Iterator[World]:
    """Join the processes that torchrun has started; the block runs in each of them.

    Where processes fail in the same way, rank zero alone reports why.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield SINGLE_PROCESS
        return
    dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
    shutdown_group = _new_group("gloo", SHUTDOWN_TIMEOUT)
    world = World(rank=dist.get_rank(), size=dist.get_world_size(), local_rank=int(os.environ["LOCAL_RANK"]))
    log.disabled = not world.is_rank_zero
    try:
        yield world
    except (Exception, KeyboardInterrupt) as error:
        if _is_reported_by_rank_zero(world, exit_status(error), shutdown_group):
            raise SystemExit(exit_status(error)) from None
        raise
    dist.destroy_process_group()


def _new_group(backend: str, timeout: timedelta | None = None) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend=backend, timeout=timeout))


def _is_reported_by_rank_zero(world: World, status: int, group: dist.ProcessGroup) -> bool:
    """Wait until all processes are about to exit, and return whether rank zero exits with the same status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # torchrun signals the others when the first has exited
    statuses = [0] * world.size
    try:
        dist.all_gather_object(statuses, status, group=group)
    except RuntimeError:  # they have exited already, or wait in another collective
        return False
    dist.destroy_process_group()  # or its threads may abort the process at exit
    return not world.is_rank_zero and statuses[0] == status


def is_peer_lost(error: RuntimeError) -> bool:
    """Whether an error means that another process cannot be reached."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
