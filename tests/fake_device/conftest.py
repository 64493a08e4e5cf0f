"""Fixtures: fake devices, and experiments whose networks are real until they are moved to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model.build import experiment as experiment_module
from model.build.experiment import Experiment
from model.build.network import build_network
from model.build.objective import build_loss_context
from model.losses.objective import Objective
from model.types import LossContext
from tests.fake_device.fake_device import FakeDevice, fake_device, with_real_tensors
from tests.untrained import UntrainedExperiments, write_images


@pytest.fixture
def gpu() -> Iterator[FakeDevice]:
    """The strictest device: what passes on it passes on CUDA and, as far as that is known here, on MPS."""
    with fake_device(has_float64=False) as device:
        yield device


@pytest.fixture(params=["cuda", "without float64"])
def device(request: pytest.FixtureRequest) -> Iterator[FakeDevice]:
    """For code that uses float64 where the device has it."""
    with fake_device(has_float64=request.param == "cuda") as device:
        yield device


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture
def untrained(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> UntrainedExperiments:
    build_context = with_real_tensors(build_loss_context)

    def build_loss_context_after_opening(experiment: Experiment) -> LossContext:
        _ = experiment.data  # whose images are on the device
        return build_context(experiment)

    # As in a real run, these make tensors on the CPU and on the meta device, which are moved or only read for shapes.
    monkeypatch.setattr(experiment_module, "build_network", with_real_tensors(build_network))
    monkeypatch.setattr(experiment_module, "build_loss_context", build_loss_context_after_opening)
    monkeypatch.setattr(Objective, "prepare", with_real_tensors(Objective.prepare))
    return UntrainedExperiments(tmp_path, images)
