"""One training step up to its gradients: the same for every method.

The random numbers of a step (dropout) are a function of the run's seed and the step, so no generator's state is part of
a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..randomness import step_seed
from ..types import Batch, Output, Part, Teacher
from .precision import autocast

GlobalBatch = tuple[Output, "Output | None", Batch]  # student output, teacher output, batch


class StepResult(NamedTuple):
    """What the forward pass of a step gives."""

    loss: Tensor  # the objective, a scalar
    terms: dict[str, Tensor]  # every loss term before its weight
    output: Output  # the student's


class TrainingObjective(Protocol):
    """The weighted sum of loss terms, as the training loop uses it; terms may own parameters and buffers."""

    @property
    def names(self) -> list[str]: ...

    @property
    def global_batch(self) -> frozenset[Part]:
        """The parts of outputs that terms need of all images of a batch, as they compare images with one another."""

    def __call__(
        self, student: Output, teacher: Output | None, batch: Batch, epoch: float, global_batch: GlobalBatch | None
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(kw_only=True)
class TrainStep:
    """Forward and backward pass of a batch in one process; training/parallel.py has the one for several.

    Args:
        teacher: Called on every batch; None where no term needs one.
        seed: The run's.
    """

    student: nn.Module
    teacher: Teacher | None
    objective: TrainingObjective
    seed: int
    steps_per_epoch: int
    device: torch.device
    dtype: torch.dtype
    rank: int = 0

    def __post_init__(self) -> None:
        self.forward_student: nn.Module = self.student  # the same weights, compiled where that was asked for

    def start(self, batch: Batch) -> None:
        """Called with the first batch, before training."""

    def __call__(self, batch: Batch, step: int) -> StepResult:
        """Run the forward and the backward pass; gradients are added to the parameters'."""
        self.seed_step(step)
        result = self.forward(self.forward_student, batch, step)
        result.loss.backward()  # type: ignore[no-untyped-call]
        return result

    def forward(self, student: nn.Module, batch: Batch, step: int) -> StepResult:
        with autocast(self.dtype, self.device):
            output: Output = student(batch.images)
        teacher_output = None if self.teacher is None else self.teacher(batch)
        global_batch = self.gather(output, teacher_output, batch, step)
        loss, terms = self.objective(output, teacher_output, batch, step / self.steps_per_epoch, global_batch)
        return StepResult(loss, terms, output)

    def gather(self, output: Output, teacher_output: Output | None, batch: Batch, step: int) -> GlobalBatch | None:
        """What terms that compare images are given, where the batch is but a shard of the step's images."""
        return None

    def seed_step(self, step: int) -> None:
        """Seed the generators that the step's dropout draws from."""
        seed_generators(step_seed(self.seed, step, self.rank), self.device)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that are trained: the student's, then the objective's."""
        return [p for module in (self.student, self.objective) for p in module.parameters() if p.requires_grad]


def seed_generators(seed: int, device: torch.device) -> None:
    """As torch.manual_seed, for the CPU and this device alone: seeding every kind of device takes 0.1 ms a step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
