"""Class weights of cross-entropy against torch's weighted mean."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.errors import UserError
from model.losses.base import DistillLoss
from model.registry import LOSSES
from model.types import Batch, LossContext, Output

NAMES = ("ant", "bee", "cow", "dog")
TRAINING = torch.tensor([0] * 6 + [1] * 3 + [2] * 1 + [-1] * 5)  # none of the fourth class; five images are val's
BALANCED = torch.tensor([10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1), 1.0])  # scikit-learn's formula, by hand
LABELS, PARTNERS = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([2, 1, 0, 0, 1])
LOGITS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
TEACHER = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
BATCH = Batch(torch.zeros(5, 1, 1, 1), LABELS, torch.arange(5), torch.zeros(5, dtype=torch.long))
WEIGHTS: dict[str, Any] = {"balanced": "balanced", "named": {"cow": 3.0, "ant": 0.5}}
EXPECTED = {"balanced": BALANCED, "named": torch.tensor([0.5, 1.0, 3.0, 1.0])}
every_form = pytest.mark.parametrize("form", WEIGHTS)


def output(logits: torch.Tensor) -> Output:
    return Output(logits, torch.zeros(5, 2))


def prepared(name: str, **options: Any) -> DistillLoss:
    loss: DistillLoss = LOSSES.build(name, **options)
    student, teacher = output(LOGITS), output(TEACHER)
    loss.prepare(LossContext(student=student, teacher=teacher, labels=TRAINING, seed=0, class_names=NAMES))
    return loss


def value(loss: DistillLoss, batch: Batch = BATCH) -> float:
    result: torch.Tensor = loss(output(LOGITS), output(TEACHER), batch)
    return result.item()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@every_form
def test_weighted_cross_entropy_is_torchs(form: str, label_smoothing: float) -> None:
    loss = prepared("ce", class_weights=WEIGHTS[form], label_smoothing=label_smoothing)
    expected = F.cross_entropy(LOGITS, LABELS, weight=EXPECTED[form], label_smoothing=label_smoothing)
    assert value(loss) == pytest.approx(expected.item(), rel=1e-6)


@every_form
def test_the_hard_part_of_kd_is_weighted_and_its_soft_part_is_not(form: str) -> None:
    loss = prepared("kd", class_weights=WEIGHTS[form], alpha=0.25)
    soft = value(prepared("kd", alpha=1.0))
    expected = 0.75 * F.cross_entropy(LOGITS, LABELS, weight=EXPECTED[form]).item() + 0.25 * soft
    assert value(loss) == pytest.approx(expected, rel=1e-6)


@every_form
def test_mixed_labels_share_the_weights_of_both(form: str) -> None:
    share_N = torch.tensor([0.9, 0.5, 0.0, 1.0, 0.3])
    batch = replace(BATCH, partner_labels=PARTNERS, label_share=share_N)
    total = weights = 0.0
    for logits, own, partner, share in zip(LOGITS.tolist(), LABELS, PARTNERS, share_N.tolist(), strict=True):
        log_p = torch.tensor(logits).log_softmax(dim=0)
        for label, part in ((own, share), (partner, 1 - share)):
            weight = part * EXPECTED[form][label].item()
            total, weights = total - weight * log_p[label].item(), weights + weight
    assert value(prepared("ce", class_weights=WEIGHTS[form]), batch) == pytest.approx(total / weights, rel=1e-6)


def test_weights_of_one_change_nothing() -> None:
    assert value(prepared("ce", class_weights={"ant": 1.0})) == pytest.approx(value(prepared("ce")), rel=1e-6)


@pytest.mark.parametrize("name", ["ce", "kd"])
def test_the_mean_is_over_the_batch_of_all_processes(name: str) -> None:
    assert prepared(name, class_weights="balanced").global_batch == {"logits"}
    assert not prepared(name).global_batch


@pytest.mark.parametrize("name", ["ce", "kd"])
def test_weights_are_no_part_of_a_checkpoint(name: str) -> None:
    assert prepared(name, class_weights="balanced").state_dict() == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "ce",
            {"class_weights": {"cow": -1.0}},
            'class_weights must be "balanced" or an object of weights of 0 or more',
        ),
        ("kd", {"class_weights": {}}, 'class_weights must be "balanced" or an object of weights of 0 or more, got {}'),
        ("ce", {"class_weights": {"cwo": 2.0}}, 'class_weights: the data has no class "cwo", did you mean "cow"?'),
        (
            "kd",
            {"class_weights": "balanced", "alpha": 1.0},
            "class_weights are those of the labels, which alpha or hard_",
        ),
    ],
)
def test_wrong_weights_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=re.escape(message)):
        prepared(name, **options)
