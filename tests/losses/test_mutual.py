"""Mutual learning against the formula, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.losses.mutual import MutualLearning
from model.types import Batch, Output
from tests.losses.reference import cross_entropy, kl

N, K = 6, 5
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
BATCH = Batch(torch.zeros(N, 1, 1, 1), LABELS, torch.arange(N), torch.zeros(N, dtype=torch.long))


def random_logits(seed: int) -> Tensor:
    return torch.randn((N, K), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def random_peers(num_peers: int) -> Output:
    first, *others = (Output(random_logits(seed), torch.zeros(N, 1)) for seed in range(num_peers))
    return first._replace(exits=tuple(others))


def logits(peers: Output) -> list[Tensor]:
    return [output.logits for output in (peers, *peers.exits)]


def value(peers: Output, **options: float) -> Tensor:
    loss: Tensor = MutualLearning(**options)(peers, peers, BATCH)
    return loss


def expected(peers: Output, others_weight: float = 1.0, temperature: float = 1.0) -> float:
    arrays: list[np.ndarray] = [logits_NK.detach().numpy() for logits_NK in logits(peers)]
    total = 0.0
    for k, own in enumerate(arrays):
        others = [kl(other, own, temperature) for j, other in enumerate(arrays) if j != k]
        total += cross_entropy(own, LABELS.tolist()) + others_weight * temperature**2 * sum(others) / len(others)
    return total


@pytest.mark.parametrize("num_peers", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"others_weight": 0.5, "temperature": 3.0}, {"others_weight": 0.0}])
def test_value_follows_the_formula(num_peers: int, options: dict[str, float]) -> None:
    peers = random_peers(num_peers)
    assert value(peers, **options).item() == pytest.approx(expected(peers, **options), rel=1e-12)


def test_the_others_outputs_are_detached() -> None:
    peers = random_peers(3)
    value(peers).backward()  # type: ignore[no-untyped-call]
    for k, own in enumerate(logits(peers)):
        own_leaf = own.detach().clone().requires_grad_()
        total = F.cross_entropy(own_leaf, LABELS)
        for j, other in enumerate(logits(peers)):
            if j != k:
                target = other.detach().softmax(1)
                total = total + (target * (target.log() - own_leaf.log_softmax(1))).sum(1).mean() / 2
        total.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        assert own_leaf.grad is not None
        torch.testing.assert_close(own.grad, own_leaf.grad)


def test_peers_with_equal_outputs_learn_from_the_labels_alone() -> None:
    same = random_peers(1).logits
    peers = Output(same, torch.zeros(N, 1), exits=(Output(same, torch.zeros(N, 1)),))
    assert value(peers).item() == pytest.approx(2 * cross_entropy(same.detach().numpy(), LABELS.tolist()), rel=1e-12)


def test_a_single_network_is_refused() -> None:
    with pytest.raises(ValueError, match='needs several networks: use the student "peers"'):
        value(random_peers(1))


@pytest.mark.parametrize("scale", [1e4, 0.0])
@pytest.mark.parametrize("num_images", [1, N])
def test_value_and_gradient_are_finite_in_float32(scale: float, num_images: int) -> None:
    first, other = ((scale * random_logits(seed)[:num_images]).float().detach().requires_grad_() for seed in (0, 1))
    peers = Output(first, torch.zeros(1), exits=(Output(other, torch.zeros(1)),))
    loss = MutualLearning()(peers, peers, Batch(*(part[:num_images] for part in BATCH)))
    loss.backward()
    assert loss.isfinite()
    assert first.grad is not None
    assert first.grad.isfinite().all()
