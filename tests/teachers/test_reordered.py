"""A teacher whose output is put in the student's order of classes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model.teachers.reordered import ReorderedTeacher
from model.types import Batch, Output, Pipeline

CPU = torch.device("cpu")
COLUMNS = [2, 0, 1]
LOGITS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
EXPECTED = torch.tensor([[3.0, 1.0, 2.0], [6.0, 4.0, 5.0]])
EMBEDDING = torch.tensor([[7.0, 8.0], [9.0, 10.0]])


class FixedTeacher:
    """Returns the same output for every batch."""

    num_queries, num_forwards = 11, 7

    def __init__(self, logits: Tensor) -> None:
        exits = (Output(logits=10 * LOGITS, embedding=EMBEDDING),)
        self.output = Output(logits=logits, embedding=EMBEDDING, exits=exits)

    def __call__(self, batch: Batch) -> Output:
        return self.output

    @property
    def num_missing(self) -> int:
        return 5

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        return iter((0.5, 1.0))

    def seconds_remaining(self, batch: Batch) -> float:
        return 3.0


@pytest.fixture
def batch() -> Batch:
    index_N = torch.arange(2)
    return Batch(torch.zeros(2, 3, 1, 1), index_N, index_N, index_N)


def test_logits_are_reordered_and_embeddings_are_not(batch: Batch) -> None:
    output = ReorderedTeacher(FixedTeacher(LOGITS), COLUMNS, CPU)(batch)
    assert torch.equal(output.logits, EXPECTED)
    assert torch.equal(output.embedding, EMBEDDING)


def test_logits_of_early_exits_are_reordered(batch: Batch) -> None:
    output = ReorderedTeacher(FixedTeacher(LOGITS), COLUMNS, CPU)(batch)
    assert torch.equal(output.exits[0].logits, 10 * EXPECTED)


def test_logits_that_a_cache_leaves_out_stay_out(batch: Batch) -> None:
    output = ReorderedTeacher(FixedTeacher(torch.empty(2, 0)), COLUMNS, CPU)(batch)
    assert output.logits.shape == (2, 0)


def test_counts_and_times_are_the_teachers(batch: Batch) -> None:
    teacher = ReorderedTeacher(FixedTeacher(LOGITS), COLUMNS, CPU)
    assert (teacher.num_queries, teacher.num_forwards, teacher.num_missing) == (11, 7, 5)
    assert teacher.seconds_remaining(batch) == 3.0
