"""SLURM's commands, as far as a search needs them, and what submitit leaves of a job.

`sacct` is not asked, as many sites have none.
"""

from __future__ import annotations

import os
import pickle
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError, last_line
from ...home import ROOT
from ...logs import format_duration

INSTALL = 'pip install "submitit>=1.5.3,<2"'
SHORTEST_MINUTES = 3  # submitit takes any signal in a shorter job for the end of its time
MOST_TIMEOUTS = 1000
NOTICE_SECONDS = 120  # before the end of its time a job is told; less in a short one
COMMAND_SECONDS = 60.0

# What sbatch is told by us, and so not by --sbatch. Without signal and requeue a run would end with its first job.
OPTIONS = {"partition": "--partition", "time": "--time", "gpus-per-node": "--gpus", "cpus-per-task": "--cpus"}

OURS = (
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
    """What sbatch is asked for.

    Args:
        minutes: After which SLURM ends a job, which is then requeued and goes on.
        gpus: As in sbatch's --gpus-per-node: "1", "a100:2"; "0" for none.
        flags: Further options of sbatch, without dashes in front; True for one without a value.
    """

    minutes: int
    cpus: int = 1
    gpus: str = "1"
    partition: str | None = None
    flags: Mapping[str, str | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.minutes < SHORTEST_MINUTES:
            raise UserError(f"--time must be {SHORTEST_MINUTES} minutes or more, got {self.minutes}")
        for name in self.flags:
            if name in OPTIONS:
                raise UserError(f"--sbatch {name}: say {OPTIONS[name]} instead")
            if name in OURS:
                raise UserError(f"--sbatch {name} is set by the search itself")

    @property
    def notice(self) -> int:
        """Seconds before the end of its time at which a job is told."""
        return min(NOTICE_SECONDS, self.minutes * 60 // 3)

    def parameters(self) -> dict[str, Any]:
        """The same for submitit."""
        more: dict[str, Any] = {"requeue": True} | dict(self.flags)
        if self.gpus != "0":
            more["gpus-per-node"] = self.gpus
        # The environment comes from the driver. `srun` no longer takes the cores of `sbatch` for its own by itself.
        setup = [
            f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        ]
        return {
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "signal_delay_s": self.notice,
            "additional_parameters": more,
            "setup": setup,
        } | ({"partition": self.partition} if self.partition else {})

    def __str__(self) -> str:
        gpus = "" if self.gpus == "0" else f", {self.gpus} GPU{'s' * (self.gpus != '1')}"
        cores = f"{self.cpus} core{'s' * (self.cpus > 1)}"
        where = f" in partition {self.partition}" if self.partition else ""
        return f"{cores}{gpus} each{where}, requeued after {format_duration(60 * self.minutes)}"


class Refused(Exception):
    """sbatch took no job; the message says why."""


def sbatch(folder: Path, asked: SlurmOptions, name: str, function: Callable[..., Any], *arguments: Any) -> str:
    """Put a function into the queue; returns the job's number.

    Raises:
        Refused: It is not in the queue.
    """
    submitit = import_submitit()
    executor = submitit.SlurmExecutor(folder=folder / "%j", max_num_timeout=MOST_TIMEOUTS)
    executor.update_parameters(job_name=name, **asked.parameters())
    try:
        with _not_a_job():
            return str(executor.submit(function, *arguments).job_id)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        raise Refused(last_line(str(error))) from None


Queue = dict[str, tuple[str, str]]  # number of each of the user's jobs that wait or run -> state and name


def read_queue() -> Queue | None:
    """All of the user's jobs in one question; None where squeue does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%j"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_SECONDS).stdout
    except (subprocess.SubprocessError, OSError):
        return None
    rows = [line.split("|", 2) for line in told.splitlines()]
    return {number: (state, name) for number, state, name in rows}


def cancel(*arguments: str) -> None:
    with suppress(subprocess.SubprocessError, OSError):
        subprocess.run(["scancel", *arguments], capture_output=True, check=False, timeout=COMMAND_SECONDS)


def result_of(folder: Path, number: str) -> tuple[str, Any] | None:
    """What submitit left of a job: "success" and a value, or "error" and a traceback; None as long as there is none."""
    path = import_submitit().core.utils.JobPaths(folder / "%j", job_id=number).result_pickle
    try:
        if path not in path.parent.iterdir():  # a listing is newer than what a shared file system remembers of a name
            return None
        outcome, value = pickle.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return outcome, value


def last_words(folder: Path, number: str) -> str:
    """What SLURM wrote into the log of a job that is gone; its own announcements stand between stars."""
    path = import_submitit().core.utils.JobPaths(folder / "%j", job_id=number).stderr
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    if not lines:
        return f" without a word; {path} is not there or empty"
    return f": {next((line for line in reversed(lines) if '***' in line), lines[-1])}"


@contextmanager
def _not_a_job() -> Iterator[None]:
    """A block in which sbatch does not take what SLURM gave the driver, where that is a job, for what we ask."""
    inherited = {name for name in os.environ if name.startswith(("SLURM_", "SRUN_")) and name != "SLURM_CONF"}
    taken = {name: os.environ.pop(name) for name in inherited if "SLURM_JOB_ID" in inherited}
    try:
        yield
    finally:
        os.environ.update(taken)


def import_submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(f"--engine slurm needs submitit: {INSTALL}") from None
    return submitit
