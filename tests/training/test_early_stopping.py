"""Early stopping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from model.errors import RunFailed, Stopped
from model.training.checkpoint import load_checkpoint, restore
from model.training.early_stopping import EarlyStopping
from model.training.trainer import Trainer
from tests.training.toy import toy_trainer

RISING = {"metric": "val_accuracy", "is_maximized": True}
FALLING = {"metric": "val_loss", "is_maximized": False}


def stopped_after(values: list[float], **options: Any) -> int | None:
    """The first epoch, counted from 1, after which a run ends."""
    stopping = EarlyStopping(**options)
    for epoch, value in enumerate(values, start=1):
        stopping.update({"epoch": epoch, stopping.metric: value})
        if stopping.is_due(epoch):
            return epoch
    return None


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([0.5, 0.6, 0.6, 0.5], RISING | {"patience": 2}, 4),
        ([0.5, 0.6, 0.5, 0.7, 0.6], RISING | {"patience": 2}, None),
        ([0.5, 0.4], RISING | {"patience": 1}, 2),
        ([0.0, 0.0, 0.0, 0.0], RISING | {"patience": 3}, 4),
        ([0.5, 0.55, 0.58, 0.65], RISING | {"patience": 2, "min_improvement": 0.1}, 3),
        ([0.5, 0.55, 0.61, 0.65], RISING | {"patience": 2, "min_improvement": 0.1}, None),
        ([2.0, 1.0, 1.5, 1.0], FALLING | {"patience": 2}, 4),
        ([2.0, 1.0, 0.9, 0.8], FALLING | {"patience": 1, "min_improvement": 0.2}, 3),
    ],
)
def test_run_ends_after_epochs_without_an_improvement(
    values: list[float], options: dict[str, Any], expected: int | None
) -> None:
    assert stopped_after(values, **options) == expected


def test_a_metric_that_is_not_measured_fails_the_run() -> None:
    with pytest.raises(RunFailed, match='early_stopping: no val_acuracy, did you mean "val_accuracy"'):
        EarlyStopping(metric="val_acuracy", is_maximized=True, patience=1).update({"epoch": 1, "val_accuracy": 0.5})


def accuracies(values: list[float]) -> Callable[[nn.Module, str], dict[str, float]]:
    remaining = iter(values)
    return lambda net, split: {"accuracy": next(remaining), "loss": 1.0}


def made(path: Path, values: list[float], **changes: Any) -> Trainer:
    stopping = EarlyStopping(**RISING, patience=2)  # type: ignore[arg-type]
    return toy_trainer(path, num_epochs=9, evaluate=accuracies(values), early_stopping=stopping, **changes)


VALUES = [0.5, 0.6, 0.6, 0.5, 0.9]  # ends after epoch 4, of 5 steps


def test_trainer_stops_after_the_epoch_and_counts_it_as_done(tmp_path: Path) -> None:
    trainer = made(tmp_path, VALUES)
    trainer.fit()
    assert (trainer.epoch, trainer.step, trainer.is_done, trainer.stops_early) == (4, 20, True, True)
    assert trainer.early_stopping is not None
    assert trainer.early_stopping.reason() == "val_accuracy has not improved since epoch 2, where it was 0.6"


@pytest.mark.parametrize("stop_at", [7, 10, 13, 15, 19])
def test_a_resumed_run_counts_on(stop_at: int, tmp_path: Path) -> None:
    stopped: Trainer = made(tmp_path, VALUES, should_stop=lambda: stopped.step == stop_at)
    with pytest.raises(Stopped):
        stopped.fit()
    resumed = made(tmp_path, VALUES[stop_at // 5 :])
    restore(resumed, load_checkpoint(resumed.folder.checkpoint("last")))
    resumed.fit()
    assert resumed.step == 20


def test_a_run_that_was_killed_after_its_end_takes_no_more_step(tmp_path: Path) -> None:
    made(tmp_path, VALUES).fit()
    resumed = made(tmp_path, [])
    restore(resumed, load_checkpoint(resumed.folder.checkpoint("last")))
    resumed.fit()
    assert resumed.step == 20


def test_a_signal_in_the_epoch_that_ends_the_run_lets_it_finish(tmp_path: Path) -> None:
    trainer: Trainer = made(tmp_path, VALUES, should_stop=lambda: trainer.step == 20)
    trainer.fit()
    assert trainer.step == 20
