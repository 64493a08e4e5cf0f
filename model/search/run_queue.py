"""One phase of a search: runs that need nothing of one another, several at once, and how each ends."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EXIT_DONE, EXIT_STOPPED, UserError
from ..logs import log
from .executors.base import GRACE_SECONDS, Executor, Job, JobEnd, JobHandle
from .plan import TrialRun
from .progress import Progress
from .results import missing_metric
from .sampling.pruner import Pruner
from .space.schema import Metric

if TYPE_CHECKING:
    from .sampling.suggest import Suggester

POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0
HOPELESS = 3  # so many failures with no run finished before: what is common to all runs must be wrong
TOO_MANY = 10  # so many later: a full disk, or a whole corner of a grid that diverges
TAIL_LINES = 10

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOPPED = (EXIT_STOPPED, *(-number for number in STOP_SIGNALS))  # minus: before the run could catch the signal


@dataclass(frozen=True)
class FailurePolicy:
    """What is put up with.

    Args:
        retries: How often a run that failed is tried again in the same call.
        max_failures: After so many failures with no run finished between, no more runs begin; by default HOPELESS
            before any run is finished, then TOO_MANY.
        time_limit: Seconds after which a run that has not ended is stopped and has failed.
    """

    retries: int = 0
    max_failures: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise UserError(f"--retries must be 0 or more, got {self.retries}")
        if self.max_failures is not None and self.max_failures < 1:
            raise UserError(f"--max_failures must be 1 or more, got {self.max_failures}")


@dataclass(frozen=True)
class SearchContext:
    """What all phases of a search share.

    Args:
        received: The signals that came; the first stops all runs, the second kills them.
    """

    command: Sequence[str]
    make_engine: Callable[[int], Executor]
    limits: FailurePolicy
    received: list[int]


@dataclass
class RunCounts:
    """How the runs of one phase ended, by name; the others did not begin, or were pruned."""

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    failures_in_a_row: int = 0
    gave_up: bool = False


@dataclass
class RunningTrial:
    """A run that an engine works on."""

    run: TrialRun
    job: Job
    log_size: int  # of stdout.log when the run began: what an earlier one printed ends there
    stopped_at: float | None = None  # when the pruner had it stopped

    @property
    def is_pruned(self) -> bool:
        return self.stopped_at is not None


class RunQueue:
    """Runs that need nothing of one another.

    Args:
        crew: What all phases share.
        engine: Where they are done.
        progress: Is told what happens.
        metrics: What a finished run must have a number of; else it failed.
        proposals: Gives more runs when those that are known have begun, and is told how each ended.
        pruner: Says which runs are stopped.
    """

    def __init__(
        self,
        crew: SearchContext,
        engine: Executor,
        progress: Progress,
        *,
        metrics: Sequence[Metric] = (),
        proposals: Suggester | None = None,
        pruner: Pruner | None = None,
    ) -> None:
        self.crew, self.engine, self.progress = crew, engine, progress
        self.metrics, self.proposals, self.pruner = metrics, proposals, pruner
        self.tally = RunCounts()
        self._waiting: list[TrialRun] = []
        self._running: dict[JobHandle, RunningTrial] = {}
        self._begun: Counter[TrialRun] = Counter()
        self._told_busy: set[TrialRun] = set()
        self._kill_at: float | None = None
        self._next_look = 0.0

    def do(self, runs: Sequence[TrialRun]) -> RunCounts:
        """Begin runs in their order while there is room, until all have ended or a signal came.

        Raises:
            UserError: The engine has no place for them, or a run that is to begin anew is still being done.
        """
        self._waiting = [run for run in runs if not self._attach(run)]
        try:
            while True:
                self._note_ends()
                if self.crew.received:
                    self._stop_running()
                is_more_to_come = self._fill()
                self._look_at_running()
                self.progress.look()
                if not self._running and not is_more_to_come:
                    return self.tally
                time.sleep(POLL_SECONDS)
        finally:
            self.progress.close()
            for handle in self._running:  # only where an error ends the search
                self.engine.stop(handle)

    def _fill(self) -> bool:
        """Begin as many runs as there is room for, and say whether more may follow."""
        while self._may_begin() and (self._waiting or self.proposals):
            if not self.engine.can_submit():
                return True
            run = self._next()
            if run is None:
                return bool(self._waiting)
            self._begin(run)
        return False

    def _may_begin(self) -> bool:
        return not self.crew.received and not self.tally.gave_up

    def _next(self) -> TrialRun | None:
        """The first run in whose folder no process works, or else a new one.

        In a folder that a killed search left behind, a process may still be saving.
        """
        for run in self._waiting:
            if not run.folder.is_busy():
                self._waiting.remove(run)
                return run
            if run not in self._told_busy:
                self._told_busy.add(run)
                process = run.folder.read_run()
                log.info("%s: waiting for process %s on %s", run.name, process.get("process"), process.get("host"))
        return self.proposals.next() if self.proposals else None

    def _attach(self, run: TrialRun) -> bool:
        """Whether an earlier driver's job still does the run; then it is ours from now on."""
        job = self._job(run)
        handle = self.engine.attach(job)
        if handle is None:
            return False
        if run.restart:
            raise UserError(f"{run.name}: a job of an earlier call still works on it; end it, then begin anew")
        self._begun[run] += 1
        self.progress.begin(run, "goes on, as an earlier call began it")
        self._begin_pruning(run)
        self._running[handle] = RunningTrial(run, job, log_size=0)
        return True

    def _begin(self, run: TrialRun) -> None:
        job = self._job(run)
        anew = run.restart and not self._begun[run]
        self._begun[run] += 1
        self.progress.begin(run, "begins")
        try:
            run.prepare(anew=anew)
            log_size = job.log.stat().st_size if job.log.exists() else 0
            self._begin_pruning(run)
            self._running[self.engine.submit(job)] = RunningTrial(run, job, log_size)
        except OSError as error:
            self._note_failure(run, f"failed ({error})")

    def _job(self, run: TrialRun) -> Job:
        folder = run.folder.path.absolute()
        command = (*self.crew.command, "--model_dir", str(folder))
        when_new = ("--restart",) if run.restart else ()
        return Job(folder, command, when_new, self.crew.limits.time_limit)

    def _begin_pruning(self, run: TrialRun) -> None:
        if self.pruner is not None:
            self.pruner.begin(run.folder, num_epochs=run.num_epochs)

    def _note_ends(self) -> None:
        for handle, running in list(self._running.items()):
            end = self.engine.poll(handle)
            if end is not None:
                del self._running[handle]
                self._note_end(running, end)

    def _note_end(self, running: RunningTrial, end: JobEnd) -> None:
        status, why = end
        run, is_finished = running.run, running.run.folder.state() == "finished"
        lacking = missing_metric(run.folder, self.metrics) if is_finished else None
        if is_finished and lacking is None and (status == EXIT_DONE or why is not None):
            self.tally.finished.append(run.name)
            self.tally.failures_in_a_row = 0
            self._note_other_end(run, "finished")
        elif running.is_pruned and (status in STOPPED or status == -signal.SIGKILL):
            run.folder.update_run(state="pruned")
            self.tally.failures_in_a_row = 0
            self._note_other_end(run, "pruned")
        elif why is not None:
            with suppress(OSError):  # the disk may be full; then the next call tries the run again all the same
                run.folder.update_run(state="failed", error=why)
            self._tell_failure(running, why)
        elif status in STOPPED or (self.crew.received and status == -signal.SIGKILL):
            self.tally.stopped.append(run.name)
            self._note_other_end(run, "stopped")
        else:
            self._tell_failure(running, lacking or reason(status))

    def _tell_failure(self, running: RunningTrial, why: str) -> None:
        printed = tail(running.job.log, running.log_size)
        self._note_failure(running.run, f"failed ({why})", f"{running.job.log}:\n{printed}" if printed else "")

    def _note_other_end(self, run: TrialRun, told: str) -> None:
        self.progress.end(run, told)
        if self.pruner is not None:
            self.pruner.look(run.folder)
        if self.proposals is not None:
            self.proposals.ended(run)

    def _note_failure(self, run: TrialRun, told: str, last_lines: str = "") -> None:
        is_last_time = self._begun[run] > self.crew.limits.retries or not self._may_begin()
        if is_last_time:
            self.tally.failed.append(run.name)
            self.tally.failures_in_a_row += 1
            self.progress.end(run, told, failed=True)
        else:
            self._waiting.append(run)
            self.progress.try_again(run, told)
        if last_lines:
            log.error("the last lines of %s", last_lines)
        if is_last_time and self.proposals is not None:
            self.proposals.ended(run)
        limit = self.crew.limits.max_failures or (TOO_MANY if self.tally.finished else HOPELESS)
        if self.tally.failures_in_a_row >= limit and not self.tally.gave_up:
            self.tally.gave_up = True
            log.error("%d runs failed one after another, so no more are begun", self.tally.failures_in_a_row)

    def _look_at_running(self) -> None:
        """Read how far the runs are, and stop those that do too badly."""
        if time.monotonic() < self._next_look or self.crew.received:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        for handle, running in self._running.items():
            folder = running.run.folder
            if self.proposals is not None:
                self.proposals.look(running.run)
            if self.pruner is not None and running.stopped_at is None:
                self.pruner.look(folder)
                if self.pruner.should_stop(folder, num_epochs=running.run.num_epochs):
                    running.stopped_at = time.monotonic()
                    self.engine.stop(handle)
            if running.stopped_at is not None and time.monotonic() > running.stopped_at + GRACE_SECONDS:
                self.engine.kill(handle)

    def _stop_running(self) -> None:
        now = time.monotonic()
        if self._kill_at is None:
            self._kill_at = now + GRACE_SECONDS
            log.info("stopping: %d runs save and end; once more kills them", len(self._running))
            for handle in self._running:
                self.engine.stop(handle)
        if len(self.crew.received) > 1 or now > self._kill_at:
            for handle in self._running:
                self.engine.kill(handle)


def reason(status: int) -> str:
    """An exit status in words."""
    if status == EXIT_DONE:
        return "it ended well, but its run is not finished"
    if status > 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"killed by {name}{', the machine may be out of memory' if -status == signal.SIGKILL else ''}"


def tail(path: Path, start: int) -> str:
    """The last lines of a log from a byte on; a progress bar's steps count as lines."""
    if not path.exists():  # a job of a cluster that never began
        return ""
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line.rstrip()}" for line in [line for line in lines if line.strip()][-TAIL_LINES:])
