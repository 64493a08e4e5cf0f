"""Which device a run uses."""

from __future__ import annotations

import pytest
import torch

from model.build.runtime import find_device
from model.errors import UserError
from model.training.distributed import World


@pytest.mark.parametrize(("has_cuda", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_cuda_gpu_or_the_cpu(has_cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == torch.device(device)


def test_mps_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^--device mps: only for Apple GPUs"):
        find_device("mps")


def test_mps_is_refused_for_several_processes() -> None:
    with pytest.raises(UserError, match=r"^--device mps: several processes need NVIDIA GPUs, or --device cpu$"):
        find_device("mps", World(size=2))
