"""Intervals of accuracies, and McNemar's test."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model.evaluation.significance import accuracy_interval, compare_on_same_images, holm_adjusted, mcnemar


def test_interval_is_that_of_the_normal_distribution_for_many_samples() -> None:
    low, high = accuracy_interval(8500, 10_000)
    half = 1.96 * math.sqrt(0.85 * 0.15 / 10_000)
    assert (low, high) == pytest.approx((0.85 - half, 0.85 + half), abs=1.1e-4)


def test_interval_is_that_of_resampled_answers() -> None:
    answers = np.arange(200) < 150
    generator = np.random.default_rng(0)
    means = [generator.choice(answers, 200).mean() for _ in range(4000)]
    assert accuracy_interval(150, 200) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.008)


@pytest.mark.parametrize(("correct", "expected"), [(0, (0.0, 0.0)), (50, (1.0, 1.0))])
def test_interval_of_none_and_of_all(correct: int, expected: tuple[float, float]) -> None:
    assert accuracy_interval(correct, 50) == expected


def test_mcnemar_of_a_worked_case() -> None:
    # 1 against 7 of 8: two-sided, 2 * (C(8, 0) + C(8, 1)) / 2^8 = 18 / 256.
    assert mcnemar(1, 7).p_value == pytest.approx(18 / 256)


def test_mcnemar_of_equal_networks_says_nothing() -> None:
    assert mcnemar(0, 0) == (0, 0, 1.0)
    assert mcnemar(5, 5).p_value == 1.0


def test_only_images_on_which_two_networks_differ_count() -> None:
    first, second = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True])
    assert compare_on_same_images(first, second)[:2] == (1, 2)


def test_holm_s_p_values_are_multiplied_by_the_number_of_tests_left_and_never_fall() -> None:
    # The example of R's p.adjust: 3 * 0.01, 2 * 0.02 and at least that for 0.03.
    assert holm_adjusted([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm_adjusted([0.9, 0.001]) == pytest.approx([0.9, 0.002])
    assert holm_adjusted([]) == []
