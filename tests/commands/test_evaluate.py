"""evaluate.py: its output and files, for every choice of weights and split."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evaluate
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.weights import WeightsFile
from model.config.folder import Folder
from model.errors import UserError
from model.files import read_json
from model.nets.cnn import CNN
from model.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import NUM_CLASSES, Call, MakeFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A finished run whose best weights are not its last."""
    optimizer = {"name": "sgd", "learning_rate": 0.2}
    folder = make_folder(tmp_path_factory.mktemp("evaluate") / "run", num_epochs=5, optimizer=optimizer, seed=1)
    Experiment(folder.path, runtime).train()
    assert read_json(folder.metrics("test", "best")) != read_json(folder.metrics("test", "last"))
    return folder


@pytest.fixture
def folder(trained: Folder, tmp_path: Path) -> Folder:
    return Folder(Path(shutil.copytree(trained.path, tmp_path / "run")))


def compute_logits(weights: Path, images: np.ndarray[Any, Any], tiny_data: Path) -> np.ndarray[Any, Any]:
    """The logits (N, K) of raw images, computed without the data pipeline."""
    with np.load(tiny_data) as data:
        pixels = data["train_images"] / 255
    return compute_logits_of((images / 255 - pixels.mean(axis=(0, 1, 2))) / pixels.std(axis=(0, 1, 2)), weights)


def compute_logits_of(normalised: np.ndarray[Any, Any], weights: Path) -> np.ndarray[Any, Any]:
    net: nn.Module = CNN(NUM_CLASSES, image_size=8, num_channels=4)
    net.load_state_dict(load_checkpoint(weights)["state_dict"])
    with torch.no_grad():
        output = net.eval()(torch.tensor(normalised.transpose(0, 3, 1, 2), dtype=torch.float32))
    logits: np.ndarray[Any, Any] = output.logits.numpy()
    return logits


@pytest.mark.parametrize("kind", ["best", "last"])
def test_metrics_equal_counts_over_the_test_images(folder: Folder, kind: str, tiny_data: Path, call: Call) -> None:
    assert call(evaluate.main, "--model_dir", folder.path, "--restore_file", kind).status == 0
    with np.load(tiny_data) as data:
        logits = compute_logits(folder.path / f"{kind}.pth.tar", data["test_images"], tiny_data)
        labels = data["test_labels"].tolist()
    metrics = read_json(folder.evaluation / f"test_{kind}.json")
    correct = [int(scores.argmax()) == label for scores, label in zip(logits, labels, strict=True)]
    in_top5 = [label in np.argsort(scores)[-5:] for scores, label in zip(logits, labels, strict=True)]
    losses = [np.log(np.exp(scores).sum()) - scores[label] for scores, label in zip(logits, labels, strict=True)]
    assert (metrics["accuracy"], metrics["top5_accuracy"]) == (sum(correct) / 60, sum(in_top5) / 60)
    assert (metrics["parameters"], metrics["macs"]) == (2106, 16544)
    assert metrics["loss"] == pytest.approx(sum(losses) / 60, rel=1e-4)
    for k, row in enumerate(metrics["classes"]):
        assert row["images"] == 6
        assert row["accuracy"] == sum(hit for hit, label in zip(correct, labels, strict=True) if label == k) / 6


def test_images_have_the_normalisation_of_the_weights_file(folder: Folder, tiny_data: Path, call: Call) -> None:
    mean, std = [100.0, 150.0, 200.0], [50.0, 60.0, 70.0]
    save_checkpoint(folder.checkpoint("best"), load_checkpoint(folder.checkpoint("best")) | {"mean": mean, "std": std})
    assert call(evaluate.main, "--model_dir", folder.path).status == 0
    with np.load(tiny_data) as data:
        logits = compute_logits_of((data["test_images"] - mean) / std, folder.checkpoint("best"))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with np.load(folder.evaluation / "test_best.npz") as written:
        np.testing.assert_allclose(written["probabilities"], expected, rtol=1e-3, atol=1e-5)


def test_a_tensor_as_epoch_is_written_as_a_number(folder: Folder, call: Call) -> None:
    content = load_checkpoint(folder.checkpoint("best"))
    save_checkpoint(folder.checkpoint("best"), content | {"epoch": torch.tensor(7)})
    assert call(evaluate.main, "--model_dir", folder.path).status == 0
    assert read_json(folder.evaluation / "test_best.json")["epoch"] == 7


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("kind", ["best", "last"])
def test_metrics_equal_those_written_by_the_run(folder: Folder, split: str, kind: str, call: Call) -> None:
    call(evaluate.main, "--model_dir", folder.path, "--split", split, "--restore_file", kind)
    metrics = read_json(folder.evaluation / f"{split}_{kind}.json")
    written = read_json(folder.path / f"metrics_{split}_{kind}_weights.json")
    assert {key: metrics[key] for key in written} == written


