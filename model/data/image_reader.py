"""Image files: read, cropped and flipped a batch at a time.

Crop and flip are those of Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, sec. 6: by default 8 to 100 % of
the area, aspect ratio 3/4 to 4/3. The unaugmented view is the centre crop, 7/8 of the shorter side.
Imported only when needed: torchvision takes as long to import as torch.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..randomness import VIEW, random_bits
from .image_index import Images
from .pixels import decode, printable, why_broken

CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
MAX_ASPECT = 16  # of an image that is resized as a whole before its centre is cropped


class BatchReader(Dataset[tuple[Tensor, str]]):
    """Reads the batch (index_N, view_N).

    A view below 0 is the centre crop; others are random crops, f(seed, view, index).
    An item is the pixels, uint8 (N, size, size, 3), and an error message, empty without an error: an exception raised
    in a worker process would arrive with the whole traceback as its message.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        seed: int,
        *,
        crop_scale: Sequence[float] = CROP_SCALE,
        crop_ratio: Sequence[float] = CROP_RATIO,
    ) -> None:
        self.images, self.size, self.seed = images, size, seed
        self.crop_scale, self.crop_ratio = crop_scale, crop_ratio

    def __getitem__(self, batch: tuple[NDArray[np.integer], NDArray[np.integer]]) -> tuple[Tensor, str]:
        index_N, view_N = batch
        pixels_NHWC = np.empty((len(index_N), self.size, self.size, 3), np.uint8)
        for row, (index, view) in enumerate(zip(index_N, view_N, strict=True)):
            path = self.images.path(int(index))
            try:
                image = decode(path, "RGB", io.BytesIO(self.images.read(int(index))[1]))
            except Exception as error:  # Pillow raises almost anything on damaged files
                return torch.empty(0), f"{printable(path)} cannot be read as an image ({why_broken(error)})"
            pixels_NHWC[row] = np.asarray(self._crop(image, int(index), int(view)))
        return torch.from_numpy(pixels_NHWC), ""

    def _crop(self, image: Image.Image, index: int, view: int) -> Image.Image:
        if view < 0:
            return resized_center_crop(image, self.size)
        crop_seed = int(random_bits(self.seed, VIEW, view, index=index)) >> 1
        return random_resized_crop(image, crop_seed, self.size, scale=self.crop_scale, ratio=self.crop_ratio)


def resized_center_crop(image: Image.Image, size: int) -> Image.Image:
    """The square of 7/8 of the image's shorter side around its centre, resized: size x size."""
    image = _without_ends(image)
    resized = F.resize(image, [round(size * 256 / 224)], antialias=True)
    cropped: Image.Image = F.center_crop(resized, [size, size])
    return cropped


def _without_ends(image: Image.Image) -> Image.Image:
    """The middle of an image that is very long: resized as a whole, a line of pixels would fill the memory."""
    width, height = image.size
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def random_resized_crop(
    image: Image.Image,
    crop_seed: int,
    size: int,
    *,
    scale: Sequence[float] = CROP_SCALE,
    ratio: Sequence[float] = CROP_RATIO,
) -> Image.Image:
    """Random crop and flip, drawn with this seed, resized: size x size."""
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(crop_seed)
        box = v2.RandomResizedCrop.get_params(image, scale=[*scale], ratio=[*ratio])
        flipped = torch.rand(()) < 0.5
    crop: Image.Image = F.resized_crop(image, *box, [size, size], antialias=True)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else crop
