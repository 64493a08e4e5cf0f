"""Mixup and CutMix: every image of a batch is mixed with another one of the same batch, and their labels with them.

Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, eq. 1.
https://arxiv.org/abs/1710.09412
Yun, Han, Oh, Chun, Choe and Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features", ICCV 2019, eq. 1 and 2. https://arxiv.org/abs/1905.04899
As in torchvision's MixUp and CutMix, a batch has one share and one box, and CutMix's share is the exact one of its box.
Where they differ: an image's partner is not its neighbour, but the image a random distance before it. That
number is a multiple of 8 where the batch has more images, so that each of 2, 4 or 8 processes has the partners of its
own images; a process that does not have them reads them, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..randomness import MIX, random_bits
from ..types import Batch, Shard
from .preprocess import on_device
from .split import Indices

DISTANCE = 8  # between partners, or a multiple of it
SHIFT, KIND, SHARE, COLUMN, ROW = range(5)  # the random numbers of a step


class Step(NamedTuple):
    """A step of an epoch, and its samples' positions among those of the epoch."""

    epoch: int
    number: int
    start: int
    stop: int


class Pairs(NamedTuple):
    """The images of a step that a process reads, and how it pairs them."""

    positions: Indices  # among the samples of the epoch: own images, then partners that are not among them
    partner: Indices  # (N,), of each own image, as a position in `positions`


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes batches as a function of (seed, epoch, step).

    Args:
        mixup, cutmix: The parameters of their Beta distributions; 0 for none. With both, one is drawn for each batch.
    """

    mixup: float
    cutmix: float
    seed: int

    def pairs(self, step: Step, shard: Shard) -> Pairs:
        """What a process reads of a step."""
        size, bits = step.stop - step.start, self._bits(step, SHIFT)
        unit = DISTANCE if size > DISTANCE else 1
        shift = unit * (1 + bits % max(1, (size - 1) // unit))
        own = shard.of(np.arange(size))
        partner = (own - shift) % size
        positions = np.concatenate([own, np.setdiff1d(partner, own)])
        order = np.argsort(positions)
        return Pairs(step.start + positions, order[np.searchsorted(positions, partner, sorter=order)])

    def __call__(self, batch: Batch, partner: Indices, step: Step) -> Batch:
        """The first images of a batch, as many as `partner` has, mixed with their partners in the batch."""
        size, partner_N = len(partner), on_device(partner, batch.images.device)
        own, other = batch.images[:size], batch.images[partner_N]
        if self._is_cutmix(step):
            images, share = self._paste(own, other, step)
        else:
            share = self._share(self.mixup, step)
            images = share * own + (1 - share) * other
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            batch.labels[:size],
            batch.index[:size],
            batch.view[:size],
            partner_labels=batch.labels[partner_N],
            label_share=images.new_full((size,), share),
        )

    def _is_cutmix(self, step: Step) -> bool:
        if self.mixup and self.cutmix:
            return self._bits(step, KIND) % 2 == 1
        return bool(self.cutmix)

    def _share(self, alpha: float, step: Step) -> float:
        """The share of the own image: a draw of Beta(alpha, alpha), by its inverse distribution function."""
        from scipy.special import betaincinv

        return float(betaincinv(alpha, alpha, (self._bits(step, SHARE) >> 11) / 2**53))

    def _paste(self, own: Tensor, other: Tensor, step: Step) -> tuple[Tensor, float]:
        """The images with a box of their partners, and the own images' share of the area."""
        H, W = own.shape[2:]
        half = math.sqrt(1 - self._share(self.cutmix, step)) / 2
        column, row = self._bits(step, COLUMN) % W, self._bits(step, ROW) % H
        left, right = max(0, column - int(half * W)), min(W, column + int(half * W))
        top, bottom = max(0, row - int(half * H)), min(H, row + int(half * H))
        images = own.clone(memory_format=torch.preserve_format)
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return images, 1 - (right - left) * (bottom - top) / (W * H)

    def _bits(self, step: Step, number: int) -> int:
        return int(random_bits(self.seed, MIX, step.epoch, step.number, number))
