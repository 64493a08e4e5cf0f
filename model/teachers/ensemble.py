"""Several networks as one teacher: the mean of their probabilities, or of their logits.

Probabilities are the usual choice: all networks count equally. In a mean of logits, confident networks weigh more; the
resulting probabilities are the normalised geometric mean of the networks' probabilities.
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


class EnsembleTeacher:
    """Several teachers as one: logits are combined, embeddings are concatenated.

    Args:
        members: The teachers.
        combine: What is averaged; a key of `COMBINE`.
    """

    def __init__(self, members: Sequence[Teacher], combine: CombineName = "probabilities") -> None:
        self.members, self.combine = members, combine

    @property
    def num_queries(self) -> int:
        return sum(member.num_queries for member in self.members)

    @property
    def num_forwards(self) -> int:
        return sum(member.num_forwards for member in self.members)

    @property
    def num_missing(self) -> int:
        return sum(member.num_missing for member in self.members)

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        for number, member in enumerate(self.members):
            for progress in member.precompute(data, epoch):
                yield (number + progress) / len(self.members)

    def seconds_remaining(self, batch: Batch) -> float:
        return sum(member.seconds_remaining(batch) for member in self.members)

    def __call__(self, batch: Batch) -> Output:
        outputs = [member(batch) for member in self.members]
        logits_NK = COMBINE[self.combine]([output.logits.float() for output in outputs])
        return Output(logits=logits_NK, embedding=torch.cat([output.embedding for output in outputs], dim=1))


def mean_of_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """The mean probabilities as log-probabilities, which are valid logits."""
    log_p_MNK = torch.stack([logits_NK.log_softmax(dim=1) for logits_NK in logits])
    return log_p_MNK.logsumexp(dim=0) - math.log(len(logits))


def mean_of_logits(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([*logits]).mean(dim=0)


COMBINE: dict[CombineName, CombineLogits] = {"probabilities": mean_of_probabilities, "logits": mean_of_logits}
