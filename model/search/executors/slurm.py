"""Runs as jobs of a SLURM cluster, one a run, submitted by submitit.

Jobs belong to the cluster: they outlive the driver, and SLURM may take their nodes away and give them others. So the
queue is the truth. A job is found again by its name, which follows from the run's folder. How it ended is told by the
file that submitit leaves; a job that left the queue without one is lost.
"""

from __future__ import annotations

import atexit
import hashlib
import re
import secrets
import shutil
import signal
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...errors import EXIT_FAILED, UserError, last_line
from ...files import read_json, write_json, write_text
from ...logs import format_duration, log
from . import worker
from .base import Job, JobEnd, JobHandle
from .slurm_commands import (
    Queue,
    Refused,
    SlurmOptions,
    cancel,
    import_submitit,
    last_words,
    read_queue,
    result_of,
    sbatch,
)
from .slurm_task import Task

MOST_JOBS = 32  # in the queue at once, where --jobs says nothing
SQUEUE_SECONDS = 3.0  # between two looks at the queue
LOST_SECONDS = 30.0  # after a job has left the queue, for its result to come through a shared file system
AGAIN_SECONDS = 60.0  # after sbatch refused a job
FORCE_SECONDS = 10.0  # for a node to follow an order to kill
CHECK_MINUTES = 5
ENDING = "COMPLETING"
SHARED = "the search's folder, the code and its Python must lie in a file system that all nodes share"


@dataclass
class SubmittedJob:
    """A job that was given to sbatch.

    Args:
        id: SLURM's; None where sbatch refused the job, and is to be asked again.
        wanted: What the driver wants of it, before its end.
        force_at: When SLURM is to kill it, as its node has not.
    """

    job: Job
    id: str | None = None
    again_at: float = 0.0
    missing_since: float | None = None
    wanted: worker.WorkerCommand | None = None
    force_at: float | None = None
    end: JobEnd | None = None


class SlurmExecutor:
    """Jobs of SLURM.

    Args:
        folder: Where submitit's files go; all nodes must see it.
        at_once: Jobs in the queue, waiting or running.
    """

    def __init__(self, folder: Path, asked: SlurmOptions, *, at_once: int) -> None:
        self.folder, self.asked, self.at_once = folder.absolute(), asked, at_once
        self._sent: dict[JobHandle, SubmittedJob] = {}
        self._check = ClusterCheck(self.folder, asked)
        self._queue: Queue | None = None
        self._next_look = 0.0

    @classmethod
    def for_runs(cls, num_runs: int, *, folder: Path, asked: SlurmOptions, jobs: int | None = None) -> SlurmExecutor:
        """An engine for so many runs."""
        import_submitit()
        for command in ("sbatch", "squeue", "scancel"):
            if shutil.which(command) is None:
                raise UserError(f"--engine slurm: there is no {command} here; start the search on a login node")
        return cls(folder, asked, at_once=max(1, min(jobs or MOST_JOBS, num_runs)))

    @property
    def threads(self) -> int:
        return self.asked.cpus

    def describe(self) -> str:
        return f"at most {self.at_once} jobs of SLURM at once, {self.asked}"

    def has_room(self) -> bool:
        return len(self._sent) < self.at_once and self._check.is_passed()

    def submit(self, job: Job) -> JobHandle:
        worker.clear_commands(job)
        handle = JobHandle(name_of(job))
        self._sent[handle] = SubmittedJob(job)
        self._send(self._sent[handle])
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        if self._queue is None:
            self._queue = read_queue()
        if self._queue is None:
            raise UserError("squeue does not answer, so nobody knows which runs are in SLURM's queue already")
        name = name_of(job)
        going = [number for number, (state, each) in self._queue.items() if each == name and state != ENDING]
        number = next(iter(going), None)
        if number is None:
            return None
        (job.folder / worker.COMMAND_FILE).unlink(missing_ok=True)  # an earlier driver's
        self._check.skip()
        self._sent[JobHandle(name)] = SubmittedJob(job, number)
        log.info("%s: SLURM job %s", job.folder.name, number)
        return JobHandle(name)

    def poll(self, handle: JobHandle) -> JobEnd | None:
        self._look()
        end = self._sent[handle].end
        if end is not None:
            del self._sent[handle]
        return end

    def stop(self, handle: JobHandle) -> None:
        self._order(self._sent[handle], "stop")

    def kill(self, handle: JobHandle) -> None:
        sent = self._sent[handle]
        self._order(sent, "kill")
        sent.force_at = sent.force_at or time.monotonic() + FORCE_SECONDS

    def _order(self, sent: SubmittedJob, what: worker.WorkerCommand) -> None:
        if sent.wanted in (what, "kill"):
            return
        sent.wanted = what
        worker.send_command(sent.job, what)
        if sent.id is not None:
            cancel("--state=PENDING", sent.id)
        self._next_look = 0.0

    def _send(self, sent: SubmittedJob) -> None:
        try:
            sent.id = sbatch(self.folder, self.asked, name_of(sent.job), Task(sent.job, self.asked.notice))
            log.info("%s: SLURM job %s", sent.job.folder.name, sent.id)
        except Refused as error:
            sent.again_at = time.monotonic() + AGAIN_SECONDS
            log.warning("%s: %s; asked again in %s", sent.job.folder.name, error, format_duration(AGAIN_SECONDS))

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + SQUEUE_SECONDS
        self._queue = read_queue()
        for sent in self._sent.values():
            sent.end = self._end_of(sent)
            if sent.id is None and sent.end is None and time.monotonic() > sent.again_at:
                self._send(sent)
            if sent.id is not None and sent.force_at is not None and time.monotonic() > sent.force_at:
                cancel(sent.id)

    def _end_of(self, sent: SubmittedJob) -> JobEnd | None:
        as_wanted = JobEnd(-signal.SIGKILL if sent.wanted == "kill" else -signal.SIGTERM) if sent.wanted else None
        if sent.id is None:
            return as_wanted
        if (result := result_of(self.folder, sent.id)) is not None:
            outcome, value = result
            return (
                JobEnd(*value)
                if outcome == "success"
                else JobEnd(EXIT_FAILED, f"SLURM job {sent.id}: {last_line(value)}")
            )
        if self._queue is None or sent.id in self._queue:
            sent.missing_since = None
            return None
        sent.missing_since = sent.missing_since or time.monotonic()
        if as_wanted or time.monotonic() < sent.missing_since + LOST_SECONDS:
            return as_wanted
        return JobEnd(-signal.SIGKILL, f"SLURM job {sent.id} left the queue{last_words(self.folder, sent.id)}")


