"""Several networks that see the same images, side by side as one, so that they can learn together.

Zhang, Xiang, Hospedales and Lu, "Deep Mutual Learning", CVPR 2018. https://arxiv.org/abs/1706.00384
What the first one says is what this network says; the others' answers are its exits, so that the accuracy of each and
of all together is told by itself. The loss `mutual` has them learn from one another.
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
    """Networks of the same task, each with weights of its own.

    Args:
        networks: Two or more networks, each written as a student is: {"name": "resnet20"}. The first one is what a
            student of this folder, or a reader of its accuracy, gets to see.
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
        built = (construct_inner(f"networks.{number}", network, **sizes) for number, network in enumerate(networks))
        self.networks = nn.ModuleList(built)

    def forward(self, images_NCHW: Tensor) -> Output:
        first, *others = [network(images_NCHW) for network in self.networks]
        if any(said.exits for said in (first, *others)):
            raise ValueError("a network with early exits cannot be one of several peers")
        return Output(first.logits, first.embedding, first.maps, first.preacts, tuple(others), first.stem)
