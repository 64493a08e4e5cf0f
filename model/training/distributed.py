"""One run in several processes, as torchrun starts them: which of them this is, what they exchange, how they agree.

Each takes its share of every batch, and DistributedDataParallel lets all have the mean of their gradients, so they hold
the same weights at every step. The first process alone looks at the folder's state and writes into it. What not all of
them do, and what may fail on one alone, is done in `first` and `each`: there the failure of one is that of all, for
otherwise the others would wait for it in vain.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import EXIT_STOPPED, EXIT_USER, RunFailed, Stopped, UserError, exit_status
from ..logs import log
from ..types import Batch, Output, Part, Shard

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # for one that waits for the lock of a folder; one that dies is noticed at once
GOODBYE = timedelta(seconds=20)  # torchrun gives its processes 30 to end


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run. A run that torchrun did not start is a world of one, whose methods do next to nothing.

    Args:
        rank: This process's number, from 0.
        size: Number of processes.
        local_rank: This process's number on its machine.
        group: Exchanges tensors of the device that trains; None where that is the CPU.
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
        """What this process takes of every batch."""
        return Shard(self.rank, self.size)

    def for_device(self, device: torch.device) -> World:
        """The same processes, each ready to exchange tensors of its device."""
        if self.size == 1 or device.type != "cuda":
            return self
        torch.cuda.set_device(device)
        return replace(self, group=_group_of_all("nccl"))

    # What they agree on ---------------------------------------------------------------------------------------------

    def on_all_ranks(self, act: Callable[[], T]) -> T:
        """Do something in every process, which may fail in one alone; then the others fail with its message."""
        if self.size == 1:
            return act()
        done: list[T] = []
        failure: Exception | None = None
        try:
            done.append(act())
        except Exception as error:  # raised again below, when the others know
            failure = error
        mine = None if failure is None else (exit_status(failure), str(failure) or type(failure).__name__)
        told: list[tuple[int, str] | None] = [None] * self.size
        dist.all_gather_object(told, mine)
        if failure is not None:
            raise failure
        for status, message in filter(None, told):
            raise {EXIT_USER: UserError, EXIT_STOPPED: Stopped}.get(status, RunFailed)(message)
        return done[0]

    def on_rank_zero(self, act: Callable[[], T]) -> T:
        """Do something in the first process alone, and give all of them what it gave; values are pickled."""
        if self.size == 1:
            return act()
        given = self.on_all_ranks(lambda: [act() if self.is_rank_zero else None])
        dist.broadcast_object_list(given, src=0)
        return given[0]  # type: ignore[return-value]  # of the first process, and so what `act` gives

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether it is set in one of the processes."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(map(bool, votes.tolist()))

    # What they exchange ---------------------------------------------------------------------------------------------

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, element by element."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self._group_of(total))
        return total

    def all_gather(self, rows: Tensor, total: int) -> Tensor:
        """The rows of all processes in the order of the whole batch, which has `total` of them, with their gradient.

        The gradient is right for a value that every process computes of the same rows, and that counts in each as much
        as its share of the batch, in the mean over the processes.
        """
        if self.size == 1:
            return rows
        if 0 in rows.shape[1:]:
            return rows.new_empty(total, *rows.shape[1:])
        gathered: Tensor = _Gathered.apply(rows, total, self)
        return gathered

    def all_gather_output(self, output: Output, parts: frozenset[Part], total: int) -> Output:
        """Some parts of what the network says of the whole batch; the others are left empty."""

        def gather(rows: Tensor) -> Tensor:
            return self.all_gather(rows, total)

        nothing = output.logits.new_empty(total, 0)
        of_exits: frozenset[Part] = frozenset({"logits", "embedding"})
        return Output(
            logits=gather(output.logits) if "logits" in parts else nothing,
            embedding=gather(output.embedding) if "embedding" in parts else nothing,
            maps=tuple(map(gather, output.maps)) if "maps" in parts else (),
            preacts=tuple(map(gather, output.preacts)) if "preacts" in parts else (),
            exits=tuple(self.all_gather_output(each, of_exits, total) for each in output.exits)
            if "exits" in parts
            else (),
            stem=gather(output.stem) if "stem" in parts and output.stem is not None else None,
        )

    def all_gather_batch(self, batch: Batch, total: int) -> Batch:
        """Labels, indices and views of the whole batch, without its images."""
        labels, index, view = (self.all_gather(rows, total) for rows in (batch.labels, batch.index, batch.view))
        return Batch(batch.images.new_empty(total, 0), labels, index, view)

    def convert_sync_batchnorm(self, module: nn.Module) -> nn.Module:
        """The module, its batch norm replaced by one that sees the whole batch, where there is one for the device."""
        if self.group is None:
            return module
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module, self.group)  # type: ignore[no-untyped-call]
        return converted

    @torch.no_grad()
    def sync_buffers(self, *modules: nn.Module) -> None:
        """Let all processes have the mean of what the modules keep, such as batch norm's running statistics.

        These follow what a process has seen by linear rules, so it does not matter when, and how often, that is done.
        """
        if self.size == 1:
            return
        for buffer in (buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()):
            dist.all_reduce(buffer, group=self._group_of(buffer))
            buffer.div_(self.size)

    def wrap_ddp(self, modules: Sequence[nn.Module], function: Callable[..., Any], *, find_unused: bool) -> nn.Module:
        """The function, whose first value's backward pass lets all processes have the mean of their gradients.

        Args:
            modules: Own the parameters.
            find_unused: Whether some of the parameters have no gradient.
        """
        return DistributedDataParallel(
            _Computation(modules, function),
            process_group=self.group,
            find_unused_parameters=find_unused,
        )

    def _group_of(self, tensor: Tensor) -> dist.ProcessGroup | None:
        return self.group if tensor.is_cuda else None


SINGLE_PROCESS = World()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int, world: World) -> Tensor:
        ctx.shard, ctx.factor = world.shard, total / len(rows)
        most = -(-total // world.size)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in range(world.size)]
        dist.all_gather(parts, padded, group=world._group_of(padded))
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # All processes have the same gradient of the same rows, so nothing need be exchanged: what the mean over them
        # takes away, the factor gives back. The share by which a process's loss is multiplied is in the gradient.
        return ctx.shard.of(gradients[0]) * ctx.factor, None, None


class _Computation(nn.Module):
    """A function of the parameters of some modules, as the one module that DistributedDataParallel wants.

    It has no buffers, which would be sent around at every step: see `World.average`.
    """

    def __init__(self, modules: Sequence[nn.Module], function: Callable[..., Any]) -> None:
        super().__init__()
        self.trained = nn.ParameterList(parameter for module in modules for parameter in module.parameters())
        self._function = function

    def forward(self, *arguments: Any) -> Any:
        return self._function(*arguments)


@contextmanager
def init_distributed() -> Iterator[World]:
    """The world that torchrun has started this process in.

    Processes that fail in the same way leave it to the first to tell why.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield SINGLE_PROCESS
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    last_words = _group_of_all("gloo", GOODBYE)
    world = World(rank=dist.get_rank(), size=dist.get_world_size(), local_rank=int(os.environ["LOCAL_RANK"]))
    log.disabled = not world.is_rank_zero
    try:
        yield world
    except (Exception, KeyboardInterrupt) as error:
        if _is_told_by_the_first(world, exit_status(error), last_words):
            raise SystemExit(exit_status(error)) from None
        raise
    dist.destroy_process_group()


def _group_of_all(backend: str, timeout: timedelta | None = None) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend=backend, timeout=timeout))


def _is_told_by_the_first(world: World, status: int, group: dist.ProcessGroup) -> bool:
    """Wait until all processes are about to end, and say whether the first ends like this one."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # torchrun ends the others when the first of them has ended
    statuses = [0] * world.size
    try:
        dist.all_gather_object(statuses, status, group=group)
    except RuntimeError:  # they are gone already, or wait for this one elsewhere
        return False
    dist.destroy_process_group()  # or its threads may abort the process while it ends
    return not world.is_rank_zero and statuses[0] == status


def is_peer_lost(error: RuntimeError) -> bool:
    """Whether an error is that another process could not be reached."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
