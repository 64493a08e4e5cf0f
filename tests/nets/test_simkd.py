"""A network, a projector to the teacher's last map, and a classifier on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import OptionError
from model.registry import NETS

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def simkd(**options: Any) -> nn.Module:
    net: nn.Module = NETS.build("simkd", 10, 3, 32, **options)
    return net.eval()


@pytest.mark.parametrize(
    ("network", "teacher", "shape"),
    [
        ({"name": "resnet8"}, {"name": "resnet8x4"}, (256, 8, 8)),
        ({"name": "resnet8"}, None, (64, 8, 8)),
        ({"name": "cnn", "num_channels": 4}, {"name": "wrn_16_2"}, (128, 4, 4)),  # whose 8x8 the loss averages
        ({"name": "resnet8"}, {"name": "vgg8"}, (512, 4, 4)),
    ],
)
def test_last_map_has_the_teachers_shape(
    network: dict[str, Any], teacher: dict[str, Any] | None, shape: tuple[int, int, int]
) -> None:
    with torch.no_grad():
        output = simkd(network=network, teacher=teacher)(IMAGES)
    assert output.maps[-1].shape == output.preacts[-1].shape == (2, *shape)
    assert torch.equal(output.embedding, output.maps[-1].mean(dim=(2, 3)))
    assert output.logits.shape == (2, 10)


@torch.no_grad()
def test_the_projection_is_three_convolutions_of_the_networks_map() -> None:
    net = simkd(network={"name": "resnet8"}, teacher={"name": "resnet8x4"}, reduction=4)
    own = NETS.build("resnet8", 10).eval()
    own.load_state_dict(net.get_submodule("network").state_dict(), strict=False)  # all but its classifier
    map_NCHW: Tensor = own(IMAGES).maps[-1]
    layers = list(net.get_submodule("projector").children())
    for conv, norm in zip(layers[0::3], layers[1::3], strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        map_NCHW = F.conv2d(map_NCHW, conv.weight, padding=conv.kernel_size[0] // 2)
        map_NCHW = F.relu(map_NCHW / (1 + norm.eps) ** 0.5)  # batch norm has its initial statistics and weights
    assert torch.allclose(net(IMAGES).maps[-1], map_NCHW, atol=1e-6)
    assert [layer.weight.shape for layer in layers[0::3]] == [(64, 64, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1)]


def test_the_networks_own_classifier_is_left_out() -> None:
    assert not [name for name in simkd(network={"name": "resnet8"}).state_dict() if name.startswith("network.fc")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": {"name": "resnet9"}}, 'network.name: no network is named "resnet9"'),
        ({"teacher": {"name": "resnet9"}}, 'teacher.name: no network is named "resnet9"'),
        ({"network": {"depth": 8}}, 'network should be an object with "name"'),
        ({"network": {"name": "mlp"}}, "a network without maps has nothing to project"),
        ({"reduction": 0}, "reduction must be 1 to 256, the teacher's channels, got 0"),
    ],
)
def test_mistakes_name_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        simkd(**options)
    assert message in str(caught.value)
