"""A job of SLURM on its node: submitit calls it, and again after each requeue.

What SLURM does when it takes a node away differs from site to site. submitit's signal (USR2) comes before the time
limit, and on some sites before preemption: the run saves, the job requeues itself and resumes. TERM alone comes with
`scancel` and with other sites' preemption: the run saves, and SLURM itself then ends the job or requeues it. Some sites
signal the job's process alone, others all that it has started.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...errors import EXIT_STOPPED
from . import worker
from .base import Job
from .process import POLL_SECONDS
from .slurm_commands import import_submitit

STOPPED = (EXIT_STOPPED, *(-number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)))
SIGNAL_SECONDS = 1.0  # for a signal to reach this process after the run
REQUEUE_SECONDS = 900.0  # for SLURM to end or requeue a job that got TERM


class SlurmTask:
    """A job in the form that submitit pickles.

    Args:
        signal_delay: Seconds between SLURM's signal and the time limit.
    """

    def __init__(self, job: Job, signal_delay: int) -> None:
        self.job = replace(job, grace_seconds=min(job.grace_seconds, signal_delay * 0.75))

    def __call__(self) -> tuple[int, str | None]:
        """Run the job; returns the fields of its JobEnd, which any version of this package can unpickle."""
        received: list[int] = []
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's handler, which must not interrupt the code here
        assert callable(requeue)
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda number, _: received.append(number))
        name = f"SLURM job {os.environ['SLURM_JOB_ID']}"
        end = worker.run_job(self.job, node_environment(), name=name, is_preempted=lambda: bool(received))
        if end.error or end.status not in STOPPED or worker.read_command(self.job):
            return end.status, end.error
        _wait_for(lambda: bool(received), SIGNAL_SECONDS)
        if received:
            _wait_for(lambda: signal.SIGUSR2 in received, REQUEUE_SECONDS)
        if signal.SIGUSR2 in received:
            requeue(signal.SIGUSR2, None)
        return end.status, end.error  # the run alone was stopped, by hand

    def checkpoint(self) -> Any:
        """What submitit calls after a requeue: the same, as all else is in the run's folder."""
        return import_submitit().helpers.DelayedSubmission(self)


def node_environment() -> dict[str, str]:
    """The environment variables of the run, from the resources of the job."""
    threads = os.environ.get("SLURM_CPUS_PER_TASK", "1")
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if not any(os.environ.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")):
        environment["CUDA_VISIBLE_DEVICES"] = ""  # not every site hides the GPUs that a job has not requested
    return environment


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
