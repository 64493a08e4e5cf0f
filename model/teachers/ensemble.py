"""Several networks as one teacher: the mean of their probabilities, or of their logits.

Probabilities are the usual choice: every network has one vote. By logits a more confident network has the larger say;
the resulting probabilities are the geometric mean of theirs, scaled to sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..types import Batch, Output, Pipeline, Teacher

CombineName = Literal["probabilities", "logits"]
CombineLogits = Callable[[Sequence[Tensor]], Tensor]  # (N, K) of each network to (N, K)


def mean_of_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """As log-probabilities, which are logits like any other."""
    log_p_MNK = torch.stack([each_NK.log_softmax(dim=1) for each_NK in logits])
    return log_p_MNK.logsumexp(dim=0) - math.log(len(logits))


def mean_of_logits(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([*logits]).mean(dim=0)


COMBINE: dict[CombineName, CombineLogits] = {"probabilities": mean_of_probabilities, "logits": mean_of_logits}


class EnsembleTeacher:
    """Several teachers that speak as one.

    Args:
        members: The teachers.
        mean: What makes one answer of their logits.
    """

    def __init__(self, members: Sequence[Teacher], mean: CombineLogits = mean_of_probabilities) -> None:
        self.members, self.mean = members, mean

    @property
    def num_queries(self) -> int:
        return sum(member.num_queries for member in self.members)

    @property
    def num_forwards(self) -> int:
        return sum(member.num_forwards for member in self.members)

    def prepare(self, data: Pipeline, epoch: int) -> Iterator[float]:
        for number, member in enumerate(self.members):
            for share in member.prepare(data, epoch):
                yield (number + share) / len(self.members)

    def seconds_remaining(self, batch: Batch) -> float:
        return sum(member.seconds_remaining(batch) for member in self.members)

    def __call__(self, batch: Batch) -> Output:
        outputs = [member(batch) for member in self.members]
        logits_NK = self.mean([output.logits.float() for output in outputs])
        return Output(logits=logits_NK, embedding=torch.cat([output.embedding for output in outputs], dim=1))
