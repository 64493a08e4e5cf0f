"""The interface between the search's driver and an executor: local.py, ray.py and slurm.py implement it.

The run's folder is the only channel between driver and run: an executor starts a command and reports how it ended. It
knows nothing of epochs or accuracies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NewType, Protocol

from ...config.folder import Folder

GRACE_SECONDS = 120.0  # for a run to finish its step and save after SIGTERM; then it is killed

JobHandle = NewType("JobHandle", str)  # the job's key in its executor


@dataclass(frozen=True)
class Job:
    """A command that runs one folder's experiment to its end.

    Args:
        options_if_new: Added to the command as long as no run has begun in the folder. `--restart` is one: an attempt
            that follows a killed one must not start over, whoever starts it.
        time_limit: Seconds after which it is stopped and counts as failed; counted anew by each attempt.
        grace_seconds: Time to save between SIGTERM and SIGKILL, once the time limit is exceeded.
    """

    folder: Path
    command: tuple[str, ...]
    options_if_new: tuple[str, ...] = ()
    time_limit: float | None = None
    grace_seconds: float = GRACE_SECONDS

    @property
    def log(self) -> Path:
        """The command's stdout and stderr are appended here."""
        return self.folder / "stdout.log"

    def argv(self) -> tuple[str, ...]:
        """The command as it has to be started now."""
        return self.command if Folder(self.folder).run.exists() else (*self.command, *self.options_if_new)


class JobEnd(NamedTuple):
    """How a job ended.

    Args:
        status: The exit status, or minus the number of the signal that killed it, as in `Popen.returncode`.
        error: Why the executor ended it, or how it was lost. The job then failed, whatever its status.
    """

    status: int
    error: str | None = None


class Executor(Protocol):
    """Executes jobs, a limited number at a time."""

    @property
    def max_jobs(self) -> int:
        """The number of jobs at a time, at most."""

    @property
    def threads_per_job(self) -> int:
        """The number of CPU threads that each job has."""

    def describe(self) -> str:
        """The number of jobs at a time and the resources of each: one line of the plan."""

    def can_submit(self) -> bool:
        """Whether one more job can be submitted now.

        Raises:
            UserError: No job can ever run with the requested resources.
        """

    def submit(self, job: Job) -> JobHandle:
        """Start a job, or put it into the cluster's queue.

        Raises:
            OSError: The command or the log cannot be opened.
        """

    def attach(self, job: Job) -> JobHandle | None:
        """The job that an earlier driver submitted for this folder, if jobs outlive drivers and it has not ended."""

    def poll(self, handle: JobHandle) -> JobEnd | None:
        """How a job ended, or None while it has not.

        The handle is invalid once this has returned a JobEnd.
        """

    def stop(self, handle: JobHandle) -> None:
        """Have a job save and exit; returns immediately."""

    def kill(self, handle: JobHandle) -> None:
        """Kill a job with all processes that it started."""


ExecutorFactory = Callable[[int], Executor]  # the number of runs -> their executor
