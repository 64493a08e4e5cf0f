"""Published weights are half as large, and their metrics are those that evaluate.py finds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.commands.evaluate import evaluate
from model.commands.publish import publish
from model.config.folder import Folder
from model.errors import UserError
from model.files import read_json
from tests.conftest import MakeFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    folder = make_folder(tmp_path_factory.mktemp("publish") / "run", student={"name": "resnet8"})
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def published(trained: Folder, runtime: Runtime, tmp_path: Path) -> Folder:
    folder = Folder(shutil.copytree(trained.path, tmp_path / "run"))
    publish(Experiment(folder.path, runtime))
    return folder


def test_kernels_are_rounded_to_float16_and_vectors_are_kept(trained: Folder, published: Folder) -> None:
    before = torch.load(trained.checkpoint("best"))["state_dict"]
    after = torch.load(published.checkpoint("best"))["state_dict"]
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if tensor.ndim > 1:
            assert after[name].dtype == torch.float16
            assert np.array_equal(after[name].numpy(), tensor.numpy().astype(np.float16))
        else:
            assert torch.equal(after[name], tensor)


def test_published_weights_are_loaded_in_float32(published: Folder, runtime: Runtime) -> None:
    net = Experiment(published.path, runtime).load()
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_gives_the_published_metrics(split: str, published: Folder, runtime: Runtime) -> None:
    evaluate(Experiment(published.path, runtime), split=split)  # type: ignore[arg-type]
    evaluated = read_json(published.evaluation / f"{split}_best.json")
    metrics = read_json(published.metrics(split, "best"))
    assert {name: evaluated[name] for name in metrics} == metrics


def test_published_run_is_finished_and_trained_without_its_last_weights(published: Folder, runtime: Runtime) -> None:
    published.checkpoint("last").unlink()
    assert (published.state(), published.is_trained()) == ("finished", True)
    before = published.metrics("test", "best").read_bytes()
    Experiment(published.path, runtime).train()
    assert published.metrics("test", "best").read_bytes() == before


def test_students_learn_from_published_weights(
    published: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "student", teacher=str(published.path), loss={"kd": {}})
    Experiment(folder.path, runtime).train()
    assert folder.state() == "finished"
    assert folder.read_run()["teacher"] == {str(published.path): Experiment(published.path).read_weights("best").digest}


def test_unfinished_run_is_not_published(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run")
    with pytest.raises(UserError, match=r"its run is not finished \(new\)"):
        publish(Experiment(folder.path, runtime))
