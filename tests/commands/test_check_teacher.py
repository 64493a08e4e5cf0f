"""A teacher's accuracy before training, and causes that are planted where it is too low."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.files import read_json, write_json
from model.registry import NETS
from model.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import Call, MakeFolder

NAMES = ("red", "green", "blue", "dark")
COLOURS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (30, 30, 30)])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of four colours: a small network learns them in seconds."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {"class_names": np.array(NAMES)}
    for split, size in (("train", 400), ("test", 40)):
        labels = np.arange(size) % len(NAMES)
        noise = generator.integers(-25, 26, (size, 8, 8, 3))
        arrays[f"{split}_images"] = (COLOURS[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    path = tmp_path_factory.mktemp("colours") / "colours.npz"
    np.savez(path, **arrays)
    return path


def dataset(images: Path) -> dict[str, Any]:
    return {"name": "arrays", "path": str(images), "val_size": 100, "augment": False}


@pytest.fixture(scope="module")
def trained(
    images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Folder:
    folder = make_folder(
        tmp_path_factory.mktemp("trained") / "teacher",
        dataset=dataset(images),
        student={"name": "resnet8"},
        batch_size=32,
        num_epochs=4,
        optimizer={"name": "sgd", "learning_rate": 0.05},
    )
    Experiment(folder.path, runtime).train()
    assert read_json(folder.metrics("val", "best"))["accuracy"] > 0.95
    return folder


def write_student(make_folder: MakeFolder, path: Path, images: Path, teacher: Any, loss: Any = None) -> Folder:
    return make_folder(
        path, dataset=dataset(images), teacher=teacher, loss=loss or {"kd": {"alpha": 0.9}}, num_epochs=1, batch_size=64
    )


def changed_teacher(trained: Folder, path: Path, make_folder: MakeFolder, **changes: Any) -> Folder:
    """The trained teacher with a changed file, and the accuracy on val that it had."""
    content = load_checkpoint(trained.checkpoint("best")) | changes
    params = read_json(trained.params)
    folder = make_folder(path, **{key: params[key] for key in ("dataset", "student")})
    save_checkpoint(folder.checkpoint("best"), content)
    write_json(folder.metrics("val", "best"), read_json(trained.metrics("val", "best")))
    return folder


def refusal(folder: Folder, call: Call) -> str:
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 2, result.err
    last: str = result.err.splitlines()[-1]
    assert last.startswith(f"error: {folder.params}: teacher: ")
    assert not folder.history.exists()
    return last


def test_the_accuracy_of_a_teacher_is_logged_and_in_run_json(
    trained: Folder, images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = write_student(make_folder, tmp_path / "student", images, str(trained.path))
    Experiment(folder.path, runtime).train()
    found = folder.read_run()["teacher_accuracy"]
    expected = read_json(trained.metrics("val", "best"))["accuracy"]
    assert found == {trained.name: {"accuracy": pytest.approx(expected, abs=0.011), "num_images": 100}}
    assert f"teacher {trained.name}: accuracy {100 * found[trained.name]['accuracy']:.1f} % on 100 images of val" in (
        folder.log.read_text()
    )


def test_a_permuted_head_is_named_with_the_best_orders_accuracy(
    trained: Folder, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    state: dict[str, Tensor] = load_checkpoint(trained.checkpoint("best"))["state_dict"]
    head = {name: state[name].roll(1, dims=0) for name in ("fc.weight", "fc.bias")}
    teacher = changed_teacher(trained, tmp_path / "teacher", make_folder, state_dict=state | head)
    message = refusal(write_student(make_folder, tmp_path / "student", images, str(teacher.path)), call)
    assert "its accuracy is 0.0 % on 100 images of val" in message
    assert "its classes are in another order, and " in message
    assert message.endswith("; expected_accuracy accepts less")


def test_another_normalisation_is_named_with_the_better_one(
    trained: Folder, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    teacher = changed_teacher(trained, tmp_path / "teacher", make_folder, mean=[0.9] * 3, std=[0.9] * 3)
    message = refusal(write_student(make_folder, tmp_path / "student", images, str(teacher.path)), call)
    assert "it was trained on images of another normalisation, and has " in message
    assert "with the mean and std of the student's data" in message


def test_channels_in_reverse_order_are_named(
    trained: Folder, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    content = load_checkpoint(trained.checkpoint("best"))
    state = content["state_dict"]
    first = next(name for name, value in state.items() if value.ndim == 4)
    reverse = {"mean": content["mean"][::-1], "std": content["std"][::-1]}
    state = state | {first: state[first].flip(1)}
    teacher = changed_teacher(trained, tmp_path / "teacher", make_folder, state_dict=state, **reverse)
    message = refusal(write_student(make_folder, tmp_path / "student", images, str(teacher.path)), call)
    assert "it was trained on images whose channels are in reverse order, and has " in message


def test_broken_statistics_of_batch_norm_are_named(
    trained: Folder, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    state = load_checkpoint(trained.checkpoint("best"))["state_dict"]
    broken = {name: value + 3 for name, value in state.items() if name.endswith("running_mean")}
    teacher = changed_teacher(trained, tmp_path / "teacher", make_folder, state_dict=state | broken)
    message = refusal(write_student(make_folder, tmp_path / "student", images, str(teacher.path)), call)
    assert "the running statistics of its batch norm do not fit its weights, and it has " in message


def test_a_teacher_without_a_known_cause_may_have_seen_other_images(
    trained: Folder, images: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    torch.manual_seed(3)
    state = NETS.build("resnet8", len(NAMES), 3).state_dict()
    teacher = changed_teacher(trained, tmp_path / "teacher", make_folder, state_dict=state)
    message = refusal(write_student(make_folder, tmp_path / "student", images, str(teacher.path)), call)
    assert ": it may have been trained on other images; expected_accuracy accepts less" in message


def test_expected_accuracy_accepts_a_worse_teacher_and_refuses_one_that_is_not_as_good(
    trained: Folder, images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    torch.manual_seed(3)
    state = NETS.build("resnet8", len(NAMES), 3).state_dict()
    teacher = changed_teacher(trained, tmp_path / "teacher", make_folder, state_dict=state)
    options = {"model_dir": str(teacher.path), "expected_accuracy": 0.0}
    folder = write_student(make_folder, tmp_path / "student", images, options)
    Experiment(folder.path, runtime).train()
    assert folder.state() == "finished"
    strict = write_student(make_folder, tmp_path / "strict", images, options | {"expected_accuracy": 0.9})
    assert ", 90.0 % are expected: " in refusal(strict, call)


def test_a_teacher_of_unknown_accuracy_at_chance_is_a_warning(
    trained: Folder, images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    torch.save(NETS.build("resnet8", len(NAMES), 3).state_dict(), tmp_path / "weights.pth")
    teacher = {"model_dir": "../weights.pth", "network": "resnet8", "class_map": "by_index"}
    folder = write_student(make_folder, tmp_path / "student", images, teacher)
    Experiment(folder.path, runtime).train()
    assert "no better than chance" in folder.log.read_text()


def test_a_teacher_of_features_alone_is_not_measured(
    trained: Folder, images: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = write_student(make_folder, tmp_path / "student", images, str(trained.path), {"rkd": {}, "ce": {}})
    Experiment(folder.path, runtime).train()
    assert "teacher_accuracy" not in folder.read_run()
