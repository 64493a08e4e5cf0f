"""Factor transfer: the teacher's last map is paraphrased by an autoencoder, and the student learns its factors.

Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018, eq. 1 to 3.
https://arxiv.org/abs/1802.04977
    mean of (decoder(factors of teacher) - teacher)^2, the paraphraser's own
    + factor_weight * mean of |normalised factors of student - normalised factors of teacher|
Neither part has a gradient to what the other one trains. The paper trains the paraphraser first and freezes it while
the student learns. That is two folders: one with {"ft": {"trains": "paraphraser"}}, and one that starts from its
weights, with {"ce": {}, "ft": {"trains": "translator"}}. By default both are trained at once.
As in the repositories that compare methods, the mean over channels of the factors' squares is normalised, for which
their weight of 200 is made; the paper normalises the factors themselves.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss
from .maps import Layers, Pair, match_size, select_pairs


@LOSSES.register("ft")
class FactorTransfer(DistillLoss):
    """Distance of the two networks' factors, and the paraphraser's reconstruction error; uses no labels.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's); by default the last stages.
        trains: "both"; "paraphraser" alone, the first of two stages; or "translator": the student, towards a frozen
            paraphraser, which should come from a folder that has trained it.
        factor_weight: Factor of the student's part; that of the paraphraser is 1.
        paraphrase_rate: Channels of the factors, relative to those of the teacher's map.
        normalised: The factors' "energy" at each position, or the paper's "factors", all of an image together.
    """

    needs = frozenset({"maps"})
    labels = "none"

    def __init__(
        self,
        *,
        layers: Layers | None = None,
        trains: Literal["both", "paraphraser", "translator"] = "both",
        factor_weight: float = 200.0,
        paraphrase_rate: float = 0.5,
        normalised: Literal["energy", "factors"] = "energy",
    ) -> None:
        super().__init__()
        if factor_weight <= 0:
            raise ValueError(f"factor_weight must be positive, got {factor_weight}")
        if paraphrase_rate <= 0:
            raise ValueError(f"paraphrase_rate must be positive, got {paraphrase_rate}")
        self.layers, self.trains, self.factor_weight = layers, trains, factor_weight
        self.paraphrase_rate, self.normalised = paraphrase_rate, NORMALISED[normalised]
        self.paraphrasers, self.decoders, self.translators = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        for student_NCHW, teacher_NCHW in self.feature_pairs(context.student, context.teacher):
            channels, teacher_channels = student_NCHW.shape[1], teacher_NCHW.shape[1]
            num_factors = int(self.paraphrase_rate * teacher_channels)
            if num_factors < 1:
                raise ValueError(
                    f"paraphrase_rate must leave at least one factor of {teacher_channels} channels, "
                    f"got {self.paraphrase_rate}"
                )
            self.paraphrasers.append(encoder(teacher_channels, num_factors))
            self.decoders.append(decoder(num_factors, teacher_channels))
            self.translators.append(encoder(channels, num_factors, batch_norm=True))
        if self.trains == "translator":
            self.paraphrasers.requires_grad_(False)
            self.decoders.requires_grad_(False)

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        if self.layers is None:
            return select_pairs(student.maps[-1:], teacher.maps[-1:])
        return select_pairs(student.maps, teacher.maps, self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        parts = []
        modules = zip(self.paraphrasers, self.decoders, self.translators, strict=True)
        stages = zip(modules, self.feature_pairs(student, teacher), strict=True)
        for (paraphrase, reconstruct, translate), (student_NCHW, teacher_NCHW) in stages:
            factors_NFHW = paraphrase(teacher_NCHW)
            if self.trains != "translator":
                parts.append(F.mse_loss(reconstruct(factors_NFHW), teacher_NCHW))
            if self.trains != "paraphraser":
                parts.append(self.factor_weight * self._distance(translate(student_NCHW), factors_NFHW.detach()))
        return torch.stack(parts).sum()

    def _distance(self, student_NFHW: Tensor, teacher_NFHW: Tensor) -> Tensor:
        student_NFHW, teacher_NFHW = match_size(student_NFHW, teacher_NFHW)
        return F.l1_loss(self.normalised(student_NFHW), self.normalised(teacher_NFHW))


def energy(factors_NFHW: Tensor) -> Tensor:
    """Energy at each position, at unit length for each image: (N, F, H, W) to (N, P)."""
    return F.normalize(factors_NFHW.square().mean(dim=1).flatten(1))


def flattened(factors_NFHW: Tensor) -> Tensor:
    """All factors, at unit length for each image: (N, F, H, W) to (N, F * P)."""
    return F.normalize(factors_NFHW.flatten(1))


NORMALISED = {"energy": energy, "factors": flattened}


def encoder(in_channels: int, num_factors: int, *, batch_norm: bool = False) -> nn.Sequential:
    """Three convolutions, each with a leaky ReLU; the second one changes the number of channels."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((in_channels, in_channels), (in_channels, num_factors), (num_factors, num_factors)):
        layers.append(nn.Conv2d(inputs, outputs, kernel_size=3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


def decoder(num_factors: int, out_channels: int) -> nn.Sequential:
    """The reverse of the paraphraser's encoder, with transposed convolutions."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((num_factors, num_factors), (num_factors, out_channels), (out_channels, out_channels)):
        layers += [nn.ConvTranspose2d(inputs, outputs, kernel_size=3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
