"""The loop of a search: train what is missing, several runs at once, and see how each ends.

One process, one thread. Nothing is kept but what lies in the folders, so the same call goes on after any end.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import filelock

from model.folder import Folder
from model.params import load_params
from model.search.engine import Engine, Handle, Job
from model.search.plan import Check, Run, make_plan, summary
from model.search.progress import Progress
from utils import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    RunFailed,
    Stopped,
    UserError,
    log,
    logging_to,
    read_json,
    write_json,
)

POLL_SECONDS = 0.02
GRACE_SECONDS = 120.0  # for a run to end its step and save; then it is killed
HOPELESS = 3  # so many failures with no run finished before: what is common to all runs must be wrong
TAIL_LINES = 10

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = (EXIT_STOPPED, *(-number for number in STOP_SIGNALS))  # minus: before the run could catch the signal


@dataclass
class Tally:
    """How the runs of one phase ended, by name; the others did not begin."""

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    @property
    def is_hopeless(self) -> bool:
        return len(self.failed) >= HOPELESS and not self.finished


@dataclass(frozen=True)
class Running:
    """A run that an engine works on."""

    run: Run
    job: Job
    log_size: int  # of stdout.log when the run began: what an earlier one printed ends there


def search(
    parent_dir: Path,
    *,
    command: Sequence[str],
    make_engine: Callable[[int], Engine],
    check: Check | None = None,
    restart: bool = False,
) -> int:
    """Bring all runs of a search to their end, the folders that they need first.

    Args:
        parent_dir: Folder with params.json and search.json.
        command: The train command, to which `--model_dir FOLDER` is added.
        make_engine: Makes the place where so many runs are done.
        check: Called with the params of each run before the first begins; raises UserError.
        restart: Whether every run begins anew.

    Returns:
        The exit status: all runs are finished, some failed, or somebody stopped some.

    Raises:
        UserError: A wrong file or value, or another search works here.
        RunFailed: A folder that the runs need could not be trained.
        Stopped: A signal came; the runs have saved.
    """
    load_params(parent_dir)  # before a lock is left in a folder that is no experiment
    with locked(parent_dir), logging_to(parent_dir / "search.log"):
        plan = make_plan(parent_dir, check=check, restart=restart)
        log.info("%s", summary(plan))
        with stop_signals() as received:
            if plan.needed:
                progress = Progress(plan.needed, plan.needed, plan.metric)
                tally = Phase(make_engine(len(plan.needed)), command, received, progress).do(plan.needed)
                if tally.failed:
                    raise RunFailed(f"{tally.failed[0]} was not trained, so no run was begun")
                if received or tally.stopped:
                    raise Stopped("what the runs need is not trained yet; run the same command to go on")
            progress = Progress(plan.runs, plan.to_do, plan.metric)
            tally = Phase(make_engine(len(plan.to_do)), command, received, progress).do(plan.to_do)
        num_finished = len(plan.runs) - len(plan.to_do) + len(tally.finished)
        told = f"{num_finished} of {len(plan.runs)} runs are finished"
        if received and num_finished < len(plan.runs):
            raise Stopped(f"{told}; run the same command to go on")
        told += f"; failed: {', '.join(tally.failed)}" if tally.failed else ""
        told += f"; stopped by somebody: {', '.join(tally.stopped)}" if tally.stopped else ""
        log.info("%s", told)
    if tally.failed:
        return EXIT_FAILED
    return EXIT_STOPPED if tally.stopped else EXIT_DONE


class Phase:
    """Runs that need nothing of one another.

    Args:
        engine: Where they are done.
        command: The train command.
        received: The signals that came; the first stops all runs, the second kills them.
        progress: Is told what happens.
    """

    def __init__(self, engine: Engine, command: Sequence[str], received: list[int], progress: Progress) -> None:
        self.engine, self.command, self.received, self.progress = engine, command, received, progress
        self.tally = Tally()
        self._running: dict[Handle, Running] = {}
        self._told_busy: set[Run] = set()
        self._kill_at: float | None = None

    def do(self, runs: Sequence[Run]) -> Tally:
        """Begin runs in their order while there is room, until all have ended or a signal came."""
        waiting = list(runs)
        try:
            while waiting or self._running:
                self._note_ends()
                if self.received:
                    waiting.clear()
                    self._stop_running()
                elif waiting and self.tally.is_hopeless:
                    log.error("all of the first %d runs failed: %d are not begun", HOPELESS, len(waiting))
                    waiting.clear()
                while self.engine.has_room() and (run := self._next_free(waiting)):
                    waiting.remove(run)
                    self._begin(run)
                self.progress.look()
                time.sleep(POLL_SECONDS)
        finally:
            self.progress.close()
            for handle in self._running:  # only where an error ends the search
                self.engine.stop(handle)
        return self.tally

    def _next_free(self, waiting: Sequence[Run]) -> Run | None:
        """The first run in whose folder no process works; one that a killed search left behind may still be saving."""
        for run in waiting:
            if not is_busy(run.folder):
                return run
            if run not in self._told_busy:
                self._told_busy.add(run)
                process = run.folder.read_run()
                log.info("%s: waiting for process %s on %s", run.name, process.get("process"), process.get("host"))
        return None

    def _begin(self, run: Run) -> None:
        options = ["--restart"] if run.restart else []
        folder = run.folder.path.absolute()
        job = Job(folder, (*self.command, *options, "--model_dir", str(folder)))
        self.progress.begin(run)
        try:
            run.prepare()
            log_size = job.log.stat().st_size if job.log.exists() else 0
            self._running[self.engine.submit(job)] = Running(run, job, log_size)
        except OSError as error:
            self.tally.failed.append(run.name)
            self.progress.end(run, f"failed ({error})", failed=True)

    def _note_ends(self) -> None:
        for handle, running in list(self._running.items()):
            status = self.engine.poll(handle)
            if status is not None:
                del self._running[handle]
                self._note_end(running, status)

    def _note_end(self, running: Running, status: int) -> None:
        run = running.run
        if status == EXIT_DONE and run.folder.state() == "finished":
            self.tally.finished.append(run.name)
            self.progress.end(run, "finished", finished=True)
        elif status in STOPPED or (self.received and status == -signal.SIGKILL):
            self.tally.stopped.append(run.name)
            self.progress.end(run, "stopped")
        else:
            self.tally.failed.append(run.name)
            self.progress.end(run, f"failed ({reason(status)})", failed=True)
            log.error("the last lines of %s:\n%s", running.job.log, tail(running.job.log, running.log_size))

    def _stop_running(self) -> None:
        now = time.monotonic()
        if self._kill_at is None:
            self._kill_at = now + GRACE_SECONDS
            log.info("stopping: %d runs save and end; once more kills them", len(self._running))
            for handle in self._running:
                self.engine.stop(handle)
        if len(self.received) > 1 or now > self._kill_at:
            for handle in self._running:
                self.engine.kill(handle)


def is_busy(folder: Folder) -> bool:
    """Whether another process works in a folder: its run.json says so, and the lock is held."""
    if folder.state() != "running":
        return False
    try:
        with folder.locked():
            return False
    except UserError:
        return True


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
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line.rstrip()}" for line in [line for line in lines if line.strip()][-TAIL_LINES:])


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
