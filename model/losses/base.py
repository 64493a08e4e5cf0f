"""What every loss term is."""

from __future__ import annotations

from torch import Tensor, nn

from model.types import Batch, Need, Output


class DistillLoss(nn.Module):
    """A term of the objective: `loss(student, teacher, batch)`, a scalar.

    Logits and embeddings come in float32 and autocast is off, so a term need not think of precision; maps come as the
    network computed them (`maps.paired` casts them). What it returns is a mean over the batch. A term may own
    parameters; they are trained, saved and resumed with the run.
    """

    needs: frozenset[Need] = frozenset({"logits"})  # what it reads of the teacher; where empty, no teacher is asked

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        raise NotImplementedError  # each term's own
