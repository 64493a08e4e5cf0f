"""Multi-layer perceptrons: the networks of the first distillation experiment, with two hidden layers.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, sec. 3. https://arxiv.org/abs/1503.02531
`mlp_1200` and `mlp_800` are the teacher and the student in the MNIST scripts of peterliht's
knowledge-distillation-pytorch, `mlp_128` is the network of nocotan's born_again_neuralnet: their weights load.
Dropout follows the ReLU of each hidden layer; the teacher's 0.8 is the first project's. (The paper refers to Hinton et
al., 2012, who drop 0.5, and 0.2 of the pixels.) Unlike in the second project, dropout is off in evaluation, and the
logits have neither dropout nor ReLU.
There are no maps. Initial weights are PyTorch's defaults.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output


class MLP(nn.Module):
    """Linear layers with ReLU on the flattened image.

    Args:
        image_size: Height and width of the images, which determine the first layer's input size.
        widths: Units of each hidden layer.
        dropout: Dropout probability of each hidden layer; `embedding` is the last one's output after dropout.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: int, *, widths: tuple[int, ...], dropout: float
    ) -> None:
        if any(width < 1 for width in widths):
            raise ValueError(f"widths must be at least 1 each, got {list(widths)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        super().__init__()
        sizes = (in_channels * image_size**2, *widths, num_classes)
        for number, (num_inputs, num_outputs) in enumerate(pairwise(sizes), start=1):
            self.add_module(f"fc{number}", nn.Linear(num_inputs, num_outputs))
        self.dropout = dropout

    def forward(self, images_NCHW: Tensor) -> Output:
        *hidden, classifier = self.children()
        embedding_ND = images_NCHW.flatten(1)
        for layer in hidden:
            embedding_ND = F.dropout(F.relu(layer(embedding_ND)), self.dropout, self.training)
        return Output(classifier(embedding_ND), embedding_ND)


@NETS.register
def mlp(
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    *,
    widths: tuple[int, ...] = (800, 800),
    dropout: float = 0.0,
) -> MLP:
    """A multi-layer perceptron of any size.

    Args:
        widths: Units of each hidden layer.
        dropout: Dropout probability of each hidden layer.
    """
    return MLP(num_classes, in_channels, image_size, widths=widths, dropout=dropout)


@NETS.register
def mlp_1200(num_classes: int, in_channels: int = 3, image_size: int = 32, *, dropout: float = 0.8) -> MLP:
    return MLP(num_classes, in_channels, image_size, widths=(1200, 1200), dropout=dropout)


@NETS.register
def mlp_800(num_classes: int, in_channels: int = 3, image_size: int = 32, *, dropout: float = 0.0) -> MLP:
    return MLP(num_classes, in_channels, image_size, widths=(800, 800), dropout=dropout)


@NETS.register
def mlp_128(num_classes: int, in_channels: int = 3, image_size: int = 32, *, dropout: float = 0.5) -> MLP:
    return MLP(num_classes, in_channels, image_size, widths=(128, 128), dropout=dropout)
