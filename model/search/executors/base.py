"""What the driver asks of a place where runs are done: local.py, on_ray.py and slurm.py are some.

The run's folder is the only channel between driver and run: an engine starts a command and says how it ended, and knows
nothing of epochs or accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NewType, Protocol

from ...config.folder import Folder

JobHandle = NewType(
    "JobHandle", str
)  # a name that another driver can still make sense of: a process, a job of a cluster

GRACE_SECONDS = 120.0  # for a run to end its step and save; then it is killed


@dataclass(frozen=True)
class Job:
    """A command that brings the run of one folder to its end.

    Args:
        when_new: Options that are added as long as no run has begun in the folder: an attempt that follows one that
            was killed must not begin anew, whoever starts it.
        time_limit: Seconds after which it is stopped and counts as failed; counted from where it begins or goes on.
        grace: Seconds that it has to save before it is killed, once its time is over.
    """

    folder: Path
    command: tuple[str, ...]
    when_new: tuple[str, ...] = ()
    time_limit: float | None = None
    grace: float = GRACE_SECONDS

    @property
    def log(self) -> Path:
        """Where everything that the command prints is appended."""
        return self.folder / "stdout.log"

    def whole_command(self) -> tuple[str, ...]:
        """What is to be started now."""
        return self.command if Folder(self.folder).run.exists() else (*self.command, *self.when_new)


class JobEnd(NamedTuple):
    """How a job ended.

    Args:
        status: Its exit status; minus the signal's number where one killed it.
        why: What the engine did to it, or what became of it, if that is why it ended: it failed, whatever its status.
    """

    status: int
    why: str | None = None


class Executor(Protocol):
    """Does jobs, so many at once."""

    @property
    def at_once(self) -> int:
        """How many jobs, at most."""

    @property
    def threads(self) -> int:
        """How many each job has."""

    def describe(self) -> str:
        """How many jobs at once, and with what: one line of the plan."""

    def has_room(self) -> bool:
        """Whether one more job would be taken now.

        Raises:
            UserError: None ever would be, as somebody asked for what this place does not have.
        """

    def submit(self, job: Job) -> JobHandle:
        """Start a job, or put it into the cluster's queue.

        Raises:
            OSError: The command or the log cannot be opened.
        """

    def attach(self, job: Job) -> JobHandle | None:
        """The job that an earlier driver submitted for this folder, where jobs outlive drivers and it has not ended."""

    def poll(self, handle: JobHandle) -> JobEnd | None:
        """How a job ended, or None as long as it has not.

        A job whose end was told is forgotten.
        """

    def stop(self, handle: JobHandle) -> None:
        """Ask a job to save and end; returns at once."""

    def kill(self, handle: JobHandle) -> None:
        """End a job at once, with all processes that it started."""
