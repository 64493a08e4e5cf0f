"""The trainer of a run in several processes: each takes its shard of every batch, and all hold the same weights.

DistributedDataParallel averages the gradients. The folder is written by rank zero alone. The state of a run is that of
one process, so another number of processes may resume it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ..types import Batch, Output, Pipeline
from .distributed import World
from .meters import Meters
from .probe import gradients, unchanged
from .run_logger import RunLogger, SilentRunLogger
from .step import WHOLE_STEP, GlobalBatch, MicroBatch, StepResult, TrainStep
from .trainer import Trainer


@dataclass(kw_only=True)
class DistributedTrainStep(TrainStep):
    """Forward and backward pass of this process's shard of a batch.

    Args:
        world: The processes that train together.
        data: For the number of images of a step.
        batch_size: Images of a batch in all processes together.
    """

    world: World
    data: Pipeline
    batch_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rank = self.world.rank
        self._forward: Callable[[Batch, int, MicroBatch], StepResult] = self._detached_forward
        self._no_sync: Callable[[], AbstractContextManager[None]] = nullcontext

    def start(self, batch: Batch) -> None:
        """Let backward passes average the gradients of all processes; each is given its shard of a first batch."""
        with unchanged(self):
            _, first_gradients = gradients(self, self.student, batch)
        # Such as those of a classifier that no term reads: DistributedDataParallel must not wait for them.
        find_unused = any(gradient is None for gradient in first_gradients)
        modules = [self.student, cast(nn.Module, self.objective)]
        ddp = self.world.wrap_ddp(modules, self._detached_forward, find_unused=find_unused)
        self._forward, self._no_sync = ddp, ddp.no_sync

    def __call__(self, batch: Batch, step: int, micro: MicroBatch = WHOLE_STEP) -> StepResult:
        self.seed_step(step, micro)
        with nullcontext() if micro.is_last else self._no_sync():  # gradients are averaged once a step
            result = self._forward(batch, step, micro)
            # So that the mean over the processes is the mean over the images of the batch.
            share = self.world.size * len(batch.labels) / self.num_images(step, micro.number)
            (result.loss * share * micro.share).backward()  # type: ignore[no-untyped-call]
        return result

    def _detached_forward(self, batch: Batch, step: int, micro: MicroBatch) -> StepResult:
        """The forward pass, with a graph of the loss alone: DDP would take any other for one more loss."""
        loss, terms, output, teacher, _ = self.forward(self.forward_student, batch, step, micro)
        terms = {name: value.detach() for name, value in terms.items()}
        return StepResult(loss, terms, Output(output.logits.detach(), output.embedding.detach()), teacher)

    def gather(
        self, output: Output, teacher_output: Output | None, batch: Batch, step: int, micro: MicroBatch
    ) -> GlobalBatch | None:
        """What terms that compare images are given: outputs and labels of all processes."""
        parts = self.objective.global_batch
        if not parts:
            return None
        world, total = self.world, self.num_images(step, micro.number)
        teacher_outputs = None if teacher_output is None else world.all_gather_output(teacher_output, parts, total)
        return world.all_gather_output(output, parts, total), teacher_outputs, world.all_gather_batch(batch, total)

    def num_images(self, step: int, number: int) -> int:
        """Images of one of the step's batches in all processes together, each view counted."""
        before = step % self.steps_per_epoch * self.accumulate + number
        is_last = before + 1 == self.data.steps_per_epoch(self.batch_size)
        count = self.data.size("train") - before * self.batch_size if is_last else self.batch_size
        return count * self.data.views_shown


@dataclass(kw_only=True)
class DistributedTrainer(Trainer):
    """A run of several processes, as each of them sees it."""

    train_step: DistributedTrainStep
    world: World

    def make_meters(self) -> Meters:
        return Meters(self.objective.value_names, self.train_step.device, reduce=self.world.all_reduce_sum)

    def load_meters(self, sums: Tensor) -> None:
        """The sums are those of all processes: rank zero continues from them, and the others start at 0."""
        if self.world.is_rank_zero:
            super().load_meters(sums)

    def open_logger(self) -> RunLogger | SilentRunLogger:
        return self.world.on_all_ranks(super().open_logger if self.world.is_rank_zero else SilentRunLogger)

    def train_batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        return self.data.train_batches(epoch, self.batch_size, first_step * self.accumulate, self.world.shard)

    def num_images(self, batches: Sequence[Batch]) -> list[int]:
        return [self.train_step.num_images(self.step, number) for number in range(len(batches))]

    def any_process(self, *flags: bool) -> tuple[bool, ...]:
        return self.world.any_rank(*flags)

    def write(self, action: Callable[[], object]) -> None:
        self.world.on_rank_zero(action)

    def sync_buffers(self) -> None:
        buffers = self.train_step.buffers
        if self.ema is not None:  # linear in the student's
            trained = {id(buffer) for buffer in buffers}
            pairs = zip(self.student.buffers(), self.ema.net.buffers(), strict=True)
            buffers += [average for buffer, average in pairs if id(buffer) in trained]
        self.world.sync_buffers(buffers)
