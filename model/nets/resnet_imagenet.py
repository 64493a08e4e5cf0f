"""ResNet-18 and ResNet-34 for images of 224x224, with a choice of convolutions.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1.
https://arxiv.org/abs/1512.03385
Structure, names and initial weights are torchvision's, so its weights load into the plain networks: a 7x7 stem of
stride 2 and max-pool, and convolutions normal with variance 2 / fan-out. As in pytorch-moonshine, the two convolutions
of every block can be of another type (model/nets/convolutions.py); stem and projections are unchanged.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .resnet_cifar import stage
from .stages import forward_stages


class ImageNetResNet(nn.Module):
    """A stem that divides height and width by 4, and four stages; every stage after the first halves them.

    Args:
        num_blocks: Blocks of each stage.
        conv: The type of the blocks' convolutions.
    """

    def __init__(self, num_blocks: tuple[int, int, int, int], *, conv: str, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(num_blocks[0], 64, 64, stride=1, conv=conv)
        self.layer2 = stage(num_blocks[1], 64, 128, stride=2, conv=conv)
        self.layer3 = stage(num_blocks[2], 128, 256, stride=2, conv=conv)
        self.layer4 = stage(num_blocks[3], 256, 512, stride=2, conv=conv)
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.bn1(self.conv1(images_NCHW)))
        stem_NCHW = F.max_pool2d(stem_NCHW, kernel_size=3, stride=2, padding=1)
        maps, preacts = forward_stages((self.layer1, self.layer2, self.layer3, self.layer4), stem_NCHW)
        embedding_ND = maps[-1].mean(dim=(2, 3))
        return Output(self.fc(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


@NETS.register
def resnet18_imagenet(num_classes: int, in_channels: int = 3, *, conv: str = "Conv") -> ImageNetResNet:
    """ResNet-18 for 224x224 images.

    Args:
        conv: Type of the blocks' convolutions; as in `wrn`.
    """
    return ImageNetResNet((2, 2, 2, 2), conv=conv, num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet34_imagenet(num_classes: int, in_channels: int = 3, *, conv: str = "Conv") -> ImageNetResNet:
    """ResNet-34 for 224x224 images.

    Args:
        conv: Type of the blocks' convolutions; as in `wrn`.
    """
    return ImageNetResNet((3, 4, 6, 3), conv=conv, num_classes=num_classes, in_channels=in_channels)
