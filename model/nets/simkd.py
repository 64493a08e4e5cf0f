"""A network whose last map is projected to the teacher's shape, so that it can reuse the teacher's classifier.

Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, sec. 3.
https://arxiv.org/abs/2203.14001
The projector is the authors': convolutions of 1x1, 3x3 and 1x1 with batch norm and ReLU, with the teacher's channels
divided by `reduction` in between. The inner network's own classifier is left out. The loss `simkd` replaces the
classifier by the teacher's and freezes it; with other losses it is trained from initial weights. Projector and
classifier are part of the network: they count in its parameters and MACs, and are saved with its weights.
Initial weights: the inner network's own; PyTorch's defaults in the projector and the classifier.
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
    """A network, a projector, and a classifier on the mean of the projected map.

    Args:
        network: The inner network, defined as a student is: {"name": "resnet8x4"}.
        teacher: The network whose last map defines the shape, likewise; by default that of the teacher's folder, and
            without a teacher, `network` itself.
        reduction: Factor by which the projector's inner width is below the teacher's number of channels.
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
            meta_net = construct_inner("network", without_pretrained(network), **sizes).eval()
            meta_teacher = construct_inner(
                "teacher", without_pretrained(network if teacher is None else teacher), **sizes
            ).eval()
        width = last_map(meta_net(images_NCHW)).shape[1]
        _, teacher_width, *teacher_size = last_map(meta_teacher(images_NCHW)).shape
        if not 1 <= reduction <= teacher_width:
            raise ValueError(f"reduction must be 1 to {teacher_width}, the teacher's channels, got {reduction}")
        self.teacher_size = tuple(teacher_size)
        self.network = construct_inner("network", network, **sizes)
        classifier = classifier_name(meta_net, images_NCHW)
        if classifier is None:
            raise ValueError("the logits of network are not the output of a linear layer")
        self.network.set_submodule(classifier, nn.Identity())
        self.projector = projector(width, teacher_width // reduction, teacher_width)
        self.classifier = nn.Linear(teacher_width, num_classes)

    def forward(self, images_NCHW: Tensor) -> Output:
        output = self.network(images_NCHW)
        map_NCHW, (height, width) = output.maps[-1], self.teacher_size
        if map_NCHW.shape[2] > height or map_NCHW.shape[3] > width:
            map_NCHW = F.adaptive_avg_pool2d(map_NCHW, (height, width))
        preact_NCHW = self.projector(map_NCHW)
        projected_NCHW = F.relu(preact_NCHW)
        embedding_ND = projected_NCHW.mean(dim=(2, 3))
        maps, preacts = (*output.maps, projected_NCHW), (*output.preacts, preact_NCHW)
        return Output(self.classifier(embedding_ND), embedding_ND, maps, preacts, stem=output.stem)


def projector(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    """Three convolutions; the last ReLU is applied by the network."""
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


def last_map(output: Output) -> Tensor:
    if not output.maps:
        raise ValueError("a network without maps has nothing to project")
    return output.maps[-1]
