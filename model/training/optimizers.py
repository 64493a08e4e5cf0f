"""Optimizers: torch's own, in their fused form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..registry import OPTIMIZERS


@OPTIMIZERS.register
def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum; the decay is added to the gradient."""
    _check(learning_rate, weight_decay)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    return torch.optim.SGD(
        parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
    )


@OPTIMIZERS.register
def adam(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba, 2015); the decay is added to the gradient."""
    _check(learning_rate, weight_decay)
    _check_moments(betas, eps)
    return torch.optim.Adam(parameters, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


@OPTIMIZERS.register
def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""
    _check(learning_rate, weight_decay)
    _check_moments(betas, eps)
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


def _check(learning_rate: float, weight_decay: float) -> None:
    if learning_rate <= 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")


def _check_moments(betas: tuple[float, float], eps: float) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), got {list(betas)}")
    if eps <= 0:
        raise ValueError(f"eps must be positive, got {eps}")
