"""Every kind of network on a fake GPU: forward and backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.registry import NETS
from model.training.precision import autocast, to_device
from model.types import Output
from tests.fake_device.fake_device import FakeDevice, with_real_tensors
from tests.nets.test_nets import all_tensors, build_net, smallest_of_each_kind

KINDS = [
    name for file in sorted({NETS[name].__module__ for name in NETS.names()}) for name in smallest_of_each_kind(file)
]


@pytest.mark.parametrize("name", KINDS)
def test_network_stays_on_the_device(name: str, gpu: FakeDevice) -> None:
    net = to_device(with_real_tensors(build_net)(name), gpu.device).train()
    images = torch.randn(2, 3, 32, 32).to(gpu.device)
    with gpu.step():
        with autocast(torch.bfloat16, gpu.device):
            output: Output = net(images)
        total = sum(tensor.float().sum() for tensor in all_tensors(output))
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
    assert {tensor.device for tensor in all_tensors(output)} == {gpu.device}
    assert gpu.holds(net)
    assert output.logits.dtype == torch.bfloat16
