"""Encodings of teacher outputs: all values as float16, or the k largest probabilities and their classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.teachers.encoding import Float16Encoding, TopKEncoding

LOG_1_4_2_3 = torch.log(torch.tensor([[1.0, 4.0, 2.0, 3.0]]))  # probabilities 0.1, 0.4, 0.2, 0.3


def random_logits(num_classes: int = 100) -> Tensor:
    return 3 * torch.randn(64, num_classes, generator=torch.Generator().manual_seed(0))


def softmax(logits_NK: Tensor) -> Any:
    powers = np.exp(logits_NK.double().numpy())
    return powers / powers.sum(axis=1, keepdims=True)


def test_top_k_stores_log_probabilities_and_their_classes() -> None:
    words = TopKEncoding(2, 4).encode(LOG_1_4_2_3)
    assert words.dtype == torch.int16
    np.testing.assert_allclose(words[:, :2].numpy().view(np.float16), [[math.log(0.4), math.log(0.3)]], rtol=1e-3)
    assert words[:, 2:].tolist() == [[1, 3]]


def test_top_k_spreads_the_rest_over_the_other_classes() -> None:
    encoding = TopKEncoding(2, 4)
    probabilities = encoding.decode(encoding.encode(LOG_1_4_2_3)).exp()
    np.testing.assert_allclose(probabilities.numpy(), [[0.15, 0.4, 0.15, 0.3]], rtol=2e-3)


def test_mass_is_the_total_probability_of_the_k_classes() -> None:
    encoding = TopKEncoding(2, 4)
    assert encoding.mass(encoding.encode(LOG_1_4_2_3)).tolist() == pytest.approx([0.7], rel=1e-3)


def test_top_k_needs_two_words_a_class() -> None:
    assert TopKEncoding(16, 1000).width == TopKEncoding(16, 1000).encode(random_logits(1000)).shape[1] == 32


def test_top_k_stores_class_numbers_of_16_bits() -> None:
    encoding, logits = TopKEncoding(2, 40_000), torch.zeros(1, 40_000)
    logits[0, 39_999], logits[0, 32_768] = 20.0, 19.0
    assert encoding.decode(encoding.encode(logits)).topk(2).indices.tolist() == [[39_999, 32_768]]


def test_top_k_probabilities_are_the_network_s() -> None:
    encoding, expected = TopKEncoding(5, 100), softmax(random_logits())
    classes = np.argsort(-expected, axis=1)[:, :5]
    decoded = encoding.decode(encoding.encode(random_logits())).exp().double().numpy()
    np.testing.assert_allclose(
        np.take_along_axis(decoded, classes, axis=1), np.take_along_axis(expected, classes, axis=1), rtol=4e-3
    )


def test_top_k_gives_all_other_classes_the_same_probability() -> None:
    encoding, expected = TopKEncoding(5, 100), softmax(random_logits())
    others = np.argsort(-expected, axis=1)[:, 5:]
    decoded = np.take_along_axis(
        encoding.decode(encoding.encode(random_logits())).exp().double().numpy(), others, axis=1
    )
    shared = np.take_along_axis(expected, others, axis=1).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(decoded, np.broadcast_to(shared, decoded.shape), atol=2e-3 / 95)


def test_top_k_probabilities_have_the_sum_1() -> None:
    encoding = TopKEncoding(5, 100)
    totals = encoding.decode(encoding.encode(random_logits())).exp().sum(dim=1)
    np.testing.assert_allclose(totals.numpy(), 1.0, atol=1e-4)


def test_top_k_keeps_the_predicted_class() -> None:
    encoding = TopKEncoding(1, 100)
    predicted = encoding.decode(encoding.encode(random_logits())).argmax(dim=1)
    assert predicted.tolist() == softmax(random_logits()).argmax(axis=1).tolist()


@pytest.mark.parametrize("largest", [30.0, 1000.0])
def test_top_k_of_a_certain_prediction_is_finite(largest: float) -> None:
    encoding, logits = TopKEncoding(2, 10), torch.zeros(1, 10)
    logits[0, 7] = largest
    decoded = encoding.decode(encoding.encode(logits))
    assert decoded.isfinite().all()
    assert decoded.exp().sum().item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("k", "num_classes"), [(0, 10), (10, 10), (2, 65_537)])
def test_top_k_of_none_of_all_or_of_too_many_classes_is_refused(k: int, num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"k must be .* {num_classes}, got {k}"):
        TopKEncoding(k, num_classes)


def test_distance_of_top_k_rows_is_that_of_their_probabilities() -> None:
    cached, computed = torch.log(torch.tensor([[[0.7, 0.2, 0.1]], [[0.4, 0.25, 0.35]]]))
    assert TopKEncoding(2, 3).distance(cached, computed).tolist() == pytest.approx([0.3], rel=1e-5)


def test_distance_of_float16_rows_is_relative_to_the_largest_value() -> None:
    cached, computed = torch.tensor([[10.0, -19.0], [0.0, 0.0]]), torch.tensor([[11.0, -20.0], [0.0, 0.0]])
    assert Float16Encoding(2).distance(cached, computed).tolist() == pytest.approx([0.05, 0.0], rel=1e-5)
