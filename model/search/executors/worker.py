"""What a node of a cluster does with a job, and how the driver reaches it there: by files in the run's folder.

The cluster's own signals are for the cluster: what they mean differs from site to site, and some reach the job's
process alone, others all that it has started.
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

COMMAND_FILE = ".order"  # what the driver wants of the job
NODE_FILE = "node.json"  # where the job is being done; there only while it is
LOOK_SECONDS = 0.5

WorkerCommand = Literal["stop", "kill"]


def send_command(job: Job, what: WorkerCommand) -> None:
    """Have a job stop or be killed, wherever it is, and also if it has yet to begin."""
    with suppress(OSError):  # the disk is full; then it ends as one that does not follow
        write_text(job.folder / COMMAND_FILE, what)


def read_command(job: Job) -> str | None:
    """What the driver wants of a job."""
    try:
        return (job.folder / COMMAND_FILE).read_text()
    except FileNotFoundError:
        return None


def clear_commands(job: Job) -> None:
    """Remove what an earlier job of this folder left behind."""
    (job.folder / COMMAND_FILE).unlink(missing_ok=True)
    (job.folder / NODE_FILE).unlink(missing_ok=True)


def is_running(job: Job) -> bool:
    """Whether a node works on a job."""
    return (job.folder / NODE_FILE).exists()


def run_job(
    job: Job, environment: Mapping[str, str], *, name: str, is_wanted_back: Callable[[], bool] = lambda: False
) -> JobEnd:
    """Bring a job to its end on this machine, and follow orders meanwhile.

    Args:
        name: The cluster's for it.
        environment: Variables that the command gets beside ours.
        is_wanted_back: Whether the cluster wants this node back; then the job has to save and end.
    """
    folder = Folder(job.folder)
    process: Process | None = None
    next_look = 0.0
    try:
        write_json(job.folder / NODE_FILE, {"job": name, "host": socket.gethostname(), "process": os.getpid()})
        while True:
            if process is not None and (end := process.poll()) is not None:
                return end
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_SECONDS
                wanted = read_command(job)
                if process is not None:
                    _follow(wanted, process)
                elif wanted or is_wanted_back():
                    return JobEnd(-signal.SIGTERM)
                elif not folder.is_busy():  # an attempt that was killed may be saving still
                    process = Process(job, environment)
            if process is not None and is_wanted_back():
                process.stop(within=job.grace)
            time.sleep(POLL_SECONDS)
    finally:
        if process is not None:
            process.end()  # only where this is interrupted itself
        (job.folder / NODE_FILE).unlink(missing_ok=True)


def _follow(wanted: str | None, process: Process) -> None:
    if wanted == "stop":
        process.stop()
    elif wanted == "kill":
        process.kill()


def check_token(path: Path) -> str:
    """What a file holds, read by a node that may not see it."""
    return path.read_text()
