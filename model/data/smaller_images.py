"""Smaller copies of large images, which are decoded in full once: later epochs and runs read the copies.

A copy is a JPEG file, followed by a digest of its bytes: one that was cut short or changed is made anew. It is found by
a hash of the original's content, so that names and folders do not matter, and a changed original has another copy.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..files import atomic_write
from ..logs import log
from .pixels import Photo, open_image, printable

GAP = 2  # as many times the copy's pixels in each direction are decoded at least
QUALITY = 95
DIGEST_BYTES = 16


class SmallerImages:
    """The copies of one size.

    Args:
        folder: Where they are stored; made if it does not exist.
        side: Their shorter side in pixels. Images of this size, or smaller ones, have no copy.
        draft: As in `Photo`.
    """

    def __init__(self, folder: Path, side: int, *, draft: bool) -> None:
        self.folder, self.side, self.draft = folder, side, draft

    def open(self, path: str, key: int, read: Callable[[], bytes]) -> Image.Image:
        """The copy of an image, or the image where it is small.

        Args:
            path: What the image is called.
            key: A hash of its content.
            read: Returns its content.
        """
        name = f"{key:016x}"
        file = self.folder / name[:2] / f"{name}.jpg"
        content = _read_verified(file)
        if content is None:
            image = open_image(path, io.BytesIO(read()))
            content = smaller_copy(image, self.side, draft=self.draft)
            if content is None:
                return image
            _store(file, content)
        return open_image(file, io.BytesIO(content))


def smaller_copy(image: Image.Image, side: int, *, draft: bool) -> bytes | None:
    """The content of an image's copy, upright and opaque; None where the image is not larger."""
    photo = Photo(image, draft=draft)
    (width, height), shorter = photo.size, min(photo.size)
    if shorter <= side:
        return None
    size = round(width * side / shorter), round(height * side / shorter)
    decoded, scale = photo.decode(GAP * size[0], GAP * size[1])
    box = photo.crop_box(decoded, scale, 0, 0, width, height)
    copy, content = decoded.resize(size, Image.Resampling.BILINEAR, box), io.BytesIO()
    copy.info.clear()  # comments and the like, some of which Pillow would write
    copy.save(content, "JPEG", quality=QUALITY, subsampling=0)
    return content.getvalue()


def _read_verified(file: Path) -> bytes | None:
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    content, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
    return content if _digest(content) == digest else None


def _store(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_bytes(content + _digest(content))
    except OSError as error:
        _log_not_stored(file.parent.parent, error.strerror or str(error))


@functools.cache  # once in each process
def _log_not_stored(folder: Path, reason: str) -> None:
    log.warning("%s cannot be written (%s): large images are decoded in every epoch", printable(folder), reason)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
