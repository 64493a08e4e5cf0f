"""What a network costs: its parameters, and the multiply-accumulates (MACs) of one image.

Counted are convolutions and linear layers, as papers count them: without biases, batch norm, activations, pooling and
sums. Products of a network's own, outside of such layers, are not seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


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
    macs = 0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ARG001
        nonlocal macs
        macs += output.numel() * cast(Tensor, layer.weight)[0].numel()  # every output has one product a weight

    hooks = [layer.register_forward_hook(count) for layer in net.modules() if isinstance(layer, COUNTED)]
    was_training = net.training
    net.eval()
    try:
        net(torch.zeros(1, *image_shape, device=next(net.parameters()).device))
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(parameter.numel() for parameter in net.parameters()), macs)
