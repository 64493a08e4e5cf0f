"""A small student: three convolutions and two linear layers.

The student of peterliht's knowledge-distillation project (2018), which is based on Stanford's CS230 examples:
https://github.com/peterliht/knowledge-distillation-pytorch. Structure and names are the same, so its weights load: ReLU
follows the pooling, and there is dropout before the last layer only. Initial weights are PyTorch's defaults.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output


@NETS.register("cnn")
class CNN(nn.Module):
    """Three stages that each halve the resolution, then a hidden layer and the classifier.

    Args:
        image_size: Height and width of the images, which determine the hidden layer's input size; at least 8.
        num_channels: Channels of the first stage; the second has twice, the third and the hidden layer four times this.
        dropout: Dropout probability of the hidden layer; `embedding` is its output after dropout.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        num_channels: int = 32,
        dropout: float = 0.5,
    ) -> None:
        if num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        if image_size < 8:
            raise ValueError(f"image_size must be at least 8, because it is halved three times, got {image_size}")
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.conv2 = nn.Conv2d(num_channels, 2 * num_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(2 * num_channels)
        self.conv3 = nn.Conv2d(2 * num_channels, 4 * num_channels, kernel_size=3, padding=1)
        self.bn3 = nn.BatchNorm2d(4 * num_channels)
        self.fc1 = nn.Linear(4 * num_channels * (image_size // 8) ** 2, 4 * num_channels)
        self.fcbn1 = nn.BatchNorm1d(4 * num_channels)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(4 * num_channels, num_classes)

    def forward(self, images_NCHW: Tensor) -> Output:
        preact1_NCHW = F.max_pool2d(self.bn1(self.conv1(images_NCHW)), kernel_size=2)
        map1_NCHW = F.relu(preact1_NCHW)
        preact2_NCHW = F.max_pool2d(self.bn2(self.conv2(map1_NCHW)), kernel_size=2)
        map2_NCHW = F.relu(preact2_NCHW)
        preact3_NCHW = F.max_pool2d(self.bn3(self.conv3(map2_NCHW)), kernel_size=2)
        map3_NCHW = F.relu(preact3_NCHW)
        hidden_ND = F.relu(self.fcbn1(self.fc1(map3_NCHW.flatten(1))))
        embedding_ND = self.dropout(hidden_ND)
        return Output(
            self.fc2(embedding_ND),
            embedding_ND,
            maps=(map1_NCHW, map2_NCHW, map3_NCHW),
            preacts=(preact1_NCHW, preact2_NCHW, preact3_NCHW),
        )
