"""What every loss term is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..types import Batch, LossContext, Need, Output, Part, TermOptions


class DistillLoss(nn.Module, ABC):
    """A term of the objective: `loss(student, teacher, batch)`, a scalar.

    Logits and embeddings come in float32 and autocast is off, so a term need not think of precision; maps come as the
    network computed them (`maps.paired` casts them). What it returns is a mean over the batch. A term may own
    parameters, made when it is built or, where their sizes follow from the networks, in `prepare`; they are trained,
    saved and resumed with the run.

    Attributes:
        needs: What it reads of the teacher; where empty, no teacher is asked.
        whole_batch: Where it is no mean over images, for instance as it compares them with one another: what it reads
            of both networks. In a run of several processes it is given that, labels and indices of the whole batch,
            and all else is a process's share.
        published: Weight and warm-up that the paper has, or else the collections that compare methods on CIFAR-100.
        epoch: Epochs done, part epochs included; set before each call.
    """

    needs: frozenset[Need] = frozenset({"logits"})
    global_batch: frozenset[Part] = frozenset()
    published: TermOptions = TermOptions()
    epoch: float = 0.0

    def prepare(self, setting: LossContext) -> None:
        """Make what depends on the networks and the data; called once, before the first step.

        Raises:
            ValueError: The two networks cannot be compared.
        """

    def begin(self, student: nn.Module) -> None:
        """Change what the student begins with; called once, after `prepare`.

        Raises:
            ValueError: It is not a network that this term can be used for.
        """

    def pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        """The features that it compares, the student's and the teacher's; empty where it compares whole answers.

        Raises:
            ValueError: They cannot be compared.
        """
        return []

    @abstractmethod
    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor: ...
