"""SimKD: learn the map that the teacher's classifier reads, and reuse that classifier as it is.

Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, eq. 3.
https://arxiv.org/abs/2203.14001
The student is the network `simkd`, which brings its last map to the teacher's shape. The authors' settings have this
term alone, without labels: {"simkd": {}}.
The teacher's map is taken after its last ReLU, which in networks with batch norm first comes after the last stage.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss
from .maps import Pair, before_relu, in_float32, match_size


@LOSSES.register("simkd")
class ReusedTeacherClassifier(DistillLoss):
    """Mean squared difference of the last maps; the student begins with the teacher's classifier, which is frozen."""

    needs = frozenset({"preacts", "classifier"})
    classifier: nn.Linear

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        ((_, teacher_NCHW),) = self.pairs(setting.student, setting.teacher)
        width = setting.teacher.embedding.shape[1]
        if setting.classifier is None or teacher_NCHW.shape[1] != width:
            raise ValueError("the teacher's logits are not what a linear layer makes of the mean of its last map")
        self._reused = [setting.classifier]  # in a list, so that it is no part of this module: the student has it

    def begin(self, student: nn.Module) -> None:
        reading = getattr(student, "classifier", None)
        if getattr(student, "projector", None) is None or not isinstance(reading, nn.Linear):
            raise ValueError('the student must be the network "simkd", whose classifier reads the teacher\'s map')
        reading.load_state_dict(self._reused[0].state_dict())
        reading.requires_grad_(False)

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        teacher_NCHW = F.relu(before_relu(teacher, "teacher")[-1])
        if not student.maps or student.maps[-1].shape[1] != teacher_NCHW.shape[1]:
            raise ValueError("the student's last map has not the teacher's channels: it must be the network \"simkd\"")
        return [(in_float32(student.maps[-1]), in_float32(teacher_NCHW))]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        (pair,) = self.pairs(student, teacher)
        return F.mse_loss(*match_size(*pair))
