"""What a node of SLURM does with a job: submitit calls it, and again after SLURM has taken the node away.

What a site does when it wants a node back differs. submitit's signal (USR2) comes before the time limit, and on some
sites before preemption: the run saves, the job requeues itself and goes on. TERM alone comes with `scancel` and with
other sites' preemption: the run saves, and SLURM itself then ends the job or requeues it. Some sites signal the job's
process alone, others all that it has started.
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
from .base import Job, JobEnd
from .process import POLL_SECONDS
from .slurm_commands import import_submitit

STOPPED = (EXIT_STOPPED, *(-number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)))
SETTLE_SECONDS = 1.0
PATIENCE = 900.0  # seconds that a job which got TERM waits for what SLURM does next


class Task:
    """A job, as submitit keeps it.

    Args:
        notice: Seconds between SLURM's signal and the end of the job's time.
    """

    def __init__(self, job: Job, notice: int) -> None:
        self.job = replace(job, grace=min(job.grace, notice * 0.75))

    def __call__(self) -> JobEnd:
        came: list[int] = []
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's, which is not to run between any two lines of ours
        assert callable(requeue)
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda number, _: came.append(number))
        name = f"SLURM job {os.environ['SLURM_JOB_ID']}"
        end = worker.run_job(self.job, environment_on_node(), name=name, is_wanted_back=lambda: bool(came))
        if end.why or end.status not in STOPPED or worker.read_command(self.job):
            return end
        _wait_for(lambda: bool(came), SETTLE_SECONDS)  # the run may have got the signal before us
        if came:
            _wait_for(lambda: signal.SIGUSR2 in came, PATIENCE)  # it may come, or SLURM ends us, or requeues the job
        if signal.SIGUSR2 in came:
            requeue(signal.SIGUSR2, None)
        return end  # somebody stopped the run alone

    def checkpoint(self) -> Any:
        """What submitit keeps for the next node: the same again, as the run's folder holds all else."""
        return import_submitit().helpers.DelayedSubmission(self)


def environment_on_node() -> dict[str, str]:
    """What the run is to know of what SLURM gave the job."""
    threads = os.environ.get("SLURM_CPUS_PER_TASK", "1")
    found = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if not any(os.environ.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")):
        found["CUDA_VISIBLE_DEVICES"] = ""  # not every site hides what a job has not asked for
    return found


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
