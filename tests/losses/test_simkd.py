"""The reused classifier: the squared difference of last maps, and a student that starts with the teacher's layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.losses.simkd import ReusedTeacherClassifier
from model.registry import NETS
from model.types import Batch, LossContext, Output

BATCH = Batch(torch.zeros(3, 1, 1, 1), torch.zeros(3, dtype=torch.long), torch.arange(3), torch.zeros(3))


def random_output(channels: int, side: int, seed: int) -> Output:
    preact = torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    embedding = preact.relu().mean(dim=(2, 3))
    return Output(torch.zeros(3, 2), embedding, (preact.relu(),), (preact,))


def prepared(student: Output, teacher: Output, classifier: nn.Linear | None) -> ReusedTeacherClassifier:
    loss = ReusedTeacherClassifier()
    loss.prepare(LossContext(student=student, teacher=teacher, labels=torch.zeros(3), seed=0, classifier=classifier))
    return loss


def reference_value(student: Tensor, teacher: Tensor) -> float:
    """The larger map averaged down by an integer factor; the teacher's after its ReLU."""
    student_map, teacher_map = student.numpy(), np.maximum(teacher.numpy(), 0)
    side = min(student_map.shape[2], teacher_map.shape[2])
    small = [
        map_NCHW.reshape(*map_NCHW.shape[:2], side, map_NCHW.shape[2] // side, side, -1).mean(axis=(3, 5))
        for map_NCHW in (student_map, teacher_map)
    ]
    return float(((small[0] - small[1]) ** 2).mean())


@pytest.mark.parametrize(("side", "teacher_side"), [(4, 4), (2, 4), (8, 4)])
def test_value_is_the_mean_squared_difference_of_the_last_maps(side: int, teacher_side: int) -> None:
    student, teacher = random_output(5, side, seed=1), random_output(5, teacher_side, seed=2)
    loss = prepared(student, teacher, nn.Linear(5, 2))
    assert loss(student, teacher, BATCH).item() == pytest.approx(
        reference_value(student.maps[0], teacher.preacts[0]), rel=1e-12
    )


def test_it_is_zero_for_equal_outputs() -> None:
    teacher = random_output(5, 4, seed=2)
    assert prepared(teacher, teacher, nn.Linear(5, 2))(teacher, teacher, BATCH).item() == 0


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = random_output(2, 2, seed=1), random_output(2, 2, seed=2)
    loss = prepared(student, teacher, nn.Linear(2, 2))
    map_NCHW = student.maps[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: loss(student._replace(maps=(m,)), teacher, BATCH), [map_NCHW])


def test_the_student_starts_with_the_teachers_classifier_frozen() -> None:
    student, classifier = NETS.build("simkd", 2, network={"name": "resnet8"}), nn.Linear(64, 2)
    loss = prepared(random_output(64, 8, seed=1), random_output(64, 8, seed=2), classifier)
    loss.initialize_student(student)
    assert torch.equal(student.classifier.weight, classifier.weight)
    assert torch.equal(student.classifier.bias, classifier.bias)
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert frozen == {"classifier.weight", "classifier.bias"}
    assert not list(loss.parameters())


def test_another_network_is_refused() -> None:
    loss = prepared(random_output(64, 8, seed=1), random_output(64, 8, seed=2), nn.Linear(64, 2))
    with pytest.raises(ValueError, match='the student must be the network "simkd"'):
        loss.initialize_student(NETS.build("resnet8", 2))


def test_maps_of_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="has another number of channels than the teacher's"):
        prepared(random_output(4, 4, seed=1), random_output(5, 4, seed=2), nn.Linear(5, 2))


def test_a_teacher_with_another_classifier_is_refused() -> None:
    student, teacher = random_output(5, 4, seed=1), random_output(5, 4, seed=2)
    message = "are not a linear function of the mean of its last map"
    with pytest.raises(ValueError, match=message):
        prepared(student, teacher, None)
    with pytest.raises(ValueError, match=message):
        prepared(student, teacher._replace(embedding=torch.zeros(3, 7)), nn.Linear(7, 2))
