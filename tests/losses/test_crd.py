"""Contrastive representation distillation: the value and its gradient, the banks, the negatives."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import OptionError
from model.losses.crd import ContrastiveRepresentationDistillation
from model.losses.objective import Objective
from model.randomness import NEGATIVE, random_bits
from model.types import Batch, LossContext, Output, TermOptions
from tests.losses.reference import Array, dot, linear

NUM_CLASSES, SEED = 4, 7
LABELS = torch.tensor([2, 0, 1, 1, -1, 3, 0, 2, 2, -1, 1, 3])  # of 12 images, two of which are not used


def random_output(num_images: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Output:
    generator = torch.Generator().manual_seed(seed)
    embedding_ND = torch.randn(num_images, width, generator=generator, dtype=torch.float64).to(dtype)
    return Output(embedding_ND.new_zeros(num_images, NUM_CLASSES), embedding_ND)


def batch_of(*images: int) -> Batch:
    index_N = torch.tensor(images)
    return Batch(torch.zeros(len(images), 1, 1, 1), LABELS[index_N], index_N, torch.zeros(len(images)))


def prepared(labels: Tensor = LABELS, **options: Any) -> ContrastiveRepresentationDistillation:
    options = {"num_negatives": 6, "embedding_size": 3} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = ContrastiveRepresentationDistillation(**options)
        loss.prepare(
            LossContext(student=random_output(2, 5, 0), teacher=random_output(2, 4, 0), labels=labels, seed=SEED)
        )
    return loss.double()


class Reference:
    """The loss as loops over arrays, with banks of its own."""

    def __init__(self, loss: ContrastiveRepresentationDistillation) -> None:
        state = {name: tensor.double().numpy().copy() for name, tensor in loss.state_dict().items()}
        self.projections = {
            network: (state[f"project_{network}.weight"], state[f"project_{network}.bias"])
            for network in ("student", "teacher")
        }
        self.banks = {network: state[f"{network}_bank"] for network in ("student", "teacher")}
        self.scales: dict[str, float] = {}
        self.num_negatives, self.temperature, self.momentum = loss.num_negatives, loss.temperature, loss.momentum

    def __call__(self, student: Output, teacher: Output, batch: Batch, epoch: int) -> float:
        embeddings = {"student": student.embedding.detach().numpy(), "teacher": teacher.embedding.numpy()}
        units = {}
        for network in ("student", "teacher"):
            projected = linear(embeddings[network], *self.projections[network])
            units[network] = [row / math.sqrt(dot(row, row)) for row in projected]
        total = 0.0
        for network, other in (("student", "teacher"), ("teacher", "student")):
            total += self.contrast(network, units[network], self.banks[other], batch, epoch)
        for network in ("student", "teacher"):
            for n, image in enumerate(batch.index.tolist()):
                row = self.momentum * self.banks[network][image] + (1 - self.momentum) * units[network][n]
                self.banks[network][image] = row / math.sqrt(dot(row, row))
        return total

    def contrast(self, network: str, units: list[Array], bank: Array, batch: Batch, epoch: int) -> float:
        num_images = int((LABELS >= 0).sum())
        exponentials = []
        for unit, image in zip(units, batch.index.tolist(), strict=True):
            rows = [image, *negatives(image, epoch, self.num_negatives)]
            exponentials.append([math.exp(dot(unit, bank[row]) / self.temperature) for row in rows])
        self.scales.setdefault(network, float(np.mean(exponentials)) * num_images)
        noise = self.num_negatives / num_images
        total = 0.0
        for positive, *others in np.array(exponentials) / self.scales[network]:
            total -= math.log(positive / (positive + noise + 1e-7))
            total -= sum(math.log(noise / (other + noise + 1e-7)) for other in others)
        return total / len(units)


def negatives(image: int, epoch: int, num_negatives: int) -> list[int]:
    """Images of other classes; the draws number them by class, then by image."""
    pool = sorted((int(label), other) for other, label in enumerate(LABELS) if label not in (-1, LABELS[image]))
    images = []
    for draw in range(num_negatives):
        bits = int(random_bits(SEED, NEGATIVE, epoch, index=image * num_negatives + draw)) % 2**63
        images.append(pool[bits % len(pool)][1])
    return images


def test_values_of_several_steps_follow_the_formula() -> None:
    loss = prepared()
    reference = Reference(loss)
    for step, images in enumerate([(3, 0, 7), (1, 8, 5), (0, 7, 11, 2)]):
        loss.epoch = 0.4 * step
        student, teacher, batch = (
            random_output(len(images), 5, 10 + step),
            random_output(len(images), 4, 20 + step),
            batch_of(*images),
        )
        expected = reference(student, teacher, batch, epoch=0)
        assert loss(student, teacher, batch).item() == pytest.approx(expected, rel=1e-10)


def test_gradient_is_the_derivative_of_the_value() -> None:
    loss = prepared()
    loss(random_output(3, 5, 1), random_output(3, 4, 2), batch_of(0, 1, 2))
    student, teacher, batch = random_output(3, 5, 3), random_output(3, 4, 4), batch_of(3, 5, 8)
    teacher_weight = loss.project_teacher.weight

    def value(embedding_ND: Tensor, weight_ED: Tensor) -> Tensor:
        modified = copy.deepcopy(loss)
        del modified.project_teacher.weight
        modified.project_teacher.weight = weight_ED
        loss_value: Tensor = modified(student._replace(embedding=embedding_ND), teacher, batch)
        return loss_value

    inputs = [student.embedding.requires_grad_(), teacher_weight.detach().clone().requires_grad_()]
    assert torch.autograd.gradcheck(value, inputs)


def test_all_parameters_get_a_gradient_and_the_teacher_none() -> None:
    loss = prepared()
    student, teacher = random_output(3, 5, 1), random_output(3, 4, 2)
    teacher.embedding.requires_grad_()
    loss(student, teacher._replace(embedding=teacher.embedding.detach()), batch_of(0, 1, 2)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())
    assert teacher.embedding.grad is None


def test_negatives_are_used_images_of_other_classes_equally_likely() -> None:
    loss = prepared(num_negatives=9000)
    (drawn,) = loss.negatives(batch_of(10)).tolist()  # of class 1, as 2 and 3
    counts = Counter(drawn)
    assert sorted(counts) == [0, 1, 5, 6, 7, 8, 11]
    assert all(abs(count - 9000 / 7) < 5 * math.sqrt(9000 / 7) for count in counts.values())


@pytest.mark.parametrize(("epoch", "same"), [(3.0, True), (3.99, True), (4.0, False)])
def test_negatives_are_a_function_of_epoch_and_image(epoch: float, same: bool) -> None:
    loss = prepared()
    loss.epoch = 3.5
    alone = loss.negatives(batch_of(5))
    loss.epoch = epoch
    among_others = loss.negatives(batch_of(0, 5, 7))[1:2]
    assert torch.equal(alone, among_others) is same


def test_only_rows_of_the_batch_s_images_change_and_keep_unit_length() -> None:
    loss = prepared()
    before = loss.student_bank
    loss(random_output(2, 5, 1), random_output(2, 4, 2), batch_of(3, 8))
    changed = (loss.student_bank != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [3, 8]
    torch.testing.assert_close(loss.student_bank[changed].norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_a_loss_that_was_saved_and_loaded_resumes_bit_for_bit() -> None:
    loss, resumed = prepared(), prepared()
    loss(random_output(3, 5, 1), random_output(3, 4, 2), batch_of(0, 1, 2))
    resumed.load_state_dict(loss.state_dict())
    for seed in (3, 4):
        outputs = random_output(3, 5, seed), random_output(3, 4, seed + 10), batch_of(1, 7, 11)
        assert torch.equal(loss(*outputs), resumed(*outputs))
    assert all(torch.equal(loss.state_dict()[name], tensor) for name, tensor in resumed.state_dict().items())


def test_what_follows_from_the_data_is_not_saved() -> None:
    projections = [f"project_{network}.{part}" for network in ("student", "teacher") for part in ("weight", "bias")]
    banks = [f"{network}_{part}" for network in ("student", "teacher") for part in ("bank", "scale")]
    assert sorted(prepared().state_dict()) == sorted(projections + banks)


@pytest.mark.parametrize("scale", [1e4, 0.0])
@pytest.mark.parametrize("num_images", [1, 5])
def test_huge_embeddings_and_none_give_a_finite_loss_and_gradient(scale: float, num_images: int) -> None:
    loss = prepared().float()
    student, teacher = random_output(num_images, 5, 1, torch.float32), random_output(num_images, 4, 2, torch.float32)
    embedding_ND = (scale * student.embedding).requires_grad_()
    total = loss(student._replace(embedding=embedding_ND), teacher, batch_of(*(0, 1, 2, 3, 5)[:num_images]))
    total.backward()
    assert embedding_ND.grad is not None
    assert total.isfinite()
    assert embedding_ND.grad.isfinite().all()


def test_images_of_one_class_are_refused() -> None:
    objective = Objective({"crd": (ContrastiveRepresentationDistillation(), TermOptions())})
    context = LossContext(
        student=random_output(2, 5, 0), teacher=random_output(2, 4, 0), labels=torch.tensor([1, -1, 1]), seed=0
    )
    with pytest.raises(OptionError, match=r"loss\.crd.*negatives from other classes"):
        objective.prepare(context)
