"""Files: atomic writes; JSON and JSON lines, read with one-line errors; paths that a user wrote."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError
from .logs import log

MAX_DEPTH = 100  # of JSON that a user writes: what walks through it is recursive

FileStamp = tuple[int, int, int] | None  # inode, size, time of the last change


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds, so that no reader sees half a file."""
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


def file_stamp(path: Path) -> FileStamp:
    """What differs where a file has been written again; None for one that is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8; bytes of a file's name that are no text, which Python holds as surrogates, as \\udce9."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file that a user may have written; it may begin with a byte order mark, as Windows writes it.

    Raises:
        UserError: The file is missing, unreadable or not valid JSON; the message has the line and column.
    """
    try:
        value = json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
        _refuse_deep(value)
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
    return value


def _no_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'the key "{key}" occurs twice')
        result[key] = value
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_deep(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError("is nested too deeply")


def read_intact(path: Path) -> dict[str, Any]:
    """The object in a JSON file that this program wrote; empty where there is none or, with a warning, a damaged one.

    A power cut can leave files that are empty or cut short.
    """
    try:
        return parse_object(path)
    except ValueError as error:
        _warn_once(f"{path} is damaged and left out: {error}")
        return {}


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def parse_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file that this program wrote; empty where there is no file.

    The NaN that a diverged run may have written is read.

    Raises:
        ValueError: The file cannot be read, or holds no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, got {type(value).__name__}")
    return value


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number: whole numbers may be too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file that this program wrote, up to the first damaged one, of which it warns."""
    rows, problem = parse_rows(path)
    if problem:
        _warn_once(f"{path} is damaged: {problem}")
    return rows


def parse_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a JSON-lines file up to the first damaged one, and what is wrong with that, if there is one.

    A last line without its end was cut short when its writer was killed, which is no damage.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    with suppress(ValueError, RecursionError):  # all at once, which is three times as fast
        parsed = json.loads(b"[" + b",".join(lines) + b"]")
        if len(parsed) == len(lines) and all(isinstance(row, dict) for row in parsed):
            return parsed, ""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            return rows, f"line {number} and those after it are left out" if line.endswith(b"\n") else ""
        rows.append(row)
    return rows, ""


def read_tail(path: Path, max_bytes: int) -> str:
    """The last lines of a text file, in as many bytes at most; empty where there is no file that can be read."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - max_bytes)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[2] if start else text


# Paths ----------------------------------------------------------------------------------------------------------------


def is_there(path: Path, kind: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether a path exists, or exists as a kind: `Path.is_dir`. One that is too long for the system does not."""
    try:
        return kind(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def first_existing(name: str, folders: Iterable[Path], kind: Callable[[Path], bool] = Path.exists) -> Path | None:
    """The path that a user wrote, in the first of some folders that has it; an absolute one is used as it is.

    `~` is expanded; where there is no such user, it is a name like any other.
    """
    paths = (folder / _expanded(name) for folder in folders)
    return next((path for path in paths if is_there(path, kind)), None)


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return Path(name)


def siblings(path: Path, kind: Callable[[Path], bool] = Path.exists) -> set[str]:
    """The names in the folder of a path, which may be missing; none where that cannot be listed."""
    try:
        return {entry.name for entry in path.parent.iterdir() if kind(entry)}
    except (OSError, ValueError):
        return set()
