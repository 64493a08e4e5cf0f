"""SLURM's commands as the search uses them, and the files that submitit keeps of a job.

`sacct` is not used, as many sites have no accounting.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
import subprocess
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError, last_line
from ...logs import format_duration
from .options import duration
from .worker import PACKAGE_PARENT

INSTALL = 'pip install "submitit>=1.5.3,<2"'
MIN_MINUTES = 3  # submitit takes any signal in a shorter job for its time limit
MAX_TIMEOUTS = 1000
SIGNAL_DELAY_SECONDS = 120  # of sbatch's --signal: before the time limit of a job; less in a short one
COMMAND_SECONDS = 60.0  # for a command to return

# Options of sbatch that have an option of their own here.
OWN_OPTIONS = {"partition": "--partition", "time": "--time", "gpus-per-node": "--gpus", "cpus-per-task": "--cpus"}

# Options of sbatch that the search sets. Without signal and requeue a run would end with its first job.
RESERVED = (
    "job-name",
    "signal",
    "requeue",
    "no-requeue",
    "array",
    "output",
    "error",
    "open-mode",
    "wrap",
    "nodes",
    "ntasks",
)


@dataclass(frozen=True)
class SlurmOptions:
    """The resources of a job, and further options of sbatch.

    Args:
        minutes: Time limit of a job, which is then requeued and resumes its run.
        gpus: As in sbatch's --gpus-per-node: "1", "a100:2"; "0" for none.
        flags: Further options of sbatch, without leading dashes; True for one without a value.
    """

    minutes: int
    cpus: int = 1
    gpus: str = "1"
    partition: str | None = None
    flags: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def signal_delay(self) -> int:
        """Seconds before the time limit at which a job gets a signal."""
        return min(SIGNAL_DELAY_SECONDS, self.minutes * 60 // 3)

    def submitit_parameters(self) -> dict[str, Any]:
        """The arguments of submitit's `update_parameters`."""
        flags: dict[str, Any] = {"requeue": True} | dict(self.flags)
        if self.gpus != "0":
            flags["gpus-per-node"] = self.gpus
        # The environment is the driver's. `srun` does not by itself use as many cores as `sbatch` was given.
        setup = [
            f"export PYTHONPATH={shlex.quote(str(PACKAGE_PARENT))}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        ]
        return {
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "signal_delay_s": self.signal_delay,
            "additional_parameters": flags,
            "setup": setup,
        } | ({"partition": self.partition} if self.partition else {})

    def __str__(self) -> str:
        gpus = "" if self.gpus == "0" else f", {self.gpus} GPU{'s' * (self.gpus != '1')}"
        cores = f"{self.cpus} core{'s' * (self.cpus > 1)}"
        partition = f" in partition {self.partition}" if self.partition else ""
        return f"{cores}{gpus} each{partition}, requeued after {format_duration(60 * self.minutes)}"


def job_minutes(text: str) -> int:
    minutes = int(duration(text) // 60)
    if minutes < MIN_MINUTES:
        raise ArgumentTypeError(f"must be {MIN_MINUTES} minutes or more, got {minutes}")
    return minutes


def gpus_per_node(text: str) -> str:
    if not re.fullmatch(r"([\w.-]+:)?\d+", text):
        raise ArgumentTypeError(f"of --engine slurm must be a whole number, or as in a100:1, got {text}")
    return text


def sbatch_flag(text: str) -> tuple[str, str | bool]:
    """An option of sbatch without leading dashes, and its value."""
    name, equals, value = text.lstrip("-").partition("=")
    if name in OWN_OPTIONS:
        raise ArgumentTypeError(f"{name}: use {OWN_OPTIONS[name]} instead")
    if name in RESERVED:
        raise ArgumentTypeError(f"{name} is set by the search itself")
    return name, value if equals else True


class SbatchError(Exception):
    """sbatch rejected a job; the message is its own."""


def sbatch(folder: Path, options: SlurmOptions, name: str, function: Callable[..., Any], *arguments: Any) -> str:
    """Submit a function as a job; returns the job's ID.

    Raises:
        SbatchError: It is not in the queue.
    """
    submitit = import_submitit()
    executor = submitit.SlurmExecutor(folder=folder / "%j", max_num_timeout=MAX_TIMEOUTS)
    executor.update_parameters(job_name=name, **options.submitit_parameters())
    try:
        with _without_slurm_variables():
            return str(executor.submit(function, *arguments).job_id)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        raise SbatchError(last_line(str(error))) from None


Queue = dict[str, tuple[str, str]]  # ID of each of the user's jobs that are pending or running -> its state and name


def read_queue() -> Queue | None:
    """All of the user's jobs with one call; None if squeue fails."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%j"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_SECONDS).stdout
    except (subprocess.SubprocessError, OSError):
        return None
    rows = [line.split("|", 2) for line in output.splitlines()]
    return {job_id: (state, name) for job_id, state, name in rows}


def cancel(*arguments: str) -> None:
    with suppress(subprocess.SubprocessError, OSError):
        subprocess.run(["scancel", *arguments], capture_output=True, check=False, timeout=COMMAND_SECONDS)


def read_result(folder: Path, job_id: str) -> tuple[str, Any] | None:
    """The result that submitit wrote: "success" and a value, or "error" and a traceback; None while there is none."""
    path: Path = import_submitit().core.utils.JobPaths(folder / "%j", job_id=job_id).result_pickle
    try:
        if path not in path.parent.iterdir():  # a listing is newer than a shared file system's cache of single names
            return None
        outcome, value = pickle.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (AttributeError, ImportError) as error:  # an object of another version of this package
        return "error", f"its result cannot be read ({error})"
    return outcome, value


def last_message(folder: Path, job_id: str) -> str:
    """What SLURM wrote last into a job's log, where its own messages are between asterisks, or else the last line."""
    path: Path = import_submitit().core.utils.JobPaths(folder / "%j", job_id=job_id).stderr
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    if not lines:
        return f"{path} is missing or empty"
    return next((line for line in reversed(lines) if "***" in line), lines[-1])


@contextmanager
def _without_slurm_variables() -> Iterator[None]:
    """A block in which sbatch does not take its options from the driver's own job, where the driver runs in one."""
    slurm_variables = {name for name in os.environ if name.startswith(("SLURM_", "SRUN_")) and name != "SLURM_CONF"}
    removed = {name: os.environ.pop(name) for name in slurm_variables if "SLURM_JOB_ID" in slurm_variables}
    try:
        yield
    finally:
        os.environ.update(removed)


def import_submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(f"--engine slurm needs submitit: {INSTALL}") from None
    return submitit
