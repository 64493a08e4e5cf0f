"""Mixed images have two labels: one suite over every registered loss and the way in which it reads labels."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.losses.base import DistillLoss
from model.registry import LOSSES
from model.types import Batch, LossContext, Output

N, K = 8, 5
WIDTHS = (2, 3, 4)  # of the maps of three stages; the last is the embedding's
LABELS, PARTNERS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), torch.tensor([1, 1, 4, 2, 0, 3, 2, 0])
SHARE = 0.3

SINGLE = {"crd", "dkd", "nkd", "ofa", "rld", "wsld"}
MIXED = {"ce", "ctkd", "cwtm", "kd", "mlkd", "mutual", "self_distillation"}
WITHOUT_LABELS: dict[str, dict[str, Any]] = {name: {} for name in sorted({*LOSSES.names()} - SINGLE - MIXED)}
WITHOUT_LABELS |= {"kd": {"alpha": 1.0}}


def random_output(seed: int) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(N, *shape, generator=generator, dtype=torch.float64)

    preacts = tuple(draw(width, 4, 4) for width in WIDTHS)
    exits = tuple(Output(draw(K), draw(WIDTHS[-1])) for _ in range(2))
    maps = tuple(map_NCHW.relu() for map_NCHW in preacts)
    return Output(draw(K), draw(WIDTHS[-1]), maps, preacts, exits, stem=draw(2, 4, 4).relu())


STUDENT, TEACHER = random_output(1), random_output(2)
BATCH = Batch(torch.zeros(N, 1, 1, 1), LABELS, torch.arange(N), torch.zeros(N, dtype=torch.long))


def prepared(name: str, **options: Any) -> DistillLoss:
    loss: DistillLoss = LOSSES.build(name, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Linear(WIDTHS[-1], K)
        loss.prepare(LossContext(student=STUDENT, teacher=TEACHER, labels=LABELS, seed=0, classifier=classifier))
    return loss.double()


def value(loss: DistillLoss, batch: Batch) -> float:
    """The loss of a batch before the first step, with the same random numbers at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result: Tensor = copy.deepcopy(loss)(STUDENT, TEACHER, batch)
        return result.item()


def mixed(share: float) -> Batch:
    return replace(BATCH, partner_labels=PARTNERS, label_share=torch.full((N,), share, dtype=torch.float64))


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_declares_how_it_reads_labels(name: str) -> None:
    classes = LOSSES[name].__mro__[: LOSSES[name].__mro__.index(DistillLoss)]  # type: ignore[attr-defined]
    loss = LOSSES.build(name)
    assert "labels" in vars(loss) or any("labels" in vars(each) for each in classes)
    assert loss.labels == ("single" if name in SINGLE else "mixed" if name in MIXED else "none")


def test_a_loss_that_does_not_declare_it_needs_single_labels() -> None:
    assert DistillLoss.labels == "single"


@pytest.mark.parametrize(("name", "options"), WITHOUT_LABELS.items(), ids=WITHOUT_LABELS)
def test_a_loss_without_labels_has_the_same_value_with_any(name: str, options: dict[str, Any]) -> None:
    loss = prepared(name, **options)
    assert loss.labels == "none"
    assert value(loss, BATCH) == value(loss, replace(BATCH, labels=PARTNERS)) == value(loss, mixed(SHARE))


@pytest.mark.parametrize("name", sorted(MIXED))
def test_a_loss_with_mixed_labels_is_the_mean_over_both_by_their_shares(name: str) -> None:
    loss = prepared(name)
    own, partner = value(loss, BATCH), value(loss, replace(BATCH, labels=PARTNERS))
    assert own != partner
    assert value(loss, mixed(1.0)) == pytest.approx(own, rel=1e-12)
    assert value(loss, mixed(0.0)) == pytest.approx(partner, rel=1e-12)
    assert value(loss, mixed(SHARE)) == pytest.approx(SHARE * own + (1 - SHARE) * partner, rel=1e-12)


def test_cross_entropy_with_mixed_labels_is_torchs_with_probabilities() -> None:
    own_NK, partner_NK = (nn.functional.one_hot(labels, K).double() for labels in (LABELS, PARTNERS))
    target_NK = SHARE * own_NK + (1 - SHARE) * partner_NK
    for smoothing in (0.0, 0.1):
        expected = nn.functional.cross_entropy(STUDENT.logits, target_NK, label_smoothing=smoothing).item()
        assert value(prepared("ce", label_smoothing=smoothing), mixed(SHARE)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_loss_with_single_labels_reads_them(name: str) -> None:
    loss = prepared(name, **({"num_negatives": 3} if name == "crd" else {}))
    assert value(loss, BATCH) != value(loss, replace(BATCH, labels=PARTNERS))
