"""Errors and exit statuses: what a user's mistake, a failed run and a stopped one are."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

EXIT_DONE, EXIT_FAILED, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 75  # 75 is EX_TEMPFAIL: run the same command to go on


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
def option_scope(parent: str) -> Iterator[None]:
    """A block whose OptionErrors are about values below `parent`."""
    try:
        yield
    except OptionError as error:
        raise error.under(parent) from None


class Stopped(Exception):
    """A signal asked the run to stop; everything is saved. Exit status 75."""


class RunFailed(Exception):
    """A run broke for a reason that one line explains, such as a loss that is not finite. Exit status 1."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a message: `, did you mean "kd"?`, or nothing where no known name is near."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f', did you mean "{match[0]}"?' if match else ""


def describe_pydantic_error(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in the user's words: what is allowed, and what came."""
    came, kind = error["input"], error["type"]
    if kind == "too_short":
        return "is empty"
    if kind == "missing":  # in a list of fixed length
        return f"has too few values, got {preview(came)}"
    if kind in ("dict_type", "model_type"):
        return f"should be an object, got {preview(came)}"
    message = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    near = did_you_mean(str(came), re.findall(r"'(.*?)'", message)) if kind == "literal_error" else ""
    return f"{message[0].lower()}{message[1:]}, got {preview(came)}{near}"


def preview(value: Any) -> str:
    """A value as it would stand in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def first_sentence(error: Exception) -> str:
    """What a library's error says before it goes into detail."""
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__


def last_line(text: str) -> str:
    """What a traceback, or a program's complaint, comes to."""
    return text.strip().rpartition("\n")[2]


def exit_status(error: BaseException) -> int:
    """The exit status that an exception stands for."""
    if isinstance(error, (UserError, PermissionError)):
        return EXIT_USER
    return EXIT_STOPPED if isinstance(error, (Stopped, KeyboardInterrupt)) else EXIT_FAILED
