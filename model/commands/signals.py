"""How a run ends: stop signals, errors in one line, and the state in run.json."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ..config.folder import Folder
from ..errors import RunFailed, Stopped, UserError, lost_worker
from ..logs import log
from ..training.distributed import is_peer_lost

OUT_OF_CPU_MEMORY = "DefaultCPUAllocator: "  # torch's RuntimeError of it


@contextmanager
def recording_end(folder: Folder) -> Iterator[None]:
    """Write into run.json how the block ended."""
    try:
        with one_line_errors(folder):
            yield
    except Stopped:
        folder.update_run(state="stopped")
        log.info("%s: stopped and saved; run the same command to resume", folder.name)
        raise
    except (UserError, RunFailed) as error:
        record_failure(folder, str(error))
        raise
    except Exception as error:
        log.error("%s", traceback.format_exc())
        record_failure(folder, f"{type(error).__name__}: {error}".splitlines()[0])
        raise


@contextmanager
def one_line_errors(folder: Folder) -> Iterator[None]:
    """Turn errors of the machine into one line: no permission, a full disk, no memory, a process that died."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{folder.name}: cannot write to this folder ({error.filename}: {error.strerror})") from error
    except MemoryError as error:
        raise RunFailed(f"{folder.name}: not enough memory") from error
    except (OSError, torch.OutOfMemoryError) as error:
        raise RunFailed(f"{folder.name}: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        if OUT_OF_CPU_MEMORY in str(error):
            raise RunFailed(f"{folder.name}: not enough memory (a smaller batch_size takes less)") from error
        if (lost := lost_worker(error)) is not None:
            raise RunFailed(f"{folder.name}: {lost}") from error
        if not is_peer_lost(error):
            raise
        raise RunFailed(f"{folder.name}: another process of the run has ended") from error


def record_failure(folder: Folder, reason: str) -> None:
    log.error("%s: failed: %s", folder.name, reason)
    folder.update_run(state="failed", error=reason)


class StopSignals:
    """Handlers of SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 while a folder is worked on.

    While the run is prepared they end it at once, as nothing is lost. In the training loop, which reads `received`
    after every step, they let the step finish and be saved; a second Ctrl-C ends the run at once. The others have no
    further effect the second time: a cluster may signal both a job and all processes that it has started.

    Args:
        torchrun: Whether torchrun supervises the processes of the run. It signals all of them, and once more when one
            has exited: a second signal has no meaning then, and torchrun itself kills those that take too long.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, *, torchrun: bool = False) -> None:
        self.torchrun, self.received = torchrun, False
        self._deferred = False

    def __enter__(self) -> StopSignals:
        self._previous = {number: signal.signal(number, self._handle) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that reads `received` itself."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received and (self.torchrun or number != signal.SIGINT):
            return
        if self.received or not self._deferred:
            self.received = True
            raise Stopped("nothing is lost; run the same command to resume")
        self.received = True
        log.info("%s: saving, then stopping", signal.Signals(number).name)
