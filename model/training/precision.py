"""Which number format the networks compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import chain
from typing import Literal

import torch
from torch import nn

PrecisionName = Literal["auto", "float32", "bfloat16"]


def resolve_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """The dtype of the networks' arithmetic: `auto` is bfloat16 where the hardware has it."""
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    """Run matrix products and convolutions in `dtype`; parameters, batch statistics and losses stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def widest_float(device: torch.device) -> torch.dtype:
    """The floating-point type for sums over many images: float64, but float32 on MPS, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_device(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, in the channels-last layout that convolutions are fastest in."""
    net = net.to(device)
    for tensor in chain(net.parameters(), net.buffers()):
        if tensor.ndim == 4:  # of images; Module.to refuses a network that has a three-dimensional convolution, too
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return net


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # oneDNN also "supports" bfloat16 on CPUs without the instructions, more slowly than float32.
        flags = torch.cpu.get_capabilities()
        return any(flags.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))
    return False
