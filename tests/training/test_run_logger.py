"""Logs, history and TensorBoard events of a run."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto import event_pb2
from torch import Tensor, nn

from model.config.folder import Folder
from model.errors import Stopped
from model.files import read_json
from model.losses.objective import Objective
from model.losses.self_distillation import SelfDistillation
from model.training.checkpoint import load_checkpoint, restore
from model.training.run_logger import RunLogger
from model.training.trainer import Trainer
from model.types import Output, TermOptions
from tests.training.toy import SmallNet, seeded, toy_trainer


def events(folder: Folder) -> Iterator[Any]:
    """Every TensorBoard event of a run; a record is its length, a checksum, the event and another checksum."""
    for file in sorted(folder.tensorboard.iterdir()):
        data, offset = file.read_bytes(), 0
        while offset < len(data):
            (length,) = struct.unpack_from("<Q", data, offset)
            yield event_pb2.Event.FromString(data[offset + 12 : offset + 12 + length])
            offset += 16 + length


def scalars(folder: Folder) -> dict[str, list[tuple[int, float]]]:
    """Steps and values under each name."""
    metrics = defaultdict(list)
    for event in events(folder):
        for value in event.summary.value:
            metrics[value.tag].append((event.step, value.simple_value))
    return metrics


def test_tensorboard_has_the_metrics_of_every_epoch(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.fit()
    metrics, rows = scalars(trainer.folder), trainer.folder.read_history()
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "loss_ce", "learning_rate"):
        assert [epoch for epoch, _ in metrics[f"epoch/{name}"]] == [row["epoch"] for row in rows]
        assert [value for _, value in metrics[f"epoch/{name}"]] == pytest.approx([row[name] for row in rows])


def test_tensorboard_has_every_epoch_once_after_a_resume(tmp_path: Path) -> None:
    stopped: Trainer = toy_trainer(tmp_path, should_stop=lambda: stopped.step == 7)
    with pytest.raises(Stopped):
        stopped.fit()
    resumed = toy_trainer(tmp_path)
    restore(resumed, load_checkpoint(resumed.folder.checkpoint("last")))
    resumed.fit()
    assert [epoch for epoch, _ in scalars(resumed.folder)["epoch/train_loss"]] == [1, 2]


class EarlyExit(SmallNet):
    """A network with a second classifier, on the mean pixel of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.exit = nn.Linear(3, 5)

    def forward(self, images_NCHW: Tensor) -> Output:
        mean_NC = images_NCHW.mean(dim=(2, 3))
        return super().forward(images_NCHW)._replace(exits=(Output(self.exit(mean_NC), mean_NC),))


def test_tensorboard_has_the_accuracy_of_every_exit_and_of_their_ensemble(tmp_path: Path) -> None:
    objective = Objective({"self_distillation": (SelfDistillation(beta=0.0), TermOptions())})
    trainer = toy_trainer(tmp_path, student=seeded(EarlyExit, 0), objective=objective)
    trainer.fit()
    metrics = scalars(trainer.folder)
    last = read_json(trainer.folder.metrics("val", "last"))
    for name in ("exit_1_accuracy", "ensemble_accuracy"):
        assert [epoch for epoch, _ in metrics[f"epoch/val_{name}"]] == [1, 2]
        assert metrics[f"epoch/val_{name}"][-1][1] == pytest.approx(last[name])


def run_logger(path: Path, first_step: int = 0) -> RunLogger:
    return RunLogger(Folder(path), num_epochs=4, steps_per_epoch=10, first_step=first_step)


def test_time_left_is_estimated_from_the_steps_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    resumed = run_logger(tmp_path, first_step=20)
    assert resumed.seconds_left(20) is None
    now += 6.0
    assert resumed.seconds_left(23) == pytest.approx(34.0)  # 17 steps of 2 seconds
    resumed.close()


def test_history_before_the_first_step_is_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.history.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n')
    resumed = run_logger(tmp_path, first_step=25)
    assert resumed.history == [{"epoch": 1}, {"epoch": 2}]
    resumed.close()


def test_long_epoch_without_a_terminal_is_logged_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [1000.0], list[str]()
    monkeypatch.setattr("model.training.run_logger.time.monotonic", lambda: now[0])
    monkeypatch.setattr("model.training.run_logger.log.info", lambda text, *values: lines.append(text % values))
    logger = run_logger(tmp_path)
    with logger.progress(2, 10):
        for now[0], step in ((1030.0, 12), (1061.0, 13), (1062.0, 14), (1122.0, 15)):
            logger.log_step(step, loss=1.25, accuracy=0.5, images_per_second=1234.0)
    logger.close()
    beginning = "loss 1.250, accuracy 50.0 %, 1,234 images/s"
    assert [line.partition(" images/s")[0] + " images/s" for line in lines] == [
        f"epoch 2/4, 30 %: {beginning}",
        f"epoch 2/4, 50 %: {beginning}",
    ]
