"""Factor transfer: the teacher's last map is paraphrased by an autoencoder, and the student learns its factors.

Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018, eq. 1 to 3.
https://arxiv.org/abs/1802.04977
    mean of (decoder(factors of teacher) - teacher)^2, the paraphraser's own
    + factor_weight * mean of |normalised factors of student - normalised factors of teacher|
Neither part moves what the other one trains. The paper trains the paraphraser first and keeps it fixed while the
student learns. That is two folders: one with {"ft": {"trains": "paraphraser"}}, and one that begins with its weights,
with {"ce": {}, "ft": {"trains": "translator"}}. By itself the term trains both at once.
As in the collections that compare methods, what is normalised is the mean over channels of the factors' squares, for
which their weight of 200 is; the paper normalises the factors themselves.
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
    """Distance of the networks' factors, and what the paraphraser fails to restore; uses no labels.

    Args:
        layers: Numbers of the stages that are compared, from 1, or pairs of them (student's, teacher's); the last stage
            of both where not given.
        trains: "both", or the first stage's "paraphraser" alone, or "translator": the student, towards a paraphraser
            that stays as it is and should come from a folder that has trained it.
        factor_weight: Factor of the student's part; the paraphraser's has 1.
        paraphrase_rate: Channels of the factors for each channel of the teacher's map.
        normalised: The factors' "energy" at each position, or the paper's "factors", all of an image together.
    """

    needs = frozenset({"maps"})

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

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        for student_NCHW, teacher_NCHW in self.pairs(setting.student, setting.teacher):
            width, teachers = student_NCHW.shape[1], teacher_NCHW.shape[1]
            factors = int(self.paraphrase_rate * teachers)
            if factors < 1:
                raise ValueError(
                    f"paraphrase_rate must leave a factor of {teachers} channels at least, got {self.paraphrase_rate}"
                )
            self.paraphrasers.append(encoder(teachers, factors))
            self.decoders.append(decoder(factors, teachers))
            self.translators.append(encoder(width, factors, batch_norm=True))
        if self.trains == "translator":
            self.paraphrasers.requires_grad_(False)
            self.decoders.requires_grad_(False)

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        if self.layers is None:
            return select_pairs(student.maps[-1:], teacher.maps[-1:])
        return select_pairs(student.maps, teacher.maps, self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        parts = []
        modules = zip(self.paraphrasers, self.decoders, self.translators, strict=True)
        for (paraphrase, restore, translate), (one, other) in zip(modules, self.pairs(student, teacher), strict=True):
            factors_NFHW = paraphrase(other)
            if self.trains != "translator":
                parts.append(F.mse_loss(restore(factors_NFHW), other))
            if self.trains != "paraphraser":
                parts.append(self.factor_weight * self._distance(translate(one), factors_NFHW.detach()))
        return torch.stack(parts).sum()

    def _distance(self, student_NFHW: Tensor, teacher_NFHW: Tensor) -> Tensor:
        student_NFHW, teacher_NFHW = match_size(student_NFHW, teacher_NFHW)
        return F.l1_loss(self.normalised(student_NFHW), self.normalised(teacher_NFHW))


def energy(factors_NFHW: Tensor) -> Tensor:
    """Per position, of unit length per image: (N, F, H, W) to (N, P)."""
    return F.normalize(factors_NFHW.square().mean(dim=1).flatten(1))


def whole(factors_NFHW: Tensor) -> Tensor:
    """Of unit length per image: (N, F, H, W) to (N, F * P)."""
    return F.normalize(factors_NFHW.flatten(1))


NORMALISED = {"energy": energy, "factors": whole}


def encoder(in_channels: int, factors: int, *, batch_norm: bool = False) -> nn.Sequential:
    """Three convolutions, each with a leaky ReLU, between them as many channels as before until the second."""
    layers: list[nn.Module] = []
    for width, out in ((in_channels, in_channels), (in_channels, factors), (factors, factors)):
        layers.append(nn.Conv2d(width, out, kernel_size=3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


def decoder(factors: int, out_channels: int) -> nn.Sequential:
    """The paraphraser's encoder the other way round."""
    layers: list[nn.Module] = []
    for width, out in ((factors, factors), (factors, out_channels), (out_channels, out_channels)):
        layers += [nn.ConvTranspose2d(width, out, kernel_size=3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
