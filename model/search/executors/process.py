"""A job's command as a process of this machine, tied to the one that started it and ended when it takes too long."""

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

# The command ends with us. On other systems it goes on without us, and the next call waits for it.
TIED = (sys.executable, "-IS", str(Path(__file__).with_name("die_with_parent.py"))) if sys.platform == "linux" else ()

POLL_SECONDS = 0.05


class Process:
    """A job that is going.

    Args:
        environment: Variables that it gets beside ours.

    Raises:
        OSError: The command or the log cannot be opened.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        # A run is tied to the thread that started it, and the main thread ends last.
        assert threading.current_thread() is threading.main_thread()
        tied = (*TIED, str(os.getpid())) if TIED else ()
        with job.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*tied, *job.whole_command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which then stops its runs
            )
        self.job = job
        self._stop_at = math.inf if job.time_limit is None else time.monotonic() + job.time_limit
        self._kill_at = math.inf
        self._is_told = False
        self._why: str | None = None

    @property
    def number(self) -> int:
        """The process's, and that of its group."""
        return self._process.pid

    def poll(self) -> JobEnd | None:
        """How it ended, or None; what takes too long is ended here, so this must be called now and then."""
        status = self._process.poll()
        if status is not None:
            return JobEnd(status, self._why)
        now = time.monotonic()
        if now > self._stop_at:
            assert self.job.time_limit is not None
            self._stop_at = math.inf
            self._why = f"it took longer than {format_duration(self.job.time_limit)}"
            self.stop(within=self.job.grace)
        elif now > self._kill_at:
            self._why = self._why or "it was told to save and end, and did not"
            self.kill()
        return None

    def stop(self, *, within: float | None = None) -> None:
        """Ask it to save and end; it is killed when it has not, so many seconds later."""
        if not self._is_told:
            # The run alone: its data-loading processes must live until it has finished its step and saved.
            self._process.terminate()
        self._is_told = True
        if within is not None:
            self._kill_at = min(self._kill_at, time.monotonic() + within)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Have it ended, be it by force, and wait for that."""
        if self.poll() is None:
            self.stop(within=self.job.grace)
        while self.poll() is None:
            time.sleep(POLL_SECONDS)
