"""One suite over every registered data set; small random sets replace those that would be downloaded."""

import inspect
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.data import store
from model.data.memory import Arrays
from model.errors import UserError
from model.registry import DATASETS
from model.types import Batch, DataSource, Pipeline, Split, SplitOptions

CPU = torch.device("cpu")
BATCH = 16
SPLITS: tuple[Split, ...] = ("train", "val", "test")

DECLARED = {  # classes and image shape, as published: the one row that a new data set needs here
    "arrays": (3, (3, 6, 5)),
    "cifar10": (10, (3, 32, 32)),
    "cifar100": (100, (3, 32, 32)),
    "cifar10_mini": (10, (3, 32, 32)),
    "fashion_mnist": (10, (1, 28, 28)),
    "folder": (3, (3, 12, 12)),
    "huggingface": (3, (3, 12, 12)),
    "mnist": (10, (1, 28, 28)),
    "table": (3, (3, 12, 12)),
}
DOWNLOADED = [name for name in DATASETS.names() if hasattr(sys.modules[DATASETS[name].__module__], "Store")]


@pytest.fixture
def small_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of a few random images in place of those that would be downloaded."""

    def small(num_train: int, num_test: int, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return store.shapes(num_train // 200, num_test // 100, image_shape)

    def fetch(self: store.Store) -> Arrays:
        rng, (num_classes, _) = np.random.default_rng(0), DECLARED[self.folder.name]
        images = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in self.shapes.items()}
        labels = {name: np.arange(len(images[name])) % num_classes for name in ("train_labels", "test_labels")}
        return Arrays(**images | {name: array.astype(np.uint8) for name, array in labels.items()})

    for name in DOWNLOADED:
        module = sys.modules[DATASETS[name].__module__]
        monkeypatch.setattr(module, "shapes", small)
        for digests in [attribute for attribute in vars(module) if attribute.endswith("_DIGESTS")]:
            monkeypatch.setattr(module, digests, {})
    monkeypatch.setattr(store.Store, "_fetch", fetch)


@pytest.fixture(params=DATASETS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(name: str, request: pytest.FixtureRequest, tmp_path: Path, small_stores: None) -> DataSource:
    options: dict[str, object] = {}
    if name == "arrays":
        options = {"path": request.getfixturevalue("npz").name}
    if name in ("folder", "huggingface"):
        path = request.getfixturevalue("flat_folder" if name == "huggingface" else "image_folder")
        options = {"path": path.name, "image_size": 12, "num_workers": 0}
    if name == "huggingface":
        datasets = pytest.importorskip("datasets", exc_type=ImportError)
        request.getfixturevalue("monkeypatch").setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    if name == "table":
        options = {"path": str(request.getfixturevalue("image_table")), "image_size": 12, "num_workers": 0}
    built: DataSource = DATASETS.build(name, tmp_path, **options)
    return built


@pytest.fixture
def pipeline(source: DataSource) -> Pipeline:
    return source.open(SplitOptions(), seed=0, device=CPU)


@pytest.fixture
def test_images(name: str, source: Any, request: pytest.FixtureRequest) -> list[Any]:
    """The test images in their order, as a user has them: files, or arrays."""
    if name in ("folder", "huggingface", "table"):
        return sorted((request.getfixturevalue("image_folder") / "test").rglob("*.png"))
    arrays = source.arrays if name == "arrays" else source.load()
    return list(arrays.test_images[:BATCH])


def batches(pipeline: Pipeline, split: Split) -> list[Batch]:
    return list(pipeline.train_batches(0, BATCH) if split == "train" else pipeline.eval_batches(split, BATCH))


def test_it_declares_what_is_published(name: str, source: DataSource) -> None:
    assert (len(source.class_names), source.image_shape) == DECLARED[name]
    assert len(set(source.class_names)) == len(source.class_names)


def test_its_normalisation_has_every_channel(source: DataSource) -> None:
    assert len(source.normalisation.mean) == len(source.normalisation.std) == source.image_shape[0]
    assert all(0 < mean < 1 and 0 < std < 0.6 for mean, std in zip(*vars(source.normalisation).values(), strict=True))


def test_its_function_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(DATASETS[name])


def test_only_data_dir_is_positional(name: str) -> None:
    first, *rest = inspect.signature(DATASETS[name]).parameters.values()
    assert first.name == "data_dir"
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in rest)


@pytest.mark.parametrize("split", SPLITS)
def test_its_batches_have_the_declared_shape_and_types(source: DataSource, pipeline: Pipeline, split: Split) -> None:
    for batch in batches(pipeline, split):
        assert batch.images.shape[1:] == source.image_shape
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.isfinite().all()
        assert batch.labels.dtype == batch.index.dtype == batch.view.dtype == torch.int64
        assert 0 <= batch.labels.min() <= batch.labels.max() < len(source.class_names)


@pytest.mark.parametrize("split", SPLITS)
def test_its_size_is_that_of_its_batches(pipeline: Pipeline, split: Split) -> None:
    indices = torch.cat([batch.index for batch in batches(pipeline, split)]).tolist()
    assert len(indices) == len(set(indices)) == pipeline.size(split)


def test_its_val_is_a_tenth_held_out_of_training(pipeline: Pipeline) -> None:
    train, val = (torch.cat([batch.index for batch in batches(pipeline, split)]) for split in ("train", "val"))
    assert len(val) == (len(train) + len(val)) // 10
    assert not set(train.tolist()) & set(val.tolist())


def test_its_steps_are_the_batches_of_an_epoch(pipeline: Pipeline) -> None:
    assert pipeline.steps_per_epoch(BATCH) == len(batches(pipeline, "train"))


def test_its_epoch_can_begin_in_the_middle(pipeline: Pipeline) -> None:
    tail = list(pipeline.train_batches(0, BATCH, first_step=1))
    expected = batches(pipeline, "train")[1:]
    assert len(tail) == len(expected)
    for batch, again in zip(expected, tail, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


def test_it_may_be_used_without_val_in_part_and_unaugmented(source: DataSource) -> None:
    options = SplitOptions(val_size=0, train_fraction=0.5, augment=False)
    pipeline = source.open(options, seed=0, device=CPU)
    assert batches(pipeline, "val") == []
    first, again = (next(pipeline.train_batches(epoch, pipeline.size("train"))) for epoch in (0, 1))
    assert first.index.sort().values.equal(again.index.sort().values)
    assert first.images[first.index.argsort()].equal(again.images[again.index.argsort()])


def test_preprocessing_a_test_image_gives_its_evaluation_view(
    source: DataSource, pipeline: Pipeline, test_images: list[Any]
) -> None:
    batch = next(pipeline.eval_batches("test", BATCH))
    assert torch.equal(torch.stack([source.preprocess(image) for image in test_images]), batch.images)


@pytest.mark.parametrize(("mode", "size"), [("RGB", (40, 31)), ("L", (9, 30)), ("RGBA", (12, 12))])
def test_its_preprocessing_fits_any_pil_image(source: DataSource, mode: str, size: tuple[int, int]) -> None:
    image = source.preprocess(Image.new(mode, size, 200))
    assert image.shape == source.image_shape
    assert image.dtype == torch.float32
    assert image.isfinite().all()


def test_its_preprocessing_can_be_pickled(source: DataSource, test_images: list[Any]) -> None:
    copy = pickle.loads(pickle.dumps(source.preprocess))
    assert torch.equal(copy(test_images[0]), source.preprocess(test_images[0]))


def test_it_is_ready_once_it_was_opened(source: DataSource) -> None:
    source.open(SplitOptions(), seed=0, device=CPU)
    assert source.is_ready()


@pytest.mark.parametrize("name", DOWNLOADED)
def test_declaring_it_touches_no_file(name: str, tmp_path: Path) -> None:
    assert not DATASETS.build(name, tmp_path / "data").is_ready()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", DOWNLOADED)
def test_it_is_downloaded_once(source: DataSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: store.Store) -> Arrays:
        raise UserError("downloaded again")

    source.open(SplitOptions(), seed=0, device=CPU)
    monkeypatch.setattr(store.Store, "_fetch", fail)
    source.open(SplitOptions(), seed=0, device=CPU)
