"""The small CNN: resolutions, channels and dropout."""

import pytest
import torch
from torch import Tensor

from model.errors import UserError
from model.nets.cnn import CNN
from model.registry import NETS


def images(num_images: int, size: int = 32) -> Tensor:
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("image_size", "sides"), [(32, [16, 8, 4]), (28, [14, 7, 3]), (8, [4, 2, 1])])
def test_each_stage_halves_the_map_and_rounds_down(image_size: int, sides: list[int]) -> None:
    maps = CNN(10, image_size=image_size)(images(2, image_size)).maps
    assert [tuple(map_NCHW.shape[2:]) for map_NCHW in maps] == [(side, side) for side in sides]


def test_channels_double_from_stage_to_stage() -> None:
    output = CNN(10, num_channels=5)(images(2))
    assert [map_NCHW.shape[1] for map_NCHW in output.maps] == [5, 10, 20]
    assert output.embedding.shape == (2, 20)


def test_preact_is_the_largest_normalised_value_of_each_square() -> None:
    net = CNN(10).eval()
    torch.nn.init.constant_(net.bn1.weight, -1.0)  # so that pooling before the normalisation gives another result
    normalised: list[Tensor] = []
    net.bn1.register_forward_hook(lambda module, inputs, result: normalised.append(result))
    preact_NCHW = net(images(2)).preacts[0]
    squares = normalised[0].reshape(2, 32, 16, 2, 16, 2)
    assert torch.equal(preact_NCHW, squares.amax(dim=(3, 5)))


def test_dropout_zeroes_its_share_of_the_embedding_in_training() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with_dropout, without_dropout = CNN(10, dropout=0.75), CNN(10, dropout=0.0)
        without_dropout.load_state_dict(with_dropout.state_dict())
        dropped_ND, full_ND = with_dropout(images(32)).embedding, without_dropout(images(32)).embedding
    active = full_ND > 0
    assert (dropped_ND[active] == 0).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_dropout_is_off_in_eval() -> None:
    net = CNN(10, dropout=0.75).eval()
    assert torch.equal(net(images(4)).embedding, net(images(4)).embedding)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_channels": 0}, "num_channels must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        NETS.build("cnn", 10, **options)


def test_image_that_cannot_be_halved_three_times_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size must be at least 8, because .* got 7$"):
        CNN(10, image_size=7)


def test_image_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        CNN(10, image_size=32)(images(2, 64))
