"""The data pipelines on a fake GPU: every tensor of a batch on the device, and the host does not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from model.data.image_reader import BatchReader
from model.registry import DATASETS
from model.types import Batch, Pipeline, Split, SplitOptions
from tests.fake_device.fake_device import FakeDevice, with_real_tensors

OPTIONS: dict[str, dict[str, Any]] = {
    "augmented": {},
    "not augmented": {"augment": False},
    "cutout": {"cutout": 8},
    "strong_view": {"strong_view": True},
    "strong_view and cutout": {"strong_view": True, "cutout": 8},
    "alternating_flip": {"alternating_flip": True},
    "views_per_image": {"views_per_image": 4},
    "auto_augment": {"auto_augment": "trivial_augment"},
    "color_jitter": {"color_jitter": [0.4, 0.4, 0.4, 0.1]},
    "random_erasing": {"random_erasing": 0.5},
}
CASES = [(name, options) for name in ("arrays", "cifar10_mini", "folder") for options in OPTIONS]
CASES.remove(("folder", "alternating_flip"))  # for data sets in memory
OpenPipeline = Callable[..., Pipeline]

# Without a GPU there is no pinned memory to copy from.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument")
every_case = pytest.mark.parametrize(("dataset", "options"), CASES)


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, generator = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (path / split / name).mkdir(parents=True)
            for number in range(8):
                pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{number}.png")
    return path


@pytest.fixture
def open_pipeline(images: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch) -> OpenPipeline:
    # These draw numbers on the CPU: what they return is moved to the device.
    monkeypatch.setattr(DataLoader, "__iter__", with_real_tensors(DataLoader.__iter__))
    monkeypatch.setattr(BatchReader, "__getitem__", with_real_tensors(BatchReader.__getitem__))
    own: dict[str, dict[str, Any]] = {
        "arrays": {"path": str(images)},
        "cifar10_mini": {},
        "folder": {"path": str(folder_of_images), "image_size": 16, "num_workers": 0},
    }

    def open_pipeline(dataset: str, device: FakeDevice, **options: Any) -> Pipeline:
        source = DATASETS.build(dataset, images.parent, **own[dataset])
        pipeline: Pipeline = source.open(SplitOptions(val_size=4, **options), seed=0, device=device.device)
        return pipeline

    return open_pipeline


@every_case
def test_training_batch_is_made_on_the_device(
    dataset: str, options: str, gpu: FakeDevice, open_pipeline: OpenPipeline
) -> None:
    batches = open_pipeline(dataset, gpu, **OPTIONS[options]).train_batches(0, 4)
    # The shears and rotations are torchvision's, which makes a matrix on the CPU for each of them.
    with nullcontext() if options.startswith(("strong_view", "auto_augment")) else gpu.step():
        batch = next(batches)
    assert is_on(gpu, batch)


@every_case
def test_views_for_a_teacher_are_made_on_the_device(
    dataset: str, options: str, gpu: FakeDevice, open_pipeline: OpenPipeline
) -> None:
    data = open_pipeline(dataset, gpu, **OPTIONS[options])
    index, view = data.epoch_views(0)
    assert is_on(gpu, data.augmented_batch(index[:3], view[:3]))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("dataset", ["arrays", "folder"])
def test_evaluation_batches_are_on_the_device(
    dataset: str, split: Split, gpu: FakeDevice, open_pipeline: OpenPipeline
) -> None:
    assert all(is_on(gpu, batch) for batch in open_pipeline(dataset, gpu).eval_batches(split, 3))


def is_on(device: FakeDevice, batch: Batch) -> bool:
    return {tensor.device for tensor in batch} == {device.device}
