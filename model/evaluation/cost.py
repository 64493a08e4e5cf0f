"""What a network costs: its parameters, the multiply-accumulates (MACs) of one image, and its latency.

MACs are counted by torch.utils.flop_counter, as papers count: convolutions and matrix products, without biases, batch
norm, activations, pooling and sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.engine.precision import autocast

LATENCY_SECONDS = 0.1  # of measuring


class Cost(NamedTuple):
    """Trainable or frozen, a parameter is counted; buffers (a batch norm's statistics) are not."""

    parameters: int
    macs: int

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters, {self.macs:,} multiply-accumulates an image"


@torch.no_grad()
def cost(net: nn.Module, image_shape: tuple[int, ...]) -> Cost:
    """Run a network on one image of the shape (C, H, W) and count; the network is left as it was.

    A network on the meta device is counted without any arithmetic.
    """
    was_training = net.training
    net.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, *image_shape, device=next(net.parameters()).device))
    finally:
        net.train(was_training)
    return Cost(sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() // 2)


@torch.no_grad()
def latency(net: nn.Module, image_shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> float:
    """Milliseconds from one image of the shape (C, H, W) to what the network says of it: the median of many."""
    from torch.utils.benchmark import Timer  # takes a tenth of a second

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
