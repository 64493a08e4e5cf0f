"""The training loop: exact resume, a checkpoint when time or the epoch is up, one step for every method (step.py).

The state of a run is its weights, its optimizer and its step. Order, views, dropout and learning rate are functions of
the step and the seed, so a run that is resumed from a checkpoint is the run that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config.folder import Folder, Weights
from ..errors import RunFailed, Stopped
from ..files import write_json
from ..types import Batch, Pipeline, Split, Teacher
from .checkpoint import save_checkpoint, training_state
from .early_stopping import EarlyStopping
from .ema import WeightAverage
from .meters import Clock, Meters
from .run_logger import RunLogger, SilentRunLogger
from .schedules import Schedule
from .step import MicroBatch, TrainingObjective, TrainStep

if TYPE_CHECKING:
    from .probe import Estimate

Evaluate = Callable[[nn.Module, Split], dict[str, float]]


@dataclass(kw_only=True)
class Trainer:
    """Everything that one run needs, and where it stands.

    Args:
        train_step: Forward and backward pass of a batch, with the student, the teacher and the objective.
        schedule: Epochs done, part epochs included -> factor of the optimizer's learning rates.
        evaluate: Metrics of a network on a split; `accuracy` and `loss` among them.
        describe: Plain values that go into the weights file beside the weights: the network, the data set.
        batch_size: Images of a batch.
        should_stop: Called after every step; True saves and raises Stopped.
    """

    train_step: TrainStep
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    data: Pipeline
    evaluate: Evaluate
    folder: Folder
    describe: dict[str, Any]
    batch_size: int
    num_epochs: int
    gradient_clip: float | None = None
    early_stopping: EarlyStopping | None = None
    ema: WeightAverage | None = None
    checkpoint_minutes: float = 5.0
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.step = 0  # finished steps of the optimizer in the whole run
        self.seconds = 0.0  # spent in training and validation, interruptions left out
        self.best: dict[str, float] | None = None  # metrics on val of the best weights so far
        self.estimate: Estimate | None = None  # of the time from here on
        self.meters = self.make_meters()
        self.gradient_norms: dict[str, float] = {}  # of the epoch's last step, where it measured them
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def student(self) -> nn.Module:
        return self.train_step.student

    @property
    def teacher(self) -> Teacher | None:
        return self.train_step.teacher

    @property
    def objective(self) -> TrainingObjective:
        return self.train_step.objective

    @property
    def steps_per_epoch(self) -> int:
        return self.train_step.steps_per_epoch

    @property
    def accumulate(self) -> int:
        return self.train_step.accumulate

    @property
    def total_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def stops_early(self) -> bool:
        """Whether the run ends here, before its last epoch."""
        is_between = self.step % self.steps_per_epoch == 0 and self.step < self.total_steps
        return is_between and self.early_stopping is not None and self.early_stopping.is_due(self.epoch)

    @property
    def is_done(self) -> bool:
        return self.step >= self.total_steps or self.stops_early

    def fit(self) -> None:
        """Train from where the run stands to its end.

        Raises:
            Stopped: `should_stop` returned True; everything is saved.
            RunFailed: The loss is no longer finite.
        """
        logger = self.open_logger()
        try:
            while not self.is_done:
                self._train_epoch(logger)
        finally:
            logger.close()

    def _train_epoch(self, logger: RunLogger | SilentRunLogger) -> None:
        epoch, first_step = divmod(self.step, self.steps_per_epoch)
        clock = Clock(self.seconds)
        self._prepare_teacher(epoch, logger)
        last_saved, start = time.monotonic(), self.step
        self.train_step.set_train_mode()
        with logger.progress(epoch + 1, self.step):
            for batches in batched(self.train_batches(epoch, first_step), self.accumulate):
                self.take_step(*batches)
                is_old = time.monotonic() - last_saved > 60 * self.checkpoint_minutes
                show, stop, save = self.any_process(logger.is_due(), self.should_stop(), is_old)
                if show:
                    self._log_step(logger, self._num_images_since(start) / clock.elapsed())
                if self.step % self.steps_per_epoch:  # the epoch's last step is saved below, with its metrics
                    if stop or save:
                        self.seconds = clock.total()
                        self.save()
                        last_saved = time.monotonic()
                    if stop:
                        raise Stopped(f"{self.folder.name}: saved at step {self.step} of {self.total_steps}")
        self._finish_epoch(epoch + 1, logger, clock, self._num_images_since(start) / clock.elapsed())
        (stop,) = self.any_process(self.should_stop())
        if stop and not self.is_done:
            raise Stopped(f"{self.folder.name}: saved after epoch {epoch + 1} of {self.num_epochs}")

    def _num_images_since(self, step: int) -> int:
        """About how many images have been trained on since a step."""
        return (self.step - step) * self.accumulate * self.batch_size

    def take_step(self, *batches: Batch) -> None:
        """One step of the optimizer, on the mean gradient over the images of one batch or of several."""
        factor = self.schedule(self.step / self.steps_per_epoch)
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        self.optimizer.zero_grad(set_to_none=True)
        sizes = self.num_images(batches)
        for number, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
            micro = MicroBatch(number, size / sum(sizes), is_last=number == len(batches) - 1)
            result = self.train_step(batch, self.step, micro)
            self.meters.add(result, batch)
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.gradient_clip)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.student)
        if result.gradient_norms:
            self.gradient_norms = {name: norm.item() for name, norm in result.gradient_norms.items()}

    def _prepare_teacher(self, epoch: int, logger: RunLogger | SilentRunLogger) -> None:
        if self.teacher is None:
            return
        stop = False
        with logger.teacher_progress(epoch + 1, self.teacher) as show:
            for fraction in self.teacher.precompute(self.data, epoch):
                show(fraction)
                stop = self.should_stop()
                if stop:
                    break
        if any(self.any_process(stop)):
            raise Stopped(f"{self.folder.name}: the teacher's outputs so far are cached; step {self.step} is saved")

    def _log_step(self, logger: RunLogger | SilentRunLogger, images_per_second: float) -> None:
        means = self.meters.means()
        self.check_finite(means)
        self.write(
            lambda: logger.log_step(
                self.step, loss=means["loss"], accuracy=means["accuracy"], images_per_second=images_per_second
            )
        )

    # What is saved --------------------------------------------------------------------------------------------------

    def _finish_epoch(
        self, epoch: int, logger: RunLogger | SilentRunLogger, clock: Clock, images_per_second: float
    ) -> None:
        self.sync_buffers()  # the network that is evaluated is the one that is saved
        means = self.meters.means()
        self.check_finite(means)
        row: dict[str, Any] = {"epoch": epoch, "train_loss": means.pop("loss"), "train_accuracy": means.pop("accuracy")}
        row |= means
        row |= {f"gradient_norm_{name}": norm for name, norm in self.gradient_norms.items()}
        self.gradient_norms = {}
        if self.data.size("val"):
            row |= self._validate(epoch)
            if self.ema is not None:
                row |= self._validate_average(self.ema, epoch)
        elif epoch == self.num_epochs:
            self.save_weights()
            if self.ema is not None:
                self.save_average(self.ema)
        self.seconds = clock.total()
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        row["seconds"] = round(self.seconds, 3)
        row["images_per_second"] = round(images_per_second, 1)
        self.meters.reset()
        if self.early_stopping is not None:
            self.early_stopping.update(row)
        self.write(lambda: logger.log_epoch(row, self.step))
        self.save()
        values = {name: row[name] for name in ("epoch", "seconds", "images_per_second")}
        self.write(lambda: self.folder.update_run(**values, progress=self.step / self.total_steps))

    def _validate(self, epoch: int) -> dict[str, float]:
        """Evaluate on val, keep the best weights, and return the values of the epoch's row."""
        val = self.evaluate(self.student, "val")
        self.check_finite({"val_loss": val["loss"]})  # the last update may have been the one that broke it
        row = {"val_loss": val["loss"], "val_accuracy": val["accuracy"]}
        row |= {f"val_{name}": val[name] for name in val if name.startswith(("exit_", "ensemble_", "macro_"))}
        val = {**val, "epoch": epoch}
        self.write_metrics(self.folder.metrics("val", "last"), val)
        if self.best is None or val["accuracy"] > self.best["accuracy"]:
            self.best = val
            self.write_metrics(self.folder.metrics("val", "best"), val)
            self.save_weights()
        return row

    def _validate_average(self, ema: WeightAverage, epoch: int) -> dict[str, float]:
        """The same of the averaged weights."""
        val = self.evaluate(ema.net, "val") | {"epoch": epoch}
        self.check_finite({"ema_val_loss": val["loss"]})
        if ema.best is None or val["accuracy"] > ema.best["accuracy"]:
            ema.best = val
            self.write_metrics(self.folder.metrics("val", "ema"), val)
            self.save_average(ema)
        return {"ema_val_loss": val["loss"], "ema_val_accuracy": val["accuracy"]}

    def check_finite(self, means: dict[str, float]) -> None:
        """Raise RunFailed, naming the learning rate, where a mean is not finite."""
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            epoch, rate = -(-self.step // self.steps_per_epoch), self.optimizer.param_groups[0]["lr"]
            raise RunFailed(
                f"{self.folder.name}: {', '.join(broken)} is not finite in epoch {epoch} (learning rate {rate:.3g}); "
                "try a smaller one, or gradient_clip"
            )

    def write_metrics(self, path: Path, metrics: dict[str, float]) -> None:
        self.write(lambda: write_json(path, metrics))

    def save_weights(self) -> None:
        """Write best.pth.tar: the student's weights and what is needed to build it again."""
        self._save_weights_of(self.student, "best")

    def save_average(self, ema: WeightAverage) -> None:
        """Write ema.pth.tar: the same with the averaged weights."""
        self._save_weights_of(ema.net, "ema")

    def _save_weights_of(self, net: nn.Module, weights: Weights) -> None:
        content = {"state_dict": net.state_dict(), "epoch": -(-self.step // self.steps_per_epoch)}
        self.write(lambda: save_checkpoint(self.folder.checkpoint(weights), content | self.describe))

    def save(self) -> None:
        """Write last.pth.tar: all that a resume needs."""
        self.sync_buffers()
        content = training_state(self)
        self.write(lambda: save_checkpoint(self.folder.checkpoint("last"), content | self.describe))

    # What several processes do otherwise: training/parallel.py -------------------------------------------------------

    def make_meters(self) -> Meters:
        return Meters(self.objective.value_names, self.train_step.device)

    def load_meters(self, sums: Tensor) -> None:
        self.meters.sums.copy_(sums)

    def open_logger(self) -> RunLogger | SilentRunLogger:
        return RunLogger(
            self.folder,
            num_epochs=self.num_epochs,
            steps_per_epoch=self.steps_per_epoch,
            first_step=self.step,
            estimate=self.estimate,
        )

    def train_batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        return self.data.train_batches(epoch, self.batch_size, first_step * self.accumulate)

    def num_images(self, batches: Sequence[Batch]) -> list[int]:
        """Images of each of a step's batches, in all processes together."""
        return [len(batch.labels) for batch in batches]

    def any_process(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether it is set in one of the processes."""
        return flags

    def write(self, action: Callable[[], object]) -> None:
        """Do what one process does for all: write a file."""
        action()

    def sync_buffers(self) -> None:
        """Make buffers, such as batch norm's running statistics, equal in all processes."""


def batched(batches: Iterable[Batch], count: int) -> Iterator[tuple[Batch, ...]]:
    """The batches, `count` at a time; the last ones may be fewer."""
    remaining = iter(batches)
    while group := tuple(islice(remaining, count)):
        yield group
