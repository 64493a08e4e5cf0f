"""The latency of a network on one image."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from ..training.precision import autocast

LATENCY_SECONDS = 0.1  # duration of the measurement


@torch.no_grad()
def latency(net: nn.Module, image_shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> float:
    """Median time of a forward pass of one image of the shape (C, H, W), in milliseconds."""
    was_training = net.training
    net.eval()
    image = torch.zeros(1, *image_shape, device=device).contiguous(memory_format=torch.channels_last)
    try:
        with autocast(dtype, device):
            net(image)  # warm-up
            seconds: list[float] = []
            while sum(seconds) < LATENCY_SECONDS:
                start = time.perf_counter()
                net(image).logits.sum().item()  # waits for the device
                seconds.append(time.perf_counter() - start)
    finally:
        net.train(was_training)
    return 1000 * statistics.median(seconds)
