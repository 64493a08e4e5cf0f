"""The fake device finds what it is there to find: losses that are wrong on a GPU, and right on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from model.losses.base import DistillLoss
from model.losses.objective import Objective
from model.types import Batch, Output, TermOptions
from tests.fake_device.fake_device import FakeDevice, Synchronisation, backward

LossFunction = Callable[[Tensor, Tensor], Tensor]  # of logits and labels


class ToyLoss(DistillLoss):
    needs = frozenset()

    def __init__(self, function: LossFunction) -> None:
        super().__init__()
        self.function = function

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return self.function(student.logits, batch.labels)


def run(function: LossFunction, device: FakeDevice) -> None:
    """Forward and backward pass of a linear network with the loss."""
    net = nn.Linear(3, 4).to(device.device)
    images = torch.randn(5, 3).to(device.device)
    index_N = torch.arange(5, device=device.device)
    batch = Batch(images, index_N % 4, index_N, index_N)
    objective = Objective({"toy": (ToyLoss(function), TermOptions())})
    with device.step():
        logits_NK = net(images)
        loss, _ = objective(Output(logits_NK, images), None, batch, epoch=0.0)
        loss.backward()
    assert device.holds(net)


def test_a_loss_on_the_device_passes(gpu: FakeDevice) -> None:
    run(F.cross_entropy, gpu)


WRONG: dict[str, tuple[LossFunction, type[Exception], str]] = {
    "item": (lambda logits, labels: logits.mean() * logits.max().item(), Synchronisation, "reads a value"),
    "if": (
        lambda logits, labels: logits.mean() if logits.sum() > 0 else logits.sum(),
        Synchronisation,
        "reads a value",
    ),
    "mask": (lambda logits, labels: logits[labels > 1].mean(), Synchronisation, "with a mask"),
    "assigned mask": (
        lambda logits, labels: logits.index_put((labels > 1,), labels.float()).mean(),
        Synchronisation,
        "with a mask",
    ),
    "nonzero": (lambda logits, labels: logits.take(logits.nonzero()).mean(), DynamicOutputShapeException, "nonzero"),
    "index": (lambda logits, labels: logits[torch.arange(5)].mean(), Synchronisation, "with an index on cpu"),
    "cpu": (lambda logits, labels: F.cross_entropy(logits.cpu(), labels.cpu()), Synchronisation, "cuda:0 to cpu"),
    "tensor": (lambda logits, labels: (logits * torch.ones(4)).mean(), RuntimeError, "devices"),
    "to": (lambda logits, labels: (logits * torch.ones(4).to("cuda")).mean(), Synchronisation, "cpu to cuda:0"),
    "new": (lambda logits, labels: (logits * logits.new_tensor([1.0] * 4)).mean(), Synchronisation, "cpu to cuda:0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_loss_that_waits_or_mixes_devices_fails(name: str, gpu: FakeDevice) -> None:
    function, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        run(function, gpu)


def test_float64_fails_where_the_device_has_none(gpu: FakeDevice) -> None:
    with pytest.raises(TypeError, match="float64"):
        run(lambda logits, labels: F.cross_entropy(logits.double(), labels), gpu)


def test_a_gradient_on_another_device_fails(gpu: FakeDevice) -> None:
    class ToCPU(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return torch.zeros(gradient.shape)

    with pytest.raises(RuntimeError, match="a gradient on cpu of a value on cuda:0"):
        run(lambda logits, labels: ToCPU.apply(logits).mean(), gpu)


def test_real_gradients_are_those_of_pytorch() -> None:
    """The backward pass of this folder, on real tensors."""

    def gradients(run_backward: Callable[[Tensor], object]) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
        hidden = net(torch.randn(5, 3, 6, 6))
        run_backward((hidden * hidden.softmax(1)).sum() + hidden[:, :1].mul(hidden).mean())
        return [parameter.grad for parameter in net.parameters() if parameter.grad is not None]

    for own, expected in zip(gradients(backward), gradients(torch.autograd.backward), strict=True):
        torch.testing.assert_close(own, expected)
