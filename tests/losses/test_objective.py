"""The weighted sum of terms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model.losses.base import DistillLoss
from model.losses.objective import Objective
from model.types import Batch, Output, TermOptions

BATCH = Batch(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), torch.arange(2), torch.zeros(2, dtype=torch.long))
STUDENT = Output(logits=torch.tensor([[1.0, 0.0], [0.0, 3.0]]), embedding=torch.zeros(2, 1))


class Constant(DistillLoss):
    """A term of a known value, which counts its calls."""

    def __init__(self, value: float, *, needs_teacher: bool = False) -> None:
        super().__init__()
        self.value, self.calls = value, 0
        self.needs = frozenset({"logits"}) if needs_teacher else frozenset()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        self.calls += 1
        return torch.tensor(self.value)


def total(objective: Objective, epoch: float = 0.0) -> float:
    return float(objective(STUDENT, None, BATCH, epoch)[0])


def test_total_is_the_weighted_sum() -> None:
    terms = {"a": (Constant(2.0), TermOptions(weight=0.5)), "b": (Constant(7.0), TermOptions(weight=3.0))}
    assert total(Objective(terms)) == 22.0


def test_terms_are_returned_before_their_weights() -> None:
    terms = {"a": (Constant(2.0), TermOptions(weight=0.5)), "b": (Constant(7.0), TermOptions(weight=3.0))}
    _, values = Objective(terms)(STUDENT, None, BATCH, 0.0)
    assert {name: float(value) for name, value in values.items()} == {"a": 2.0, "b": 7.0}


def test_term_of_weight_0_is_not_computed() -> None:
    unweighted, weighted = Constant(2.0), Constant(7.0)
    objective = Objective({"unweighted": (unweighted, TermOptions(weight=0.0)), "weighted": (weighted, TermOptions())})
    assert total(objective) == 7.0
    assert (unweighted.calls, weighted.calls) == (0, 1)
    assert objective.names == ["weighted"]


def test_nothing_but_weights_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="every term has weight 0"):
        Objective({"a": (Constant(1.0), TermOptions(weight=0.0))})


@pytest.mark.parametrize(("epoch", "expected"), [(0.0, 0.0), (1.0, 2.5), (2.5, 6.25), (4.0, 10.0), (9.0, 10.0)])
def test_weight_rises_linearly_over_the_warmup(epoch: float, expected: float) -> None:
    objective = Objective({"a": (Constant(5.0), TermOptions(weight=2.0, warmup_epochs=4.0))})
    assert total(objective, epoch) == expected


def test_warmup_of_one_term_does_not_change_the_others() -> None:
    terms = {"late": (Constant(5.0), TermOptions(warmup_epochs=2.0)), "always": (Constant(1.0), TermOptions())}
    assert total(Objective(terms), epoch=1.0) == 3.5


@pytest.mark.parametrize(("weight", "needed"), [(1.0, True), (0.0, False)])
def test_teacher_is_needed_where_a_term_with_weight_needs_one(weight: float, needed: bool) -> None:
    with_teacher = Constant(1.0, needs_teacher=True)
    objective = Objective(
        {"with_teacher": (with_teacher, TermOptions(weight=weight)), "unweighted": (Constant(1.0), TermOptions())}
    )
    assert objective.needs == ({"logits"} if needed else set())


def test_parameters_of_terms_are_the_objective_s() -> None:
    loss = Constant(1.0)
    loss.scale = nn.Parameter(torch.ones(()))
    objective = Objective({"own": (loss, TermOptions())})
    assert [name for name, _ in objective.named_parameters()] == ["losses.own.scale"]


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"warmup_epochs": -0.5}])
def test_negative_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        TermOptions(**options)
