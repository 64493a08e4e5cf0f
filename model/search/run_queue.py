"""A queue of runs that are independent of each other: executes several at a time and handles how each ends."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EXIT_DONE, EXIT_STOPPED, UserError
from ..logs import log
from .executors.base import GRACE_SECONDS, Executor, ExecutorFactory, Job, JobEnd, JobHandle
from .plan import TrialRun
from .progress import Progress
from .results import missing_metric
from .sampling.pruner import Pruner
from .space.metric import Metric

if TYPE_CHECKING:
    from .sampling.suggest import Suggester

POLL_SECONDS = 0.02
READ_PROGRESS_SECONDS = 1.0
MAX_FAILURES_AT_START = 3  # with no finished run, what all runs have in common must be wrong
MAX_FAILURES_IN_A_ROW = 10  # later: a full disk, or a whole corner of a grid that diverges
NUM_LOG_LINES = 10  # of a failed run that are shown

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOPPED = (EXIT_STOPPED, *(-number for number in STOP_SIGNALS))  # minus: before the run could catch the signal


@dataclass(frozen=True)
class FailurePolicy:
    """How many failures are tolerated.

    Args:
        retries: How often a run that failed is started again by the same call.
        max_failures: The number of failures without a finished run in between after which no more runs are started; by
            default MAX_FAILURES_AT_START before any run is finished, then MAX_FAILURES_IN_A_ROW.
        time_limit: Seconds after which a run that has not ended is stopped and counts as failed.
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
    """What all queues of a search share.

    Args:
        command: The train command, to which `--model_dir FOLDER` is added.
        make_executor: Makes the executor of a number of runs.
        received_signals: The first stops all runs, the second kills them.
    """

    command: Sequence[str]
    make_executor: ExecutorFactory
    failure_policy: FailurePolicy
    received_signals: list[int]


@dataclass
class RunCounts:
    """How the runs of one queue ended, by name; the others were not started, or were pruned."""

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    failures_in_a_row: int = 0
    gave_up: bool = False


@dataclass
class RunningTrial:
    """A run that the executor works on.

    Args:
        log_size: Of stdout.log when the run was started: the output of an earlier attempt ends there.
        pruned_at: The time at which the pruner stopped it.
    """

    run: TrialRun
    job: Job
    log_size: int
    pruned_at: float | None = None


