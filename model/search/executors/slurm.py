"""Runs as jobs of a SLURM cluster, one job per run, submitted by submitit.

Jobs belong to the cluster: they outlive the driver, and SLURM may take their nodes away and give them others. So the
queue is the truth. A job is identified by its name, which follows from the run's folder. How it ended is in the file
that submitit writes; a job that left the queue without one is lost.
"""

from __future__ import annotations

import atexit
import hashlib
import re
import secrets
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...errors import EXIT_FAILED, UserError, last_line
from ...files import read_intact, write_json, write_text
from ...logs import format_duration, log
from ...registry import EXECUTORS
from . import worker
from .base import Job, JobEnd, JobHandle
from .options import CPUS, ExecutorOption, positive_int
from .slurm_commands import (
    Queue,
    SbatchError,
    SlurmOptions,
    cancel,
    gpus_per_node,
    import_submitit,
    job_minutes,
    last_message,
    read_queue,
    read_result,
    sbatch,
    sbatch_flag,
)
from .slurm_task import SlurmTask

DEFAULT_JOBS = 32
SQUEUE_SECONDS = 3.0  # between two calls of squeue
RESULT_SECONDS = 30.0  # after a job has left the queue, for its result to appear on a shared file system
RESUBMIT_SECONDS = 60.0  # after sbatch rejected a job
KILL_SECONDS = 10.0  # for a node to kill a job on command; then SLURM kills it
CHECK_MINUTES = 5
COMPLETING = "COMPLETING"  # the state of a job that is ending
SHARED = "the search's folder, this package and its Python must be on a file system that all nodes share"


@dataclass
class SubmittedJob:
    """A job that was passed to sbatch.

    Args:
        id: SLURM's; None where sbatch rejected the job, which is then submitted again.
        resubmit_at: When that is.
        missing_since: When it was first seen to have left the queue without a result.
        command: The driver's last command to it.
        cancel_at: When SLURM is to kill it, as its node has not.
    """

    job: Job
    id: str | None = None
    resubmit_at: float = 0.0
    missing_since: float | None = None
    command: worker.WorkerCommand | None = None
    cancel_at: float | None = None
    end: JobEnd | None = None


