"""The public names: `from retort import ...`, in a checkout as once it is installed."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import model
import retort
from model import registry
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.commands.train import train
from model.errors import UserError
from model.home import ROOT
from model.registry import Registry
from tests.conftest import MakeFolder


def output_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_retort_and_model_are_one_module() -> None:
    assert retort is model


def declared_for_type_checkers() -> dict[str, str]:
    """Name -> module, as imported under TYPE_CHECKING in model/__init__.py."""
    tree = ast.parse((ROOT / "model" / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.name: f"model.{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
        if alias.name != "Weights"  # of the signature of `load`
    }


@pytest.mark.parametrize("name", sorted(set(model.__all__) - {"load"}))
def test_a_public_name_is_the_object_that_type_checkers_see(name: str) -> None:
    module = import_module(declared_for_type_checkers()[name])
    assert getattr(model, name) is getattr(module, name)


def test_every_name_for_type_checkers_is_public() -> None:
    assert {*declared_for_type_checkers(), "load"} == set(model.__all__) == set(dir(model))


@pytest.mark.parametrize(("name", "entry"), [("LOSSES", "kd"), ("SAMPLERS", "tpe"), ("EXECUTORS", "slurm")])
def test_a_registry_has_its_entries_when_it_is_imported(name: str, entry: str) -> None:
    assert output_of(f"from retort import {name}; print('{entry}' in {name}.names())") == "True"


@pytest.mark.parametrize("name", [name for name, value in vars(registry).items() if isinstance(value, Registry)])
def test_every_registry_is_public_and_has_entries(name: str) -> None:
    assert len(getattr(retort, name).names()) > 1


def test_results_do_not_import_torch() -> None:
    assert output_of("import sys; from retort import results; print('torch' in sys.modules)") == "False"


def test_an_unknown_name_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Experimnt' from 'model'"):
        exec("from retort import Experimnt")
    with pytest.raises(AttributeError, match="module 'model' has no attribute 'Experimnt'"):
        vars(retort)["__getattr__"]("Experimnt")


def test_a_loaded_network_predicts_the_classes_of_a_folder(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", num_epochs=1)
    with pytest.raises(UserError, match=r"best\.pth\.tar"):
        retort.load(folder.path, runtime=runtime)
    train(Experiment(folder.path, runtime))
    for which in ("best", "last"):
        net: Any = retort.load(folder.path, which, runtime)
        assert not net.training
        assert net(torch.zeros(2, 3, 8, 8)).logits.shape == (2, len(net.class_names))
        assert callable(net.preprocess)
        assert isinstance(net, nn.Module)


def test_a_loaded_network_preprocesses_images_with_the_mean_and_std_of_its_file(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run")
    weights = Experiment(folder.path, runtime).student().state_dict()
    torch.save({"state_dict": weights, "mean": [0.2, 0.4, 0.6], "std": [0.1, 0.2, 0.5]}, folder.checkpoint("best"))
    net: Any = retort.load(folder.path, runtime=runtime)
    image = np.full((8, 8, 3), 51, dtype=np.uint8)  # 0.2 of 255
    preprocessed = pickle.loads(pickle.dumps(net.preprocess))(image)
    torch.testing.assert_close(preprocessed[:, 0, 0], torch.tensor([0.0, -1.0, -0.8]), rtol=0, atol=1e-5)
