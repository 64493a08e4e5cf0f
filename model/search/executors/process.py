"""A job's command as a process of this machine, which ends with its parent and is killed when it takes too long."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ...logs import format_duration
from .base import Job, JobEnd

# On other systems a command outlives its driver, and the next call waits for it.
DIE_WITH_PARENT = (
    (sys.executable, "-IS", str(Path(__file__).with_name("die_with_parent.py"))) if sys.platform == "linux" else ()
)

POLL_SECONDS = 0.05


class Process:
    """The running command of a job.

    Args:
        environment: Variables that it gets beside those of this process.

    Raises:
        OSError: The command or the log cannot be opened.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        # The command ends with the thread that started it, and the main thread ends last.
        assert threading.current_thread() is threading.main_thread()
        prefix = (*DIE_WITH_PARENT, str(os.getpid())) if DIE_WITH_PARENT else ()
        with job.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*prefix, *job.argv()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which then stops its runs
            )
        self.job = job
        self._stop_at = math.inf if job.time_limit is None else time.monotonic() + job.time_limit
        self._kill_at = math.inf
        self._is_terminated = False
        self._error: str | None = None

    @property
    def pid(self) -> int:
        """Also the ID of its process group."""
        return self._popen.pid

    def poll(self) -> JobEnd | None:
        """How it ended, or None. Enforces the time limit and the grace period, so it must be called regularly."""
        status = self._popen.poll()
        if status is not None:
            return JobEnd(status, self._error)
        now = time.monotonic()
        if now > self._stop_at:
            assert self.job.time_limit is not None
            self._stop_at = math.inf
            self._error = f"time limit of {format_duration(self.job.time_limit)} exceeded"
            self.stop(kill_after=self.job.grace_seconds)
        elif now > self._kill_at:
            self._error = self._error or "did not exit after SIGTERM"
            self.kill()
        return None

    def stop(self, *, kill_after: float | None = None) -> None:
        """Send SIGTERM, upon which a run saves and exits; kill it when it has not after a number of seconds."""
        if not self._is_terminated:
            # The run alone: its data-loading processes must live until it has finished its step and saved.
            self._popen.terminate()
        self._is_terminated = True
        if kill_after is not None:
            self._kill_at = min(self._kill_at, time.monotonic() + kill_after)

    def kill(self) -> None:
        """Kill it with all processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop it and wait for its end; kill it after the grace period."""
        if self.poll() is None:
            self.stop(kill_after=self.job.grace_seconds)
        while self.poll() is None:
            time.sleep(POLL_SECONDS)
