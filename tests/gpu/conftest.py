"""Tests on a real GPU: `make test-gpu`. Without one they are skipped, and `make test` leaves them out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.build.runtime import Runtime
from tests.untrained import UntrainedExperiments, write_images

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms need it before CUDA's first use


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.filterwarnings("default"))  # compilers warn of much that is no fault of ours


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is false")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def on_gpu(gpu: torch.device, tiny_data: Path) -> Runtime:
    return Runtime(device=gpu, data_dir=tiny_data.parent)


@pytest.fixture
def untrained(tmp_path: Path) -> UntrainedExperiments:
    return UntrainedExperiments(tmp_path, write_images(tmp_path / "images.npz"))


@pytest.fixture
def full_float32(gpu: torch.device) -> Iterator[None]:
    """Without TensorFloat-32, which rounds the inputs of convolutions; matrix products do not use it by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def deterministic(gpu: torch.device) -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
