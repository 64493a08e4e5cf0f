"""What the driver asks of a place where runs are done; model/search/local.py is one.

The run's folder is the only channel between driver and run: an engine starts a command and says how it ended, and knows
nothing of epochs or accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Protocol

Handle = NewType("Handle", str)  # a name that another driver can still make sense of: a process, a job of a cluster


@dataclass(frozen=True)
class Job:
    """A command that brings the run of one folder to its end."""

    folder: Path
    command: tuple[str, ...]

    @property
    def log(self) -> Path:
        """Where everything that the command prints is appended."""
        return self.folder / "stdout.log"


class Engine(Protocol):
    """Does jobs, so many at once."""

    def describe(self) -> str:
        """How many jobs at once, and with what: one line of the plan."""

    def has_room(self) -> bool:
        """Whether a job submitted now would start."""

    def submit(self, job: Job) -> Handle:
        """Start a job.

        Raises:
            OSError: The command or the log cannot be opened.
        """

    def poll(self, handle: Handle) -> int | None:
        """The exit status of a job that has ended (minus the signal's number where one killed it), else None.

        A job whose end was told is forgotten.
        """

    def stop(self, handle: Handle) -> None:
        """Ask a job to save and end; returns at once."""

    def kill(self, handle: Handle) -> None:
        """End a job at once, with all processes that it started."""
