"""Averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from model.build.weights import WeightsFile, weights_digest
from model.errors import Stopped
from model.files import read_json
from model.training.checkpoint import load_checkpoint, restore
from model.training.ema import WeightAverage
from model.training.trainer import Trainer
from tests.training.toy import SmallNet, open_data, seeded, toy_trainer

State = dict[str, Tensor]


def averaging(path: Path, *, decay: float = 0.9, warmup: bool = False, **changes: Any) -> Trainer:
    student = seeded(SmallNet, 0)
    return toy_trainer(path, student=student, ema=WeightAverage(student, decay=decay, warmup=warmup), **changes)


def states_of(trainer: Trainer, num_steps: int) -> list[State]:
    """The student's weights after each of some steps."""
    states = []
    for batch, _ in zip(trainer.train_batches(0, 0), range(num_steps), strict=False):
        trainer.take_step(batch)
        states.append({name: value.clone() for name, value in trainer.student.state_dict().items()})
    return states


def average_of(trainer: Trainer) -> State:
    assert trainer.ema is not None
    return trainer.ema.net.state_dict()


@pytest.mark.parametrize(("warmup", "decays"), [(False, [0.9, 0.9, 0.9]), (True, [2 / 11, 3 / 12, 4 / 13])])
def test_average_is_that_of_a_loop_over_the_steps(warmup: bool, decays: list[float], tmp_path: Path) -> None:
    trainer = averaging(tmp_path, warmup=warmup)
    states = states_of(trainer, 4)
    for name, value in average_of(trainer).items():
        expected = states[0][name].double()
        for decay, state in zip(decays, states[1:], strict=True):
            expected = decay * expected + (1 - decay) * state[name].double()
        if name.endswith("num_batches_tracked"):
            expected = states[-1][name].double()  # a counter is copied
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_buffers_are_averaged_as_by_timm(tmp_path: Path) -> None:
    trainer = averaging(tmp_path)
    trainer.student.train()
    batches = list(trainer.train_batches(0, 0))
    trainer.take_step(batches[0])
    timm_s = ModelEmaV3(trainer.student, decay=0.9)
    for batch in batches[1:]:
        trainer.take_step(batch)
        timm_s.update(trainer.student)
    for name, value in average_of(trainer).items():
        torch.testing.assert_close(value, timm_s.module.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_averaging_changes_nothing_else(tmp_path: Path) -> None:
    plain, averaged = toy_trainer(tmp_path / "plain"), averaging(tmp_path / "averaged")
    for trainer in (plain, averaged):
        trainer.fit()
    assert weights_digest(plain.student.state_dict()) == weights_digest(averaged.student.state_dict())
    assert plain.best == averaged.best
    rows = [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}
        for row in averaged.folder.read_history()
    ]
    without = [{name: value for name, value in row.items() if not name.startswith("ema_")} for row in rows]
    assert without == [{name: row[name] for name in without[0]} for row in plain.folder.read_history()]
    assert {"ema_val_loss", "ema_val_accuracy"} == rows[0].keys() - without[0].keys()
    assert not any(path.name.startswith("ema") or "_ema_" in path.name for path in plain.folder.path.iterdir())


def test_file_has_the_averaged_weights_of_the_epoch_in_which_they_were_best(tmp_path: Path) -> None:
    accuracies = {"student": iter([0.1, 0.2, 0.3]), "average": iter([0.4, 0.6, 0.5])}
    averages: list[State] = []

    def evaluate(net: nn.Module, split: str) -> dict[str, float]:
        is_average = net is not trainer.student
        if is_average:
            averages.append({name: value.clone() for name, value in net.state_dict().items()})
        return {"accuracy": next(accuracies["average" if is_average else "student"]), "loss": 1.0}

    trainer = averaging(tmp_path, num_epochs=3, evaluate=evaluate)
    trainer.fit()
    content = load_checkpoint(trainer.folder.checkpoint("ema"))
    assert (content["epoch"], read_json(trainer.folder.metrics("val", "ema"))["accuracy"]) == (2, 0.6)
    assert all(torch.equal(value, averages[1][name]) for name, value in content["state_dict"].items())
    assert [row["ema_val_accuracy"] for row in trainer.folder.read_history()] == [0.4, 0.6, 0.5]
    assert load_checkpoint(trainer.folder.checkpoint("best"))["epoch"] == 3


def test_without_a_val_split_the_last_average_is_kept(tmp_path: Path) -> None:
    trainer = averaging(tmp_path, data=open_data(val_size=0))
    trainer.fit()
    content = load_checkpoint(trainer.folder.checkpoint("ema"))
    assert content["epoch"] == 2
    assert weights_digest(content["state_dict"]) == weights_digest(average_of(trainer))
    assert not trainer.folder.metrics("val", "ema").exists()


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("stop_at", [1, 5, 8])
def test_resumed_average_equals_that_of_an_uninterrupted_run(stop_at: int, warmup: bool, tmp_path: Path) -> None:
    uninterrupted = averaging(tmp_path / "uninterrupted", warmup=warmup)
    uninterrupted.fit()
    stopped: Trainer = averaging(tmp_path / "stopped", warmup=warmup, should_stop=lambda: stopped.step == stop_at)
    with pytest.raises(Stopped):
        stopped.fit()
    resumed = averaging(tmp_path / "stopped", warmup=warmup)
    restore(resumed, load_checkpoint(resumed.folder.checkpoint("last")))
    resumed.fit()
    assert weights_digest(average_of(resumed)) == weights_digest(average_of(uninterrupted))
    files = [load_checkpoint(trainer.folder.checkpoint("ema")) for trainer in (uninterrupted, resumed)]
    assert files[0]["epoch"] == files[1]["epoch"]
    assert weights_digest(files[0]["state_dict"]) == weights_digest(files[1]["state_dict"])


def test_last_weights_are_the_raw_ones(tmp_path: Path) -> None:
    trainer = averaging(tmp_path)
    trainer.fit()
    file = WeightsFile.read(trainer.folder.checkpoint("last"))
    net = seeded(SmallNet, 1)
    file.load_into(net)
    assert weights_digest(net.state_dict()) == weights_digest(trainer.student.state_dict())
    assert file.digest == weights_digest(trainer.student.state_dict())
