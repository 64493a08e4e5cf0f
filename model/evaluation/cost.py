"""What a network costs: its parameters, the multiply-accumulates (MACs) of one image, and its latency.

MACs are counted by torch.utils.flop_counter, as papers count: convolutions and matrix products, without biases, batch
norm, activations, pooling and sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


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
