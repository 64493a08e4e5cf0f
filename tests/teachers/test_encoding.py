"""How an answer is kept: all values as float16, or the k largest probabilities and their classes."""

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


def test_top_k_keeps_log_probabilities_and_their_classes() -> None:
    words = TopKEncoding(2, 4).encode(LOG_1_4_2_3)
    assert words.dtype == torch.int16
    np.testing.assert_allclose(words[:, :2].numpy().view(np.float16), [[math.log(0.4), math.log(0.3)]], rtol=1e-3)
    assert words[:, 2:].tolist() == [[1, 3]]


def test_top_k_spreads_the_rest_over_the_other_classes() -> None:
    coding = TopKEncoding(2, 4)
    probabilities = coding.decode(coding.encode(LOG_1_4_2_3)).exp()
    np.testing.assert_allclose(probabilities.numpy(), [[0.15, 0.4, 0.15, 0.3]], rtol=2e-3)


def test_mass_is_what_the_kept_classes_have_together() -> None:
    coding = TopKEncoding(2, 4)
    assert coding.mass(coding.encode(LOG_1_4_2_3)).tolist() == pytest.approx([0.7], rel=1e-3)


def test_top_k_needs_two_words_a_class() -> None:
    assert TopKEncoding(16, 1000).width == TopKEncoding(16, 1000).encode(random_logits(1000)).shape[1] == 32


def test_top_k_has_room_for_class_numbers_of_16_bits() -> None:
    coding, logits = TopKEncoding(2, 40_000), torch.zeros(1, 40_000)
    logits[0, 39_999], logits[0, 32_768] = 20.0, 19.0
    assert coding.decode(coding.encode(logits)).topk(2).indices.tolist() == [[39_999, 32_768]]


def test_top_k_probabilities_are_the_network_s() -> None:
    coding, expected = TopKEncoding(5, 100), softmax(random_logits())
    places = np.argsort(-expected, axis=1)[:, :5]
    found = coding.decode(coding.encode(random_logits())).exp().double().numpy()
    np.testing.assert_allclose(
        np.take_along_axis(found, places, axis=1), np.take_along_axis(expected, places, axis=1), rtol=4e-3
    )


def test_top_k_s_other_classes_are_all_alike() -> None:
    coding, expected = TopKEncoding(5, 100), softmax(random_logits())
    others = np.argsort(-expected, axis=1)[:, 5:]
    found = np.take_along_axis(coding.decode(coding.encode(random_logits())).exp().double().numpy(), others, axis=1)
    shared = np.take_along_axis(expected, others, axis=1).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.broadcast_to(shared, found.shape), atol=2e-3 / 95)


def test_top_k_probabilities_have_the_sum_1() -> None:
    coding = TopKEncoding(5, 100)
    totals = coding.decode(coding.encode(random_logits())).exp().sum(dim=1)
    np.testing.assert_allclose(totals.numpy(), 1.0, atol=1e-4)


def test_top_k_keeps_the_class_that_the_network_prefers() -> None:
    coding = TopKEncoding(1, 100)
    found = coding.decode(coding.encode(random_logits())).argmax(dim=1)
    assert found.tolist() == softmax(random_logits()).argmax(axis=1).tolist()


@pytest.mark.parametrize("largest", [30.0, 1000.0])
def test_top_k_of_a_network_without_doubt_is_finite(largest: float) -> None:
    coding, logits = TopKEncoding(2, 10), torch.zeros(1, 10)
    logits[0, 7] = largest
    decoded = coding.decode(coding.encode(logits))
    assert decoded.isfinite().all()
    assert decoded.exp().sum().item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("k", "num_classes"), [(0, 10), (10, 10), (2, 65_537)])
def test_top_k_of_none_of_all_or_of_too_many_classes_is_refused(k: int, num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"k must be .* {num_classes}, got {k}"):
        TopKEncoding(k, num_classes)


def test_top_k_answers_are_as_far_apart_as_their_probabilities() -> None:
    one, other = torch.log(torch.tensor([[[0.7, 0.2, 0.1]], [[0.4, 0.25, 0.35]]]))
    assert TopKEncoding(2, 3).distance(one, other).tolist() == pytest.approx([0.3], rel=1e-5)


def test_whole_answers_are_as_far_apart_as_their_size_allows() -> None:
    kept, now = torch.tensor([[10.0, -19.0], [0.0, 0.0]]), torch.tensor([[11.0, -20.0], [0.0, 0.0]])
    assert Float16Encoding(2).distance(kept, now).tolist() == pytest.approx([0.05, 0.0], rel=1e-5)
