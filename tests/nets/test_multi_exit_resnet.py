"""The ResNets with early exits against the original ones, without their unused projections."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from model.registry import NETS
from model.types import Output
from tests.nets.test_vectors import drawn_weights, listing

FILES = {"multi_exit_resnet18": "seed3_multi_resnet18_kd", "multi_exit_resnet50": "seed3_multi_resnet50_kd"}
LOGITS = {
    "multi_exit_resnet18": (4.1801137, -0.84624877, -1.3025964),
    "multi_exit_resnet50": (-8.4311824, 1.3269479, -2.2594697),
}
# Means of absolute values: the logits of exits 1 to 3, the last feature, the features of exits 1 to 3.
FEATURES = {
    "multi_exit_resnet18": (0.8000287, 1.148593, 0.734967, 1.338377, 0.4604577, 0.5584145, 0.4454711),
    "multi_exit_resnet50": (0.6201627, 0.7919842, 1.365753, 2.055619, 0.2664824, 0.3715809, 0.6507682),
}
# The original's 13,243,600 and 54,113,232 less its dead projections' 232,448 and 3,682,304.
PARAMETERS = {"multi_exit_resnet18": 13_011_152, "multi_exit_resnet50": 50_430_928}


def our_key(original_key: str) -> str | None:
    """Our name of a value of the original; None for those of its unused projections."""
    if re.match(r"downsample\d_1", original_key):
        return None
    key = re.sub(r"^bottleneck(\d)_1", lambda match: f"exits.{int(match[1]) - 1}.branch", original_key)
    key = re.sub(r"^middle_fc(\d)", lambda match: f"exits.{int(match[1]) - 1}.linear", key)
    return re.sub(r"^fc\b", "linear", key).replace(".downsample.", ".shortcut.")


@pytest.fixture(scope="module", params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def output(name: str) -> Output:
    with torch.device("meta"):
        net = NETS.build(name, 100).eval()
    weights: dict[str, Tensor] = {}
    for original_key, tensor in drawn_weights(FILES[name]).items():
        if (key := our_key(original_key)) is not None:
            weights[key] = tensor
    net.load_state_dict(weights, assign=True)
    images = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, 32, 32)))
    with torch.no_grad():
        output: Output = net(images)
    return output


def test_state_dict_has_the_originals_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        state_dict = NETS.build(name, 100).state_dict()
    expected = {our_key(key): shape for key, shape in listing(FILES[name]) if our_key(key) is not None}
    assert {key: tuple(value.shape) for key, value in state_dict.items()} == expected


def test_logits_equal_the_originals(name: str, output: Output) -> None:
    assert output.logits[0, :3].tolist() == pytest.approx(LOGITS[name], rel=1e-6)


def test_exits_and_features_equal_the_originals(name: str, output: Output) -> None:
    tensors = [
        *(early.logits for early in output.exits),
        output.embedding,
        *(early.embedding for early in output.exits),
    ]
    assert [tensor.abs().mean().item() for tensor in tensors] == pytest.approx(FEATURES[name], rel=1e-6)


def test_parameter_count_is_the_originals_without_its_dead_projections(name: str) -> None:
    with torch.device("meta"):
        net = NETS.build(name, 100)
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("branch", ["bottleneck", "stacked"])
@pytest.mark.parametrize("image_size", [32, 28, 64])
def test_exits_have_the_last_features_width_at_any_size(branch: str, image_size: int) -> None:
    with torch.device("meta"):
        output = NETS.build("multi_exit_resnet18", 7, branch=branch)(torch.empty(2, 3, image_size, image_size))
    assert [tuple(early.logits.shape) for early in output.exits] == [(2, 7)] * 3
    assert [tuple(early.embedding.shape) for early in output.exits] == [(2, 512)] * 3


def test_stacked_branch_halves_as_often_as_the_later_stages() -> None:
    with torch.device("meta"):
        net = NETS.build("multi_exit_resnet18", 10, branch="stacked")
        maps = net(torch.empty(2, 3, 32, 32)).maps
        shapes = [tuple(early.branch(map_NCHW).shape) for early, map_NCHW in zip(net.exits, maps[:3], strict=True)]
    assert shapes == [(2, 512, 4, 4)] * 3
