"""FitNets: a regressor makes the student's map as wide as the teacher's, and the two are matched value for value.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, eq. 3. https://arxiv.org/abs/1412.6550
The paper trains towards the hint first and distils afterwards; here, as in the collections that compare methods, the
hint is a term beside the others, from the first step to the last, with the second stage as the hint. There the
regressor ends in a ReLU, which cannot give what is negative: turn `relu` off for teachers whose maps are sums that no
ReLU has seen, such as wide residual networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, select_pairs


@LOSSES.register("fitnet")
class FitNet(DistillLoss):
    """Mean squared difference of the teacher's map and the student's behind a trained convolution; uses no labels.

    Args:
        layers: Numbers of the stages that are matched, from 1, or pairs of them (student's, teacher's).
        relu: Whether the regressor ends in a ReLU.
    """

    needs = frozenset({"maps"})
    published = TermOptions(weight=100.0)

    def __init__(self, *, layers: Layers = [2], relu: bool = True) -> None:
        super().__init__()
        self.layers, self.relu = layers, relu
        self.regressors = nn.ModuleList()

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        self.regressors.extend(regressor(*pair) for pair in self.pairs(setting.student, setting.teacher))

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return select_pairs(student.maps, teacher.maps, self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = self.pairs(student, teacher)
        return torch.stack([self._distance(*each) for each in zip(self.regressors, pairs, strict=True)]).sum()

    def _distance(self, regressor: nn.Module, pair: Pair) -> Tensor:
        student_NCHW, teacher_NCHW = pair
        guess_NCHW = regressor(student_NCHW)
        return F.mse_loss(F.relu(guess_NCHW) if self.relu else guess_NCHW, teacher_NCHW)


def regressor(student_NCHW: Tensor, teacher_NCHW: Tensor) -> nn.Sequential:
    """A convolution and batch norm that bring a map of the student to the channels and the size of the teacher's."""
    (_, width, height, _), (_, out, out_height, _) = student_NCHW.shape, teacher_NCHW.shape
    if height == 2 * out_height:
        resize: nn.Module = nn.Conv2d(width, out, kernel_size=3, stride=2, padding=1)
    elif 2 * height == out_height:
        resize = nn.ConvTranspose2d(width, out, kernel_size=4, stride=2, padding=1)
    elif height >= out_height:
        resize = nn.Conv2d(width, out, kernel_size=1 + height - out_height)
    else:
        raise ValueError(f"no regressor from a map of {height}x{height} to one of {out_height}x{out_height}")
    return nn.Sequential(resize, nn.BatchNorm2d(out))
