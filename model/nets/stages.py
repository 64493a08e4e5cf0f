"""Shared by several networks: the forward pass through residual stages, and the channel shuffle."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def forward_stages(stages: Iterable[nn.Sequential], map_NCHW: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The output of each stage after and before its last ReLU, which is applied here: blocks end without it."""
    maps, preacts = [], []
    for blocks in stages:
        for block in blocks:
            preact_NCHW = block(map_NCHW)
            map_NCHW = F.relu(preact_NCHW)
        maps.append(map_NCHW)
        preacts.append(preact_NCHW)
    return tuple(maps), tuple(preacts)


def channel_shuffle(map_NCHW: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups: the first channel of each group, then the second of each, ...

    The result is channels-last in memory: a shuffle copies in any case, and convolutions are fastest so.
    """
    num_images, channels, height, width = map_NCHW.shape
    grouped = map_NCHW.permute(0, 2, 3, 1).reshape(num_images, height, width, groups, channels // groups)
    return grouped.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
