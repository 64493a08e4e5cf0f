"""The driver of a search: trains the prerequisites, then one run of each trial, then more seeds of the best trials.

One process, one thread. All state lies in the folders, so the same call continues the search however it ended.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import filelock

from ..config.params import load_params
from ..errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunFailed, Stopped, UserError
from ..files import read_intact, write_json
from ..logs import log, logging_to
from .executors.base import ExecutorFactory
from .plan import ENDED, CheckParams, Plan, TrialRun, format_summary, make_plan
from .progress import Progress
from .run_queue import STOP_SIGNALS, FailurePolicy, RunCounts, RunQueue, SearchContext
from .seeds import FinalSeeds, check_final_seeds, final_runs, replicate_runs


def search(
    parent_dir: Path,
    *,
    command: Sequence[str],
    make_executor: ExecutorFactory,
    check: CheckParams | None = None,
    restart: bool = False,
    failure_policy: FailurePolicy | None = None,
    final: FinalSeeds | None = None,
) -> int:
    """Train all runs of a search, and before them the folders that they need.

    Args:
        parent_dir: Folder with params.json and search.json.
        command: The train command, to which `--model_dir FOLDER` is added.
        make_executor: Makes the executor of a number of runs.
        check: Called with the params of each run before the first is started; raises UserError.
        restart: Whether every run begins anew.
        final: Which of the best trials are trained with further seeds when the search is done.

    Returns:
        The exit status: all runs are finished, some failed, or some were stopped from outside.

    Raises:
        UserError: A wrong file or value, or another search runs in this folder.
        RunFailed: A prerequisite could not be trained.
        Stopped: A signal was received; the runs have saved.
    """
    load_params(parent_dir)  # before a lock is left in a folder that is no experiment
    with locked(parent_dir), logging_to(parent_dir / "search.log"), stop_signals() as received_signals:
        plan = make_plan(parent_dir, check=check, restart=restart)
        for prerequisite in plan.prerequisites:
            prerequisite.folder.refuse_to_lose_results()
        if final:
            check_final_seeds(plan)
        log.info("%s", format_summary(plan))
        context = SearchContext(command, make_executor, failure_policy or FailurePolicy(), received_signals)
        if plan.prerequisites:
            train_prerequisites(plan, context)
        counts = [train_trials(plan, context)]
        if len(plan.seeds) > 1 and not counts[-1].gave_up:
            runs = replicate_runs(make_plan(parent_dir, restart=restart))
            counts.append(train_seeds(plan, context, runs, f"the best {plan.space.top} trials with the other seeds"))
        if final and not counts[-1].gave_up:
            runs = final_runs(make_plan(parent_dir, restart=restart), final)
            counts.append(
                train_seeds(plan, context, runs, f"the best {final.top} trials with seeds not used in the search")
            )
    if any(queue.failed for queue in counts):
        return EXIT_FAILED
    return EXIT_STOPPED if any(queue.stopped for queue in counts) else EXIT_DONE


def train_prerequisites(plan: Plan, context: SearchContext) -> None:
    """Train the folders that runs learn from or start from.

    Raises:
        RunFailed: One could not be trained.
        Stopped: A signal was received, or a run was stopped from outside.
    """
    executor = context.make_executor(len(plan.prerequisites))
    progress = Progress([], len(plan.prerequisites), plan.metric)
    counts = RunQueue(context, executor, progress).execute(plan.prerequisites)
    if counts.failed:
        raise RunFailed(f"{counts.failed[0]} could not be trained, so no run was started")
    if context.received_signals or counts.stopped:
        raise Stopped("the folders that the runs depend on are not trained yet; run the same command to go on")


def train_trials(plan: Plan, context: SearchContext) -> RunCounts:
    """Train the first seed of every trial, including those that are proposed meanwhile."""
    space = plan.space
    pending = set(plan.pending)
    ended = [run for run in plan.runs if run not in pending]
    pruner = space.build_pruner()
    if pruner is not None:
        for run in ended:
            pruner.begin(run.folder, num_epochs=run.num_epochs)
    suggester = None
    if space.is_sequential:
        from .sampling.suggest import Suggester  # a grid need not wait for Optuna

        suggester = Suggester(plan)
    needs_values = space.is_sequential or space.early_terminate or space.seeds or len(space.metric) > 1
    num_ended = sum(run.folder.state() in ENDED for run in ended)
    num_runs = max(plan.num_trials, num_ended + len(plan.pending))
    queue = RunQueue(
        context,
        context.make_executor(num_runs - num_ended),
        Progress(ended, num_runs, plan.metric),
        metrics=space.metric if needs_values else (),
        suggester=suggester,
        pruner=pruner,
    )
    counts = queue.execute(plan.pending)
    log_summary(counts, queue.progress, context)
    return counts


def train_seeds(plan: Plan, context: SearchContext, runs: Sequence[TrialRun], description: str) -> RunCounts:
    """Train the runs of further seeds."""
    pending = [run for run in runs if run.restart or run.folder.state() != "finished"]
    if not pending:
        return RunCounts()
    log.info("%s: %d runs", description, len(runs))
    progress = Progress([run for run in runs if run not in pending], len(runs), plan.metric)
    counts = RunQueue(context, context.make_executor(len(pending)), progress).execute(pending)
    log_summary(counts, progress, context)
    return counts


def log_summary(counts: RunCounts, progress: Progress, context: SearchContext) -> None:
    """Log how many runs of a queue are finished, and which are not.

    Raises:
        Stopped: A signal was received before all had ended.
    """
    summary = f"{progress.num_finished} of {progress.num_runs} runs are finished"
    summary += f", {progress.num_pruned} pruned" if progress.num_pruned else ""
    if context.received_signals and progress.num_finished + progress.num_pruned < progress.num_runs:
        raise Stopped(f"{summary}; run the same command to go on")
    summary += f"; failed: {', '.join(counts.failed)}" if counts.failed else ""
    summary += f"; stopped from outside: {', '.join(counts.stopped)}" if counts.stopped else ""
    log.info("%s", summary)


@contextmanager
def locked(parent_dir: Path) -> Iterator[None]:
    """Be the only search that runs in a folder; the lock ends with the process, however that ends.

    Raises:
        UserError: Another search runs here, or the folder cannot be written to.
    """
    holder_file = parent_dir / ".search.json"
    lock = filelock.FileLock(parent_dir / ".search.lock")
    try:
        lock.acquire(blocking=False)
        write_json(holder_file, {"process": os.getpid(), "host": socket.gethostname()})
    except filelock.Timeout:
        holder = read_intact(holder_file)
        process = f"process {holder.get('process', '?')} on {holder.get('host', '?')}"
        raise UserError(f"{parent_dir}: another search is running in this folder, {process}") from None
    except OSError as error:
        raise UserError(f"{parent_dir}: cannot write to this folder ({error.strerror})") from None
    try:
        yield
    finally:
        holder_file.unlink(missing_ok=True)
        lock.release()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of being ended by them."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)

    handlers = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
