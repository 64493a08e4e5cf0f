"""A teacher whose classes are in another order than the student's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..types import Batch, Output, Pipeline, Teacher


class ReorderedTeacher:
    """Puts the columns of a teacher's logits in the student's order; outputs are cached in the teacher's own.

    Args:
        columns: For each class of the student, the teacher's column.
    """

    def __init__(self, teacher: Teacher, columns: Sequence[int], device: torch.device) -> None:
        self.teacher = teacher
        self.columns_K = torch.tensor(columns, device=device)

    @property
    def num_queries(self) -> int:
        return self.teacher.num_queries

    @property
    def num_forwards(self) -> int:
        return self.teacher.num_forwards

    @property
    def num_missing(self) -> int:
        return self.teacher.num_missing

    def __call__(self, batch: Batch) -> Output:
        return reordered(self.teacher(batch), self.columns_K)

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        return self.teacher.precompute(data, epoch)

    def seconds_remaining(self, batch: Batch) -> float:
        return self.teacher.seconds_remaining(batch)


def reordered(output: Output, columns_K: Tensor) -> Output:
    """An output with the columns of its logits, those of early exits included, in another order."""
    exits = tuple(reordered(exit_output, columns_K) for exit_output in output.exits)
    logits = output.logits[:, columns_K] if output.logits.shape[1] else output.logits  # a cache may hold none
    return output._replace(logits=logits, exits=exits)
