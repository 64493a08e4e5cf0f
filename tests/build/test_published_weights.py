"""Published weights are loaded in their original format, strictly, and without running code from the file."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.weights import WeightsFile
from model.config.folder import Folder
from model.errors import UserError
from model.nets.resnet_cifar import CifarResNet
from model.training.checkpoint import load_checkpoint
from model.types import Normalisation
from tests.conftest import MakeFolder

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def net() -> CifarResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CifarResNet(8, (4, 4, 8, 16), num_classes=10, in_channels=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best.pth.tar"


def with_dataparallel_prefix(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def repdistiller_checkpoint(state: State) -> dict[str, Any]:
    """The content of its ckpt_epoch_240.pth, where the learning rate is a NumPy number."""
    rate = np.float64(0.05) * np.power(0.1, 3)
    optimizer = {"state": {}, "param_groups": [{"lr": rate, "momentum": 0.9, "params": [0, 1]}]}
    return {"epoch": 240, "model": state, "accuracy": torch.tensor([69.63]), "optimizer": optimizer}


FORMATS: dict[str, Callable[[State], dict[str, Any]]] = {
    "ours": lambda state: {"state_dict": state, "epoch": 3, "mean": [0.5] * 3, "std": [0.2] * 3},
    "the original project's": lambda state: {"epoch": 3, "state_dict": state, "optim_dict": {"state": {}}},
    "RepDistiller's": repdistiller_checkpoint,
    "RepDistiller's last": lambda state: {"opt": argparse.Namespace(model_t="resnet110"), "model": state},
    "bare": lambda state: state,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip file", "file of torch before 1.6"])
@pytest.mark.parametrize("parallel", [False, True], ids=["plain", "DataParallel"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_loads_strictly(
    format_name: str, parallel: bool, zipped: bool, net: CifarResNet, path: Path
) -> None:
    state = net.state_dict()
    torch.save(
        FORMATS[format_name](with_dataparallel_prefix(state) if parallel else state),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    loaded = CifarResNet(8, (4, 4, 8, 16), num_classes=10, in_channels=3)
    WeightsFile.read(path).load_into(loaded)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"], ids=["NumPy 1", "NumPy 2"])
def test_numbers_of_every_numpy_version_load(core: bytes, net: CifarResNet, path: Path) -> None:
    torch.save(repdistiller_checkpoint(net.state_dict()), path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert written.count(b"core.multiarray\nscalar\n") == 1
    path.write_bytes(written.replace(b"numpy._core.multi", b"numpy.core.multi").replace(b"numpy.core", core))
    assert load_checkpoint(path)["optimizer"]["param_groups"][0]["lr"] == pytest.approx(5e-5)


def test_allowed_globals_are_restored_after_loading(net: CifarResNet, path: Path) -> None:
    torch.save(repdistiller_checkpoint(net.state_dict()), path)
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == before


def test_num_batches_tracked_may_be_missing(net: CifarResNet, path: Path) -> None:
    state = {name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}
    torch.save({"state_dict": state}, path)
    loaded = CifarResNet(8, (4, 4, 8, 16), num_classes=10, in_channels=3)
    WeightsFile.read(path).load_into(loaded)
    assert torch.equal(loaded.fc.weight, net.fc.weight)
    assert loaded.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_missing_name_is_reported(format_name: str, net: CifarResNet, path: Path) -> None:
    content = FORMATS[format_name]({name: tensor for name, tensor in net.state_dict().items() if name != "fc.bias"})
    with pytest.raises(UserError, match=r"best\.pth\.tar: lacks fc\.bias: not this network's weights"):
        WeightsFile(path, content).load_into(net)


def test_unknown_names_are_reported(net: CifarResNet, path: Path) -> None:
    content = {"model": net.state_dict() | {"head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}}
    with pytest.raises(UserError, match=r"has unknown head\.weight \(and 1 more\): not this network's weights"):
        WeightsFile(path, content).load_into(net)


@pytest.mark.parametrize(
    ("content", "keys"),
    [({}, "nothing"), ({"epoch": 3}, "epoch"), ({"net": {}, "w": torch.zeros(1)}, "net, w"), ({"model": "a"}, "model")],
)
def test_a_file_without_weights_is_reported(content: dict[str, Any], keys: str, path: Path) -> None:
    with pytest.raises(UserError, match=f"holds neither state_dict nor model nor tensors alone, but {keys}$"):
        _ = WeightsFile(path, content).state_dict


def test_a_weight_named_mean_is_not_a_normalisation() -> None:
    normalisation = Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert WeightsFile(Path("x"), {"mean": torch.zeros(3)}).normalisation(normalisation) is normalisation


def test_a_file_may_contain_the_normalisation_of_its_network() -> None:
    normalisation = Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    content = {"model": {}, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    expected = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert WeightsFile(Path("x"), content).normalisation(normalisation) == expected


def test_a_published_file_in_a_folder_is_a_teacher(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    teacher = make_folder(tmp_path / "teacher", student={"name": "resnet8"})
    published = CifarResNet(8, (16, 16, 32, 64), num_classes=10, in_channels=3)
    torch.save(repdistiller_checkpoint(with_dataparallel_prefix(published.state_dict())), teacher.checkpoint("best"))
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}}, num_epochs=1)
    Experiment(student.path, runtime).train(train_teachers=False)
    assert student.state() == "finished"
    assert set(file_names(teacher)) == {"params.json", "best.pth.tar"}


def file_names(folder: Folder) -> list[str]:
    shutil.rmtree(folder.cache, ignore_errors=True)
    return [file.name for file in folder.path.iterdir()]
