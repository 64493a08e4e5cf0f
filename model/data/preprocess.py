"""From pixels to a network's input: on the device, normalised; and the evaluation view of a single image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..types import Normalisation
from .pixels import as_displayed, read_image

if TYPE_CHECKING:
    from ..types import ImageInput

PIL_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Turns one image into a network's input, with the same values as in the data set's evaluation batches.

    Args:
        image_shape: C, H, W of the input.
        normalisation: The data set's.
        fit: Brings an image to this shape: uint8 pixels (H, W, C).
    """

    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    fit: Callable[[ImageInput, tuple[int, int, int]], NDArray[np.uint8]]

    def __call__(self, image: ImageInput) -> Tensor:
        """The input (C, H, W), float32 on the CPU, of a PIL image, an image file, or a uint8 array (H, W, C) or (H, W).

        Raises:
            UserError: The file cannot be read as an image.
            ValueError: The array's type or shape does not fit the data set.
        """
        pixels_HWC = torch.from_numpy(np.array(self.fit(image, self.image_shape), order="C"))
        return normalise(pixels_HWC[None], *scale_and_shift(self.normalisation, torch.device("cpu")))[0]


def resize(image: ImageInput, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """For data sets whose images all have one size: PIL images and files are resized to it, arrays must have it."""
    C, H, W = image_shape
    if isinstance(image, np.ndarray):
        pixels_HWC = _with_channels(image)
        if pixels_HWC.shape[:2] != (H, W):
            raise ValueError(f"an image array must be {H} x {W} for this data set, got {image.shape}")
        if pixels_HWC.shape[2] == C:
            return pixels_HWC
    resized = as_pil(image, C).resize((W, H), Image.Resampling.BILINEAR)  # antialiased, as always in Pillow
    return np.asarray(resized).reshape(H, W, C)


def as_pil(image: ImageInput, num_channels: int) -> Image.Image:
    """A grey or an RGB image as it looks, by the number of channels; see `pixels`.

    Raises:
        UserError: The file cannot be read as an image.
        ValueError: An array's type or shape is not that of an image, or PIL has no images of so many channels.
    """
    if num_channels not in PIL_MODES:
        raise ValueError(f"an image for this data set must be an array of {num_channels} channels")
    if isinstance(image, np.ndarray):
        pixels_HWC = _with_channels(image)
        if pixels_HWC.shape[2] not in PIL_MODES:
            raise ValueError(f"an image array must have 1 or 3 channels, got {image.shape}")
        image = Image.fromarray(pixels_HWC if pixels_HWC.shape[2] == 3 else pixels_HWC[:, :, 0])
    mode = PIL_MODES[num_channels]
    return as_displayed(image, mode) if isinstance(image, Image.Image) else read_image(image, mode)


def _with_channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) or (H, W) to (H, W, C)."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"an image array must be uint8 of shape (H, W, C) or (H, W), got {image.dtype} {image.shape}")
    return image if image.ndim == 3 else image[:, :, None]


def scale_and_shift(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor (C,) and offset (C,) that turn pixels from 0 to 255 into normalised values."""
    mean_C, std_C = (torch.tensor(values, device=device) for values in (normalisation.mean, normalisation.std))
    return 1 / (255 * std_C), -mean_C / std_C


def normalise(pixels_NHWC: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """uint8 pixels to (N, C, H, W) float32, channels-last in memory, where convolutions are fastest."""
    N, H, W, C = pixels_NHWC.shape
    rows_NHR = pixels_NHWC.float().view(N, H, W * C)  # in whole rows, as operations on rows of C values are slow
    rows_NHR.mul_(scale_C.repeat(W)).add_(shift_C.repeat(W))
    return rows_NHR.view(N, H, W, C).permute(0, 3, 1, 2)


def on_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """The array's content on a device: a GPU copies it while the host goes on."""
    # CUDA's driver keeps a copy of the source until it is done; MPS would read memory that may be freed by then.
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=device.type == "cuda")
