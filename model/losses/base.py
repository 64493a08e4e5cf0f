"""The interface of a loss term."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from ..types import Batch, LossContext, Need, Output, Part


class DistillLoss(nn.Module, ABC):
    """A term of the objective: `loss(student, teacher, batch)`, a scalar.

    Logits and embeddings come in float32 and autocast is off, so a loss need not handle precision; maps come as the
    network computed them (`maps.paired` casts them). The value is a mean over the batch. A loss may own parameters,
    created in its constructor or, where their sizes depend on the networks, in `prepare`; they are trained, saved and
    resumed with the run.

    Attributes:
        needs: What it reads of the teacher; if it is empty, no teacher is run.
        labels: How it reads labels, and thereby whether it can be used with mixed images: "none", not at all; "mixed",
            also of two images by their shares; "single", only one for each image.
        global_batch: The parts of both outputs that it reads, for a loss that is not a mean over images, for instance
            because it compares them with one another. In a run of several processes it gets these parts, the labels
            and the indices of the global batch; a loss that names none gets its rank's shard of everything.
        epoch: Epochs done, fractions included; set before each call.
        part_names: Names of the summands of the value that are logged apart, where it has several.
        parts: These summands, of the last call.
    """

    needs: frozenset[Need] = frozenset({"logits"})
    labels: Literal["none", "mixed", "single"] = "single"
    global_batch: frozenset[Part] = frozenset()
    epoch: float = 0.0
    part_names: tuple[str, ...] = ()
    parts: dict[str, Tensor]

    def prepare(self, context: LossContext) -> None:
        """Create what depends on the networks and the data; called once, before the first step.

        Raises:
            ValueError: The two networks cannot be compared.
        """

    def initialize_student(self, student: nn.Module) -> None:
        """Change the student's initial weights; called once, after `prepare`.

        Raises:
            ValueError: The loss cannot be used with this network.
        """

    def feature_pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        """The pairs of features (student's, teacher's) that it compares; empty where it does not pair features.

        Raises:
            ValueError: They cannot be compared.
        """
        return []

    @abstractmethod
    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor: ...