class RunQueue:
    """Runs that are independent of each other.

    Args:
        metrics: A finished run without a finite value of one of these has failed.
        suggester: Proposes more runs when the given ones have been started.
        pruner: Decides which runs are stopped early.
    """

    def __init__(
        self,
        context: SearchContext,
        executor: Executor,
        progress: Progress,
        *,
        metrics: Sequence[Metric] = (),
        suggester: Suggester | None = None,
        pruner: Pruner | None = None,
    ) -> None:
        self.context, self.executor, self.progress = context, executor, progress
        self.metrics, self.suggester, self.pruner = metrics, suggester, pruner
        self.counts = RunCounts()
        self._waiting: list[TrialRun] = []
        self._running: dict[JobHandle, RunningTrial] = {}
        self._num_attempts: Counter[TrialRun] = Counter()
        self._logged_as_busy: set[TrialRun] = set()
        self._kill_at: float | None = None
        self._next_read = 0.0

    def execute(self, runs: Sequence[TrialRun]) -> RunCounts:
        """Start runs in their order as the executor has room, until all have ended or a signal was received.

        Raises:
            UserError: The executor can never execute them, or a run to be restarted is still running.
        """
        self._waiting = [run for run in runs if not self._attach(run)]
        try:
            while True:
                self._handle_ends()
                if self.context.received_signals:
                    self._stop_running()
                has_more = self._start_runs()
                self._read_progress()
                self.progress.refresh()
                if not self._running and not has_more:
                    return self.counts
                time.sleep(POLL_SECONDS)
        finally:
            self.progress.close()
            for handle in self._running:  # only if an error ends the search
                self.executor.stop(handle)

    def _start_runs(self) -> bool:
        """Start as many runs as there is room for; returns whether more may follow."""
        while self._may_start() and (self._waiting or self.suggester):
            if not self.executor.can_submit():
                return True
            run = self._next()
            if run is None:
                return bool(self._waiting)
            self._start(run)
        return False

    def _may_start(self) -> bool:
        return not self.context.received_signals and not self.counts.gave_up

    def _next(self) -> TrialRun | None:
        """The first run whose folder no process works in, or else a newly proposed one.

        In a folder that a killed search left behind, a process may still be saving.
        """
        for run in self._waiting:
            if not run.folder.is_busy():
                self._waiting.remove(run)
                return run
            if run not in self._logged_as_busy:
                self._logged_as_busy.add(run)
                process = run.folder.read_run()
                log.info("%s: waiting for process %s on %s", run.name, process.get("process"), process.get("host"))
        return self.suggester.next() if self.suggester else None

    def _attach(self, run: TrialRun) -> bool:
        """Take over the job of an earlier call that still executes the run; returns whether there is one."""
        job = self._make_job(run)
        handle = self.executor.attach(job)
        if handle is None:
            return False
        if run.restart:
            raise UserError(f"{run.name}: a job of an earlier call still executes this run; cancel it before --restart")
        self._num_attempts[run] += 1
        self.progress.begin(run, "still running, started by an earlier call")
        self._begin_pruning(run)
        self._running[handle] = RunningTrial(run, job, log_size=0)
        return True

    def _start(self, run: TrialRun) -> None:
        job = self._make_job(run)
        restart = run.restart and not self._num_attempts[run]
        self._num_attempts[run] += 1
        self.progress.begin(run, "started")
        try:
            run.prepare(restart=restart)
            log_size = job.log.stat().st_size if job.log.exists() else 0
            self._begin_pruning(run)
            self._running[self.executor.submit(job)] = RunningTrial(run, job, log_size)
        except OSError as error:
            self._handle_failure(run, f"failed ({error})")

    def _make_job(self, run: TrialRun) -> Job:
        folder = run.folder.path.absolute()
        command = (*self.context.command, "--model_dir", str(folder))
        options_if_new = ("--restart",) if run.restart else ()
        return Job(folder, command, options_if_new, self.context.failure_policy.time_limit)

    def _begin_pruning(self, run: TrialRun) -> None:
        if self.pruner is not None:
            self.pruner.begin(run.folder, num_epochs=run.num_epochs)

    def _handle_ends(self) -> None:
        for handle, running in list(self._running.items()):
            end = self.executor.poll(handle)
            if end is not None:
                del self._running[handle]
                self._handle_end(running, end)

    def _handle_end(self, running: RunningTrial, end: JobEnd) -> None:
        status, error = end
        run, is_finished = running.run, running.run.folder.state() == "finished"
        missing = missing_metric(run.folder, self.metrics) if is_finished else None
        if is_finished and missing is None and (status == EXIT_DONE or error is not None):
            self.counts.finished.append(run.name)
            self.counts.failures_in_a_row = 0
            self._end(run, "finished")
        elif running.pruned_at is not None and (status in STOPPED or status == -signal.SIGKILL):
            run.folder.update_run(state="pruned")
            self.counts.failures_in_a_row = 0
            self._end(run, "pruned")
        elif error is not None:
            with suppress(OSError):  # the disk may be full; then the next call retries the run all the same
                run.folder.update_run(state="failed", error=error)
            self._handle_failed_job(running, error)
        elif status in STOPPED or (self.context.received_signals and status == -signal.SIGKILL):
            self.counts.stopped.append(run.name)
            self._end(run, "stopped")
        else:
            self._handle_failed_job(running, missing or describe_exit(status))

    def _end(self, run: TrialRun, event: str) -> None:
        self.progress.end(run, event)
        if self.pruner is not None:
            self.pruner.update(run.folder)
        if self.suggester is not None:
            self.suggester.end(run)

    def _handle_failed_job(self, running: RunningTrial, reason: str) -> None:
        lines = last_lines(running.job.log, running.log_size)
        self._handle_failure(running.run, f"failed ({reason})", f"{running.job.log}:\n{lines}" if lines else "")

    def _handle_failure(self, run: TrialRun, event: str, log_excerpt: str = "") -> None:
        is_last_attempt = self._num_attempts[run] > self.context.failure_policy.retries or not self._may_start()
        if is_last_attempt:
            self.counts.failed.append(run.name)
            self.counts.failures_in_a_row += 1
            self.progress.end(run, event, failed=True)
        else:
            self._waiting.append(run)
            self.progress.retry(run, event)
        if log_excerpt:
            log.error("the last lines of %s", log_excerpt)
        if is_last_attempt and self.suggester is not None:
            self.suggester.end(run)
        default = MAX_FAILURES_IN_A_ROW if self.counts.finished else MAX_FAILURES_AT_START
        limit = self.context.failure_policy.max_failures or default
        if self.counts.failures_in_a_row >= limit and not self.counts.gave_up:
            self.counts.gave_up = True
            log.error("%d runs in a row have failed; no more runs are started", self.counts.failures_in_a_row)

    def _read_progress(self) -> None:
        """Read how far the runs are, and stop those that the pruner decides on."""
        if time.monotonic() < self._next_read or self.context.received_signals:
            return
        self._next_read = time.monotonic() + READ_PROGRESS_SECONDS
        for handle, running in self._running.items():
            folder = running.run.folder
            if self.suggester is not None:
                self.suggester.update(running.run)
            if self.pruner is not None and running.pruned_at is None:
                self.pruner.update(folder)
                if self.pruner.should_prune(folder):
                    running.pruned_at = time.monotonic()
                    self.executor.stop(handle)
            if running.pruned_at is not None and time.monotonic() > running.pruned_at + GRACE_SECONDS:
                self.executor.kill(handle)

    def _stop_running(self) -> None:
        now = time.monotonic()
        if self._kill_at is None:
            self._kill_at = now + GRACE_SECONDS
            log.info("stopping: %d runs are saving; a second signal kills them", len(self._running))
            for handle in self._running:
                self.executor.stop(handle)
        if len(self.context.received_signals) > 1 or now > self._kill_at:
            for handle in self._running:
                self.executor.kill(handle)


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status == EXIT_DONE:
        return "exit status 0, but its run is not finished"
    if status > 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"killed by {name}{', the machine may be out of memory' if -status == signal.SIGKILL else ''}"


def last_lines(path: Path, start: int) -> str:
    """The last lines of a log from a byte on, indented; each update of a progress bar counts as a line."""
    if not path.exists():  # a cluster's job that never began
        return ""
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line.rstrip()}" for line in [line for line in lines if line.strip()][-NUM_LOG_LINES:])
