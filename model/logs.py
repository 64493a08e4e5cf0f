"""The log of a run, and the format of durations and sizes in it."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

log = logging.getLogger("retort")


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Send log records of the block to the terminal and append them to a file.

    A nested block logs to its own file only: the log of a teacher that is trained first is not part of its student's.
    """
    handlers: list[logging.Handler] = [_TerminalHandler()]
    if path is not None:
        handlers.append(logging.FileHandler(path, mode="a", encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    outer, log.handlers = log.handlers, handlers
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.handlers = outer
        for handler in handlers:
            handler.close()


class ProgressBar(tqdm):  # type: ignore[misc]
    """A bar on a terminal, removed at its end; nothing at all where stderr is a file or a pipe."""

    monitor_interval = 0  # no thread of its own: a search's driver starts processes

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        super().__init__(iterable, disable=not sys.stderr.isatty(), **{"leave": False} | options)


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Keep the progress bars of other libraries, as of a download, out of a stderr that is no terminal."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(_WithoutBars(sys.stderr)):
        yield


class _WithoutBars(io.TextIOBase):
    """Passes text on, but for bars: they begin with a carriage return, and end with a line break of their own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_after_bar = stream, False

    def write(self, text: str) -> int:
        is_bar = text.startswith("\r") or (self._is_after_bar and text in ("", "\n"))
        self._is_after_bar = is_bar and text != "\n"
        if not is_bar:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


class _TerminalHandler(logging.Handler):
    """Writes through tqdm, so that a log line does not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def format_duration(seconds: float) -> str:
    """Seconds as text: "45 s", "12 min", "1 h 32 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(num_bytes: int) -> str:
    """Bytes as text with decimal units: "512 B", "1.6 GB"."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} B"