def test_train_split_is_not_augmented(folder: Folder, call: Call) -> None:
    metrics = []
    for _ in range(2):
        call(evaluate.main, "--model_dir", folder.path, "--split", "train")
        metrics.append(read_json(folder.evaluation / "train_best.json"))
        assert metrics[-1].pop("latency")
    assert metrics[0] == metrics[1]
    assert metrics[0]["num_samples"] == 200


def test_table_is_printed_and_written(folder: Folder, call: Call) -> None:
    result = call(evaluate.main, "--model_dir", folder.path)
    markdown = (folder.evaluation / "test_best.md").read_text()
    assert markdown in result.out
    assert "60 images" in markdown
    assert "2,106 parameters, 16,544 multiply-accumulates an image" in markdown
    assert {path.name for path in folder.evaluation.iterdir()} == {
        "test_best.json",
        "test_best.md",
        "test_best.npz",
        "test_best_confusion.csv",
        *(f"test_best_{figure}.{ending}" for figure in ("confusion", "reliability") for ending in ("png", "svg")),
    }


def test_confusion_matrix_has_true_classes_as_rows(folder: Folder, call: Call) -> None:
    call(evaluate.main, "--model_dir", folder.path)
    with (folder.evaluation / "test_best_confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true", *map(str, range(NUM_CLASSES))]
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert counts.sum(axis=1).tolist() == [6] * NUM_CLASSES
    assert counts.trace() / 60 == read_json(folder.metrics("test", "best"))["accuracy"]


def test_weights_of_any_path_can_be_evaluated(folder: Folder, tmp_path: Path, call: Call) -> None:
    weights = tmp_path / "copied.pth.tar"
    shutil.copy(folder.checkpoint("last"), weights)
    assert call(evaluate.main, "--model_dir", folder.path, "--restore_file", weights).status == 0
    metrics = read_json(folder.evaluation / f"test_{tmp_path.name}_copied.json")
    assert metrics["accuracy"] == read_json(folder.metrics("test", "last"))["accuracy"]


def test_class_without_test_images_is_shown_without_an_accuracy(
    folder: Folder, tiny_data: Path, tmp_path: Path, call: Call
) -> None:
    with np.load(tiny_data) as data:
        arrays = dict(data)
    remaining = arrays["test_labels"] != 3
    arrays["test_images"], arrays["test_labels"] = arrays["test_images"][remaining], arrays["test_labels"][remaining]
    np.savez(tmp_path / "fewer.npz", **arrays)
    params = read_json(folder.params)
    params["dataset"]["path"] = str(tmp_path / "fewer.npz")
    folder.params.write_text(json.dumps(params))
    assert call(evaluate.main, "--model_dir", folder.path).status == 0
    row = read_json(folder.evaluation / "test_best.json")["classes"][3]
    assert (row["class"], row["images"], row["accuracy"]) == ("3", 0, None)


def test_evaluation_changes_nothing_but_its_own_folder(folder: Folder, call: Call) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}

    before = files()
    call(evaluate.main, "--model_dir", folder.path)
    assert files() == before


def test_empty_split_is_an_error(
    make_folder: MakeFolder, trained: Folder, tiny_data: Path, tmp_path: Path, call: Call
) -> None:
    dataset = {"name": "arrays", "path": str(tiny_data), "val_size": 0}
    without_val = make_folder(tmp_path / "without_val", dataset=dataset)
    shutil.copy(trained.checkpoint("best"), without_val.checkpoint("best"))
    result = call(evaluate.main, "--model_dir", without_val.path, "--split", "val")
    assert result.status == 2
    assert "the split val is empty" in result.err


