"""The loop of a search: first what the runs need, then one run of every cell, then more seeds of the best.

One process, one thread. Nothing is kept but what lies in the folders, so the same call goes on after any end.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import filelock

from ..config.params import load_params
from ..errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunFailed, Stopped, UserError
from ..files import read_json, write_json
from ..logs import log, logging_to
from .executors.base import Executor
from .plan import ENDED, CheckParams, Plan, TrialRun, make_plan, summary
from .progress import Progress
from .run_queue import STOP_SIGNALS, FailurePolicy, RunCounts, RunQueue, SearchContext
from .sampling.pruner import Pruner
from .seeds import final_runs, refuse_final_runs, replicates


@dataclass(frozen=True)
class Final:
    """How many of the best cells are run on how many seeds that had no part in the search."""

    top: int
    num_seeds: int

    def __post_init__(self) -> None:
        if self.top < 1 or self.num_seeds < 1:
            raise UserError(f"--top and --final_seeds must be 1 or more, got {self.top} and {self.num_seeds}")


def search(
    parent_dir: Path,
    *,
    command: Sequence[str],
    make_engine: Callable[[int], Executor],
    check: CheckParams | None = None,
    restart: bool = False,
    limits: FailurePolicy | None = None,
    final: Final | None = None,
) -> int:
    """Bring all runs of a search to their end, the folders that they need first.

    Args:
        parent_dir: Folder with params.json and search.json.
        command: The train command, to which `--model_dir FOLDER` is added.
        make_engine: Makes the place where so many runs are done.
        check: Called with the params of each run before the first begins; raises UserError.
        restart: Whether every run begins anew.
        limits: What is done about failures.
        final: Which of the best cells are run on other seeds when the search is done.

    Returns:
        The exit status: all runs are finished, some failed, or somebody stopped some.

    Raises:
        UserError: A wrong file or value, or another search works here.
        RunFailed: A folder that the runs need could not be trained.
        Stopped: A signal came; the runs have saved.
    """
    load_params(parent_dir)  # before a lock is left in a folder that is no experiment
    with locked(parent_dir), logging_to(parent_dir / "search.log"), stop_signals() as received:
        plan = make_plan(parent_dir, check=check, restart=restart)
        if final:
            refuse_final_runs(plan)
        log.info("%s", summary(plan))
        crew = SearchContext(command, make_engine, limits or FailurePolicy(), received)
        if plan.needed:
            train_needed(plan, crew)
        tallies = [train_cells(plan, crew)]
        if len(plan.seeds) > 1 and not tallies[-1].gave_up:
            runs = replicates(make_plan(parent_dir, restart=restart))
            tallies.append(train_more(plan, crew, runs, f"the best {plan.space.top} get the other seeds"))
        if final and not tallies[-1].gave_up:
            runs = final_runs(make_plan(parent_dir, restart=restart), top=final.top, num_seeds=final.num_seeds)
            tallies.append(
                train_more(plan, crew, runs, f"the best {final.top} get seeds that had no part in the search")
            )
    if any(tally.failed for tally in tallies):
        return EXIT_FAILED
    return EXIT_STOPPED if any(tally.stopped for tally in tallies) else EXIT_DONE


def train_needed(plan: Plan, crew: SearchContext) -> None:
    """Train what teaches the runs, or what they start from.

    Raises:
        RunFailed: One could not be trained.
        Stopped: A signal came, or somebody stopped one.
    """
    progress = Progress([], len(plan.needed), plan.metric)
    tally = RunQueue(crew, crew.make_engine(len(plan.needed)), progress).do(plan.needed)
    if tally.failed:
        raise RunFailed(f"{tally.failed[0]} was not trained, so no run was begun")
    if crew.received or tally.stopped:
        raise Stopped("what the runs need is not trained yet; run the same command to go on")


def train_cells(plan: Plan, crew: SearchContext) -> RunCounts:
    """Train the first seed of every cell, those that are proposed meanwhile, too."""
    space = plan.space
    to_do = set(plan.to_do)
    done = [run for run in plan.runs if run not in to_do]
    pruner = Pruner(space.early_terminate, plan.metric, seed=space.search_seed) if space.early_terminate else None
    if pruner is not None:
        for run in done:
            pruner.begin(run.folder, num_epochs=run.num_epochs)
    proposals = None
    if space.has_proposals:
        from .sampling.suggest import Suggester  # a grid need not wait for Optuna

        proposals = Suggester(plan)
    needs_values = space.has_proposals or space.early_terminate or space.seeds or len(space.metric) > 1
    num_ended = sum(run.folder.state() in ENDED for run in done)
    num_runs = max(plan.cap, num_ended + len(plan.to_do))
    phase = RunQueue(
        crew,
        crew.make_engine(num_runs - num_ended),
        Progress(done, num_runs, plan.metric),
        metrics=space.metric if needs_values else (),
        proposals=proposals,
        pruner=pruner,
    )
    tally = phase.do(plan.to_do)
    tell(tally, phase.progress, crew)
    return tally


def train_more(plan: Plan, crew: SearchContext, runs: Sequence[TrialRun], why: str) -> RunCounts:
    """Train further runs of some cells."""
    to_do = [run for run in runs if run.restart or run.folder.state() != "finished"]
    if not to_do:
        return RunCounts()
    log.info("%s: %d runs", why, len(runs))
    progress = Progress([run for run in runs if run not in to_do], len(runs), plan.metric)
    tally = RunQueue(crew, crew.make_engine(len(to_do)), progress).do(to_do)
    tell(tally, progress, crew)
    return tally


def tell(tally: RunCounts, progress: Progress, crew: SearchContext) -> None:
    """Log how a phase ended.

    Raises:
        Stopped: A signal came before all was done.
    """
    told = f"{progress.num_finished} of {progress.num_runs} runs are finished"
    told += f", {progress.num_pruned} pruned" if progress.num_pruned else ""
    if crew.received and progress.num_finished + progress.num_pruned < progress.num_runs:
        raise Stopped(f"{told}; run the same command to go on")
    told += f"; failed: {', '.join(tally.failed)}" if tally.failed else ""
    told += f"; stopped by somebody: {', '.join(tally.stopped)}" if tally.stopped else ""
    log.info("%s", told)


@contextmanager
def locked(parent_dir: Path) -> Iterator[None]:
    """Be the only search that works in a folder; the lock ends with the process, however that ends.

    Raises:
        UserError: Another search works here, or the folder cannot be written to.
    """
    holder = parent_dir / ".search.json"
    lock = filelock.FileLock(parent_dir / ".search.lock")
    try:
        lock.acquire(blocking=False)
        write_json(holder, {"process": os.getpid(), "host": socket.gethostname()})
    except filelock.Timeout:
        told = read_json(holder) if holder.exists() else {}
        raise UserError(
            f"{parent_dir}: another search works here, process {told.get('process', '?')} on {told.get('host', '?')}"
        ) from None
    except OSError as error:
        raise UserError(f"{parent_dir}: cannot write to this folder ({error.strerror})") from None
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of ending with them."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
