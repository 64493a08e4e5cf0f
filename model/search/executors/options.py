"""The command-line options of all executors, and the executor that a command line selects.

An executor is a class registered in EXECUTORS. It declares its options, and its constructor takes their values:

    @EXECUTORS.register("slurm")
    class SlurmExecutor:
        OPTIONS = (CPUS, ExecutorOption("partition", str, "partition of the jobs"))

        @classmethod
        def for_runs(cls, num_runs, *, search_dir, device, cpus=1, partition=None): ...

An option of several executors is one option of the command line; the selected executor parses its text.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from ...errors import UserError
from ...registry import EXECUTORS
from .base import Executor, ExecutorFactory


@dataclass(frozen=True)
class ExecutorOption:
    """A command-line option of an executor.

    Args:
        name: Without dashes; the keyword argument of `for_runs`.
        parse: Converts the text; raises ArgumentTypeError.
        is_required: Whether the executor needs it.
        is_repeatable: Whether it may be given several times; its value is then a tuple.
    """

    name: str
    parse: Callable[[str], Any]
    help: str
    metavar: str | None = None
    is_required: bool = False
    is_repeatable: bool = False


class ExecutorClass(Protocol):
    """What a file of this package registers."""

    OPTIONS: Sequence[ExecutorOption]

    def for_runs(self, num_runs: int, *, search_dir: Path, device: str, **options: Any) -> Executor:
        """Create an executor for a number of runs.

        Args:
            search_dir: The search's folder.
            device: As of train.py: "auto", "cpu", "cuda" or "mps".
            options: Values of those of its OPTIONS that the command line has.

        Raises:
            UserError: A package or a cluster is missing, or the cluster lacks the requested resources.
        """


def add_options(parser: ArgumentParser) -> None:
    """Add `--engine` and the options of all executors."""
    group = parser.add_argument_group("where runs are executed")
    group.add_argument(
        "--engine", choices=EXECUTORS.names(), default="local", help="this machine (default), or a cluster"
    )
    group.add_argument(
        "--time_limit", type=duration, metavar="TIME", help="a run that takes longer fails: minutes, or H:MM:SS"
    )
    for name, by_executor in options_by_name().items():
        option = next(iter(by_executor.values()))
        action = "append" if option.is_repeatable else "store"
        group.add_argument(f"--{name}", action=action, metavar=option.metavar, help=help_text(by_executor))


def executor_factory(args: Namespace) -> ExecutorFactory:
    """The constructor of the executor that a command line selects, with its options; takes the number of runs.

    Raises:
        UserError: An option that this executor does not have, a missing one, or a wrong value.
    """
    executor_class = get_executor_class(args.engine)
    options: dict[str, Any] = {}
    for name, by_executor in options_by_name().items():
        text = getattr(args, name)
        if args.engine in by_executor:
            options |= parse_option(by_executor[args.engine], text, args.engine)
        elif text is not None:
            raise UserError(f"--{name} belongs to --engine {' and '.join(by_executor)}, not to {args.engine}")
    return partial(executor_class.for_runs, search_dir=args.parent_dir, device=args.device, **options)


def options_by_name() -> dict[str, dict[str, ExecutorOption]]:
    """Name of an option -> executors that have it -> their declarations of it."""
    options: dict[str, dict[str, ExecutorOption]] = {}
    for executor in EXECUTORS.names():
        for option in get_executor_class(executor).OPTIONS:
            options.setdefault(option.name, {})[executor] = option
    return options


def get_executor_class(name: str) -> ExecutorClass:
    return cast(ExecutorClass, EXECUTORS[name])


def help_text(by_executor: dict[str, ExecutorOption]) -> str:
    """The help of an option, after the names of the executors that it is for."""
    executors: dict[str, list[str]] = {}
    for executor, option in by_executor.items():
        executors.setdefault(option.help, []).append(executor)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in executors.items())


def parse_option(option: ExecutorOption, text: str | Sequence[str] | None, executor: str) -> dict[str, Any]:
    """The option's name with its value, or nothing where the command line does not have it.

    Raises:
        UserError: It is required, or its value is wrong.
    """
    if text is None:
        if option.is_required:
            raise UserError(f"--engine {executor} needs --{option.name}: {option.help}")
        return {}
    try:
        value = option.parse(text) if isinstance(text, str) else tuple(option.parse(each) for each in text)
    except ArgumentTypeError as error:
        raise UserError(f"--{option.name} {error}") from None
    return {option.name: value}


def positive_int(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"must be a whole number, 1 or more, got {text}")
    return number


def duration(text: str) -> float:
    """Seconds of a time in SLURM's notation: minutes, M:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None or not re.search("[1-9]", text):
        raise ArgumentTypeError(f"must be minutes, or H:MM:SS, or D-HH:MM:SS, got {text}")
    days, first, second, third = (int(number or 0) for number in match.groups())
    begins_with_hours = match[1] is not None or match[4] is not None
    return 86400.0 * days + (3600 * first + 60 * second + third if begins_with_hours else 60 * first + second)


CPUS = ExecutorOption("cpus", positive_int, "CPU cores per run (default: 1)", "N")
