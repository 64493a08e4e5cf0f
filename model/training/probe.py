"""Trial passes that leave a run as it was: how long it will take, and whether its student can be compiled."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import first_sentence
from ..logs import log
from ..types import Batch
from .step import TrainStep
from .trainer import Trainer

# On a GPU, a small network's time goes into starting kernels: CUDA graphs start a whole step's at once.
COMPILE_OPTIONS: dict[str, dict[str, Any]] = {"cuda": {"mode": "reduce-overhead", "dynamic": False}}


def estimate_seconds(trainer: Trainer, batch: Batch, *, steps: int = 3, num_processes: int = 1) -> float:
    """About how long the rest of a run takes, from a few steps.

    Args:
        num_processes: Among which the teacher's forward passes are shared.
    """
    train_step, start = trainer.train_step, 0.0
    with unchanged(train_step):
        for step in range(steps + 1):
            if step == 1:  # the first step also pays for warming up
                start = time.perf_counter()
            loss, _ = gradients(train_step, train_step.student, batch)
        loss.item()  # waits for the device
        seconds = (time.perf_counter() - start) / steps * (trainer.total_steps - trainer.step)
    return seconds if trainer.teacher is None else seconds + trainer.teacher.seconds_remaining(batch) / num_processes


def compile_student(train_step: TrainStep, batch: Batch) -> None:
    """Compile the student for batches like this one; where that fails, log it and leave the student as it is."""
    compiled = cast(nn.Module, torch.compile(train_step.student, **COMPILE_OPTIONS.get(train_step.device.type, {})))
    with unchanged(train_step):
        try:
            gradients(train_step, compiled, batch)
        except Exception as error:  # compilers fail in many ways, and none of them should end a run
            log.warning("the student cannot be compiled (%s): it runs uncompiled", first_sentence(error))
        else:
            train_step.forward_student = compiled


def gradients(train_step: TrainStep, student: nn.Module, batch: Batch) -> tuple[Tensor, Sequence[Tensor | None]]:
    """The loss of a first batch and its gradients; the parameters' own gradients stay as they are."""
    loss = train_step.forward(student.train(), batch, step=0).loss
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
