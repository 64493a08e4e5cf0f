"""The log of a run while it trains: metrics.jsonl, TensorBoard, the progress bar, run.json."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..config.folder import Folder
from ..files import write_jsonl
from ..logs import ProgressBar, format_duration, log
from .threads import likely_cause_of_slowness

if TYPE_CHECKING:
    from ..types import Teacher
    from .probe import Estimate

SECONDS_BETWEEN_STEP_LOGS = 2.0
SECONDS_BETWEEN_LINES = 60.0  # where there is no progress bar
# A run says once that it takes this many times its estimate, after its first epoch or some minutes.
SLOW, MIN_SLOW_SECONDS, SLOW_WITHIN_EPOCH_SECONDS = 3.0, 10.0, 120.0


class RunLogger:
    """Writes the progress of one run into its folder.

    Args:
        folder: Of the run.
        first_step: Where the run starts or resumes; TensorBoard's events from there on are replaced.
        estimate: Of the run's time from there on.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        num_epochs: int,
        steps_per_epoch: int,
        first_step: int,
        estimate: Estimate | None = None,
    ) -> None:
        self._estimate = estimate  # None when it is of no more use
        self.folder, self.num_epochs, self.steps_per_epoch = folder, num_epochs, steps_per_epoch
        self.history = [row for row in folder.read_history() if row["epoch"] <= first_step // steps_per_epoch]
        self.first_step, self._started = first_step, time.monotonic()
        self._next_step_log, self._next_line = 0.0, self._started + SECONDS_BETWEEN_LINES
        self._teacher_seconds, self._teacher_views, self._teacher_missing = 0.0, 0, 0  # ahead of epochs
        self._bar: ProgressBar | None = None
        logging.getLogger("tensorboardX").setLevel(logging.ERROR)  # its warnings say nothing of the run
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # protobuf's, and those of libraries that it imports where they are installed
            from tensorboardX import SummaryWriter
        # File names end in the step, for those of one second are else the same.
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=first_step, filename_suffix=f".{first_step}")

    def seconds_left(self, step: int) -> float | None:
        """Estimated from what this process has done so far; None before the first step."""
        done = step - self.first_step
        if done <= 0:
            return None
        training = time.monotonic() - self._started - self._teacher_seconds
        steps_left = self.num_epochs * self.steps_per_epoch - step
        return training / done * steps_left + self._teacher_seconds_left()

    def _teacher_seconds_left(self) -> float:
        if not self._teacher_views:
            return 0.0
        return self._teacher_seconds / self._teacher_views * self._teacher_missing

    @contextmanager
    def progress(self, epoch: int, step: int) -> Iterator[None]:
        """A bar over the steps of one epoch (counted from 1), on terminals only."""
        self._bar = ProgressBar(
            desc=f"epoch {epoch}/{self.num_epochs}",
            total=self.steps_per_epoch,
            initial=step % self.steps_per_epoch,
            unit="step",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
        )
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None

    @contextmanager
    def teacher_progress(self, epoch: int, teacher: Teacher) -> Iterator[Callable[[float], None]]:
        """A bar over the teacher's forward passes ahead of an epoch, set by the fraction that is done."""
        what = f"epoch {epoch}/{self.num_epochs}: caching teacher outputs"
        missing, start = teacher.num_missing, time.monotonic()
        with ProgressBar(
            desc=what,
            total=1.0,
            delay=0.1,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}",
        ) as bar:

            def show(fraction: float) -> None:
                bar.n = min(fraction, 1.0)
                left = f"{teacher.num_missing:,} views of this run to go"
                bar.set_postfix_str(left)
                if bar.disable and time.monotonic() >= self._next_line:
                    self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
                    log.info("%s, %d %%: %s", what, 100 * bar.n, left)

            yield show
        self._teacher_seconds += time.monotonic() - start
        self._teacher_missing = teacher.num_missing
        self._teacher_views += max(0, missing - teacher.num_missing)  # computed by other processes, too

    def is_due(self) -> bool:
        """Whether it is time to log a step, for which the step has to wait for the device."""
        return time.monotonic() >= self._next_step_log

    def log_step(self, step: int, *, loss: float, accuracy: float, images_per_second: float) -> None:
        """Show where the run is; `step` counts finished steps of the whole run."""
        self._next_step_log = time.monotonic() + SECONDS_BETWEEN_STEP_LOGS
        left = self.seconds_left(step)
        line = f"loss {loss:.3f}, accuracy {100 * accuracy:.1f} %, {images_per_second:,.0f} images/s"
        line += "" if left is None else f", {format_duration(left)} left"
        done = step % self.steps_per_epoch or self.steps_per_epoch
        if self._bar is not None and not self._bar.disable:
            self._bar.n = done
            self._bar.set_postfix_str(line)
        elif time.monotonic() >= self._next_line:  # no terminal, and a long epoch
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            epoch = -(-step // self.steps_per_epoch)
            log.info("epoch %d/%d, %d %%: %s", epoch, self.num_epochs, 100 * done / self.steps_per_epoch, line)
        self._warn_if_slow(step, after=SLOW_WITHIN_EPOCH_SECONDS)
        self._writer.add_scalar("step/train_loss", loss, step)
        self.folder.update_run(
            progress=step / (self.num_epochs * self.steps_per_epoch), images_per_second=round(images_per_second, 1)
        )

    def log_epoch(self, row: dict[str, Any], step: int) -> None:
        """Append the metrics of an epoch to metrics.jsonl, which is replaced whole, to TensorBoard and to the log."""
        self.history.append(row)
        write_jsonl(self.folder.history, self.history)
        for name, value in row.items():
            if name not in ("epoch", "seconds"):
                self._writer.add_scalar(f"epoch/{name}", value, row["epoch"])
        self._writer.flush()
        val = f"val {row['val_loss']:.3f}, {100 * row['val_accuracy']:.2f} %; " if "val_loss" in row else ""
        left = self.seconds_left(step)
        log.info(
            "epoch %d/%d: train %.3f, %.2f %%; %s%s images/s%s",
            row["epoch"],
            self.num_epochs,
            row["train_loss"],
            100 * row["train_accuracy"],
            val,
            f"{row['images_per_second']:,.0f}",
            f", {format_duration(left)} left" if left else "",
        )

        self._warn_if_slow(step, after=MIN_SLOW_SECONDS)

    def _warn_if_slow(self, step: int, *, after: float) -> None:
        elapsed = time.monotonic() - self._started
        if self._estimate is None or elapsed < after:
            return
        done = (step - self.first_step) / (self.num_epochs * self.steps_per_epoch - self.first_step)
        expected = self._estimate.training * done + self._estimate.teacher  # which may all come first
        if elapsed > SLOW * expected:
            self._estimate = None
            log.warning(
                "%s: took %s until now, where %s were expected: %s",
                self.folder.name,
                format_duration(elapsed),
                format_duration(expected),
                likely_cause_of_slowness(),
            )

    def close(self) -> None:
        self._writer.close()


class SilentRunLogger:
    """Replaces RunLogger in all processes but rank zero."""

    def progress(self, epoch: int, step: int) -> AbstractContextManager[None]:
        return nullcontext()

    def teacher_progress(self, epoch: int, teacher: Teacher) -> AbstractContextManager[Callable[[float], None]]:
        return nullcontext(lambda fraction: None)

    def is_due(self) -> bool:
        return False

    def log_step(self, step: int, *, loss: float, accuracy: float, images_per_second: float) -> None: ...

    def log_epoch(self, row: dict[str, Any], step: int) -> None: ...

    def close(self) -> None: ...
