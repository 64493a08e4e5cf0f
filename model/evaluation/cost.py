"""The cost of a network: its parameters, and the multiply-accumulates (MACs) of one image.

MACs are counted by torch.utils.flop_counter in the way of most papers: convolutions and matrix products, without
biases, batch norm, activations, pooling and sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Parameters, trainable or frozen, without buffers (a batch norm's statistics); MACs of one image."""

    parameters: int
    macs: int

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters, {self.macs:,} multiply-accumulates an image"


@torch.no_grad()
def cost(net: nn.Module, image_shape: tuple[int, ...]) -> Cost:
    """Count on a forward pass of one image of the shape (C, H, W), in eval mode; the network's mode is restored.

    On the meta device nothing is computed.
    """
    was_training = net.training
    net.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, *image_shape, device=next(net.parameters()).device))
    finally:
        net.train(was_training)
    return Cost(sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() // 2)
