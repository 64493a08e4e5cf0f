"""The number format that networks compute in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.training.precision import autocast, resolve_precision, to_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_named_precision_is_used(name: str, dtype: torch.dtype) -> None:
    assert resolve_precision(name, CPU) is dtype  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_tile": True, "amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx2": True}, torch.float32),
    ],
)
def test_auto_is_bfloat16_if_the_processor_has_instructions_for_it(
    capabilities: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) is dtype


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_if_the_gpu_supports_it(
    supported: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert resolve_precision("auto", torch.device("cuda")) is dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_the_chosen_format(dtype: torch.dtype) -> None:
    with autocast(dtype, CPU):
        assert nn.Linear(3, 2)(torch.ones(1, 3)).dtype is dtype


def test_parameters_and_gradients_stay_in_float32() -> None:
    layer = nn.Linear(3, 2)
    with autocast(torch.bfloat16, CPU):
        loss = layer(torch.ones(1, 3)).sum()
    loss.backward()
    assert [(p.dtype, p.grad.dtype) for p in layer.parameters() if p.grad is not None] == [
        (torch.float32, torch.float32)
    ] * 2


def test_only_weights_of_2d_convolutions_become_channels_last() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, kernel_size=3), nn.Conv3d(3, 4, kernel_size=3), nn.Linear(3, 4))
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in net.named_parameters()}
    moved = to_device(net, CPU)
    for name, parameter in moved.named_parameters():
        original, value = before[name]
        assert parameter is original
        assert torch.equal(parameter, value)
        assert parameter.is_contiguous(memory_format=torch.channels_last) or parameter.ndim != 4
