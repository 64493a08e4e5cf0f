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
from model.build.weights import WeightsFile, weights_digest
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


def new_net() -> CifarResNet:
    return CifarResNet(8, (4, 4, 8, 16), num_classes=10, in_channels=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best.pth.tar"


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


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
    "hankyul2's": lambda state: {"weight": state},
    "torchvision's references": lambda state: {"model": state, "optimizer": {"state": {}}, "lr_scheduler": {"step": 3}},
    "nested": lambda state: {"model": {"state_dict": state, "version": {"number": 1}}},
    "bare": lambda state: state,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip file", "file of torch before 1.6"])
@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "DataParallel"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_loads_strictly(format_name: str, prefix: str, zipped: bool, net: CifarResNet, path: Path) -> None:
    state = net.state_dict()
    torch.save(
        FORMATS[format_name](behind(prefix, state)),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    loaded = new_net()
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
    loaded = new_net()
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
    with pytest.raises(UserError, match=rf"holds neither weights under state_dict, .* nor tensors alone, but {keys}$"):
        _ = WeightsFile(path, content).state_dict


DEFAULT = Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def normalisation(mean: Any, std: Any, default: Normalisation = DEFAULT) -> Normalisation:
    return WeightsFile(Path("x/best.pth.tar"), {"model": {}, "mean": mean, "std": std}).normalisation(default)


def test_a_weight_named_mean_is_not_a_normalisation() -> None:
    assert WeightsFile(Path("x"), {"mean": torch.zeros(3)}).normalisation(DEFAULT) is DEFAULT


@pytest.mark.parametrize("convert", [list, tuple, lambda values: [np.float64(value) for value in values]])
def test_a_file_may_contain_the_normalisation_of_its_network(convert: Callable[[Any], Any]) -> None:
    assert normalisation(convert(IMAGENET.mean), convert(IMAGENET.std)) == IMAGENET


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_and_std_may_be_tensors(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    mean, std = (torch.tensor(values, dtype=dtype).view(shape) for values in (IMAGENET.mean, IMAGENET.std))
    read = normalisation(mean, std)
    assert read.mean == pytest.approx(IMAGENET.mean)
    assert read.std == pytest.approx(IMAGENET.std)


def test_mean_and_std_of_images_in_0_to_255_are_divided(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="retort"):
        read = normalisation([123.675, 116.28, 103.53], torch.tensor([58.395, 57.12, 57.375]))
    assert read.mean == pytest.approx(IMAGENET.mean)
    assert read.std == pytest.approx(IMAGENET.std)
    assert "best.pth.tar: mean and std are those of images in 0..255" in caplog.text


def test_means_of_255_with_a_std_of_1_are_those_of_images_in_0_to_255() -> None:
    assert normalisation([51, 102, 204], [1, 1, 1]).mean == pytest.approx((0.2, 0.4, 0.8))


def test_mean_and_std_of_the_data_set_are_taken_as_they_are() -> None:
    plugin = Normalisation(mean=(0.0, -1.0, 0.5), std=(2.0, 2.0, 2.0))
    assert normalisation(list(plugin.mean), list(plugin.std), plugin) == plugin


def test_one_channel_may_have_a_number() -> None:
    grey = Normalisation(mean=(0.5,), std=(0.5,))
    assert normalisation(0.1307, 0.3081, grey) == Normalisation(mean=(0.1307,), std=(0.3081,))


@pytest.mark.parametrize(
    ("mean", "std", "problem"),
    [
        (None, None, "mean should be 3 numbers, one for each channel, got None"),
        ("imagenet", IMAGENET.std, "mean should be 3 numbers, one for each channel, got 'imagenet'"),
        (IMAGENET.mean, [], r"std should be 3 numbers, one for each channel, got \[\]"),
        (IMAGENET.mean, [0.2], r"std should be 3 numbers, one for each channel, got \[0.2\]"),
        (0.5, 0.5, "mean should be 3 numbers, one for each channel, got 0.5"),
        (torch.zeros(2, 3), IMAGENET.std, "mean should be 3 numbers"),
        (torch.zeros(3, device="meta"), IMAGENET.std, "mean should be 3 numbers"),
        ([0.5, 0.5, float("nan")], IMAGENET.std, r"mean should be 3 numbers, .* got \[0.5, 0.5, nan\]"),
        (IMAGENET.mean, [0.2, float("inf"), 0.2], "std should be 3 numbers"),
        (IMAGENET.mean, [0.2, 0, 0.2], r"std must be positive, got \[0.2, 0.0, 0.2\]"),
        (IMAGENET.mean, [0.2, -0.2, 0.2], "std must be positive"),
        ([-0.5, 0.5, 0.5], IMAGENET.std, "neither of images in 0..1 nor of images in 0..255"),
        ([123.675, 116.28, 103.53], IMAGENET.std, "neither of images in 0..1 nor of images in 0..255"),
        (IMAGENET.mean, [58.395, 57.12, 57.375], "neither of images in 0..1 nor of images in 0..255"),
        ([30000.0, 30000.0, 30000.0], [15000.0, 15000.0, 15000.0], "neither of images in 0..1"),
    ],
)
def test_what_is_no_mean_and_std_of_the_channels_is_refused(mean: Any, std: Any, problem: str) -> None:
    with pytest.raises(UserError, match=rf"^x/best\.pth\.tar: .*{problem}"):
        normalisation(mean, std)


@pytest.mark.parametrize(("key", "missing"), [("mean", "std"), ("std", "mean")])
def test_mean_without_std_is_refused(key: str, missing: str) -> None:
    with pytest.raises(UserError, match=f"{missing} should be 3 numbers, one for each channel, got nothing"):
        WeightsFile(Path("x"), {"model": {}, key: [0.5] * 3}).normalisation(DEFAULT)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["fc.weight", "bn1.running_var"])
def test_weights_that_are_not_finite_are_refused(value: float, name: str, net: CifarResNet, path: Path) -> None:
    broken = net.state_dict()[name].clone()
    broken.view(-1)[-1] = value
    file = WeightsFile(path, {"state_dict": net.state_dict() | {name: broken}})
    with pytest.raises(UserError, match=rf"best\.pth\.tar: {name} is not finite"):
        file.load_into(new_net())
    with torch.device("meta"), pytest.raises(UserError, match=rf"{name} is not finite"):
        file.check(new_net())


def test_a_float64_weight_beyond_float32_is_refused(net: CifarResNet, path: Path) -> None:
    state = net.state_dict() | {"fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}
    with pytest.raises(UserError, match=r"fc\.bias is not finite"):
        WeightsFile(path, state).load_into(new_net())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_float_formats_keep_their_values(
    dtype: torch.dtype, net: CifarResNet, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in net.state_dict().items()}
    torch.save(state, path)
    loaded = new_net()
    with caplog.at_level("INFO", logger="retort"):
        WeightsFile.read(path).load_into(loaded)
    assert all(torch.equal(value.double(), state[name].double()) for name, value in loaded.state_dict().items())
    assert f"weights in {str(dtype).removeprefix('torch.')} are loaded as float32" in caplog.text


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated, but files contain such tensors
@pytest.mark.parametrize(
    ("convert", "problem"),
    [
        (lambda value: value.to(torch.int8), "torch.int8, the network's torch.float32"),
        (lambda value: value.to_sparse(), "a sparse tensor"),
        (lambda value: value.to("meta"), "a meta tensor"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "a quantized tensor"),
    ],
)
def test_weights_that_are_not_plain_floats_are_refused(
    convert: Callable[[Tensor], Tensor], problem: str, net: CifarResNet, path: Path
) -> None:
    state = net.state_dict() | {"fc.weight": convert(net.fc.weight.detach())}
    with pytest.raises(UserError, match=rf"best\.pth\.tar: fc\.weight is {problem}"):
        WeightsFile(path, {"state_dict": state}).load_into(new_net())


@pytest.mark.parametrize(("epoch", "number"), [(3, 3), (torch.tensor(3), 3), (torch.zeros(2), None), ("last", None)])
def test_only_a_number_is_an_epoch(epoch: Any, number: int | None) -> None:
    assert WeightsFile(Path("x"), {"model": {}, "epoch": epoch}).epoch == number


def test_digest_of_one_state_dict_is_that_of_its_tensors(net: CifarResNet, path: Path) -> None:
    expected = weights_digest(net.state_dict())
    for content in ({"state_dict": net.state_dict(), "epoch": 3}, {"model": behind("module.", net.state_dict())}):
        assert WeightsFile(path, content).digest == expected


def test_digest_covers_averaged_weights(net: CifarResNet, path: Path) -> None:
    trained = net.state_dict()
    averaged = [trained | {"fc.bias": torch.full((10,), value)} for value in (1.0, 2.0)]
    digests = {WeightsFile(path, {"state_dict": trained, "state_dict_ema": each}).digest for each in averaged}
    assert len(digests) == 2


def test_a_published_file_in_a_folder_is_a_teacher(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    teacher = make_folder(tmp_path / "teacher", student={"name": "resnet8"})
    published = CifarResNet(8, (16, 16, 32, 64), num_classes=10, in_channels=3)
    torch.save(repdistiller_checkpoint(behind("module.", published.state_dict())), teacher.checkpoint("best"))
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}}, num_epochs=1)
    Experiment(student.path, runtime).train(train_teachers=False)
    assert student.state() == "finished"
    assert set(file_names(teacher)) == {"params.json", "best.pth.tar"}


def file_names(folder: Folder) -> list[str]:
    shutil.rmtree(folder.cache, ignore_errors=True)
    return [file.name for file in folder.path.iterdir()]
