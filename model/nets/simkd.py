"""A network whose last map is brought to the teacher's shape, so that the teacher's own classifier can read it.

Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, sec. 3.
https://arxiv.org/abs/2203.14001
The projector is the authors': convolutions of 1x1, 3x3 and 1x1 with batch norm and ReLUs, through a `reduction` of the
teacher's channels. The network's own classifier is left out. The loss `simkd` puts the teacher's into its place and
freezes it; with other losses it is a fresh one, and is trained. All of that is part of the network: of its parameters,
its arithmetic and its weights file.
Initial weights: the inner network's own; PyTorch's own in the projector and the classifier.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .construct import classifier_name, construct_inner, without_pretrained


@NETS.register("simkd")
class ReusedClassifier(nn.Module):
    """A network, a projector, and a classifier that reads the mean of the projected map.

    Args:
        network: The network, written as a student is: {"name": "resnet8x4"}.
        teacher: The network whose last map sets the shape, written likewise; by default that of the folder that
            teaches, and where none does, `network` again.
        reduction: The teacher's channels for each channel inside the projector.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        network: dict[str, Any] = {"name": "resnet8x4"},
        teacher: dict[str, Any] | None = None,
        reduction: int = 2,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        images_NCHW = torch.empty(2, in_channels, image_size, image_size, device="meta")
        with torch.device("meta"):
            own = construct_inner("network", without_pretrained(network), **sizes).eval()
            guide = construct_inner(
                "teacher", without_pretrained(network if teacher is None else teacher), **sizes
            ).eval()
        width = last_map(own(images_NCHW)).shape[1]
        _, out, *size = last_map(guide(images_NCHW)).shape
        if not 1 <= reduction <= out:
            raise ValueError(f"reduction must be 1 to {out}, the teacher's channels, got {reduction}")
        self.size = tuple(size)
        self.network = construct_inner("network", network, **sizes)
        classifier = classifier_name(own, images_NCHW)
        if classifier is None:
            raise ValueError("the logits of network are not what a linear layer makes")
        self.network.set_submodule(classifier, nn.Identity())
        self.projector = projector(width, out // reduction, out)
        self.classifier = nn.Linear(out, num_classes)

    def forward(self, images_NCHW: Tensor) -> Output:
        said = self.network(images_NCHW)
        map_NCHW, (height, width) = said.maps[-1], self.size
        if map_NCHW.shape[2] > height or map_NCHW.shape[3] > width:
            map_NCHW = F.adaptive_avg_pool2d(map_NCHW, (height, width))
        preact_NCHW = self.projector(map_NCHW)
        projected_NCHW = F.relu(preact_NCHW)
        embedding_ND = projected_NCHW.mean(dim=(2, 3))
        maps, preacts = (*said.maps, projected_NCHW), (*said.preacts, preact_NCHW)
        return Output(self.classifier(embedding_ND), embedding_ND, maps, preacts, stem=said.stem)


def projector(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    """Its last ReLU is left to the network."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def last_map(said: Output) -> Tensor:
    if not said.maps:
        raise ValueError("a network without maps has nothing to project")
    return said.maps[-1]