@EXECUTORS.register("slurm")
class SlurmExecutor:
    """Jobs of SLURM.

    Args:
        folder: For submitit's files; all nodes must see it.
        options: Of each job.
        max_jobs: Jobs in the queue, pending or running.
    """

    OPTIONS = (
        ExecutorOption("jobs", positive_int, f"jobs in the queue at a time (default: {DEFAULT_JOBS})", "N"),
        CPUS,
        ExecutorOption("gpus", gpus_per_node, "GPUs per run, such as 1 or a100:1 (default: 1, or 0 on the CPU)", "N"),
        ExecutorOption("partition", str, "the partition of the jobs"),
        ExecutorOption(
            "time",
            job_minutes,
            "time limit of one job, in minutes or as D-HH:MM:SS; a run that takes longer is requeued and resumed",
            is_required=True,
        ),
        ExecutorOption(
            "sbatch", sbatch_flag, "a further option of sbatch, such as mem=16G", "KEY[=VALUE]", is_repeatable=True
        ),
    )

    def __init__(self, folder: Path, options: SlurmOptions, *, max_jobs: int) -> None:
        self.folder, self.options, self.max_jobs = folder.absolute(), options, max_jobs
        self._jobs: dict[JobHandle, SubmittedJob] = {}
        self._check = ClusterCheck(self.folder, options)
        self._queue: Queue | None = None
        self._next_poll = 0.0

    @classmethod
    def for_runs(
        cls,
        num_runs: int,
        *,
        search_dir: Path,
        time: int,
        device: str = "auto",
        jobs: int | None = None,
        cpus: int = 1,
        gpus: str | None = None,
        partition: str | None = None,
        sbatch: Sequence[tuple[str, str | bool]] = (),
    ) -> SlurmExecutor:
        """An executor for a number of runs.

        Args:
            search_dir: The search's folder; all nodes must see it.
            time: Time limit of one job, in minutes.
            device: As of train.py.
            jobs: Jobs in the queue at a time; by default DEFAULT_JOBS.
            cpus: Of each run.
            gpus: Of each run, as in SlurmOptions; by default one, unless `device` is "cpu".
            sbatch: Names and values of further options of sbatch, as in SlurmOptions.flags.
        """
        import_submitit()
        for command in ("sbatch", "squeue", "scancel"):
            if shutil.which(command) is None:
                raise UserError(f"--engine slurm: {command} not found; start the search on a login node")
        options = SlurmOptions(time, cpus, gpus or ("0" if device == "cpu" else "1"), partition, dict(sbatch))
        return cls(search_dir / ".slurm", options, max_jobs=max(1, min(jobs or DEFAULT_JOBS, num_runs)))

    @property
    def threads_per_job(self) -> int:
        return self.options.cpus

    def describe(self) -> str:
        return f"at most {self.max_jobs} SLURM jobs at a time, {self.options}"

    def can_submit(self) -> bool:
        return len(self._jobs) < self.max_jobs and self._check.is_passed()

    def submit(self, job: Job) -> JobHandle:
        worker.clear_commands(job)
        handle = JobHandle(job_name(job))
        self._jobs[handle] = SubmittedJob(job)
        self._sbatch(self._jobs[handle])
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        if self._queue is None:
            self._queue = read_queue()
        if self._queue is None:
            raise UserError("squeue failed, so it is unknown which runs are in SLURM's queue already")
        name = job_name(job)
        queued = [id_ for id_, (state, name_) in self._queue.items() if name_ == name and state != COMPLETING]
        # SLURM lists a job for a moment after its result was written.
        ids = [id_ for id_ in queued if read_result(self.folder, id_) is None]
        if not ids:
            return None
        (job.folder / worker.COMMAND_FILE).unlink(missing_ok=True)  # an earlier driver's
        self._check.skip()
        self._jobs[JobHandle(name)] = SubmittedJob(job, ids[0])
        log.info("%s: SLURM job %s", job.folder.name, ids[0])
        return JobHandle(name)

    def poll(self, handle: JobHandle) -> JobEnd | None:
        self._update()
        end = self._jobs[handle].end
        if end is not None:
            del self._jobs[handle]
        return end

    def stop(self, handle: JobHandle) -> None:
        self._send_command(self._jobs[handle], "stop")

    def kill(self, handle: JobHandle) -> None:
        submitted = self._jobs[handle]
        self._send_command(submitted, "kill")
        submitted.cancel_at = submitted.cancel_at or time.monotonic() + KILL_SECONDS

    def _send_command(self, submitted: SubmittedJob, command: worker.WorkerCommand) -> None:
        if submitted.command in (command, "kill"):
            return
        submitted.command = command
        worker.send_command(submitted.job, command)
        if submitted.id is not None:
            cancel("--state=PENDING", submitted.id)
        self._next_poll = 0.0

    def _sbatch(self, submitted: SubmittedJob) -> None:
        name = submitted.job.folder.name
        try:
            task = SlurmTask(submitted.job, self.options.signal_delay)
            submitted.id = sbatch(self.folder, self.options, job_name(submitted.job), task)
            log.info("%s: SLURM job %s", name, submitted.id)
        except SbatchError as error:
            submitted.resubmit_at = time.monotonic() + RESUBMIT_SECONDS
            log.warning("%s: %s; submitted again in %s", name, error, format_duration(RESUBMIT_SECONDS))

    def _update(self) -> None:
        """Read the queue, and do for each job what is due."""
        if time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + SQUEUE_SECONDS
        self._queue = read_queue()
        for submitted in self._jobs.values():
            submitted.end = self._read_end(submitted)
            if submitted.id is None and submitted.end is None and time.monotonic() > submitted.resubmit_at:
                self._sbatch(submitted)
            if submitted.id is not None and submitted.cancel_at is not None and time.monotonic() > submitted.cancel_at:
                cancel(submitted.id)

    def _read_end(self, submitted: SubmittedJob) -> JobEnd | None:
        requested = None  # the end of a job that the driver has stopped or killed before it had a result
        if submitted.command is not None:
            requested = JobEnd(-signal.SIGKILL if submitted.command == "kill" else -signal.SIGTERM)
        if submitted.id is None:
            return requested
        if (result := read_result(self.folder, submitted.id)) is not None:
            outcome, value = result
            if outcome == "success":
                return JobEnd(*value)
            return JobEnd(EXIT_FAILED, f"SLURM job {submitted.id}: {last_line(value)}")
        if self._queue is None or submitted.id in self._queue:
            submitted.missing_since = None
            return None
        submitted.missing_since = submitted.missing_since or time.monotonic()
        if requested or time.monotonic() < submitted.missing_since + RESULT_SECONDS:
            return requested
        return JobEnd(-signal.SIGKILL, lost_job(self.folder, submitted.id))


