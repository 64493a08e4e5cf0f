"""SimKD: learn the map that the teacher's classifier reads, and reuse that classifier unchanged.

Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, eq. 3.
https://arxiv.org/abs/2203.14001
The student is the network `simkd`, which projects its last map to the teacher's shape. The authors use this loss alone,
without labels: {"simkd": {}}.
The teacher's map is taken after its last ReLU; in pre-activation networks that ReLU comes after the last stage.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss
from .maps import Pair, before_relu, in_float32, match_size


@LOSSES.register(
    "simkd",
    example={
        "loss": {"simkd": {}},
        "student": {"name": "simkd", "network": {"name": "cnn", "num_channels": 8}},
        "teacher": "experiments/all_methods/resnet8",
    },
)
class ReusedTeacherClassifier(DistillLoss):
    """Mean squared difference of the last maps; the student starts with the teacher's classifier, frozen."""

    needs = frozenset({"preacts", "classifier"})
    labels = "none"
    classifier: nn.Linear

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        ((_, teacher_NCHW),) = self.feature_pairs(context.student, context.teacher)
        width = context.teacher.embedding.shape[1]
        if context.classifier is None or teacher_NCHW.shape[1] != width:
            raise ValueError("the teacher's logits are not a linear function of the mean of its last map")
        self._reused = [context.classifier]  # in a list, so that it is not registered here: it belongs to the student

    def initialize_student(self, student: nn.Module) -> None:
        classifier = getattr(student, "classifier", None)
        if getattr(student, "projector", None) is None or not isinstance(classifier, nn.Linear):
            raise ValueError('the student must be the network "simkd", whose classifier reads the teacher\'s map')
        classifier.load_state_dict(self._reused[0].state_dict())
        classifier.requires_grad_(False)

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        teacher_NCHW = F.relu(before_relu(teacher, "teacher")[-1])
        if not student.maps or student.maps[-1].shape[1] != teacher_NCHW.shape[1]:
            raise ValueError(
                "the student's last map has another number of channels than the teacher's: "
                'it must be the network "simkd"'
            )
        return [(in_float32(student.maps[-1]), in_float32(teacher_NCHW))]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        (pair,) = self.feature_pairs(student, teacher)
        return F.mse_loss(*match_size(*pair))
