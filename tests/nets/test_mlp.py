"""The multi-layer perceptrons: sizes, ReLU and dropout."""

import pytest
import torch
from torch import Tensor, nn

from model.errors import OptionError
from model.registry import NETS


def digits(num_images: int) -> Tensor:
    return torch.randn(num_images, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "widths"), [("mlp_1200", (1200, 1200)), ("mlp_800", (800, 800)), ("mlp_128", (128, 128))]
)
def test_name_has_the_width_of_two_hidden_layers(name: str, widths: tuple[int, int]) -> None:
    linears = [module for module in NETS.build(name, 10, 1, 28).modules() if isinstance(module, nn.Linear)]
    assert [(linear.in_features, linear.out_features) for linear in linears] == [
        (784, widths[0]),
        widths,
        (widths[1], 10),
    ]


@pytest.mark.parametrize(
    ("in_channels", "image_size", "widths", "sizes"),
    [
        (3, 32, (5, 4, 3), [(3072, 5), (5, 4), (4, 3), (3, 10)]),
        (1, 8, (7,), [(64, 7), (7, 10)]),
        (2, 4, (), [(32, 10)]),
    ],
)
def test_widths_are_those_of_the_hidden_layers(
    in_channels: int, image_size: int, widths: tuple[int, ...], sizes: list[tuple[int, int]]
) -> None:
    net = NETS.build("mlp", 10, in_channels, image_size, widths=list(widths))
    assert [(layer.in_features, layer.out_features) for layer in net.children()] == sizes
    assert net(torch.zeros(2, in_channels, image_size, image_size)).logits.shape == (2, 10)


def test_hidden_layers_have_a_relu_and_the_classifier_has_none() -> None:
    net = NETS.build("mlp", 2, 1, 2, widths=[2])
    with torch.no_grad():
        net.fc1.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]))
        net.fc1.bias.copy_(torch.tensor([0.5, 0.25]))
        net.fc2.weight.copy_(torch.tensor([[1.0, 1.0], [-2.0, 3.0]]))
        net.fc2.bias.copy_(torch.tensor([0.0, 1.0]))
    output = net(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert output.embedding.tolist() == [[10.5, 0.0]]
    assert output.logits.tolist() == [[10.5, -20.0]]


@pytest.mark.parametrize(("name", "share"), [("mlp_1200", 0.8), ("mlp_800", 0.0), ("mlp_128", 0.5)])
def test_dropout_zeroes_its_share_of_each_hidden_layer_in_training(name: str, share: float) -> None:
    hidden: list[Tensor] = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        with_dropout, without_dropout = NETS.build(name, 10, 1, 28).train(), NETS.build(name, 10, 1, 28, dropout=0.0)
        with_dropout.fc2.register_forward_hook(lambda module, inputs, result: hidden.append(inputs[0]))
        output = with_dropout(digits(32))
        without_dropout.load_state_dict(with_dropout.state_dict())
        first_ND = torch.relu(without_dropout.fc1(digits(32).flatten(1)))
        second_ND = torch.relu(without_dropout.fc2(hidden[0]))
    for after_ND, before_ND in ((hidden[0], first_ND), (output.embedding, second_ND)):
        assert (after_ND[before_ND > 0] == 0).float().mean().item() == pytest.approx(share, abs=0.03)


def test_dropout_is_off_in_eval() -> None:
    net = NETS.build("mlp_1200", 10, 1, 28).eval()
    assert torch.equal(net(digits(4)).logits, net(digits(4)).logits)


def test_image_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        NETS.build("mlp_800", 10, 1, 28)(torch.zeros(2, 1, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [800, 0]}, r"widths must be at least 1 each, got \[800, 0\]"),
        ({"dropout": 1.0}, "dropout must be in .*, got 1.0"),
        ({"dropout": -0.1}, "dropout must be in .*, got -0.1"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, float | list[int]], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        NETS.build("mlp", 10, **options)
