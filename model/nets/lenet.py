"""LeNet-5 in its modern form: two convolutions and three linear layers, with ReLU and max pooling.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998, sec. II.B.
The paper's sizes, without its trainable averages, squashing functions, sparse second layer and radial basis outputs.
Structure and names are those of nocotan's born_again_neuralnet, so its weights load.
Initial weights are PyTorch's defaults.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output


@NETS.register("lenet")
class LeNet(nn.Module):
    """Two stages of a 5x5 convolution without padding and a pool, then two hidden layers and the classifier.

    Args:
        image_size: Height and width of the images, which determine the first hidden layer's input size; at least 16.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 32) -> None:
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"image_size must be at least 16, so that one pixel is left, got {image_size}")
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(16 * side**2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images_NCHW: Tensor) -> Output:
        # Max pooling and ReLU commute, so the ReLU can come last.
        preact1_NCHW = F.max_pool2d(self.conv1(images_NCHW), kernel_size=2)
        map1_NCHW = F.relu(preact1_NCHW)
        preact2_NCHW = F.max_pool2d(self.conv2(map1_NCHW), kernel_size=2)
        map2_NCHW = F.relu(preact2_NCHW)
        hidden_ND = F.relu(self.fc1(map2_NCHW.flatten(1)))
        embedding_ND = F.relu(self.fc2(hidden_ND))
        return Output(
            self.fc3(embedding_ND),
            embedding_ND,
            maps=(map1_NCHW, map2_NCHW),
            preacts=(preact1_NCHW, preact2_NCHW),
        )
