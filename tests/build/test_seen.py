"""Which held-out images a network has seen follows the images, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluate
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.seen import describe_seen, held_out_seen, seen_by
from model.config.folder import Folder
from model.data.cifar10_mini import unpack
from model.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import Call, MakeFolder

VAL = 40  # images of val in `make_folder`'s data set


def dataset(path: Path, **options: Any) -> dict[str, Any]:
    return {"name": "arrays", "path": str(path), "val_size": VAL, "pad": 1, **options}


Train = Callable[..., Folder]


@pytest.fixture
def train_run(tmp_path: Path, make_folder: MakeFolder, runtime: Runtime) -> Train:
    def run(name: str, **changes: Any) -> Folder:
        folder = make_folder(tmp_path / name, **{"num_epochs": 1} | changes)
        Experiment(folder.path, runtime).train()
        return folder

    return run


def seen(folder: Folder, runtime: Runtime) -> dict[str, int] | None:
    experiment = Experiment(folder.path, runtime)
    (other,) = experiment.dependencies
    return held_out_seen(experiment, seen_by(other))


def test_init_that_was_trained_on_val_is_logged(train_run: Train, tiny_data: Path) -> None:
    first = train_run("first", dataset=dataset(tiny_data, val_size=0))
    run = train_run("run", init=str(first.path))
    expected = f"init {first.name} has seen 40 of the 40 images of val in training: accuracy on val flatters"
    assert expected in run.log.read_text()
    assert run.read_run()["seen"] == {first.name: {"val": 40, "test": 0}}


@pytest.mark.parametrize("key", ["teacher", "init"])
def test_what_a_teachers_teacher_or_init_has_seen_counts(
    train_run: Train, tiny_data: Path, runtime: Runtime, key: str
) -> None:
    first = train_run("first", dataset=dataset(tiny_data, val_size=0))
    loss: dict[str, Any] = {"loss": {"kd": {}}} if key == "teacher" else {}
    second = train_run("second", **{key: str(first.path)}, **loss)
    run = train_run("run", teacher=str(second.path), loss={"kd": {}})
    assert seen(run, runtime) == {"val": 40, "test": 0}


def test_it_counts_before_any_of_them_is_trained(
    make_folder: MakeFolder, tiny_data: Path, tmp_path: Path, runtime: Runtime, call: Call
) -> None:
    first = make_folder(tmp_path / "first", dataset=dataset(tiny_data, val_size=0))
    second = make_folder(tmp_path / "second", init=str(first.path))
    run = make_folder(tmp_path / "run", teacher=str(second.path), loss={"kd": {}})
    assert seen(run, runtime) == {"val": 40, "test": 0}
    dry_run = call(train.main, "--model_dir", run.path, "--dry_run", "--device", "cpu").out
    assert "has seen 40 of the 40 images of val in training" in dry_run


def test_the_data_may_have_another_path(train_run: Train, tiny_data: Path, tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "link").symlink_to(tiny_data.parent)
    first = train_run("first", dataset=dataset(tmp_path / "link" / tiny_data.name, val_size=0))
    run = train_run("run", teacher=str(first.path), loss={"kd": {}})
    assert seen(run, runtime) == {"val": 40, "test": 0}


def test_the_data_may_be_gone(train_run: Train, tiny_data: Path, tmp_path: Path, runtime: Runtime) -> None:
    copied = tmp_path / "copied.npz"
    copied.write_bytes(tiny_data.read_bytes())
    first = train_run("first", dataset=dataset(copied, val_size=0))
    copied.unlink()
    run = train_run("run", teacher=str(first.path), loss={"kd": {}})
    assert seen(run, runtime) == {"val": 40, "test": 0}


def test_images_of_another_data_set_are_recognised(make_folder: MakeFolder, tmp_path: Path, runtime: Runtime) -> None:
    mini = unpack()
    np.savez(  # 100 of the training images as test images
        tmp_path / "part.npz",
        train_images=mini.test_images,
        train_labels=mini.test_labels,
        test_images=mini.train_images[:100],
        test_labels=mini.train_labels[:100],
    )
    first = make_folder(tmp_path / "first", dataset={"name": "cifar10_mini", "val_size": 0})
    teacher = {"model_dir": str(first.path), "class_map": "by_index"}
    part = dataset(tmp_path / "part.npz", val_size=50)
    run = make_folder(tmp_path / "run", dataset=part, teacher=teacher, loss={"kd": {}})
    assert seen(run, runtime) == {"val": 0, "test": 100}


def test_images_that_the_run_trains_on_anyway_do_not_count(
    make_folder: MakeFolder, tiny_data: Path, tmp_path: Path, runtime: Runtime
) -> None:
    arrays = dict(np.load(tiny_data))
    doubled = {key: np.concatenate([arrays[key]] * 2) for key in ("train_images", "train_labels")}
    np.savez(tmp_path / "doubled.npz", **arrays | doubled)
    first = make_folder(tmp_path / "first", dataset=dataset(tmp_path / "doubled.npz", val_size=0))
    options = dataset(tmp_path / "doubled.npz")
    run = make_folder(tmp_path / "run", dataset=options, teacher=str(first.path), loss={"kd": {}})
    images = np.concatenate([arrays["train_images"]] * 2)
    indices = Experiment(run.path, runtime).data.indices  # type: ignore[attr-defined]
    own = {images[index].tobytes() for index in indices["train"]}
    expected = sum(images[index].tobytes() not in own for index in indices["val"])
    assert 0 < expected < VAL
    assert seen(run, runtime) == {"val": expected, "test": 0}


def test_published_weights_are_taken_to_be_trained_as_their_params_json_says(
    train_run: Train, make_folder: MakeFolder, tiny_data: Path, tmp_path: Path, runtime: Runtime
) -> None:
    first = train_run("first", dataset=dataset(tiny_data, val_size=0))
    published = make_folder(tmp_path / "published", dataset=dataset(tiny_data, val_size=10))
    content = load_checkpoint(first.checkpoint("best"))
    save_checkpoint(published.checkpoint("best"), {"state_dict": content["state_dict"]})
    run = make_folder(tmp_path / "run", teacher=str(published.path), loss={"kd": {}})
    assert seen(run, runtime) == {"val": 30, "test": 0}


def test_evaluation_tells_that_other_weights_have_seen_val(
    train_run: Train, make_folder: MakeFolder, tiny_data: Path, tmp_path: Path, call: Call
) -> None:
    first = train_run("first", dataset=dataset(tiny_data, val_size=0))
    options: Any = ("--split", "val", "--restore_file", first.checkpoint("best"), "--device", "cpu")
    result = call(evaluate.main, "--model_dir", make_folder(tmp_path / "run").path, *options)
    assert result.status == 0
    assert "has seen 40 of the 40 images of val in training: accuracy on val flatters" in result.err


def test_what_is_unknown_is_told(runtime: Runtime, make_folder: MakeFolder, tmp_path: Path) -> None:
    experiment = Experiment(make_folder(tmp_path / "run").path, runtime)
    assert "does not say which images it has seen" in describe_seen(experiment, None)
    assert describe_seen(experiment, {"val": 0, "test": 0}) == ""
    assert describe_seen(experiment, {"val": 3, "test": 60}) == (
        "has seen 3 of the 40 images of val and 60 of the 60 images of test in training: "
        "accuracy on val and test flatters"
    )
