"""Teachers without a folder: networks with published weights, weights files, ONNX files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import search_hyperparams
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.teacher import build_teacher, read_teacher_weights
from model.config.folder import Folder
from model.config.references import PUBLISHERS
from model.errors import UserError
from model.files import write_json
from model.registry import NETS
from model.training.checkpoint import load_checkpoint
from model.types import Batch
from tests.conftest import Call, MakeFolder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED = "torchvision/shufflenet_v2_x0_5"
PUBLISHED_FILE = "shufflenetv2_x0.5-f707e7126e.pth"
IN_IMAGENET = ("zebra", "tench", "lemon")  # classes 340, 0 and 951 of ImageNet
COLUMNS = [340, 0, 951]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A data set of 8 x 8 pixels whose three classes have names of ImageNet's."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {"class_names": np.array(IN_IMAGENET)}
    for split, size in (("train", 60), ("test", 9)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (size, 8, 8, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(size) % 3
    np.savez(tmp_path / "images.npz", **arrays)
    return tmp_path / "images.npz"


def write_student(
    make_folder: MakeFolder, path: Path, images: Path, teacher: Any, loss: Any = None, **changes: Any
) -> Folder:
    return make_folder(
        path,
        dataset={"name": "arrays", "path": str(images), "val_size": 12, "pad": 1},
        student={"name": "cnn", "num_channels": 4},
        teacher=teacher,
        loss=loss or {"kd": {"alpha": 0.9, "temperature": 2.0}},
        batch_size=8,
        num_epochs=1,
        **changes,
    )


def teach(folder: Folder, runtime: Runtime) -> tuple[Tensor, Batch, Experiment]:
    """The teacher's probabilities for a training batch, with the batch."""
    experiment = Experiment(folder.path, runtime)
    teacher = build_teacher(experiment, read_teacher_weights(experiment))
    assert teacher is not None
    batch = next(experiment.data.train_batches(0, 8))
    return teacher(batch).logits.double().softmax(dim=1), batch, experiment


