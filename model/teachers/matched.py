"""A network's output for the classes of another data set: in its order, some left out, several as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..types import Output

Groups = Sequence[Sequence[int]]  # for each class of the other data set, the network's columns that stand for it


class MatchedClasses(nn.Module):
    """A network with other classes.

    Args:
        groups: For each class, the columns of the network's logits; their probabilities are added up.
    """

    def __init__(self, net: nn.Module, groups: Groups) -> None:
        super().__init__()
        self.net, self.groups = net, groups

    def forward(self, images: Tensor) -> Output:
        return matched(self.net(images), self.groups)


def matched(output: Output, groups: Groups) -> Output:
    """An output with logits, those of early exits included, for these groups of columns."""
    return output._replace(
        logits=grouped_logits(output.logits, groups), exits=tuple(matched(each, groups) for each in output.exits)
    )


def grouped_logits(logits_NK: Tensor, groups: Groups) -> Tensor:
    """A logit for each group of columns, such that its probability is the sum of theirs.

    Columns that are in no group are as if the network could not predict them: the others' probabilities keep their
    ratios and sum to 1.
    """
    if not groups:
        return logits_NK[:, :0]
    if all(len(group) == 1 for group in groups):
        return logits_NK[:, [column for group in groups for column in group]]
    logits_NK = logits_NK.float()
    return torch.stack([logits_NK[:, list(group)].logsumexp(dim=1) for group in groups], dim=1)
