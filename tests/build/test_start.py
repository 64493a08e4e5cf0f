"""A student starts from other weights: those of other classes without their classifier, and files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import search_hyperparams
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.start import build_on_meta, class_parameters, num_classes_in
from model.build.trainer import build_trainer
from model.commands.preflight import preflight
from model.commands.train import start_from_init
from model.config.folder import Folder
from model.files import read_json
from model.training.checkpoint import load_checkpoint
from tests.conftest import Call, MakeFolder

CLASSIFIER = {"fc2.weight", "fc2.bias"}  # of the CNN

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A finished run on 10 classes, named 0 to 9."""
    folder = make_folder(tmp_path_factory.mktemp("start") / "first", num_epochs=1)
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture(scope="module")
def state(first: Folder) -> State:
    state: State = load_checkpoint(first.checkpoint("last"))["state_dict"]
    return state


@pytest.fixture(scope="module")
def few_classes(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The images of the first four classes."""
    arrays = dict(np.load(tiny_data))
    kept = {split: arrays[f"{split}_labels"] < 4 for split in ("train", "test")}
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, **{key: values[kept[key.partition("_")[0]]] for key, values in arrays.items()})
    return path


def dataset(path: Path, **options: Any) -> dict[str, Any]:
    return {"name": "arrays", "path": str(path), "val_size": 20, "pad": 1, **options}


def started(folder: Folder, runtime: Runtime) -> State:
    """The student's weights before the first step."""
    experiment = preflight(Experiment(folder.path, runtime))
    trainer = build_trainer(experiment, None)
    start_from_init(experiment, trainer, experiment.init_source())
    return trainer.student.state_dict()


def equal_names(one: State, other: State) -> set[str]:
    return {name for name in one if torch.equal(one[name], other[name])}


# Other classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"class_map": {str(number): f"class {number}" for number in range(4)}}])
def test_a_folder_of_another_class_count_gives_all_but_the_classifier(
    options: dict[str, Any], first: Folder, state: State, few_classes: Path, make_folder: MakeFolder, runtime: Runtime
) -> None:
    folder = make_folder(first.path.parent / "few", dataset=dataset(few_classes, **options), init="../first")
    own = started(folder, runtime)
    assert equal_names(own, state) == state.keys() - CLASSIFIER
    assert own["fc2.weight"].shape == (4, 16)
    without = make_folder(first.path.parent / "fresh", dataset=dataset(few_classes, **options))
    assert torch.equal(own["fc2.weight"], started(without, runtime)["fc2.weight"])


def test_a_folder_of_other_class_names_gives_all_but_the_classifier(
    first: Folder, state: State, tiny_data: Path, make_folder: MakeFolder, runtime: Runtime, call: Call
) -> None:
    class_map = {str(number): f"class {number}" for number in range(10)}
    folder = make_folder(first.path.parent / "named", dataset=dataset(tiny_data, class_map=class_map), init="../first")
    assert equal_names(started(folder, runtime), state) == state.keys() - CLASSIFIER
    reason = "the classes there have other names; class_map can tell which is which"
    assert (
        f"          without the classifier: {reason}" in call(train.main, "--model_dir", folder.path, "--dry_run").out
    )
    Experiment(folder.path, runtime).train()
    line = f"the classifier of {first.name} is left out, its own begins anew: {reason}"
    assert folder.log.read_text().count(line) == 1


def test_a_class_map_of_init_still_matches_all_classes(
    first: Folder, state: State, tiny_data: Path, make_folder: MakeFolder, runtime: Runtime, call: Call
) -> None:
    names = {str(number): f"class {number}" for number in range(10)}
    changes: dict[str, Any] = {"dataset": dataset(tiny_data, class_map=names)}
    init = {"model_dir": "../first", "class_map": names}
    folder = make_folder(first.path.parent / "mapped", **changes, init=init)
    assert equal_names(started(folder, runtime), state) == state.keys()
    init["class_map"] = {"0": "class 0"}
    result = call(train.main, "--model_dir", make_folder(folder.path, **changes, init=init).path)
    assert (result.status, "init: " in result.err, "its classes differ" in result.err) == (2, True, True)


def test_all_but_the_classifier_must_fit(first: Folder, few_classes: Path, make_folder: MakeFolder, call: Call) -> None:
    student = {"name": "cnn", "num_channels": 5}
    folder = make_folder(first.path.parent / "wide", dataset=dataset(few_classes), student=student, init="../first")
    result = call(train.main, "--model_dir", folder.path)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "conv1.weight has shape (4, 3, 3, 3), the network (5, 3, 3, 3)" in result.err


def test_parameters_of_classes_are_found_whatever_the_network(make_folder: MakeFolder, tmp_path: Path) -> None:
    def names(student: dict[str, Any]) -> set[str]:
        return class_parameters(Experiment(make_folder(tmp_path / "run", student=student).path))

    assert names({"name": "cnn"}) == CLASSIFIER
    peers = {"name": "peers", "networks": [{"name": "cnn", "num_channels": 4}] * 2}
    assert {name.partition("fc2")[2] for name in names(peers)} == {".weight", ".bias"}
    assert len(names(peers)) == 4


# Files ----------------------------------------------------------------------------------------------------------------


def save_as(kind: str, state: State, folder: Path) -> str:
    if kind == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "net.safetensors")
        return "net.safetensors"
    contents: dict[str, Any] = {
        ".pth": state,
        ".pt": {"model": {f"module.{name}": value for name, value in state.items()}},
        ".tar": {"state_dict_ema": state, "state_dict": {name: value * 0 for name, value in state.items()}},
    }
    torch.save(contents[kind], folder / f"net{kind}")
    return f"net{kind}"