def as_seen(batch: Batch, experiment: Experiment, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The images at another size with another normalisation."""
    own = experiment.source.normalisation
    own_mean, own_std, its_mean, its_std = (
        torch.tensor(values).view(-1, 1, 1) for values in (own.mean, own.std, mean, std)
    )
    pixels = F.interpolate(batch.images * own_std + own_mean, (size, size), mode="bilinear", antialias=True)
    return (pixels - its_mean) / its_std


# Published weights ---------------------------------------------------------------------------------------------------


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder where torchvision looks for weights; nothing can be fetched."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def published(torch_home: Path) -> dict[str, Tensor]:
    """Random weights in the place of the published ones."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = NETS.build(PUBLISHED, 1000, 3, 224).state_dict()
    torch.save(state, torch_home / PUBLISHED_FILE)
    return state


@pytest.mark.parametrize("cache", [True, False])
def test_a_network_by_name_teaches_with_its_published_weights_size_and_classes(
    published: dict[str, Tensor],
    images: Path,
    make_folder: MakeFolder,
    runtime: Runtime,
    tmp_path: Path,
    cache: bool,
) -> None:
    teacher = {"model_dir": PUBLISHED, "classes": "renormalised", "cache": cache}
    found, batch, experiment = teach(write_student(make_folder, tmp_path / "student", images, teacher), runtime)
    net = NETS.build(PUBLISHED, 1000, 3, 224)
    net.load_state_dict(published)
    with torch.no_grad():
        logits = net.eval()(as_seen(batch, experiment, 224, IMAGENET_MEAN, IMAGENET_STD)).logits[:, COLUMNS]
    torch.testing.assert_close(found, logits.double().softmax(dim=1), rtol=0, atol=2e-3)


def test_a_network_by_name_teaches_a_whole_run_and_its_outputs_are_cached_once(
    published: dict[str, Tensor], images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    for number in (1, 2):
        teacher = {"model_dir": PUBLISHED, "classes": "renormalised", "image_size": 32}
        folder = write_student(make_folder, tmp_path / str(number), images, teacher)
        Experiment(folder.path, runtime).train()
        run = folder.read_run()
        assert list(run["teacher"]) == [PUBLISHED]
        assert (run["teacher_images"]["run"] > 0) == (number == 1)


def test_missing_weights_are_one_line_with_the_place_where_they_are_looked_for(
    torch_home: Path, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = write_student(make_folder, tmp_path / "student", images, PUBLISHED)
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert (result.status, result.err) == (
        2,
        f"error: {folder.params}: teacher: the weights of {PUBLISHED} could not be downloaded (no route to host); "
        f"they are looked for in {torch_home / PUBLISHED_FILE}\n",
    )


def test_an_unknown_network_is_one_line_with_the_nearest_name(
    images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = write_student(make_folder, tmp_path / "student", images, "torchvision/resnet51")
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 2
    assert result.err.startswith(f'error: {folder.params}: teacher: torchvision has no classifier named "resnet51"')


def test_timms_networks_have_timms_size_normalisation_and_imagenets_names(
    images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm", exc_type=ImportError)
    net = NETS.build("timm/test_resnet", 1000, 3, 160)
    state = {name.removeprefix("net."): value for name, value in net.state_dict().items()}
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
    teacher = {"model_dir": "timm/test_resnet", "classes": "renormalised", "cache": False}
    found, batch, experiment = teach(write_student(make_folder, tmp_path / "student", images, teacher), runtime)
    with torch.no_grad():
        logits = net.eval()(as_seen(batch, experiment, 160, (0.5,) * 3, (0.5,) * 3)).logits[:, COLUMNS]
    torch.testing.assert_close(found, logits.double().softmax(dim=1), rtol=0, atol=1e-4)


def test_the_publishers_are_the_families_of_networks() -> None:
    assert sorted(PUBLISHERS) == NETS.families()


def test_a_search_has_a_teacher_without_a_folder(
    weights: Path, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    teacher = {"model_dir": "../weights.pth", "network": "resnet8", "class_names": ["lemon", "zebra", "emu", "tench"]}
    folder = write_student(make_folder, tmp_path / "search", images, teacher | {"classes": "renormalised"})
    write_json(folder.path / "search.json", {"method": "grid", "parameters": {"alpha": [0.5, 0.9]}})
    result = call(search_hyperparams.main, "--parent_dir", folder.path, "--device", "cpu")
    assert result.status == 0, result.err
    children = [Folder(folder.path / f"alpha_{alpha}") for alpha in ("0.5", "0.9")]
    assert [child.state() for child in children] == ["finished", "finished"]


# Weights files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    torch.save({"model": NETS.build("resnet8", 4, 3).state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_weights_file_teaches_as_its_options_describe_it(
    weights: Path, images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("lemon\nzebra\nemu\ntench\n")
    teacher = {
        "model_dir": str(weights),
        "network": "resnet8",
        "class_names": str(tmp_path / "names.txt"),
        "classes": "renormalised",
        "image_size": 16,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "cache": False,
    }
    found, batch, experiment = teach(write_student(make_folder, tmp_path / "student", images, teacher), runtime)
    net = NETS.build("resnet8", 4, 3)
    net.load_state_dict(load_checkpoint(weights)["model"])
    with torch.no_grad():
        logits = net.eval()(as_seen(batch, experiment, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))).logits[:, [1, 3, 0]]
    torch.testing.assert_close(found, logits.double().softmax(dim=1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, 'has weights alone: name the network, as in {"name": "resnet18"}'),
        (
            {"network": "resnet8"},
            'teacher: NAME: its classes differ from the data\'s: "0", "1", "2" and 1 more there, '
            '"zebra", "tench", "lemon" here; class_map can tell which is which',
        ),
        ({"network": "resnet8", "mean": [0.5]}, "teacher.std: is missing beside mean"),
        (
            {"network": "resnet8", "mean": [0.5], "std": [0.5]},
            "teacher.mean: should be 3 numbers, one for each channel, got 1",
        ),
        ({"network": "resnet8", "class_names": "none.txt"}, 'teacher.class_names: no file "none.txt" under '),
        (
            {"network": "resnet8", "class_names": ["lemon", "zebra", "tench"]},
            "NAME: fc.weight has shape (4, 64), the network (3, 64)",
        ),
    ],
)
def test_a_weights_file_that_cannot_teach_is_one_line(
    weights: Path, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call, options: Any, message: str
) -> None:
    folder = write_student(make_folder, tmp_path / "student", images, {"model_dir": str(weights), **options})
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    message = message.replace("NAME", str(weights))
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert message in result.err


def test_files_that_can_run_code_are_refused_with_the_way_out(
    images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "model.pkl").touch()
    folder = write_student(make_folder, tmp_path / "student", images, str(tmp_path / "model.pkl"))
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 2
    assert "is a pickle, which can run code of its own and is not read: save its weights with torch.save" in result.err


def test_what_describes_a_file_is_refused_beside_a_folder(
    images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    write_student(make_folder, tmp_path / "teacher", images, None, {"ce": {}})
    teacher = {"model_dir": "../teacher", "image_size": 32}
    folder = write_student(make_folder, tmp_path / "student", images, teacher)
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert (result.status, result.err) == (
        2,
        f"error: {folder.params}: teacher.image_size: is for a single teacher without a folder: leave this out\n",
    )


def test_a_missing_file_is_one_line_with_the_nearest_name(
    weights: Path, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    teacher = {"model_dir": "../weight.pth", "network": "resnet8"}
    folder = write_student(make_folder, tmp_path / "student", images, teacher)
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 2
    assert result.err.startswith(f'error: {folder.params}: teacher.model_dir: no file "../weight.pth" under ')
    assert result.err.endswith('did you mean "weights.pth"?\n')


# ONNX ----------------------------------------------------------------------------------------------------------------


def write_onnx(
    path: Path, weight_KD: Tensor, *, softmax: bool = False, batch: int | str = "N", **metadata: str
) -> None:
    """A linear classifier of images of 8 x 8 pixels."""
    onnx = pytest.importorskip("onnx", exc_type=ImportError)
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(weight_KD.T.contiguous().numpy(), "weight")
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"], axis=1),
    ]
    name = "p" if softmax else "logits"
    graph = helper.make_graph(
        nodes if softmax else nodes[:2],
        "classifier",
        [helper.make_tensor_value_info("images", kind, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info(name, kind, [batch, len(weight_KD)])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("batch", ["N", 3])
def test_an_onnx_file_teaches_with_its_logits_or_probabilities(
    images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, softmax: bool, batch: Any
) -> None:
    weight_KD = torch.randn(3, 3 * 8 * 8, generator=torch.Generator().manual_seed(0)) / 10
    names = '["lemon", "zebra", "tench"]'
    described = {"class_names": names, "mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    write_onnx(tmp_path / "teacher.onnx", weight_KD, softmax=softmax, batch=batch, **described)
    folder = write_student(make_folder, tmp_path / "student", images, "../teacher.onnx")
    found, data_batch, experiment = teach(folder, runtime)
    seen = as_seen(data_batch, experiment, 8, (0.5,) * 3, (0.5,) * 3)
    expected = (seen.flatten(1) @ weight_KD.T).double().softmax(dim=1)[:, [1, 2, 0]]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    Experiment(folder.path, runtime).train()
    assert folder.state() == "finished"


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"at": {}, "ce": {}}, r"loss\.at: the teacher returns no maps to compare"),
        ({"rkd": {}, "ce": {}}, r"teacher: .*teacher\.onnx has logits alone, and the loss rkd needs more"),
    ],
)
def test_an_onnx_file_has_no_features(
    images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, loss: Any, message: str
) -> None:
    names = '["lemon", "zebra", "tench"]'
    write_onnx(tmp_path / "teacher.onnx", torch.zeros(3, 3 * 8 * 8), class_names=names)
    folder = write_student(make_folder, tmp_path / "student", images, "../teacher.onnx", loss)
    with pytest.raises(UserError, match=message):
        Experiment(folder.path, runtime).train()


def test_a_file_that_is_no_onnx_is_one_line(
    images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    (tmp_path / "teacher.onnx").write_bytes(b"not a graph")
    folder = write_student(make_folder, tmp_path / "student", images, "../teacher.onnx")
    with pytest.raises(UserError, match=r"teacher\.onnx: onnxruntime cannot read it"):
        Experiment(folder.path, runtime).train()


def test_missing_onnxruntime_is_one_line(
    images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "teacher.onnx").touch()
    folder = write_student(make_folder, tmp_path / "student", images, "../teacher.onnx")
    with pytest.raises(UserError, match=r"teacher\.onnx: onnxruntime is not installed: pip install onnxruntime"):
        Experiment(folder.path, runtime).train()
