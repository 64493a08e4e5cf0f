"""Variational information distillation: predict the teacher's maps, with a variance, from the student's.

Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, eq. 5.
https://arxiv.org/abs/1904.05835
    sum over stages of the mean over batch, channels and positions of
    ((teacher - prediction)^2 / variance_c + log variance_c) / 2, with variance_c = log(1 + exp(a_c)) + a constant
The prediction comes from three 1x1 convolutions, trained together with the a_c, one for each channel. The paper sums
over channels and positions; the mean, and the weight of 1, are those of the repositories that compare methods. The
value is negative where predictions are good, as a negative log-likelihood may be.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss
from .maps import Layers, Pair, paired


@LOSSES.register("vid")
class VariationalInformationDistillation(DistillLoss):
    """Negative log-likelihood of the teacher's maps under a Gaussian predicted from the student's; uses no labels.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's).
        initial_variance: Variance of every channel before the first step.
        least_variance: Lower bound of the variances; the constant of the formula.
    """

    needs = frozenset({"maps"})
    labels = "none"

    def __init__(
        self, *, layers: Layers | None = None, initial_variance: float = 5.0, least_variance: float = 1e-5
    ) -> None:
        super().__init__()
        if not 0 < least_variance < initial_variance:
            raise ValueError(
                "least_variance must be positive and below initial_variance, "
                f"got {least_variance} and {initial_variance}"
            )
        self.layers, self.initial_variance, self.least_variance = layers, initial_variance, least_variance
        self.regressors = nn.ModuleList()
        self.raw_variances = nn.ParameterList()  # a_c of the formula

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        raw = inverse_softplus(self.initial_variance - self.least_variance)
        for student_NCHW, teacher_NCHW in self.feature_pairs(context.student, context.teacher):
            out_channels = teacher_NCHW.shape[1]
            self.regressors.append(regressor(student_NCHW.shape[1], out_channels))
            self.raw_variances.append(nn.Parameter(torch.full((out_channels,), raw)))

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return paired(student.maps, teacher.maps, self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        stages = zip(self.regressors, self.raw_variances, self.feature_pairs(student, teacher), strict=True)
        losses = [
            self._nll(regress(student_NCHW), teacher_NCHW, raw_C)
            for regress, raw_C, (student_NCHW, teacher_NCHW) in stages
        ]
        return torch.stack(losses).sum()

    def _nll(self, predicted_NCHW: Tensor, teacher_NCHW: Tensor, raw_C: Tensor) -> Tensor:
        """Negative log-likelihood, without its constant, the mean over all values."""
        variance_C11 = (F.softplus(raw_C) + self.least_variance)[:, None, None]
        return 0.5 * ((teacher_NCHW - predicted_NCHW).square() / variance_C11 + variance_C11.log()).mean()


def regressor(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, kernel_size=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, kernel_size=1, bias=False),
    )


def inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
