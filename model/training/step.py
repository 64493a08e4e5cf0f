"""One training step up to its gradients: the same for every method.

The random numbers of a step (dropout) are a function of the run's seed and the step, so no generator's state is part of
a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..randomness import step_seed
from ..types import Batch, Output, Part, Teacher
from .precision import autocast

EPOCHS_BETWEEN_GRADIENT_NORMS = 5  # each costs a backward pass a term

GlobalBatch = tuple[Output, "Output | None", Batch]  # student output, teacher output, batch


class MicroBatch(NamedTuple):
    """One of the batches whose gradients are added up before a step of the optimizer; by default the only one.

    Args:
        number: Counted from 0.
        share: Of the step's images that are in this batch.
    """

    number: int = 0
    share: float = 1.0
    is_last: bool = True


WHOLE_STEP = MicroBatch()


class StepResult(NamedTuple):
    """What the forward pass of a batch gives."""

    loss: Tensor  # the objective, a scalar
    terms: dict[str, Tensor]  # every loss term, and every part of one, before its weight
    output: Output  # the student's
    teacher: Output | None = None  # the teacher's
    gradient_norms: dict[str, Tensor] | None = None  # of every term after its weight; of some steps


class TrainingObjective(Protocol):
    """The weighted sum of loss terms, as the training loop uses it; terms may own parameters and buffers."""

    @property
    def names(self) -> list[str]: ...

    @property
    def value_names(self) -> list[str]:
        """Names of the terms and of their parts."""

    @property
    def global_batch(self) -> frozenset[Part]:
        """The parts of outputs that terms need of all images of a batch, as they compare images with one another."""

    def factors(self, epoch: float) -> dict[str, float]:
        """The factor of every term, and of every part of one, in the objective."""

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
        steps_per_epoch: Steps of the optimizer.
        frozen: Modules of the student that stay in eval mode.
        accumulate: Batches of a step; the last one of an epoch may have fewer.
    """

    student: nn.Module
    teacher: Teacher | None
    objective: TrainingObjective
    seed: int
    steps_per_epoch: int
    device: torch.device
    dtype: torch.dtype
    frozen: Sequence[nn.Module] = ()
    accumulate: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        self.forward_student: nn.Module = self.student  # the same weights, compiled where that was asked for

    def start(self, batch: Batch) -> None:
        """Called with the first batch, before training."""

    def __call__(self, batch: Batch, step: int, micro: MicroBatch = WHOLE_STEP) -> StepResult:
        """Run the forward and the backward pass; gradients are added to the parameters'."""
        self.seed_step(step, micro)
        result = self.forward(self.forward_student, batch, step, micro)
        if micro.is_last and self._measures_gradients(step):
            result = result._replace(gradient_norms=self.gradient_norms(result.terms, step))
        (result.loss * micro.share).backward()  # type: ignore[no-untyped-call]
        return result

    def _measures_gradients(self, step: int) -> bool:
        """Whether the terms' gradients are compared in this step: the last one of some epochs, so that it is always
        the process that ends the epoch; not for a compiled student, whose graph is gone after one backward pass.
        """
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        is_due = in_epoch == self.steps_per_epoch - 1 and epoch % EPOCHS_BETWEEN_GRADIENT_NORMS == 0
        return is_due and len(self.objective.value_names) > 1 and self.forward_student is self.student

    def gradient_norms(self, terms: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Of every term after its weight, the norm of its gradient by the student's parameters; keeps the graph."""
        parameters = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        factors = self.objective.factors(step / self.steps_per_epoch)
        norms = {}
        for name, value in terms.items():
            if not value.requires_grad:  # such as a term of the teacher alone
                continue
            gradients = torch.autograd.grad(factors[name] * value, parameters, retain_graph=True, allow_unused=True)
            norms[name] = torch.stack([each.norm() for each in gradients if each is not None]).norm()
        return norms

    def forward(self, student: nn.Module, batch: Batch, step: int, micro: MicroBatch = WHOLE_STEP) -> StepResult:
        with autocast(self.dtype, self.device):
            output: Output = student(batch.images)
        teacher_output = None if self.teacher is None else self.teacher(batch)
        global_batch = self.gather(output, teacher_output, batch, step, micro)
        loss, terms = self.objective(output, teacher_output, batch, step / self.steps_per_epoch, global_batch)
        return StepResult(loss, terms, output, teacher_output)

    def gather(
        self, output: Output, teacher_output: Output | None, batch: Batch, step: int, micro: MicroBatch
    ) -> GlobalBatch | None:
        """What terms that compare images are given, where the batch is but a shard of one of several processes."""
        return None

    def seed_step(self, step: int, micro: MicroBatch = WHOLE_STEP) -> None:
        """Seed the generators that dropout draws from."""
        seed_generators(step_seed(self.seed, step, self.rank, micro.number), self.device)

    def set_train_mode(self) -> None:
        self.student.train()
        for module in self.frozen:
            module.eval()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that are trained: the student's, then the objective's."""
        return [p for module in (self.student, self.objective) for p in module.parameters() if p.requires_grad]

    @property
    def buffers(self) -> list[Tensor]:
        """All that forward passes change, likewise."""
        frozen = {id(buffer) for module in self.frozen for buffer in module.buffers()}
        return [b for module in (self.student, self.objective) for b in module.buffers() if id(b) not in frozen]


def seed_generators(seed: int, device: torch.device) -> None:
    """As torch.manual_seed, for the CPU and this device alone: seeding every kind of device takes 0.1 ms a step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