class ClusterCheck:
    """A job that looks whether a node sees what the driver writes, and can run its Python. Not asked of a search twice.

    Args:
        folder: Where submitit's files go.
    """

    def __init__(self, folder: Path, asked: SlurmOptions) -> None:
        self.folder, self.asked = folder, replace(asked, minutes=CHECK_MINUTES)
        self._is_passed = False
        self._id: str | None = None
        self._token = secrets.token_hex(8)
        self._missing_since: float | None = None
        self._next_look = 0.0

    def skip(self) -> None:
        """Take it as passed: nodes do work on runs."""
        self._is_passed = True

    def is_passed(self) -> bool:
        """Whether the job has come back.

        Raises:
            UserError: sbatch refused it, or it came back without the token.
        """
        passed = self.folder / "checked.json"  # for what was asked then
        if self._is_passed or (self._id is None and passed.exists() and read_json(passed) == asdict(self.asked)):
            return True
        if self._id is None:
            self._send()
        elif time.monotonic() > self._next_look and self._has_come_back(self._id):
            self._is_passed = True
            write_json(passed, asdict(self.asked))
            atexit.unregister(cancel)
        return self._is_passed

    def _send(self) -> None:
        token = self.folder / "token"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(token, self._token)
        try:
            self._id = sbatch(self.folder, self.asked, "retort-check", worker.check_token, token)
        except Refused as error:
            raise UserError(f"--engine slurm: {error}") from None
        atexit.register(cancel, self._id)
        log.info("SLURM job %s looks whether a node sees %s", self._id, self.folder.parent)

    def _has_come_back(self, number: str) -> bool:
        self._next_look = time.monotonic() + SQUEUE_SECONDS
        queue = read_queue()
        if (result := result_of(self.folder, number)) is not None:
            outcome, value = result
            if (outcome, value) == ("success", self._token):
                return True
            raise UserError(f"SLURM job {number} cannot do what the search needs: {last_line(value)}; {SHARED}")
        if queue is None or number in queue:
            self._missing_since = None
            return False
        self._missing_since = self._missing_since or time.monotonic()
        if time.monotonic() > self._missing_since + LOST_SECONDS:
            raise UserError(f"SLURM job {number} left the queue{last_words(self.folder, number)}; {SHARED}")
        return False


def name_of(job: Job) -> str:
    """The name by which a job is found again: of its folder."""
    folder = job.folder.resolve()
    shown = re.sub(r"[^\w.+-]", "_", folder.name, flags=re.ASCII)[:60]
    return f"{shown}-{hashlib.sha256(str(folder).encode()).hexdigest()[:10]}"
