"""Distributions over classes, from logits."""

import pytest
import torch

from model.losses.probabilities import kl, non_target_logits, standardized, target_against_rest, target_values


def test_the_rest_of_a_certain_network_is_exact_in_float32() -> None:
    logits_NK = torch.tensor([[200.0, 0.0, 0.0], [0.0, 1e4, 1e4]])
    actual = target_against_rest(logits_NK, torch.tensor([0, 0]))
    # log(2 e^0 / e^200) = log 2 - 200, and log(e^0 / 2 e^10000)
    torch.testing.assert_close(actual, torch.tensor([[0.0, 0.693147 - 200], [-0.693147 - 1e4, 0.0]]))


def test_non_target_logits_are_all_but_the_target_s_in_order() -> None:
    logits_NK = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    assert non_target_logits(logits_NK, torch.tensor([0, 2, 3])).tolist() == [[2, 3, 4], [5, 6, 8], [9, 10, 11]]
    assert target_values(logits_NK, torch.tensor([0, 2, 3])).tolist() == [1, 7, 12]


def test_standardized_logits_have_mean_0_and_the_deviation_of_a_sample_1() -> None:
    # Of 2, 4, 6: mean 4, deviation sqrt((4 + 0 + 4) / 2) = 2.
    torch.testing.assert_close(standardized(torch.tensor([[2.0, 4.0, 6.0]])), torch.tensor([[-1.0, 0.0, 1.0]]))


def test_standardized_logits_depend_on_neither_scale_nor_shift() -> None:
    logits_NK = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(standardized(30 * logits_NK - 5), standardized(logits_NK), rtol=1e-4, atol=1e-5)


def test_divergence_is_summed_over_classes() -> None:
    teacher_NK, student_NK = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log(), torch.tensor([[0.25, 0.75]] * 2).log()
    # 0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.75) = 0.346574 - 0.202733
    assert kl(teacher_NK, student_NK).tolist() == pytest.approx([0.143841, 0.0], abs=1e-6)
