"""A picture of augmented training images with what both networks predict for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from ..training.precision import autocast
from ..types import Batch, Normalisation, Output, Teacher

NUM_SAMPLES, PER_ROW = 12, 6
SIZE, LINE = 128, 14  # pixels
MAX_LETTERS = 22  # of a line below an image
RIGHT, WRONG, TEXT = (0, 114, 178), (213, 94, 0), (40, 40, 40)  # Okabe and Ito's blue and vermilion


class Line(NamedTuple):
    """A line of text below an image."""

    text: str
    colour: tuple[int, int, int]


@torch.no_grad()
def draw_samples(
    batch: Batch,
    student: nn.Module,
    teacher: Teacher | None,
    *,
    class_names: Sequence[str],
    normalisation: Normalisation,
    dtype: torch.dtype,
) -> NDArray[np.uint8]:
    """The first images of a batch of training views, each with its label and the top guesses: a picture (H, W, 3)."""
    first = Batch(*(values[:NUM_SAMPLES] for values in batch))
    student.eval()
    with autocast(dtype, first.images.device):
        outputs: dict[str, Output] = {"student": student(first.images)}
    if teacher is not None:
        outputs["teacher"] = teacher(first)
    captions: list[list[Line]] = [[Line(class_names[label], TEXT)] for label in first.labels.tolist()]
    if first.partner_labels is not None:
        for lines, partner in zip(captions, first.partner_labels.tolist(), strict=True):
            lines.append(Line(f"mixed with: {class_names[partner]}", TEXT))
    for who, output in outputs.items():
        if not output.logits.shape[1]:  # a cache of embeddings alone
            continue
        for lines, label, guess in zip(
            captions, first.labels.tolist(), output.logits.argmax(dim=1).tolist(), strict=True
        ):
            lines.append(Line(f"{who}: {class_names[guess]}", RIGHT if guess == label else WRONG))
    return picture(pixels(first.images, normalisation), captions)


def pixels(images_NCHW: Tensor, normalisation: Normalisation) -> NDArray[np.uint8]:
    """Images as a network sees them, as bytes (N, H, W, 3)."""
    mean, std = (
        torch.tensor(values, device=images_NCHW.device).view(-1, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    rgb_NCHW = (images_NCHW.float() * std + mean).clamp(0, 1).expand(-1, 3, -1, -1)
    bytes_NHWC: NDArray[np.uint8] = (255 * rgb_NCHW).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return bytes_NHWC


def picture(images_NHWC: NDArray[np.uint8], captions: Sequence[Sequence[Line]]) -> NDArray[np.uint8]:
    """Images in rows, with coloured lines of text below each."""
    height = SIZE + LINE * max(map(len, captions)) + 6
    num_rows = -(-len(images_NHWC) // PER_ROW)
    canvas = Image.new("RGB", (PER_ROW * (SIZE + 6), num_rows * height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for number, (image_HWC, lines) in enumerate(zip(images_NHWC, captions, strict=True)):
        x, y = (number % PER_ROW) * (SIZE + 6), (number // PER_ROW) * height
        canvas.paste(Image.fromarray(image_HWC).resize((SIZE, SIZE), Image.Resampling.NEAREST), (x, y))
        for below, line in enumerate(lines):
            pen.text((x, y + SIZE + LINE * below), line.text[:MAX_LETTERS], fill=line.colour, font=font)
    return np.asarray(canvas)
