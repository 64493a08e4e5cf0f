"""How several networks speak as one: by the mean of their probabilities, or of their logits.

Probabilities are the usual choice: every network has one vote. By logits a network that is surer has the larger say;
the answer's probabilities are the geometric mean of theirs, scaled to sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

MeanOf = Literal["probabilities", "logits"]
Mean = Callable[[Sequence[Tensor]], Tensor]  # (N, K) of each network to (N, K)


def mean_of_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """As log-probabilities, which are logits like any other."""
    log_p_MNK = torch.stack([each_NK.log_softmax(dim=1) for each_NK in logits])
    return log_p_MNK.logsumexp(dim=0) - math.log(len(logits))


def mean_of_logits(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([*logits]).mean(dim=0)


MEANS: dict[MeanOf, Mean] = {"probabilities": mean_of_probabilities, "logits": mean_of_logits}
