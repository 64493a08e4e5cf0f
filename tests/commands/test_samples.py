"""The picture of training views: what is drawn where."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.commands.samples import LINE, RIGHT, SIZE, TEXT, WRONG, Line, draw_samples, picture, pixels
from model.types import Batch, Normalisation, Output

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


class Constant(nn.Module):
    """Predicts the same class for every image."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, images: Tensor) -> Output:
        logits_NK = nn.functional.one_hot(torch.full((len(images),), self.k), 3).float()
        return Output(logits=logits_NK, embedding=logits_NK)


def has_colour(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    """Whether it has a pixel of about this colour: letters are blended with what is behind them."""
    return bool((np.abs(image.astype(int) - colour).max(axis=-1) < 30).any())


def test_pixels_are_those_before_the_normalisation() -> None:
    images = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (NORMALISATION.mean, NORMALISATION.std))
    expected = (255 * images).round().byte().permute(0, 2, 3, 1)
    np.testing.assert_allclose(pixels((images - mean) / std, NORMALISATION), expected, atol=1)


def test_grey_images_have_three_channels() -> None:
    assert pixels(torch.zeros(2, 1, 4, 4), Normalisation(mean=(0.5,), std=(0.2,))).shape == (2, 4, 4, 3)


def test_images_lie_in_rows_with_their_lines_below() -> None:
    images = np.zeros((7, 4, 4, 3), dtype=np.uint8)
    images[6] = 200
    drawn = picture(images, [[Line("cat", TEXT), Line("dog", WRONG)]] * 7)
    height = drawn.shape[0] // 2
    assert (drawn[height : height + SIZE, :SIZE] == 200).all()
    assert not has_colour(drawn[SIZE : SIZE + LINE, :SIZE], WRONG)
    assert has_colour(drawn[SIZE + LINE : height, :SIZE], WRONG)


def test_right_and_wrong_guesses_have_their_own_colours() -> None:
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.tensor([1, 1]), torch.arange(2), torch.zeros(2, dtype=torch.long))

    def drawn(k: int) -> NDArray[np.uint8]:
        names = ["cat", "dog", "cow"]
        return draw_samples(
            batch, Constant(k), None, class_names=names, normalisation=NORMALISATION, dtype=torch.float32
        )

    assert has_colour(drawn(1), RIGHT)
    assert not has_colour(drawn(1), WRONG)
    assert has_colour(drawn(2), WRONG)