def test_folder_without_weights_is_an_error(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    result = call(evaluate.main, "--model_dir", make_folder(tmp_path / "new").path)
    assert result.status == 2
    assert "best.pth.tar: no such file" in result.err


def test_weights_of_another_network_are_refused(folder: Folder, call: Call) -> None:
    params = read_json(folder.params)
    params["student"]["num_channels"] = 5
    folder.params.write_text(json.dumps(params))
    result = call(evaluate.main, "--model_dir", folder.path)
    assert result.status == 2
    assert "conv1.weight has shape (4, 3, 3, 3), the network (5, 3, 3, 3)" in result.err


def test_missing_and_unknown_weights_are_named(trained: Folder) -> None:
    content = load_checkpoint(trained.checkpoint("best"))
    net = CNN(NUM_CLASSES, image_size=8, num_channels=4)
    state = dict(content["state_dict"])
    state["module.conv1.weight"] = state.pop("conv1.weight")
    with pytest.raises(UserError, match=r"lacks conv1\.weight: not this network's weights"):
        WeightsFile(Path("x"), {"state_dict": state}).load_into(net)
    state["conv1.weight"] = state["module.conv1.weight"]
    with pytest.raises(UserError, match=r"has unknown module\.conv1\.weight"):
        WeightsFile(Path("x"), {"state_dict": state}).load_into(net)


def test_class_names_may_be_any_text(make_folder: MakeFolder, tiny_data: Path, tmp_path: Path, call: Call) -> None:
    names = ["cat|kitten", "caf\udce9", "two\nlines", "*star*", "`code`", *map(str, range(5, NUM_CLASSES))]
    with np.load(tiny_data) as data:
        np.savez(tmp_path / "named.npz", class_names=np.array(names), **data)
    dataset = {"name": "arrays", "path": str(tmp_path / "named.npz"), "val_size": 40, "pad": 1}
    folder = make_folder(tmp_path / "run", dataset=dataset, num_epochs=1)
    assert call(train.main, "--model_dir", folder.path).status == 0
    result = call(evaluate.main, "--model_dir", folder.path)
    assert (result.status, result.err) == (0, "")
    rows = [line for line in result.out.splitlines() if line.startswith("|")]
    assert len(rows) == NUM_CLASSES + 2
    assert {row.count("|") for row in rows} == {6}
    with (folder.evaluation / "test_best_confusion.csv").open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    assert header == ["true", "cat|kitten", "caf\\udce9", *names[2:]]
    assert [row["class"] for row in read_json(folder.evaluation / "test_best.json")["classes"]] == names


@pytest.mark.parametrize(
    ("image_shape", "batch_size", "expected"),
    [
        ((3, 32, 32), 128, 1000),
        ((1, 28, 28), 128, 1000),
        ((3, 224, 224), 8, 20),
        ((3, 224, 224), 64, 64),
        ((3, 224, 224), 4096, 1000),
        ((3, 2048, 2048), 1, 1),
    ],
)
def test_evaluation_takes_fewer_images_at_once_the_larger_they_are(
    runtime: Runtime, tmp_path: Path, image_shape: tuple[int, ...], batch_size: int, expected: int
) -> None:
    experiment = Experiment(tmp_path, runtime)
    vars(experiment)["params"] = SimpleNamespace(batch_size=batch_size)
    vars(experiment)["source"] = SimpleNamespace(image_shape=image_shape)
    assert experiment.eval_batch_size == expected


# The teacher --------------------------------------------------------------------------------------------------------


def test_distilled_run_is_compared_with_its_teacher(
    folder: Folder, make_folder: MakeFolder, runtime: Runtime, tiny_data: Path, tmp_path: Path, call: Call
) -> None:
    student = make_folder(tmp_path / "student", teacher=str(folder.path), loss={"kd": {}})
    Experiment(student.path, runtime).train()
    assert call(evaluate.main, "--model_dir", student.path).status == 0
    with np.load(tiny_data) as data:
        own, teacher = (
            compute_logits(each.checkpoint("best"), data["test_images"], tiny_data).argmax(axis=1)
            for each in (student, folder)
        )
        labels = data["test_labels"]
    metrics = read_json(student.evaluation / "test_best.json")
    assert metrics["teacher_accuracy"] == pytest.approx((teacher == labels).mean())
    assert metrics["agreement"] == pytest.approx((own == teacher).mean())
    assert "the student agrees with it on" in (student.evaluation / "test_best.md").read_text()


def test_run_whose_teacher_is_gone_is_evaluated_alone(
    folder: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    student = make_folder(tmp_path / "student", teacher=str(folder.path), loss={"kd": {}})
    Experiment(student.path, runtime).train()
    folder.checkpoint("best").unlink()
    assert call(evaluate.main, "--model_dir", student.path).status == 0
    assert "teacher_accuracy" not in read_json(student.evaluation / "test_best.json")
