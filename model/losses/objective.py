"""The objective: a weighted sum of loss terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError, option_scope
from ..types import Batch, LossContext, Need, Output, Part, TermOptions
from .base import DistillLoss


class Objective(nn.Module):
    """Sum of terms, each with its weight and warm-up; terms of weight 0 are left out altogether.

    Args:
        terms: Name of a term -> the loss and its common options.

    Raises:
        ValueError: No term has a weight above 0.
    """

    def __init__(self, terms: Mapping[str, tuple[DistillLoss, TermOptions]]) -> None:
        super().__init__()
        self.terms = {name: (loss, options) for name, (loss, options) in terms.items() if options.weight > 0}
        if not self.terms:
            raise ValueError("every term has weight 0: there is nothing to learn from")
        # The same losses as submodules: checkpoints hold their states as `losses.NAME`.
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in self.terms.items()})
        self._has_rest_class = False  # the teacher has one class more: all that the data does not have

    @property
    def names(self) -> list[str]:
        return list(self.terms)

    @property
    def value_names(self) -> list[str]:
        """Of the values that a forward pass returns: the terms, and the parts of those that have several."""
        return [*self.terms, *(f"{name}_{part}" for name, (loss, _) in self.terms.items() for part in loss.part_names)]

    @property
    def needs_of(self) -> dict[str, frozenset[Need]]:
        """What each term reads of the teacher."""
        return {name: loss.needs for name, (loss, _) in self.terms.items()}

    @property
    def single_label_terms(self) -> list[str]:
        """The terms that need one label for each image."""
        return [name for name, (loss, _) in self.terms.items() if loss.labels == "single"]

    @property
    def needs(self) -> frozenset[Need]:
        """What the terms together read of the teacher; if it is empty, no teacher is run."""
        return frozenset().union(*self.needs_of.values())

    @property
    def global_batch(self) -> frozenset[Part]:
        """The parts of both outputs that some term reads of the global batch."""
        return frozenset().union(*(loss.global_batch for loss, _ in self.terms.values()))

    def per_shard_terms(self) -> list[DistillLoss]:
        """The terms that are computed on a rank's shard of the batch alone."""
        return [loss for loss, _ in self.terms.values() if not loss.global_batch]

    def prepare(self, context: LossContext) -> None:
        """Create what the terms need that depends on the networks and the data; once, before the first step.

        Raises:
            OptionError: A term cannot compare the two networks.
        """
        student, teacher = context.student, context.teacher
        self._has_rest_class = teacher is not None and teacher.logits.shape[1] == student.logits.shape[1] + 1
        if self._has_rest_class:
            context = replace(context, student=_with_rest_class(student))
        for name, (loss, _) in self.terms.items():
            with _errors_of_term(name):
                loss.prepare(context)

    def initialize_student(self, student: nn.Module) -> None:
        """Let every term change the student's initial weights; once, after `prepare`.

        Raises:
            OptionError: A term cannot be used with this network.
        """
        for name, (loss, _) in self.terms.items():
            with _errors_of_term(name):
                loss.initialize_student(student)

    def feature_pairs(self, context: LossContext) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """The pairs of features (student's, teacher's) by term; terms that pair no features are left out."""
        if context.teacher is None:
            return {}
        pairs = {name: loss.feature_pairs(context.student, context.teacher) for name, (loss, _) in self.terms.items()}
        return {name: pairs_of_term for name, pairs_of_term in pairs.items() if pairs_of_term}

    def num_parameters(self) -> dict[str, dict[str, int]]:
        """How many parameters each term owns, by submodule; terms without any are left out."""
        counts: dict[str, dict[str, int]] = {}
        for name, (loss, _) in self.terms.items():
            for path, parameter in loss.named_parameters():
                by_submodule, submodule = counts.setdefault(name, {}), path.partition(".")[0]
                by_submodule[submodule] = by_submodule.get(submodule, 0) + parameter.numel()
        return counts

    def forward(
        self,
        student: Output,
        teacher: Output | None,
        batch: Batch,
        epoch: float,
        global_batch: tuple[Output, Output | None, Batch] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise, and every term, and every part of one, before its weight.

        Args:
            epoch: Epochs done, fractions included, from 0.
            global_batch: Student's output, teacher's output and batch gathered from all ranks, for the terms that read
                the global batch; None where `student`, `teacher` and `batch` are all of it.
        """
        with torch.autocast(student.logits.device.type, enabled=False):
            if self._has_rest_class:
                student = _with_rest_class(student)
                if global_batch is not None:
                    global_batch = (_with_rest_class(global_batch[0]), *global_batch[1:])
            shard_inputs = _loss_inputs(student, teacher, batch)
            all_inputs = shard_inputs if global_batch is None else _loss_inputs(*global_batch)
            values = {}
            for name, (loss, _) in self.terms.items():
                loss.epoch = epoch
                values[name] = loss(*(all_inputs if loss.global_batch else shard_inputs))
            zero = torch.zeros((), device=batch.labels.device)
            total = sum((self._factor(name, epoch) * value for name, value in values.items()), zero)
        parts = {
            f"{name}_{part}": loss.parts[part] for name, (loss, _) in self.terms.items() for part in loss.part_names
        }
        return total, values | parts

    def factors(self, epoch: float) -> dict[str, float]:
        """The factor of every value of a forward pass in the total; that of a part is its term's."""
        return {
            value: self._factor(name, epoch)
            for name, (loss, _) in self.terms.items()
            for value in (name, *(f"{name}_{part}" for part in loss.part_names))
        }

    def _factor(self, name: str, epoch: float) -> float:
        """The term's weight, after its warm-up so far."""
        _, options = self.terms[name]
        return options.weight * (min(1.0, epoch / options.warmup_epochs) if options.warmup_epochs else 1.0)


@contextmanager
def _errors_of_term(name: str) -> Iterator[None]:
    """Turn a term's ValueError into an OptionError that names the term."""
    with option_scope(f"loss.{name}"):
        try:
            yield
        except ValueError as error:
            raise OptionError("", str(error)) from None


def _loss_inputs(student: Output, teacher: Output | None, batch: Batch) -> tuple[Output, Output, Batch]:
    """The arguments of a loss: logits and embeddings in float32."""
    # The teacher's output is None only where `needs` is empty, and then no term reads it.
    teacher = cast(Output, None if teacher is None else _in_float32(teacher))
    return _in_float32(student), teacher, batch


def _in_float32(output: Output) -> Output:
    exits = tuple(_in_float32(exit_) for exit_ in output.exits)
    at_least = torch.promote_types(output.logits.dtype, torch.float32)  # float64, as in gradient checks, stays
    return output._replace(logits=output.logits.to(at_least), embedding=output.embedding.to(at_least), exits=exits)


def _with_rest_class(output: Output) -> Output:
    """An output with one class more, of logit 0: the others' sizes say how probable they are together."""
    exits = tuple(map(_with_rest_class, output.exits))
    return output._replace(logits=F.pad(output.logits, (0, 1)), exits=exits)
