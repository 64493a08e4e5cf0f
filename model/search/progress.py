"""What a search shows while it goes: on a terminal a line for all runs and one for each that is running, else a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tqdm import tqdm

from ..config.folder import Folder
from ..logs import format_duration, log
from .plan import ENDED, TrialRun
from .results import value_in
from .space.schema import Metric

SECONDS_BETWEEN_LOOKS = 0.5
LONGEST_SHOWN = 50  # characters of a run's name on a terminal


class Bar(tqdm):  # type: ignore[misc]
    """One line at a fixed place."""

    monitor_interval = 0  # no thread of its own: the driver starts processes


@dataclass
class Line:
    """A run that is running, and its place on the terminal, counted from 1."""

    run: TrialRun
    place: int
    first: float  # share of the run that was done before
    bar: Bar
    began: float = field(default_factory=time.monotonic)


class Progress:
    """Follows the runs of one phase by what they write into their folders.

    Args:
        done: The runs of the phase that have ended before.
        num_runs: How many there are in the end.
        metric: What the best run so far is the best in.
    """

    def __init__(self, done: Iterable[TrialRun], num_runs: int, metric: Metric) -> None:
        self.metric, self.num_runs = metric, num_runs
        self.num_finished = self.num_pruned = self.num_failed = 0
        self.is_live = sys.stderr.isatty()
        self._width = 0
        self._lines: dict[TrialRun, Line] = {}
        self._best: tuple[float, str] | None = None
        self._began, self._work, self._next_look = time.monotonic(), 0.0, 0.0
        for run in done:
            self._count(run)
            self._note_best(run)
        self._waiting = num_runs - self.num_finished - self.num_pruned
        self._bar = Bar(
            total=self.num_runs,
            position=0,
            disable=not self.is_live,
            dynamic_ncols=True,
            bar_format="|{bar:20}| {n_fmt}/{total_fmt} runs{postfix}",
        )

    def begin(self, run: TrialRun, told: str) -> None:
        """Note that a run goes from now on and log it in words."""
        place = next(
            n for n in range(1, len(self._lines) + 2) if n not in {line.place for line in self._lines.values()}
        )
        self._width = min(LONGEST_SHOWN, max(self._width, len(run.name)))
        bar = Bar(
            desc=run.name,
            total=1.0,
            position=place,
            leave=False,
            disable=not self.is_live,
            dynamic_ncols=True,
            bar_format=f"|{{bar:20}}| {{desc:<{self._width}.{self._width}}} {{percentage:3.0f}}%{{postfix}}",
        )
        self._lines[run] = Line(run, place, fraction_done(run.folder), bar)
        self._waiting -= 1
        if not self.is_live:
            log.info("%s: %s", run.name, told)

    def end(self, run: TrialRun, told: str, *, failed: bool = False) -> None:
        """Note how a run ended and log it in words."""
        line = self._lines.pop(run)
        line.bar.close()
        self.num_failed += failed
        if not failed:
            self._count(run)
        self._work += (1.0 if run.folder.state() in ENDED else fraction_done(run.folder)) - line.first
        self._note_best(run)
        value = value_in(run.folder, self.metric)
        reached = "" if value is None else f", {self.metric.name} {format_metric(self.metric.name, value)}"
        took = format_duration(time.monotonic() - line.began)
        log.info("%s: %s after %s%s%s; %s", run.name, told, took, reached, teacher_work(run.folder), self._state())
        self._next_look = 0.0

    def try_again(self, run: TrialRun, told: str) -> None:
        """Note that a run failed and will begin once more."""
        self._lines.pop(run).bar.close()
        self._waiting += 1
        log.info("%s: %s; it is tried again", run.name, told)

    def look(self) -> None:
        """Draw anew, not more often than people read."""
        if not self.is_live or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
        for line in self._lines.values():
            self._note_best(line.run)
            line.bar.n = fraction_done(line.run.folder)
            line.bar.set_postfix_str(self._told_by(line.run.folder))
        self._bar.n = self.num_finished + self.num_pruned
        self._bar.set_postfix_str(self._state())

    def _count(self, run: TrialRun) -> None:
        state = run.folder.state()
        self.num_finished += state == "finished"
        self.num_pruned += state == "pruned"

    def close(self) -> None:
        for line in self._lines.values():
            line.bar.close()
        self._bar.close()

    def _state(self) -> str:
        parts = [f"{self.num_finished} of {self.num_runs} finished"] if not self.is_live else []
        parts += [f"{self.num_pruned} pruned"] if self.num_pruned else []
        parts += [f"{self.num_failed} failed"] if self.num_failed else []
        if self._best is not None:
            parts.append(f"best {format_metric(self.metric.name, self._best[0])} ({self._best[1]})")
        seconds = self._seconds_left()
        if seconds:
            parts.append(f"about {format_duration(seconds)} left")
        return ", ".join(parts)

    def _seconds_left(self) -> float | None:
        """From the work that was done since the phase began, in runs."""
        shares = {run: fraction_done(run.folder) for run in self._lines}
        work = self._work + sum(shares[run] - line.first for run, line in self._lines.items())
        left = max(0, self._waiting) + sum(1 - share for share in shares.values())
        return (time.monotonic() - self._began) / work * left if work > 0 else None

    def _told_by(self, folder: Folder) -> str:
        run, parts = folder.read_run(), []
        if run.get("epoch") is not None:
            parts.append(f"epoch {run['epoch']}/{run.get('num_epochs', '?')}")
        if (value := value_in(folder, self.metric)) is not None:
            parts.append(f"{self.metric.name} {format_metric(self.metric.name, value)}")
        if run.get("images_per_second"):
            parts.append(f"{run['images_per_second']:,.0f} images/s")
        return ", ".join(parts)

    def _note_best(self, run: TrialRun) -> None:
        value = value_in(run.folder, self.metric)
        if value is None:
            return
        if self._best is None or self.metric.best((value, self._best[0])) != self._best[0]:
            self._best = value, run.name


def teacher_work(folder: Folder) -> str:
    """On how many images a finished run had to run its teacher, as the others' answers were kept."""
    images = folder.read_run().get("teacher_images") if folder.state() == "finished" else None
    return f", its teacher run on {images['run']:,} of {images['asked']:,} images" if images else ""


def fraction_done(folder: Folder) -> float:
    """How much of a run is done, in [0, 1], as far as its run.json says."""
    run = folder.read_run()
    share = run.get("progress")
    if share is None and run.get("num_epochs"):
        share = run.get("epoch", 0) / run["num_epochs"]
    return min(1.0, max(0.0, share or 0.0))


def format_metric(name: str, value: float) -> str:
    if name.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
