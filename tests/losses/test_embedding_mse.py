"""The regression of embeddings."""

from __future__ import annotations

import pytest
import torch

from model.losses.embedding_mse import EmbeddingRegression
from model.losses.objective import Objective
from model.types import Output, TermOptions
from tests.losses.features import batch_of, gradient_is_the_derivative, random_output, value


def output_of(*rows: list[float]) -> Output:
    return Output(torch.zeros(len(rows), 2), torch.tensor(rows))


def test_a_worked_example() -> None:
    # (1 + 4 + 0 + 9) / 4
    assert (
        value(EmbeddingRegression(), output_of([1.0, 2.0], [0.0, 3.0]), output_of([0.0, 0.0], [0.0, 0.0])).item() == 3.5
    )


def test_it_is_zero_for_equal_embeddings_alone() -> None:
    student, teacher = random_output(seed=1), random_output(seed=2)
    assert value(EmbeddingRegression(), student, student).item() == 0
    assert value(EmbeddingRegression(), student, teacher).item() > 0


def test_gradient_is_the_derivative_of_the_value() -> None:
    assert gradient_is_the_derivative(EmbeddingRegression(), random_output(seed=1), random_output(seed=2))


def test_it_is_the_mean_over_a_batch_of_any_size() -> None:
    student, teacher = random_output(seed=1), random_output(seed=2)
    total = 0.0
    for number in range(3):
        student_row, teacher_row = (
            output._replace(embedding=output.embedding[[number]]) for output in (student, teacher)
        )
        total += value(EmbeddingRegression(), student_row, teacher_row).item()
    assert value(EmbeddingRegression(), student, teacher).item() == pytest.approx(total / 3)


def test_bfloat16_embeddings_are_compared_in_float32() -> None:
    student, teacher = random_output(seed=1), random_output(seed=2)
    rounded = [output._replace(embedding=output.embedding.bfloat16()) for output in (student, teacher)]
    total, _ = Objective({"embedding_mse": (EmbeddingRegression(), TermOptions())})(
        *rounded, batch_of(student), epoch=0.0
    )
    difference = rounded[0].embedding.double().numpy() - rounded[1].embedding.double().numpy()
    assert total.item() == pytest.approx((difference**2).mean(), rel=1e-5)


def test_unequal_widths_are_refused() -> None:
    message = "embeddings must have equal widths: the student's has 5 values, the teacher's 4"
    with pytest.raises(ValueError, match=message):
        value(EmbeddingRegression(), random_output(seed=1, width=5), random_output(seed=2))
