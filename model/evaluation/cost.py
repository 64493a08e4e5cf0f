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
    """Parameters, trainable or frozen, without buffers (a batch norm's statistics); MACs of one image.

    Both are 0 for a network of another library's runtime, where they cannot be counted.
    """

    parameters: int
    macs: int

    def __str__(self) -> str:
        if not self.parameters:
            return "of unknown cost"
        return f"{self.parameters:,} parameters, {self.macs:,} multiply-accumulates an image"


@torch.no_grad()
def cost(net: nn.Module, image_shape: tuple[int, ...]) -> Cost:
    """Count on a forward pass of one image of the shape (C, H, W), in eval mode; the network's mode is restored.

    On the meta device nothing is computed.
    """
    if (parameter := next(net.parameters(), None)) is None:
        return Cost(0, 0)
    was_training = net.training
    net.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, *image_shape, device=parameter.device))
    finally:
        net.train(was_training)
    return Cost(sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() // 2)
