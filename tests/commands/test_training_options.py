"""Options of training in params.json, from the folder to its results: dry run, resume, mistakes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.conftest import Call, MakeFolder

# 200 training images in batches of 16: 13 batches an epoch.
OPTIONS: dict[str, dict[str, Any]] = {"accumulate": {"accumulate": 3}}


def state_of(folder: Folder, key: str = "state_dict") -> dict[str, Any]:
    state: dict[str, Any] = load_checkpoint(folder.checkpoint("last"))[key]
    return state


def train_with_signal_at(step: int, folder: Folder, call: Call) -> None:
    """Stop a run after a step."""
    take_step = Trainer.take_step

    def step_and_signal(trainer: Trainer, *batches: Any) -> None:
        take_step(trainer, *batches)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", step_and_signal)
        assert call(train.main, "--model_dir", folder.path).status == 75
    assert load_checkpoint(folder.checkpoint("last"))["step"] == step


def assert_equal(one: Any, other: Any) -> None:
    """Equal objects of a checkpoint: tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        assert one == other


@pytest.mark.parametrize("name", OPTIONS)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    name: str, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    folders = [make_folder(tmp_path / each, **OPTIONS[name]) for each in ("uninterrupted", "interrupted")]
    train_with_signal_at(7, folders[1], call)
    for folder in folders:
        Experiment(folder.path, runtime).train()
    for weights in ("best", "last"):
        one, other = (load_checkpoint(folder.path / f"{weights}.pth.tar") for folder in folders)
        assert_equal({**one, "seconds": 0}, {**other, "seconds": 0})


# Accumulated gradients ------------------------------------------------------------------------------------------------


def test_steps_of_accumulated_batches_are_shown(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", accumulate=4)
    assert (
        "steps     2 epochs of 4, 8 in all, each of 4 batches"
        in call(train.main, "--model_dir", folder.path, "--dry_run").out
    )
    assert call(train.main, "--model_dir", folder.path).status == 0
    assert "2 epochs of 4 steps, batch size 4 x 16, " in folder.log.read_text()
    assert load_checkpoint(folder.checkpoint("last"))["step"] == 8
