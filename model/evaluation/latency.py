"""The latency of a network on one image."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ..training.precision import autocast

LATENCY_SECONDS = 0.1  # duration of the measurement


@torch.no_grad()
def latency(net: nn.Module, image_shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> float:
    """Median time of a forward pass of one image of the shape (C, H, W), in milliseconds."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns where there is no GPU to compile for
    from torch.utils.benchmark import Timer  # the import takes a tenth of a second

    was_training = net.training
    net.eval()
    image = torch.zeros(1, *image_shape, device=device).contiguous(memory_format=torch.channels_last)
    try:
        with autocast(dtype, device):
            timer = Timer("net(image)", globals={"net": net, "image": image}, num_threads=torch.get_num_threads())
            measured = timer.blocked_autorange(min_run_time=LATENCY_SECONDS)
    finally:
        net.train(was_training)
    return 1000 * measured.median
