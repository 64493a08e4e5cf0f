"""A network's output for the classes of another data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.teachers.matched import MatchedClasses, grouped_logits, matched
from model.types import Output

LOGITS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
EMBEDDING = torch.tensor([[7.0, 8.0], [9.0, 10.0]])
ORDER = [[2], [0], [1]]
IN_ORDER = torch.tensor([[3.0, 1.0, 2.0], [6.0, 4.0, 5.0]])


def output_of(logits: Tensor) -> Output:
    exits = (Output(logits=10 * LOGITS, embedding=EMBEDDING),)
    return Output(logits=logits, embedding=EMBEDDING, exits=exits)


def test_logits_are_put_in_order_and_embeddings_stay() -> None:
    output = matched(output_of(LOGITS), ORDER)
    assert torch.equal(output.logits, IN_ORDER)
    assert torch.equal(output.embedding, EMBEDDING)


def test_logits_of_early_exits_are_put_in_order() -> None:
    assert torch.equal(matched(output_of(LOGITS), ORDER).exits[0].logits, 10 * IN_ORDER)


def test_a_group_has_the_sum_of_its_classes_probabilities() -> None:
    p_NK = LOGITS.double().softmax(dim=1)
    expected = torch.stack([p_NK[:, 1], p_NK[:, 0] + p_NK[:, 2]], dim=1)
    torch.testing.assert_close(grouped_logits(LOGITS.double(), [[1], [0, 2]]).softmax(dim=1).double(), expected)


def test_probabilities_without_some_classes_keep_their_ratios() -> None:
    p_NK = LOGITS.softmax(dim=1)
    expected = p_NK[:, [2, 0]] / p_NK[:, [2, 0]].sum(dim=1, keepdim=True)
    torch.testing.assert_close(grouped_logits(LOGITS, [[2], [0]]).softmax(dim=1), expected)


def test_without_groups_there_are_no_logits() -> None:
    assert matched(output_of(LOGITS), []).logits.shape == (2, 0)


class FixedNetwork(nn.Module):
    def forward(self, images: Tensor) -> Output:
        return output_of(LOGITS)


def test_a_network_is_wrapped() -> None:
    assert torch.equal(MatchedClasses(FixedNetwork(), ORDER)(torch.zeros(2, 3, 1, 1)).logits, IN_ORDER)
