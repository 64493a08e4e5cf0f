"""The worker of a cluster's job: runs it on a node, and stops or kills it when the driver commands so.

The driver's commands are files in the run's folder. Signals are left to the cluster: what they mean differs from site
to site, and some reach the job's process alone, others all that it has started.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ...config.folder import Folder
from ...files import write_json, write_text
from .base import Job, JobEnd
from .process import POLL_SECONDS, Process

PACKAGE_PARENT = Path(__file__).absolute().parents[3]  # holds this package: a checkout's root, or site-packages

COMMAND_FILE = ".order"  # the driver's command; jobs of earlier versions read the same name
NODE_FILE = "node.json"  # the node that runs the job; exists only meanwhile
COMMAND_POLL_SECONDS = 0.5

WorkerCommand = Literal["stop", "kill"]


def send_command(job: Job, command: WorkerCommand) -> None:
    """Have a job stop or be killed, on whichever node it is, and also if it has yet to begin."""
    with suppress(OSError):  # the disk is full; then the executor ends the job by force
        write_text(job.folder / COMMAND_FILE, command)


def read_command(job: Job) -> str | None:
    """The driver's last command to a job."""
    try:
        return (job.folder / COMMAND_FILE).read_text()
    except FileNotFoundError:
        return None


def clear_commands(job: Job) -> None:
    """Remove the files of an earlier job of the same folder."""
    (job.folder / COMMAND_FILE).unlink(missing_ok=True)
    (job.folder / NODE_FILE).unlink(missing_ok=True)


def is_running(job: Job) -> bool:
    """Whether a node runs a job."""
    return (job.folder / NODE_FILE).exists()


def run_job(
    job: Job, environment: Mapping[str, str], *, name: str, is_preempted: Callable[[], bool] = lambda: False
) -> JobEnd:
    """Run a job to its end on this node, or as far as the driver's commands let it.

    Args:
        environment: Variables that the command gets beside those of this process.
        name: What the cluster calls the job.
        is_preempted: Whether the cluster takes the node away; the job then has to save and exit.
    """
    folder = Folder(job.folder)
    process: Process | None = None
    next_poll = 0.0
    try:
        write_json(job.folder / NODE_FILE, {"job": name, "host": socket.gethostname(), "process": os.getpid()})
        while True:
            if process is not None and (end := process.poll()) is not None:
                return end
            if time.monotonic() >= next_poll:
                next_poll = time.monotonic() + COMMAND_POLL_SECONDS
                command = read_command(job)
                if process is not None:
                    apply_command(command, process)
                elif command or is_preempted():
                    return JobEnd(-signal.SIGTERM)
                elif not folder.is_busy():  # an attempt that was killed may still be saving
                    process = Process(job, environment)
            if process is not None and is_preempted():
                process.stop(kill_after=job.grace_seconds)
            time.sleep(POLL_SECONDS)
    finally:
        if process is not None:
            process.close()  # still running only where this worker is interrupted itself
        (job.folder / NODE_FILE).unlink(missing_ok=True)


def apply_command(command: str | None, process: Process) -> None:
    if command == "stop":
        process.stop()
    elif command == "kill":
        process.kill()


def read_token(path: Path) -> str:
    """The content of a file, read on a node that may not see it."""
    return path.read_text()
