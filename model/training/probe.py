"""Trial passes that leave a run as it was: how long it takes, with how many threads, and whether it can be compiled."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..cpus import usable_cpus
from ..errors import OptionError, first_sentence
from ..logs import log
from ..types import Batch
from .precision import autocast
from .step import TrainStep
from .trainer import Trainer

# On a GPU, a small network's time goes into starting kernels: CUDA graphs start a whole step's at once.
COMPILE_OPTIONS: dict[str, dict[str, Any]] = {"cuda": {"mode": "reduce-overhead", "dynamic": False}}


TIMED_STEPS = 3  # at least
TIMED_SECONDS = 0.3  # at least, in one process: several must take the same number of steps
TIMED_BATCHES = 5  # at least
MAX_READING_SECONDS = 10.0


class Estimate(NamedTuple):
    """About how many seconds the rest of a run takes."""

    training: float  # reading images, steps and evaluation
    teacher: float  # running it on the images whose outputs are not cached yet

    @property
    def total(self) -> float:
        return self.training + self.teacher


class Pace(NamedTuple):
    """Seconds that parts of a run take."""

    batch: float  # of training: reading it, forward and backward pass
    evaluated_image: float
    epoch_start: float  # until the first batch comes, beyond what other batches take


def estimate_time(trainer: Trainer, batch: Batch, *, num_processes: int = 1) -> Estimate:
    """About how long the rest of a run takes, from a few steps and batches.

    Args:
        num_processes: Among which evaluation and the teacher's forward passes are shared.
    """
    training = remaining_seconds(trainer, measure_pace(trainer, batch, num_processes), num_processes)
    teacher = 0.0 if trainer.teacher is None else trainer.teacher.seconds_remaining(batch) / num_processes
    return Estimate(training, teacher)


def remaining_seconds(trainer: Trainer, pace: Pace, num_processes: int = 1) -> float:
    """The rest of a run at a pace: its steps, val after each epoch, and test at its end for each kind of weights."""
    steps, data = trainer.total_steps - trainer.step, trainer.data
    epochs = steps / trainer.steps_per_epoch
    num_nets = 1 if trainer.ema is None else 2  # that are evaluated
    evaluated = (num_nets * epochs * data.size("val") + (1 + num_nets) * data.size("test")) / num_processes
    num_starts = epochs * (1 + num_nets if data.size("val") else 1) + 1 + num_nets
    num_batches = epochs * data.steps_per_epoch(trainer.batch_size)
    return num_batches * pace.batch + evaluated * pace.evaluated_image + num_starts * pace.epoch_start


def measure_pace(trainer: Trainer, batch: Batch, num_processes: int = 1) -> Pace:
    """Time a few steps and batches; medians, as the first ones also pay for warming up."""
    train_step, data = trainer.train_step, trainer.data
    epoch_start, reading = _time_batches(trainer)
    with unchanged(train_step):
        min_seconds = TIMED_SECONDS if num_processes == 1 else 0.0
        step = _median_seconds(lambda: gradients(train_step, train_step.student, batch)[0], min_seconds)
        evaluation = _median_seconds(lambda: _evaluated(train_step, batch))
    # Worker processes read while a GPU computes, or on CPUs that are left.
    is_parallel = data.reads_ahead and (train_step.device.type != "cpu" or torch.get_num_threads() < usable_cpus())
    together = max if is_parallel else _sum
    return Pace(together(step, reading), together(evaluation, reading) / len(batch.labels), epoch_start)


def _sum(one: float, other: float) -> float:
    return one + other


def _time_batches(trainer: Trainer) -> tuple[float, float]:
    """Seconds until an epoch's first batch comes, beyond those of one batch; and those of one batch."""
    begin = time.perf_counter()
    batches = trainer.train_batches(0, 0)
    next(batches).labels[0].item()  # waits for the device
    first, seconds, count = time.perf_counter() - begin, 0.0, 0
    begin = time.perf_counter()
    for batch in batches:
        batch.labels[0].item()
        count, seconds = count + 1, time.perf_counter() - begin
        if (count >= TIMED_BATCHES and seconds >= first) or seconds > MAX_READING_SECONDS:
            break
    reading = seconds / count if count else 0.0
    return max(0.0, first - reading), reading


def _median_seconds(compute: Callable[[], Tensor], min_seconds: float = 0.0) -> float:
    compute().sum().item()  # waits for the device
    seconds: list[float] = []
    while len(seconds) < TIMED_STEPS or sum(seconds) < min_seconds:
        begin = time.perf_counter()
        compute().sum().item()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


@torch.no_grad()
def _evaluated(train_step: TrainStep, batch: Batch) -> Tensor:
    with autocast(train_step.dtype, train_step.device):
        logits: Tensor = train_step.student.eval()(batch.images).logits
    return logits


def speed_up_of_one_thread(train_step: TrainStep, batch: Batch) -> float:
    """How many times faster a step is with one thread than with as many as there are; timed in turn."""
    seconds: dict[int, list[float]] = {torch.get_num_threads(): [], 1: []}
    num_threads = torch.get_num_threads()
    with unchanged(train_step):
        for _ in range(TIMED_STEPS + 1):  # the first is to warm up
            for threads, times in seconds.items():
                torch.set_num_threads(threads)
                begin = time.perf_counter()
                gradients(train_step, train_step.student, batch)[0].item()
                times.append(time.perf_counter() - begin)
    torch.set_num_threads(num_threads)
    return statistics.median(seconds[num_threads][1:]) / statistics.median(seconds[1][1:])


def compile_student(train_step: TrainStep, batch: Batch) -> None:
    """Compile the student for batches like this one; where that fails, log it and leave the student as it is."""
    options = COMPILE_OPTIONS.get(train_step.device.type, {})
    if train_step.accumulate > 1:  # a CUDA graph would overwrite the gradients that are added up
        options = options | {"mode": "default"}
    compiled = cast(nn.Module, torch.compile(train_step.student, **options))
    with unchanged(train_step):
        try:
            gradients(train_step, compiled, batch)
        except Exception as error:  # compilers fail in many ways, and none of them should end a run
            log.warning("the student cannot be compiled (%s): it runs uncompiled", first_sentence(error))
        else:
            train_step.forward_student = compiled


def gradients(train_step: TrainStep, student: nn.Module, batch: Batch) -> tuple[Tensor, Sequence[Tensor | None]]:
    """The loss of a first batch and its gradients; the parameters' own gradients stay as they are.

    Raises:
        OptionError: So much of the student is frozen that the loss does not depend on the rest.
    """
    train_step.set_train_mode()
    loss = train_step.forward(student, batch, step=0).loss
    if not loss.requires_grad:
        raise OptionError("freeze", "no loss term depends on what is left to train")
    return loss, torch.autograd.grad(loss, train_step.parameters, allow_unused=True)


@contextmanager
def unchanged(train_step: TrainStep) -> Iterator[None]:
    """Restore what a forward pass changes: batch norm's statistics, buffers of loss terms."""
    student, objective = train_step.student, train_step.objective
    states = copy.deepcopy(student.state_dict()), copy.deepcopy(objective.state_dict())
    try:
        yield
    finally:
        student.load_state_dict(states[0])
        objective.load_state_dict(states[1])
