"""The losses that compare features, on networks of unequal widths, sizes and numbers of stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.losses.objective import Objective
from model.registry import LOSSES, NETS
from model.types import Batch, LossContext, Output

NEEDS = {name: LOSSES.build(name).needs for name in LOSSES.names()}
# Those that read the teacher's maps; not those for a network of their own that ends in the teacher's classifier.
NAMES = [name for name, needs in NEEDS.items() if needs & {"maps", "preacts"} and "classifier" not in needs]
SIDE, CLASSES, IMAGES = 32, 10, 4
EQUAL_WIDTHS = [("resnet8", "resnet14"), ("wrn_16_1", "resnet8")]
UNEQUAL_WIDTHS = [("wrn_16_1", "resnet8x4"), ("resnet8", "cnn"), ("cnn", "resnet8"), ("resnet8", "resnet18")]


def network(name: str) -> nn.Module:
    supplied = (CLASSES, 3, SIDE) if name == "cnn" else (CLASSES, 3)
    net: nn.Module = NETS.build(name, *supplied)
    return net.train()


def shapes(name: str) -> Output:
    with torch.device("meta"):
        output: Output = network(name)(torch.empty(IMAGES, 3, SIDE, SIDE))
    return output


def prepared(loss: str, student: str, teacher: str) -> Objective:
    objective = Objective({loss: (LOSSES.build(loss), LOSSES.common_options(loss, {}))})
    objective.prepare(LossContext(student=shapes(student), teacher=shapes(teacher), labels=torch.zeros(8), seed=0))
    return objective


@pytest.mark.parametrize(
    ("loss", "student", "teacher"),
    [
        *((loss, *pair) for loss in NAMES for pair in EQUAL_WIDTHS),
        *((loss, *pair) for loss in NAMES for pair in UNEQUAL_WIDTHS if loss != "fsp"),
    ],
)
def test_the_student_and_the_loss_s_parameters_get_gradients(loss: str, student: str, teacher: str) -> None:
    torch.manual_seed(0)
    objective, net = prepared(loss, student, teacher), network(student)
    images = torch.randn(IMAGES, 3, SIDE, SIDE)
    with torch.no_grad():
        teacher_output = network(teacher)(images)
    index_N = torch.arange(IMAGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student_output = net(images)
    total, values = objective(student_output, teacher_output, Batch(images, index_N, index_N, index_N), epoch=100.0)
    total.backward()
    assert values[loss].isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in objective.parameters())
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


@pytest.mark.parametrize(("student", "teacher"), UNEQUAL_WIDTHS)
def test_fsp_refuses_networks_of_unequal_widths(student: str, teacher: str) -> None:
    objective = prepared("fsp", student, teacher)
    with pytest.raises(ValueError, match="numbers of channels must be equal"):
        objective.feature_pairs(
            LossContext(student=shapes(student), teacher=shapes(teacher), labels=torch.zeros(8), seed=0)
        )
