"""A folder of photos as people have them: unbalanced classes, all sizes, grey, transparent, turned and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"ant": 120, "bee": 100, "crane": 80, "dove": 65, "eel": 50, "fox": 35, "gnu": 25, "hare": 10}  # 485
ROTATED_BY_90 = 6  # EXIF's orientation


def write_photos(root: Path, *, share: float = 1.0, longest: int = 500) -> int:
    """Write the photos below a folder; returns how many of them are broken.

    A class is a colour with stripes of its own direction.

    Args:
        share: Of the 485 photos; at least five of each class.
        longest: Of the photos' sides, in pixels; the shortest is 96.
    """
    generator, broken = np.random.default_rng(0), 0
    for number, (name, count) in enumerate(COUNTS.items()):
        (root / name).mkdir(parents=True)
        for photo in range(max(5, round(share * count))):
            height, width = generator.integers(96, longest + 1, 2)
            rows, columns = np.mgrid[:height, :width]
            stripes = np.sin((rows * np.sin(number) + columns * np.cos(number)) / 8)
            colour = 128 + 90 * np.cos(number + np.array([0.0, 2.0, 4.0]))
            noise = generator.normal(0, 20, (height, width, 3))
            pixels = (colour + 30 * stripes[:, :, None] + noise).clip(0, 255).astype(np.uint8)
            image, path = Image.fromarray(pixels), root / name / f"IMG_{photo:04d}.jpg"
            if photo % 10 == 1:
                image.convert("L").save(path)
            elif photo % 10 == 2:
                image.putalpha(200)
                image.save(path.with_suffix(".png"))
            elif photo % 10 == 3:
                exif = Image.Exif()
                exif[0x0112] = ROTATED_BY_90
                image.save(path, exif=exif)
            elif photo == 4 and number % 4 == 0:
                path.write_bytes(b"\xff\xd8\xff cut short")
                broken += 1
            else:
                image.save(path)
    (root / "ant" / "Thumbs.db").touch()
    return broken
