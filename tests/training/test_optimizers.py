"""Optimizers: options are passed to torch, and fused steps equal plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from model.registry import OPTIMIZERS

# Name and options in params.json; class and options in torch.
CASES: list[tuple[str, dict[str, Any], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = [
    ("sgd", {}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}),
    (
        "sgd",
        {"learning_rate": 0.3, "momentum": 0.5, "weight_decay": 0.01, "nesterov": True},
        torch.optim.SGD,
        {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.01, "nesterov": True},
    ),
    ("sgd", {"momentum": 0.0}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.0, "weight_decay": 5e-4}),
    ("adam", {}, torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
    (
        "adam",
        {"learning_rate": 0.02, "betas": [0.8, 0.99], "eps": 1e-5, "weight_decay": 0.1},
        torch.optim.Adam,
        {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-5, "weight_decay": 0.1},
    ),
    ("adamw", {}, torch.optim.AdamW, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}),
    (
        "adamw",
        {"learning_rate": 0.02, "betas": [0.8, 0.99], "eps": 1e-5, "weight_decay": 0.1},
        torch.optim.AdamW,
        {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-5, "weight_decay": 0.1},
    ),
]


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-2, 2, 30).view(5, 6))


def after_steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        target = torch.randn(weight.shape, generator=generator)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weight.detach()


def build(name: str, weight: nn.Parameter, **options: Any) -> torch.optim.Optimizer:
    return cast(torch.optim.Optimizer, OPTIMIZERS.build(name, [weight], **options))


def test_every_registered_optimizer_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(OPTIMIZERS.names())


@pytest.mark.parametrize(("name", "options", "torch_class", "torch_options"), CASES)
def test_options_are_passed_to_torch_s_optimizer(
    name: str, options: dict[str, Any], torch_class: Callable[..., torch.optim.Optimizer], torch_options: dict[str, Any]
) -> None:
    optimizer = build(name, parameter(), **options)
    assert type(optimizer) is torch_class
    assert {key: optimizer.defaults[key] for key in torch_options} == torch_options


@pytest.mark.parametrize(("name", "options", "torch_class", "torch_options"), CASES)
def test_fused_steps_equal_plain_steps(
    name: str, options: dict[str, Any], torch_class: Callable[..., torch.optim.Optimizer], torch_options: dict[str, Any]
) -> None:
    fused, plain = parameter(), parameter()
    actual = after_steps(build(name, fused, **options), fused)
    expected = after_steps(torch_class([plain], **torch_options, fused=False, foreach=False), plain)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
