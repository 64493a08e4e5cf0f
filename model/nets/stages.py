"""The walk through a residual network's stages, which those whose blocks end in a sum have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def through_stages(stages: Iterable[nn.Sequential], map_NCHW: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What each stage hands on, after its last ReLU and before it; blocks return sums, whose ReLU is done here."""
    maps, preacts = [], []
    for blocks in stages:
        for block in blocks:
            preact_NCHW = block(map_NCHW)
            map_NCHW = F.relu(preact_NCHW)
        maps.append(map_NCHW)
        preacts.append(preact_NCHW)
    return tuple(maps), tuple(preacts)
