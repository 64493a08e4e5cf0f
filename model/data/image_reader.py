"""Image files: read, cropped and flipped a batch at a time.

Crop and flip are those of Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, sec. 6: by default 8 to 100 % of
the area, aspect ratio 3/4 to 4/3. The unaugmented view is the centre crop, 7/8 of the shorter side.
A large JPEG file is decoded at a smaller size where that leaves GAP times the pixels that are needed in each direction.
Imported only when needed: torchvision takes as long to import as torch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..errors import UserError
from ..randomness import VIEW, random_bits
from .image_index import Images
from .pixels import Photo, naming_image, open_image
from .smaller_images import SmallerImages

CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
GAP = 2  # Pillow's own for thumbnails: what is left out is then hardly more than what resizing leaves out
MAX_ASPECT = 16  # of an image that is resized as a whole before its centre is cropped


class BatchReader(Dataset[tuple[Tensor, str]]):
    """Reads the batch (index_N, view_N).

    A view below 0 is the centre crop; others are random crops, f(seed, view, index).
    An item is the pixels, uint8 (N, size * size * 3) followed by those at `other_sizes`, and an error message, empty
    without an error: an exception raised in a worker process would arrive with the whole traceback as its message.

    Args:
        smaller: Copies of large images that are read instead, found by `content`, a hash of each image.

    Attributes:
        other_sizes: Sides at which each view is drawn, too.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        seed: int,
        *,
        draft: bool = True,
        crop_scale: Sequence[float] = CROP_SCALE,
        crop_ratio: Sequence[float] = CROP_RATIO,
        smaller: SmallerImages | None = None,
        content: NDArray[np.uint64] | None = None,
    ) -> None:
        self.images, self.size, self.seed, self.draft = images, size, seed, draft
        self.crop_scale, self.crop_ratio = crop_scale, crop_ratio
        self.smaller, self.content = smaller, content
        self.other_sizes: tuple[int, ...] = ()

    @property
    def num_values(self) -> int:
        """Of an image at all sizes."""
        return sum(3 * size**2 for size in (self.size, *self.other_sizes))

    def __getitem__(self, batch: tuple[NDArray[np.integer], NDArray[np.integer]]) -> tuple[Tensor, str]:
        index_N, view_N = batch
        pixels_NP = np.empty((len(index_N), self.num_values), np.uint8)
        for row, (index, view) in enumerate(zip(index_N, view_N, strict=True)):
            path = self.images.path(int(index))
            try:
                with naming_image(path), self._open(path, int(index)) as image:
                    photo = Photo(image, draft=self.draft)
                    crops = [
                        np.asarray(self._crop(photo, int(index), int(view), size)).reshape(-1)
                        for size in (self.size, *self.other_sizes)
                    ]
                    pixels_NP[row] = np.concatenate(crops)
            except UserError as error:
                return torch.empty(0), str(error)
        return torch.from_numpy(pixels_NP), ""

    def _open(self, path: str, index: int) -> Image.Image:
        def read() -> bytes:
            return self.images.read(index)[1]

        if self.smaller is None or self.content is None:
            return open_image(path, io.BytesIO(read()))
        return self.smaller.open(path, int(self.content[index]), read)

    def _crop(self, image: Photo, index: int, view: int, size: int) -> Image.Image:
        if view < 0:
            return resized_center_crop(image, size)
        crop_seed = int(random_bits(self.seed, VIEW, view, index=index)) >> 1
        return random_resized_crop(image, crop_seed, size, scale=self.crop_scale, ratio=self.crop_ratio)


def resized_center_crop(image: Photo, size: int) -> Image.Image:
    """The square of 7/8 of the image's shorter side around its centre, resized: size x size."""
    (width, height), side = image.size, round(size * 256 / 224)
    shorter, longer = sorted(image.size)
    if longer > MAX_ASPECT * shorter:
        resized = F.resize(_without_ends(image.decode(width, height)[0]), [side], antialias=True)
    else:
        decoded, scale = image.decode(GAP * side * width / shorter, GAP * side * height / shorter)
        box = image.crop_box(decoded, scale, 0, 0, width, height)
        resized = decoded.resize((side * width // shorter, side * height // shorter), Image.Resampling.BILINEAR, box)
    cropped: Image.Image = F.center_crop(resized, [size, size])
    return cropped


def _without_ends(image: Image.Image) -> Image.Image:
    """The middle of an image that is very long: resized as a whole, a line of pixels would fill the memory."""
    width, height = image.size
    longest = MAX_ASPECT * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def random_resized_crop(
    image: Photo,
    crop_seed: int,
    size: int,
    *,
    scale: Sequence[float] = CROP_SCALE,
    ratio: Sequence[float] = CROP_RATIO,
) -> Image.Image:
    """Random crop and flip, drawn with this seed, resized: size x size."""
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(crop_seed)
        outline = torch.empty(1, *reversed(image.size), device="meta")  # as nothing has been decoded yet
        top, left, height, width = v2.RandomResizedCrop.get_params(outline, scale=[*scale], ratio=[*ratio])
        flipped = torch.rand(()) < 0.5
    crop = _resized_crop(image, top, left, height, width, size)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else crop


def _resized_crop(image: Photo, top: int, left: int, height: int, width: int, size: int) -> Image.Image:
    """This part of the image, resized: size x size."""
    decoded, scale = image.decode(GAP * size * image.size[0] / width, GAP * size * image.size[1] / height)
    if scale == 1:
        crop: Image.Image = F.resized_crop(decoded, top, left, height, width, [size, size], antialias=True)
        return crop
    x, y, right, bottom = image.crop_box(decoded, scale, left, top, width, height)
    # Only whole pixels can be cropped; without a crop, resizing would look at pixels beyond the part.
    part = decoded.crop((int(x), int(y), math.ceil(right), math.ceil(bottom)))
    box = (x - int(x), y - int(y), right - int(x), bottom - int(y))
    return part.resize((size, size), Image.Resampling.BILINEAR, box)
