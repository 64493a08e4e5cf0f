"""How a run ends: what signals do, and what run.json says of it."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ..config.folder import Folder
from ..errors import RunFailed, Stopped, UserError
from ..logs import log
from ..training.distributed import is_peer_lost


@contextmanager
def recording_the_end(folder: Folder) -> Iterator[None]:
    """Write into run.json how the block ended."""
    try:
        with trouble_in_one_line(folder):
            yield
    except Stopped:
        folder.update_run(state="stopped")
        log.info("%s: stopped and saved; run the same command to go on", folder.name)
        raise
    except (UserError, RunFailed) as error:
        record_failure(folder, str(error))
        raise
    except Exception as error:
        log.error("%s", traceback.format_exc())
        record_failure(folder, f"{type(error).__name__}: {error}".splitlines()[0])
        raise


@contextmanager
def trouble_in_one_line(folder: Folder) -> Iterator[None]:
    """Turn what the machine does to us into one line: no permission, a full disk, no memory, a process that died."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{folder.name}: cannot write to this folder ({error.filename}: {error.strerror})") from error
    except (OSError, torch.OutOfMemoryError) as error:
        raise RunFailed(f"{folder.name}: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        if not is_peer_lost(error):
            raise
        raise RunFailed(f"{folder.name}: another process of the run has ended") from error


def record_failure(folder: Folder, reason: str) -> None:
    log.error("%s: failed: %s", folder.name, reason)
    folder.update_run(state="failed", error=reason)


class StopSignals:
    """What SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 do while a folder is worked on.

    While the run is being made ready they end it at once, as nothing is lost. In the training loop, which asks
    `received` after every step, they let the step end and be saved; a second Ctrl-C ends the run at once. The others
    say no more the second time: a cluster may tell both a job and all that it has started.

    Args:
        together: Whether torchrun looks after the processes of the run. It sends a signal to all of them, and one more
            when one has ended: the second one means nothing, and torchrun itself ends those that take too long.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, *, together: bool = False) -> None:
        self.together, self.received = together, False
        self._deferred = False

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that asks for itself whether a signal came."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received and (self.together or number != signal.SIGINT):
            return
        if self.received or not self._deferred:
            self.received = True
            raise Stopped("nothing is lost; run the same command to go on")
        self.received = True
        log.info("%s: saving, then stopping", signal.Signals(number).name)
