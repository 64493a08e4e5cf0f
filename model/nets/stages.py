"""What networks have in common: the walk through stages whose blocks leave their last ReLU undone, and a shuffle."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def through_stages(stages: Iterable[nn.Sequential], map_NCHW: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What each stage hands on, after its last ReLU and before it; blocks leave that ReLU undone."""
    maps, preacts = [], []
    for blocks in stages:
        for block in blocks:
            preact_NCHW = block(map_NCHW)
            map_NCHW = F.relu(preact_NCHW)
        maps.append(map_NCHW)
        preacts.append(preact_NCHW)
    return tuple(maps), tuple(preacts)


def shuffled(map_NCHW: Tensor, groups: int) -> Tensor:
    """Channels dealt out of their groups in turn: the first of each group, then the second of each, ...

    Channels-last whatever came, as a shuffle copies in any case and convolutions are fastest so.
    """
    num_images, channels, height, width = map_NCHW.shape
    grouped = map_NCHW.permute(0, 2, 3, 1).reshape(num_images, height, width, groups, channels // groups)
    return grouped.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
