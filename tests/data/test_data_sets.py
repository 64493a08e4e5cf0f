"""What holds of every data set that is registered. Where files would have to be fetched, small ones stand in."""

from pathlib import Path

import numpy as np
import pytest
import torch

import model.data
from model.data.memory import Arrays
from model.data.store import Store
from model.registry import DATASETS
from model.types import DataSource, Pipeline, SplitOptions

CPU = torch.device("cpu")
BATCH = 16
FETCHED = {"cifar": (200, 100), "mnist": (40, 20)}  # module of the data set -> training and test images that stand in

DECLARED = {
    "arrays": (3, (3, 6, 5)),
    "cifar10": (10, (3, 32, 32)),
    "cifar100": (100, (3, 32, 32)),
    "cifar10_mini": (10, (3, 32, 32)),
    "fashion_mnist": (10, (1, 28, 28)),
    "folder": (3, (3, 12, 12)),
    "mnist": (10, (1, 28, 28)),
}


@pytest.fixture(params=sorted(DECLARED))
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSource:
    options = {}
    if request.param == "arrays":
        options = {"path": request.getfixturevalue("npz").name}
    if request.param == "folder":
        options = {"path": request.getfixturevalue("image_folder").name, "image_size": 12, "num_workers": 0}
    for module, (num_train, num_test) in FETCHED.items():
        small = lambda *shape, sizes=(num_train, num_test): stored_shapes(*sizes, shape[-1])  # noqa: E731
        monkeypatch.setattr(f"model.data.{module}.shapes", small)
    return DATASETS.build(request.param, tmp_path, **options)
