"""Errors with their exit statuses, and the wording of error messages: hints, previews, pydantic's errors."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

EXIT_DONE, EXIT_FAILED, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 75  # 75 is EX_TEMPFAIL: run the same command to go on
READ_WITHOUT_WORKERS = 'with "num_workers": 0 in "dataset" the training process reads the images itself'


class UserError(Exception):
    """A mistake of the user: shown as one line, exit status 2."""


class OptionError(UserError):
    """A wrong value in params.json; `key` is its dotted path, to which callers add the keys above it."""

    def __init__(self, key: str, message: str) -> None:
        self.key, self.message = key, message
        super().__init__(f"{key}: {message}" if key else message)

    def with_parent(self, parent: str) -> OptionError:
        """The same error with `parent` put before its key."""
        return OptionError(f"{parent}.{self.key}" if self.key else parent, self.message)


@contextmanager
def option_scope(parent: str) -> Iterator[None]:
    """Put `parent` before the key of every OptionError that the block raises."""
    try:
        yield
    except OptionError as error:
        raise error.with_parent(parent) from None


class Stopped(Exception):
    """A signal stopped the run after it saved a checkpoint. Exit status 75."""


class RunFailed(Exception):
    """A run failed for a reason that fits one line, such as a loss that is not finite. Exit status 1."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to append to a message: `, did you mean "kd"?`, or nothing if no known name is similar."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f', did you mean "{match[0]}"?' if match else ""


def option_error(error: ValidationError, value: Any, model: type[BaseModel] | None = None) -> OptionError:
    """The first of pydantic's errors: the key, what is allowed, what came, and how many other keys are wrong.

    Args:
        error: What the validation of `value` raised.
        value: What the user wrote. The message names its keys, even if a validator converted it to another form.
        model: The model that validated `value`, if any: its fields are the known keys. A model may describe itself in
            `expected_form`; by default it is "an object".
    """
    # A misspelt key is also missing under its right name; the unknown key is the better message.
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    keys = [_written_key(detail, value) for detail in details]
    same_key = [detail for detail, key in zip(details, keys, strict=True) if key == keys[0]]
    # A location that is no key is inside one member of a union; the value may match another member.
    others = {key for detail, key in zip(details, keys, strict=True) if key == _dotted(detail["loc"])} - {keys[0]}
    more = f" (and {len(others)} more)" if others else ""
    return OptionError(keys[0], f"{_describe(same_key, model)}{more}")


def _dotted(parts: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in parts)


def _written_key(detail: ErrorDetails, value: Any) -> str:
    """The dotted key of an error in `value`: its location without the parts that `value` does not contain.

    Those are the names of union members, and keys that a validator adds to a short form.
    """
    parts: list[int | str] = []
    for part in detail["loc"]:
        if not isinstance(value, str):  # whose characters are no keys
            with suppress(LookupError, TypeError):
                value = value[part]
                parts.append(part)
    return _dotted([*parts, detail["loc"][-1]] if _is_missing_key(detail) else parts)


def _is_missing_key(detail: ErrorDetails) -> bool:
    """Whether a key is missing, not a value of a list of fixed length."""
    return detail["type"] == "missing" and isinstance(detail["loc"][-1], str)


def _describe(details: Sequence[ErrorDetails], model: type[BaseModel] | None) -> str:
    """What is wrong with one key; several errors are those of a union's members."""
    first = details[0]
    kind, location, came = first["type"], first["loc"], preview(first["input"])
    if kind == "extra_forbidden":
        known = [key for owner in _models_at(model, location[:-1]) for key in owner.model_fields]
        return f"unknown key{did_you_mean(str(location[-1]), known)}; known: {', '.join(dict.fromkeys(known))}"
    if kind == "missing":
        return "this key is needed" if _is_missing_key(first) else f"has too few values, got {came}"
    if kind == "value_error":
        return str(first["ctx"]["error"])  # raised by a validator of ours: a complete message
    if kind == "too_short":
        return "is empty"
    if kind in ("dict_type", "model_type"):
        owners = _models_at(model, location) if kind == "model_type" else []
        forms = dict.fromkeys(getattr(owner, "expected_form", "an object") for owner in owners)
        return f"should be {', or '.join(forms) or 'an object'}, got {came}"
    message = " or ".join(dict.fromkeys(detail["msg"].removeprefix("Input should be ") for detail in details))
    if first["msg"].startswith("Input should be "):
        message = f"should be {message}"
    choices = re.findall(r"'(.*?)'", message) if any(detail["type"] == "literal_error" for detail in details) else ()
    return f"{message[0].lower()}{message[1:]}, got {came}{did_you_mean(str(first['input']), choices)}"


def _models_at(model: type[BaseModel] | None, location: Iterable[int | str]) -> list[type[BaseModel]]:
    """The model at a location; several if a field is a union of models."""
    models = [] if model is None else [model]
    for part in location:
        fields = [outer.model_fields[str(part)] for outer in models if part in outer.model_fields]
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    members = get_args(annotation)
    if members:
        return [model for member in members for model in _models_in(member)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def preview(value: Any) -> str:
    """A value as JSON, cut after 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def first_sentence(error: Exception) -> str:
    """The first sentence of a library's error message."""
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__


def last_line(text: str) -> str:
    """The last line of a traceback or of a program's error output."""
    return text.strip().rpartition("\n")[2]


def lost_worker(error: RuntimeError) -> str | None:
    """What to tell where the error is torch's for a process that read images and died.

    torch raises it in whatever code runs at that moment.
    """
    if not str(error).startswith("DataLoader worker"):
        return None
    return f"{first_sentence(error)}: memory may be too small; {READ_WITHOUT_WORKERS}"


def exit_status(error: BaseException) -> int:
    """The exit status of a script that ends with this exception."""
    if isinstance(error, (UserError, PermissionError)):
        return EXIT_USER
    return EXIT_STOPPED if isinstance(error, (Stopped, KeyboardInterrupt)) else EXIT_FAILED
