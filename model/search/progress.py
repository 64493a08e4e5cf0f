"""The progress display of a search: on a terminal a bar for all runs and one for each active run, else a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..config.folder import Folder
from ..config.params import RATES
from ..files import is_number
from ..logs import ProgressBar, format_duration, log
from .plan import ENDED, TrialRun
from .results import value_in
from .space.metric import Metric

REFRESH_SECONDS = 0.5
MAX_SHOWN_NAME_LENGTH = 50  # characters of a run's name on a terminal


@dataclass
class ActiveRun:
    """A run that is being executed, with its bar on the terminal.

    Args:
        position: Of the bar, counted from 1.
        initial_fraction: The fraction of the run that was done before.
    """

    run: TrialRun
    position: int
    initial_fraction: float
    bar: ProgressBar
    begin_time: float = field(default_factory=time.monotonic)


class Progress:
    """Follows the runs of one queue by the files that they write.

    Args:
        ended: The runs that have ended before.
        num_runs: The number of runs when the queue is done.
        metric: The metric of the best run so far.
    """

    def __init__(self, ended: Iterable[TrialRun], num_runs: int, metric: Metric) -> None:
        self.metric, self.num_runs = metric, num_runs
        self.num_finished = self.num_pruned = self.num_failed = 0
        self.is_live = sys.stderr.isatty()
        self._name_width = 0
        self._active: dict[TrialRun, ActiveRun] = {}
        self._best: tuple[float, str] | None = None
        self._begin_time, self._done_here, self._next_refresh = time.monotonic(), 0.0, 0.0
        for run in ended:
            self._count(run)
            self._update_best(run)
        self._num_waiting = num_runs - self.num_finished - self.num_pruned
        self._bar = ProgressBar(
            total=self.num_runs,
            position=0,
            leave=True,
            dynamic_ncols=True,
            bar_format="|{bar:20}| {n_fmt}/{total_fmt} runs{postfix}",
        )

    def begin(self, run: TrialRun, event: str) -> None:
        """Show a run from now on, and log an event: "started"."""
        taken = {active.position for active in self._active.values()}
        position = next(number for number in range(1, len(taken) + 2) if number not in taken)
        self._name_width = min(MAX_SHOWN_NAME_LENGTH, max(self._name_width, len(run.name)))
        bar = ProgressBar(
            desc=run.name,
            total=1.0,
            position=position,
            dynamic_ncols=True,
            bar_format=f"|{{bar:20}}| {{desc:<{self._name_width}.{self._name_width}}} {{percentage:3.0f}}%{{postfix}}",
        )
        self._active[run] = ActiveRun(run, position, fraction_done(run.folder), bar)
        self._num_waiting -= 1
        if not self.is_live:
            log.info("%s: %s", run.name, event)

    def end(self, run: TrialRun, event: str, *, failed: bool = False) -> None:
        """Log how a run ended, and no longer show it."""
        active = self._active.pop(run)
        active.bar.close()
        self.num_failed += failed
        if not failed:
            self._count(run)
        fraction = 1.0 if run.folder.state() in ENDED else fraction_done(run.folder)
        self._done_here += fraction - active.initial_fraction
        self._update_best(run)
        value = value_in(run.folder, self.metric)
        reached = "" if value is None else f", {self.metric.name} {format_metric(self.metric.name, value)}"
        duration = format_duration(time.monotonic() - active.begin_time)
        teacher = format_teacher_images(run.folder)
        log.info("%s: %s after %s%s%s; %s", run.name, event, duration, reached, teacher, self._format_state())
        self._next_refresh = 0.0

    def retry(self, run: TrialRun, event: str) -> None:
        """Log that a run failed and will be started once more."""
        self._active.pop(run).bar.close()
        self._num_waiting += 1
        log.info("%s: %s; will be retried", run.name, event)

    def refresh(self) -> None:
        """Redraw the bars, at most once in REFRESH_SECONDS."""
        if not self.is_live or time.monotonic() < self._next_refresh:
            return
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        for active in self._active.values():
            self._update_best(active.run)
            active.bar.n = fraction_done(active.run.folder)
            active.bar.set_postfix_str(self._format_run(active.run.folder))
        self._bar.n = self.num_finished + self.num_pruned
        self._bar.set_postfix_str(self._format_state())

    def close(self) -> None:
        for active in self._active.values():
            active.bar.close()
        self._bar.close()

    def _count(self, run: TrialRun) -> None:
        state = run.folder.state()
        self.num_finished += state == "finished"
        self.num_pruned += state == "pruned"

    def _update_best(self, run: TrialRun) -> None:
        value = value_in(run.folder, self.metric)
        if value is None:
            return
        if self._best is None or self.metric.best((value, self._best[0])) != self._best[0]:
            self._best = value, run.name

    def _seconds_left(self) -> float | None:
        """Extrapolated from the runs, and fractions of runs, that were done since the queue began."""
        fractions = {run: fraction_done(run.folder) for run in self._active}
        done = self._done_here + sum(fractions[run] - active.initial_fraction for run, active in self._active.items())
        left = max(0, self._num_waiting) + sum(1 - fraction for fraction in fractions.values())
        return (time.monotonic() - self._begin_time) / done * left if done > 0 else None

    def _format_state(self) -> str:
        parts = [f"{self.num_finished} of {self.num_runs} finished"] if not self.is_live else []
        parts += [f"{self.num_pruned} pruned"] if self.num_pruned else []
        parts += [f"{self.num_failed} failed"] if self.num_failed else []
        if self._best is not None:
            parts.append(f"best {format_metric(self.metric.name, self._best[0])} ({self._best[1]})")
        seconds = self._seconds_left()
        if seconds:
            parts.append(f"about {format_duration(seconds)} left")
        return ", ".join(parts)

    def _format_run(self, folder: Folder) -> str:
        run, parts = folder.read_run(), []
        if is_number(run.get("epoch")):
            parts.append(f"epoch {run['epoch']}/{run.get('num_epochs', '?')}")
        if (value := value_in(folder, self.metric)) is not None:
            parts.append(f"{self.metric.name} {format_metric(self.metric.name, value)}")
        if is_number(run.get("images_per_second")):
            parts.append(f"{run['images_per_second']:,.0f} images/s")
        return ", ".join(parts)


def format_teacher_images(folder: Folder) -> str:
    """On how many images a finished run ran its teacher; the outputs for the others came from the cache."""
    images = folder.read_run().get("teacher_images") if folder.state() == "finished" else None
    return f", teacher run on {images['run']:,} of {images['asked']:,} images" if images else ""


def fraction_done(folder: Folder) -> float:
    """The fraction of a run that is done, according to its run.json."""
    run: dict[str, float] = {key: value for key, value in folder.read_run().items() if is_number(value)}
    fraction = run.get("epoch", 0) / run["num_epochs"] if run.get("num_epochs") else 0.0
    return min(1.0, max(0.0, run.get("progress", fraction)))


def format_metric(name: str, value: float) -> str:
    if name.endswith(RATES):
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
