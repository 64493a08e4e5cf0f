"""What every part needs and no model knows: users' errors, JSON files, logs, locks, checkpoint files.

Nothing here imports torch until a checkpoint is written or read, so tools that only look at folders start at once.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

EXIT_DONE, EXIT_FAILED, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 75  # 75 is EX_TEMPFAIL: run the same command to go on

log = logging.getLogger("retort")


# Errors -------------------------------------------------------------------------------------------------------------


class UserError(Exception):
    """The user's mistake: shown as one line, exit status 2."""


class OptionError(UserError):
    """A wrong value in params.json; `key` is its dotted path, completed by whoever knows more of it."""

    def __init__(self, key: str, message: str) -> None:
        self.key, self.message = key, message
        super().__init__(f"{key}: {message}" if key else message)

    def under(self, parent: str) -> OptionError:
        """The same error with the path's parent put before it."""
        return OptionError(f"{parent}.{self.key}" if self.key else parent, self.message)


@contextmanager
def under(parent: str) -> Iterator[None]:
    """A block whose OptionErrors are about values below `parent`."""
    try:
        yield
    except OptionError as error:
        raise error.under(parent) from None


class Stopped(Exception):
    """A signal asked the run to stop; everything is saved. Exit status 75."""


class RunFailed(Exception):
    """A run broke for a reason that one line explains, such as a loss that is not finite. Exit status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: `, did you mean "kd"?`, or nothing where no known name is near."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f', did you mean "{match[0]}"?' if match else ""


def wrong_value(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in the user's words: what is allowed, and what came."""
    came, kind = error["input"], error["type"]
    if kind == "too_short":
        return "is empty"
    if kind == "missing":  # in a list of fixed length
        return f"has too few values, got {shown(came)}"
    if kind in ("dict_type", "model_type"):
        return f"should be an object, got {shown(came)}"
    message = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    near = nearest(str(came), re.findall(r"'(.*?)'", message)) if kind == "literal_error" else ""
    return f"{message[0].lower()}{message[1:]}, got {shown(came)}{near}"


def shown(value: Any) -> str:
    """A value as it would stand in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def first_sentence(error: Exception) -> str:
    """What a library's error says before it goes into detail."""
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__


def last_line(text: str) -> str:
    """What a traceback, or a program's complaint, comes to."""
    return text.strip().rpartition("\n")[2]


def status_of(error: BaseException) -> int:
    """The exit status that an exception stands for."""
    if isinstance(error, (UserError, PermissionError)):
        return EXIT_USER
    return EXIT_STOPPED if isinstance(error, (Stopped, KeyboardInterrupt)) else EXIT_FAILED


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's main function and turn its exceptions into messages and exit statuses."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_USER
    except PermissionError as error:
        print(f"error: {error.filename}: permission denied", file=sys.stderr)
        status = EXIT_USER
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        status = EXIT_FAILED
    except (Stopped, KeyboardInterrupt) as error:
        print(f"stopped: {str(error) or 'run the same command to go on'}", file=sys.stderr)
        status = EXIT_STOPPED
    except BrokenPipeError:  # the reader of a table, such as `head`, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_DONE
    sys.exit(status)


# Files --------------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block ends well, so that no reader sees half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide results from a group that shares a cluster
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def with_part(text: str, begin: str, end: str, part: str) -> str:
    """A text in which a part, made by a program, stands in a paragraph of its own between two marks."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{part}\n{end}{after}"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: The file is missing, unreadable or no JSON; the message has the line and column.
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _no_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'the key "{key}" stands twice')
        result[key] = value
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a JSON-lines file; a last line that is cut short is left out; no file is no rows."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


# Checkpoint files ---------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that a reader never sees half a file."""
    import torch

    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it.

    Beside tensors and plain values, NumPy's float64 numbers and command-line arguments are read: published teachers
    come with the state of their optimizer, whose learning rate is such a number, and with the arguments of their run.

    Raises:
        UserError: The file is missing, cut short, or holds more than that.
    """
    import argparse
    import pickle

    import numpy as np
    import torch

    number = np.float64(0).__reduce__()[0]  # what a pickled number is made with again
    allowed: list[Any] = [
        *((number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # NumPy 1's name, and NumPy 2's
        *(np.dtype, np.dtypes.Float64DType, argparse.Namespace),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than tensors and plain values, or is no checkpoint: not loaded") from None
    except Exception as error:  # a broken file makes the reader raise almost anything
        reason = first_sentence(error)
        raise UserError(f"{path}: cannot be read, it may be cut short ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return content


# Logs ---------------------------------------------------------------------------------------------------------------


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Send the log to the terminal and append it to a file; both end with the block.

    Nested blocks write to their own file only: a teacher that is trained first does not fill its student's log.
    """
    handlers: list[logging.Handler] = [_TerminalHandler()]
    if path is not None:
        handlers.append(logging.FileHandler(path, mode="a", encoding="utf-8"))
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


class _TerminalHandler(logging.Handler):
    """Writes through tqdm, so that a log line does not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as a person says them: "45 s", "12 min", "1 h 32 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def size_of(num_bytes: int) -> str:
    """Bytes as a person says them: "512 B", "1.6 GB"; a GB is 10^9 bytes."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} B"