class ClusterCheck:
    """A job that checks whether a node can run this package and read what the driver writes. Done once per search.

    Args:
        folder: For submitit's files.
        options: Of the jobs; the check requests the same resources.
    """

    def __init__(self, folder: Path, options: SlurmOptions) -> None:
        self.folder, self.options = folder, replace(options, minutes=CHECK_MINUTES)
        self._is_passed = False
        self._job_id: str | None = None
        self._token = secrets.token_hex(8)
        self._missing_since: float | None = None
        self._next_poll = 0.0

    def skip(self) -> None:
        """Count it as passed: nodes are running jobs already."""
        self._is_passed = True

    def is_passed(self) -> bool:
        """Whether the check's job has ended, or an earlier one with the same options; submits it when first called.

        Raises:
            UserError: sbatch rejected it, or it failed.
        """
        record = self.folder / "checked.json"
        if self._is_passed or (self._job_id is None and read_intact(record) == asdict(self.options)):
            return True
        if self._job_id is None:
            self._submit()
        elif time.monotonic() > self._next_poll and self._has_ended(self._job_id):
            self._is_passed = True
            write_json(record, asdict(self.options))
            atexit.unregister(cancel)
        return self._is_passed

    def _submit(self) -> None:
        token = self.folder / "token"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(token, self._token)
        try:
            self._job_id = sbatch(self.folder, self.options, "retort-check", worker.read_token, token)
        except SbatchError as error:
            raise UserError(f"--engine slurm: {error}") from None
        atexit.register(cancel, self._job_id)
        log.info("SLURM job %s checks whether a node sees %s", self._job_id, self.folder.parent)

    def _has_ended(self, job_id: str) -> bool:
        self._next_poll = time.monotonic() + SQUEUE_SECONDS
        queue = read_queue()
        if (result := read_result(self.folder, job_id)) is not None:
            outcome, value = result
            if (outcome, value) == ("success", self._token):
                return True
            raise UserError(f"SLURM job {job_id} cannot execute runs: {last_line(value)}; {SHARED}")
        if queue is None or job_id in queue:
            self._missing_since = None
            return False
        self._missing_since = self._missing_since or time.monotonic()
        if time.monotonic() > self._missing_since + RESULT_SECONDS:
            raise UserError(f"{lost_job(self.folder, job_id)}; {SHARED}")
        return False


def lost_job(folder: Path, job_id: str) -> str:
    return f"SLURM job {job_id} left the queue without a result: {last_message(folder, job_id)}"


def job_name(job: Job) -> str:
    """The name that identifies a run's job in the queue: of its folder."""
    folder = job.folder.resolve()
    readable = re.sub(r"[^\w.+-]", "_", folder.name, flags=re.ASCII)[:60]
    return f"{readable}-{hashlib.sha256(str(folder).encode()).hexdigest()[:10]}"
