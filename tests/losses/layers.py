"""Layers of networks as slow float64 loops in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

Map = NDArray[np.float64]  # (N, C, H, W)


def relu(map_NCHW: Map) -> Map:
    return np.maximum(map_NCHW, 0)


def leaky_relu(map_NCHW: Map, slope: float) -> Map:
    return np.where(map_NCHW > 0, map_NCHW, slope * map_NCHW)


def batch_norm(map_NCHW: Map, module: object) -> Map:
    """With the batch's own statistics."""
    assert isinstance(module, nn.BatchNorm2d)
    centred = map_NCHW - map_NCHW.mean(axis=(0, 2, 3), keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=(0, 2, 3), keepdims=True) + 1e-5)
    weight, bias = (parameter.detach().numpy()[:, None, None] for parameter in (module.weight, module.bias))
    output: Map = scaled * weight + bias
    return output


def conv2d(map_NCHW: Map, module: object) -> Map:
    """Position by position, with the module's weights, stride and padding."""
    assert isinstance(module, nn.Conv2d)
    weight_DCHW = module.weight.detach().numpy()
    stride, padding = module.stride[0], int(module.padding[0])
    padded = np.pad(map_NCHW, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = weight_DCHW.shape[2]
    rows = range(0, padded.shape[2] - side + 1, stride)
    columns = range(0, padded.shape[3] - side + 1, stride)
    output = np.zeros((len(padded), len(weight_DCHW), len(rows), len(columns)))
    for row, top in enumerate(rows):
        for column, left in enumerate(columns):
            window = padded[:, :, top : top + side, left : left + side]
            output[:, :, row, column] = np.einsum("nchw,dchw->nd", window, weight_DCHW)
    return output if module.bias is None else output + module.bias.detach().numpy()[:, None, None]


def conv_transpose2d(map_NCHW: Map, module: object) -> Map:
    """Every input value adds its kernel to the output around its position; for stride 1."""
    assert isinstance(module, nn.ConvTranspose2d)
    assert module.stride == (1, 1)
    assert module.bias is not None
    weight_CDHW = module.weight.detach().numpy()
    N, _, H, W = map_NCHW.shape
    D, side, padding = weight_CDHW.shape[1], weight_CDHW.shape[2], int(module.padding[0])
    output = np.zeros((N, D, H + side - 1, W + side - 1))
    for row in range(H):
        for column in range(W):
            kernels = np.einsum("nc,cdhw->ndhw", map_NCHW[:, :, row, column], weight_CDHW)
            output[:, :, row : row + side, column : column + side] += kernels
    cropped = output[:, :, padding : output.shape[2] - padding, padding : output.shape[3] - padding]
    biased: Map = cropped + module.bias.detach().numpy()[:, None, None]
    return biased


def average_pool(map_NCHW: Map, height: int, width: int) -> Map:
    """Means of equal rectangles; height and width divide the map's."""
    N, C, H, W = map_NCHW.shape
    output: Map = map_NCHW.reshape(N, C, height, H // height, width, W // width).mean(axis=(3, 5))
    return output


def interpolate_nearest(map_NCHW: Map, height: int, width: int) -> Map:
    """Each value is the one at its upper left corner: values are repeated, or some are left out."""
    _, _, H, W = map_NCHW.shape
    rows, columns = [row * H // height for row in range(height)], [column * W // width for column in range(width)]
    return map_NCHW[:, :, rows][:, :, :, columns]
