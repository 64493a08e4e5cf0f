"""Logs, history and TensorBoard events of a run."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto import event_pb2
from torch import Tensor, nn

from model.config.folder import Folder
from model.errors import Stopped
from model.files import read_json
from model.logs import logging_to
from model.losses.objective import Objective
from model.losses.self_distillation import SelfDistillation
from model.teachers.live import LiveTeacher
from model.training.checkpoint import load_checkpoint, restore
from model.training.probe import Estimate
from model.training.run_logger import RunLogger
from model.training.threads import likely_cause_of_slowness
from model.training.trainer import Trainer
from model.types import Output, TermOptions
from tests.training.toy import CPU, NORMALISATION, SmallNet, seeded, toy_trainer


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


def run_logger(path: Path, first_step: int = 0, estimate: Estimate | None = None) -> RunLogger:
    return RunLogger(Folder(path), num_epochs=4, steps_per_epoch=10, first_step=first_step, estimate=estimate)


def test_time_left_is_estimated_from_the_steps_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    resumed = run_logger(tmp_path, first_step=20)
    assert resumed.seconds_left(20) is None
    now += 6.0
    assert resumed.seconds_left(23) == pytest.approx(34.0)  # 17 steps of 2 seconds
    resumed.close()


class UnfinishedTeacher(LiveTeacher):
    """A teacher some of whose outputs are missing in its cache."""

    num_missing = 0

    def __init__(self) -> None:
        super().__init__(
            SmallNet(), normalisation=NORMALISATION, data_normalisation=NORMALISATION, dtype=torch.float32, device=CPU
        )


def test_time_left_has_the_teacher_s_share_of_what_it_still_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, teacher = 100.0, UnfinishedTeacher()
    monkeypatch.setattr("time.monotonic", lambda: now)
    logger = run_logger(tmp_path)
    teacher.num_missing = 300
    with logger.teacher_progress(1, teacher):
        now += 50.0
        teacher.num_missing = 200
    now += 20.0
    assert logger.seconds_left(10) == pytest.approx(30 * 2.0 + 200 * 0.5)  # 30 steps of 2 seconds, 200 outputs of 0.5
    logger.close()


def test_teacher_s_outputs_are_logged_once_a_minute_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, lines, teacher = [1000.0], list[str](), UnfinishedTeacher()
    monkeypatch.setattr("model.training.run_logger.time.monotonic", lambda: now[0])
    monkeypatch.setattr("model.training.run_logger.log.info", lambda text, *values: lines.append(text % values))
    logger = run_logger(tmp_path)
    with logger.teacher_progress(2, teacher) as show:
        for now[0], fraction, teacher.num_missing in ((1030.0, 0.1, 9000), (1061.0, 0.2, 8000), (1062.0, 0.3, 7000)):
            show(fraction)
    logger.close()
    assert lines == ["epoch 2/4: caching teacher outputs, 20 %: 8,000 views of this run to go"]


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


ROW = {"train_loss": 1.0, "train_accuracy": 0.5, "images_per_second": 10.0, "seconds": 1.0}


@pytest.mark.parametrize(
    ("seconds_per_step", "teacher", "expected"),
    [
        (3.1, 0.0, ["took 31 s until now, where 10 s were expected"]),
        (2.9, 0.0, []),
        (3.1, 10.0, []),  # the teacher may have been run ahead of the first epoch
        (0.9, 0.0, []),
    ],
)
def test_a_run_that_is_far_slower_than_estimated_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_per_step: float, teacher: float, expected: list[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("model.training.run_logger.time.monotonic", lambda: now[0])
    logger = run_logger(tmp_path, first_step=10, estimate=Estimate(training=30.0, teacher=teacher))
    with logging_to(tmp_path / "log"):
        for epoch in (2, 3):
            now[0] += 10 * seconds_per_step
            logger.log_epoch({"epoch": epoch} | ROW, 10 * epoch)
    logger.close()
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "expected" in line]
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == expected


def test_a_long_epoch_that_is_far_too_slow_says_so_after_two_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("model.training.run_logger.time.monotonic", lambda: now[0])
    logger = run_logger(tmp_path, estimate=Estimate(training=40.0, teacher=0.0))
    counts = []
    with logging_to(tmp_path / "log"):
        for now[0], step in ((1100.0, 4), (1121.0, 5), (1130.0, 6)):
            logger.log_step(step, loss=1.0, accuracy=0.5, images_per_second=1.0)
            counts.append((tmp_path / "log").read_text().count("expected"))
    logger.close()
    assert counts == [0, 1, 1]


@pytest.mark.parametrize(
    ("load", "threads", "expected"),
    [
        (3.1, 2, "load average 3.1 on 2 CPUs); threads wait for one another then: --threads 1, or OMP_NUM_THREADS=1"),
        (3.1, 1, "load average 3.1 on 2 CPUs); fewer processes at a time are faster"),
        (2.1, 2, "the CPUs are not overloaded (load average 2.1 on 2 CPUs)"),
    ],
)
def test_the_likely_cause_of_slowness_is_told_by_load_and_threads(
    monkeypatch: pytest.MonkeyPatch, load: float, threads: int, expected: str
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("model.training.threads.usable_cpus", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert expected in likely_cause_of_slowness()