@pytest.mark.parametrize("kind", [".pth", ".pt", ".tar", ".safetensors"])
def test_a_weights_file_initializes_the_student(
    kind: str, state: State, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", init=f"../{save_as(kind, state, tmp_path)}")
    assert equal_names(started(folder, runtime), state) == state.keys()


@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
def test_a_weights_file_of_another_class_count_gives_all_but_the_classifier(
    kind: str, state: State, few_classes: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    init = f"../{save_as(kind, state, tmp_path)}"
    folder = make_folder(tmp_path / "run", init=init, dataset=dataset(few_classes))
    assert equal_names(started(folder, runtime), state) == state.keys() - CLASSIFIER
    plan = call(train.main, "--model_dir", folder.path, "--dry_run").out
    assert f"init      the weights in {init}\n          without the classifier: 10 classes there, 4 here" in plan
    assert call(train.main, "--model_dir", folder.path).status == 0
    assert f"starts from the weights of {init}" in folder.log.read_text()
    assert list(folder.read_run()["init"]) == [init]


def test_class_count_of_a_file_follows_from_its_shapes(state: State, make_folder: MakeFolder, tmp_path: Path) -> None:
    build = partial(build_on_meta, Experiment(make_folder(tmp_path / "run").path))

    def count(weights: State) -> int | None:
        return num_classes_in(weights, build, 10)

    assert count({f"module.{name}": value for name, value in state.items()}) == 10
    assert count(state | {"fc2.weight": torch.zeros(7, 16), "fc2.bias": torch.zeros(7)}) == 7
    assert count({"conv1.weight": state["conv1.weight"]}) is None


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("../nets.pth", 'init: no file "../nets.pth" under'),
        ("../net.onnx", 'init: "../net.onnx" is neither a folder nor a weights file (.pth, .pt, .tar, .safetensors)'),
        ("../module.pth", "holds more than tensors and plain values"),
        ("../other.pth", "lacks conv1.weight"),
    ],
)
def test_a_mistake_is_one_line(
    init: str, message: str, state: State, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    torch.save(state, tmp_path / "net.pth")
    (tmp_path / "net.onnx").write_bytes(b"")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    result = call(train.main, "--model_dir", make_folder(tmp_path / "run", init=init).path)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert message in result.err


@pytest.mark.usefixtures("in_process_executor")
def test_runs_of_a_search_start_from_a_file(state: State, make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    parent = make_folder(tmp_path / "search", init=f"../{save_as('.pth', state, tmp_path)}", num_epochs=1)
    (parent.path / "search.json").write_text(json.dumps({"parameters": {"seed": [0]}}))
    assert call(search_hyperparams.main, "--parent_dir", parent.path).status == 0
    assert read_json(parent.path / "seed_0" / "params.json")["init"] == "../../net.pth"


# Published weights from a file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torchvision/shufflenet_v2_x0_5", "timm/test_vit"])
@pytest.mark.parametrize("num_classes", [10, 7])
def test_pretrained_takes_a_file(
    name: str, num_classes: int, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    size = {"timm/test_vit": 160}.get(name, 32)
    arrays: dict[str, Any] = {
        f"{split}_{key}": value
        for split in ("train", "test")
        for key, value in {"images": np.zeros((20, size, size, 3), np.uint8), "labels": np.arange(20) % 10}.items()
    }
    np.savez(tmp_path / "images.npz", **arrays)
    changes = {"dataset": {"name": "arrays", "path": str(tmp_path / "images.npz"), "val_size": 0}, "batch_size": 4}
    plain = Experiment(make_folder(tmp_path / "plain", student={"name": name}, **changes).path, runtime)
    published = plain.student().state_dict()
    if num_classes != 10:
        published |= {key: torch.zeros(num_classes, *published[key].shape[1:]) for key in class_parameters(plain)}
    save_file({key: value.contiguous() for key, value in published.items()}, tmp_path / "net.safetensors")
    folder = make_folder(tmp_path / "run", student={"name": name, "pretrained": "../net.safetensors"}, **changes)
    experiment = preflight(Experiment(folder.path, runtime))
    own = experiment.student().state_dict()
    fresh = {key for key in own if not torch.equal(own[key], published[key])}
    assert fresh == (class_parameters(experiment) if num_classes != 10 else set())


def test_a_pretrained_file_of_a_network_inside_another_is_refused(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    inner = {"name": "torchvision/shufflenet_v2_x0_5", "pretrained": "net.pth"}
    folder = make_folder(tmp_path / "run", student={"name": "peers", "networks": [inner, inner]})
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 2
    assert "pretrained: a file is loaded into the student alone" in result.err
