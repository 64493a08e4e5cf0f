"""Several networks side by side as one, so that they can learn from each other on the same images.

Zhang, Xiang, Hospedales and Lu, "Deep Mutual Learning", CVPR 2018. https://arxiv.org/abs/1706.00384
The output is that of the first network, the outputs of the others are its exits: so the accuracy of each network and of
their ensemble is reported. The loss `mutual` trains them on each other's predictions.
Initial weights: each network's own, drawn one after another.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .construct import construct_inner


@NETS.register("peers")
class Peers(nn.Module):
    """Networks for the same task, each with its own weights.

    Args:
        networks: Two or more networks, each defined as a student is: {"name": "resnet20"}. The first one is evaluated
            as the student, and acts as the teacher where this folder is one.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        networks: list[dict[str, Any]] = [{"name": "resnet20"}, {"name": "resnet20"}],
    ) -> None:
        super().__init__()
        if len(networks) < 2:
            raise ValueError(f"networks must be 2 or more, got {len(networks)}")
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        self.networks = nn.ModuleList(
            construct_inner(f"networks.{number}", network, **sizes) for number, network in enumerate(networks)
        )

    def forward(self, images_NCHW: Tensor) -> Output:
        first, *others = [network(images_NCHW) for network in self.networks]
        if any(output.exits for output in (first, *others)):
            raise ValueError("a network with early exits cannot be one of several peers")
        return Output(first.logits, first.embedding, first.maps, first.preacts, tuple(others), first.stem)
