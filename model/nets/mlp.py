"""Multi-layer perceptrons: the networks of distillation's first experiment, two hidden layers that read all pixels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, sec. 3. https://arxiv.org/abs/1503.02531
`mlp_1200` and `mlp_800` follow the teacher and the student of the MNIST scripts of peterliht's
knowledge-distillation-pytorch, `mlp_128` the network of nocotan's born_again_neuralnet: weights trained there load.
Dropout comes after the ReLU of each hidden layer; the teacher's 0.8 is the first project's. (The paper refers to Hinton
et al., 2012, who drop 0.5, and 0.2 of the pixels.) In the second project dropout acts in evaluation too, and the logits
go through dropout and a ReLU like any other layer: that is not followed.
There are no maps. Initial weights are PyTorch's own.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output


class MLP(nn.Module):
    """Linear layers with a ReLU between them, over the pixels of an image in a row.

    Args:
        image_size: Height and width of the images, which fix the first layer's size.
        widths: Units of each hidden layer.
        dropout: Share of each hidden layer that the next one does not see in training; `embedding` is what the
            classifier sees.
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
        dropout: Share of each hidden layer that the next one does not see in training.
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
