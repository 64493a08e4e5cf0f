"""FitNets: a regressor brings the student's map to the teacher's shape, and the two are matched value by value.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, eq. 3. https://arxiv.org/abs/1412.6550
The paper trains on the hint first and distils afterwards; here, as in the repositories that compare methods, the hint
is one term of several, from the first step to the last, with the second stage as the hint. In those repositories
the regressor ends in a ReLU, which cannot predict negative values: turn `relu` off for teachers whose maps have not
passed a ReLU, such as wide residual networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, select_pairs


@LOSSES.register("fitnet", default_term=TermOptions(weight=100.0))
class FitNet(DistillLoss):
    """Mean squared difference of the teacher's map and a trained convolution of the student's; uses no labels.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's).
        relu: Whether the regressor ends in a ReLU.
    """

    needs = frozenset({"maps"})
    labels = "none"

    def __init__(self, *, layers: Layers = [2], relu: bool = True) -> None:
        super().__init__()
        self.layers, self.relu = layers, relu
        self.regressors = nn.ModuleList()

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        self.regressors.extend(regressor(*pair) for pair in self.feature_pairs(context.student, context.teacher))

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return select_pairs(student.maps, teacher.maps, self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        stages = zip(self.regressors, self.feature_pairs(student, teacher), strict=True)
        return torch.stack([self._distance(regress, *pair) for regress, pair in stages]).sum()

    def _distance(self, regress: nn.Module, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        predicted_NCHW = regress(student_NCHW)
        return F.mse_loss(F.relu(predicted_NCHW) if self.relu else predicted_NCHW, teacher_NCHW)


def regressor(student_NCHW: Tensor, teacher_NCHW: Tensor) -> nn.Sequential:
    """A convolution and batch norm from the student's map to the teacher's channels, height and width."""
    (_, in_channels, in_height, _), (_, out_channels, out_height, _) = student_NCHW.shape, teacher_NCHW.shape
    if in_height == 2 * out_height:
        convolution: nn.Module = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
    elif 2 * in_height == out_height:
        convolution = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1)
    elif in_height >= out_height:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size=1 + in_height - out_height)
    else:
        raise ValueError(f"no regressor from a map of {in_height}x{in_height} to one of {out_height}x{out_height}")
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
