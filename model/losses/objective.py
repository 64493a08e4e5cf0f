"""The objective: a weighted sum of terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
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
        active = {name: term for name, term in terms.items() if term[1].weight > 0}
        if not active:
            raise ValueError("every term has weight 0: there is nothing to learn from")
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in active.items()})
        self.options = {name: options for name, (_, options) in active.items()}

    @property
    def names(self) -> list[str]:
        return list(self.options)

    @property
    def needs_of(self) -> dict[str, frozenset[Need]]:
        """What each term reads of the teacher."""
        return {name: cast(DistillLoss, loss).needs for name, loss in self.losses.items()}

    @property
    def needs(self) -> frozenset[Need]:
        """What the terms read of the teacher together; where empty, no teacher is asked."""
        return frozenset().union(*self.needs_of.values())

    @property
    def global_batch(self) -> frozenset[Part]:
        """The parts of outputs that terms need of a whole batch, as they compare its images."""
        return frozenset().union(*(cast(DistillLoss, loss).global_batch for loss in self.losses.values()))

    def per_shard_terms(self) -> list[nn.Module]:
        """The terms that are given a share of the batch where there are several processes."""
        return [loss for loss in self.losses.values() if not cast(DistillLoss, loss).global_batch]

    def prepare(self, setting: LossContext) -> None:
        """Let every term make what depends on the networks and the data; once, before the first step.

        Raises:
            OptionError: A term cannot compare the two networks.
        """
        for name, loss in self.losses.items():
            with _told_of(name):
                cast(DistillLoss, loss).prepare(setting)

    def begin(self, student: nn.Module) -> None:
        """Let every term change what the student begins with.

        Raises:
            OptionError: A term cannot be used for this network.
        """
        for name, loss in self.losses.items():
            with _told_of(name):
                cast(DistillLoss, loss).begin(student)

    def pairs(self, setting: LossContext) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """The features that each term compares, the student's and the teacher's; terms without such are left out."""
        if setting.teacher is None:
            return {}
        pairs = {
            name: cast(DistillLoss, loss).pairs(setting.student, setting.teacher) for name, loss in self.losses.items()
        }
        return {name: each for name, each in pairs.items() if each}

    def num_parameters(self) -> dict[str, dict[str, int]]:
        """How many parameters each term owns, by the name of its part; terms without any are left out."""
        numbers: dict[str, dict[str, int]] = {}
        for name, loss in self.losses.items():
            for path, parameter in loss.named_parameters():
                parts, part = numbers.setdefault(name, {}), path.partition(".")[0]
                parts[part] = parts.get(part, 0) + parameter.numel()
        return numbers

    def forward(
        self,
        student: Output,
        teacher: Output | None,
        batch: Batch,
        epoch: float,
        whole: tuple[Output, Output | None, Batch] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise, and every term before its weight.

        Args:
            epoch: Whole and part epochs done, from 0.
            whole: Student, teacher and batch for terms that compare images, where the others are a share of a batch.
        """
        with torch.autocast(student.logits.device.type, enabled=False):
            here = _seen(student, teacher, batch)
            everywhere = here if whole is None else _seen(*whole)
            values = {}
            for name, loss in self.losses.items():
                term = cast(DistillLoss, loss)
                term.epoch = epoch
                values[name] = term(*(everywhere if term.global_batch else here))
            factors = {name: self._factor(name, epoch) for name in values}
            total = sum(
                (factors[name] * value for name, value in values.items()), torch.zeros(()).to(batch.labels.device)
            )
        return total, values

    def _factor(self, name: str, epoch: float) -> float:
        options = self.options[name]
        return options.weight * (min(1.0, epoch / options.warmup_epochs) if options.warmup_epochs else 1.0)


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Name the term in what it refuses."""
    with option_scope(f"loss.{name}"):
        try:
            yield
        except ValueError as error:
            raise OptionError("", str(error)) from None


def _seen(student: Output, teacher: Output | None, batch: Batch) -> tuple[Output, Output, Batch]:
    """What a term is called with."""
    # A teacher is None only where `needs` is empty, and then no term looks at it.
    guide = cast(Output, None if teacher is None else _in_float32(teacher))
    return _in_float32(student), guide, batch


def _in_float32(output: Output) -> Output:
    exits = tuple(_in_float32(exit_) for exit_ in output.exits)
    at_least = torch.promote_types(output.logits.dtype, torch.float32)  # float64, as in gradient checks, stays
    return output._replace(logits=output.logits.to(at_least), embedding=output.embedding.to(at_least), exits=exits)
