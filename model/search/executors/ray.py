"""Runs as tasks of a Ray cluster that somebody started, each with its share of cores and GPUs, be it half a one.

Ray places the tasks, and starts them again where a worker or a node dies. They end with the driver; the runs save, and
the next call goes on. `ray.cancel` is only for tasks that no node works on yet: it would throw away how a run ended.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EXIT_FAILED, UserError, first_sentence, last_line
from ...files import write_text
from ...home import ROOT
from ...logs import log
from . import worker
from .base import Job, JobEnd, JobHandle

INSTALL = 'pip install "ray>=2.58,<3"'
MAX_RETRIES = 2  # of a task whose worker or node died

POLL_SECONDS = 0.2
CONNECT_SECONDS = 10.0
CHECK_SECONDS = 30.0  # for all nodes to read a file
FORCE_SECONDS = 10.0  # for a node to follow an order to kill


@dataclass(frozen=True)
class RayResources:
    """What a run gets of a node."""

    cpus: int
    gpus: float

    def __post_init__(self) -> None:
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise UserError(f"--gpus of --engine ray must be a part of one GPU or a whole number, got {self.gpus:g}")

    def times_in(self, resources: dict[str, float]) -> int:
        """How many runs a node of these resources holds."""
        fits = [resources.get("CPU", 0) / self.cpus]
        fits += [resources.get("GPU", 0) / self.gpus] if self.gpus else []
        return int(min(fits) + 1e-9)

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        return f"{self.cpus} core{'s' * (self.cpus > 1)}{gpus}"


@dataclass
class SubmittedTask:
    """A task."""

    job: Job
    reference: Any
    kill_at: float | None = None  # when it is killed by force


class RayExecutor:
    """Tasks of a Ray cluster.

    Args:
        ray: The package, connected to the cluster.
        folder: Of the search; all nodes must see it.
    """

    def __init__(self, ray: Any, share: RayResources, *, folder: Path, at_once: int) -> None:
        self.ray, self.share, self.folder, self.at_once = ray, share, folder.absolute(), at_once
        self._sent: dict[JobHandle, SubmittedTask] = {}
        self._ended: set[JobHandle] = set()
        self._next_look = 0.0
        self._is_checked = False
        self._work = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=MAX_RETRIES)(make_work())

    @classmethod
    def for_runs(
        cls,
        num_runs: int,
        *,
        folder: Path,
        address: str | None = None,
        jobs: int | None = None,
        cpus: int = 1,
        gpus: float | None = None,
        device: str = "auto",
    ) -> RayExecutor:
        """An engine for so many runs.

        Args:
            address: The head's; by default RAY_ADDRESS, or that of the cluster which this machine belongs to.
            jobs: Runs at once; by default as many as the cluster holds.
            gpus: Of a run; by default one where the cluster has some and `device` is not "cpu".
        """
        ray = connect(address)
        nodes = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        if gpus is None:
            gpus = float(device != "cpu" and any(each.get("GPU", 0) for each in nodes))
        share = RayResources(cpus, gpus)
        held = sum(share.times_in(each) for each in nodes)
        if held == 0:
            largest = ", ".join(
                sorted({f"{each.get('CPU', 0):g} cores and {each.get('GPU', 0):g} GPUs" for each in nodes})
            )
            raise UserError(f"a run is to have {share}, but no node of the Ray cluster has that; they have {largest}")
        return cls(ray, share, folder=folder, at_once=max(1, min(jobs or held, num_runs)))

    @property
    def threads(self) -> int:
        return self.share.cpus

    def describe(self) -> str:
        num_nodes = sum(each["Alive"] for each in self.ray.nodes())
        return f"{self.at_once} at once on {num_nodes} node{'s' * (num_nodes > 1)} of Ray, {self.share} each"

    def has_room(self) -> bool:
        if not self._is_checked:
            check_nodes(self.ray, self.folder)
            self._is_checked = True
        return len(self._sent) < self.at_once

    def submit(self, job: Job) -> JobHandle:
        worker.clear_commands(job)
        handle = JobHandle(str(job.folder))
        # Plain values: what a node is given is unpacked before it knows where our code is.
        given = (str(job.folder), job.command, job.when_new, job.time_limit, job.grace)
        reference = self._work.options(name=job.folder.name).remote(given, hide_gpus=self.share.gpus == 0)
        self._sent[handle] = SubmittedTask(job, reference)
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        return None  # tasks end with their driver

    def poll(self, handle: JobHandle) -> JobEnd | None:
        self._look()
        if handle not in self._ended:
            return None
        self._ended.remove(handle)
        return self._end_of(self._sent.pop(handle))

    def stop(self, handle: JobHandle) -> None:
        sent = self._sent[handle]
        worker.send_command(sent.job, "stop")
        if not worker.is_running(sent.job):
            self.ray.cancel(sent.reference)

    def kill(self, handle: JobHandle) -> None:
        sent = self._sent[handle]
        if sent.kill_at is None:
            sent.kill_at = time.monotonic() + FORCE_SECONDS
            worker.send_command(sent.job, "kill")
            if not worker.is_running(sent.job):
                self.ray.cancel(sent.reference)

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + POLL_SECONDS
        if not self._sent:
            return
        handles = {sent.reference: handle for handle, sent in self._sent.items()}
        ready, _ = self.ray.wait(list(handles), num_returns=len(handles), timeout=0)
        self._ended = {handles[reference] for reference in ready}
        for sent in self._sent.values():
            if sent.kill_at is not None and time.monotonic() > sent.kill_at:
                self.ray.cancel(sent.reference, force=True)

    def _end_of(self, sent: SubmittedTask) -> JobEnd:
        errors = self.ray.exceptions
        try:
            return JobEnd(*self.ray.get(sent.reference))
        except errors.TaskCancelledError:
            return JobEnd(-signal.SIGTERM)
        except errors.RayError as error:
            if sent.kill_at is not None:
                return JobEnd(-signal.SIGKILL)
            return JobEnd(EXIT_FAILED, f"its task of Ray ended: {last_line(str(error))}")


def make_work() -> Callable[..., tuple[int, str | None]]:
    """What a node does with a job. As a closure it is sent as a whole, and not as the name of one of our modules."""
    root = str(ROOT)

    def work(given: tuple[Any, ...], *, hide_gpus: bool) -> tuple[int, str | None]:
        import os
        import sys
        from pathlib import Path

        if root not in sys.path:
            sys.path.insert(0, root)
        from . import base, worker

        folder, *others = given
        # Ray sets the number of threads; without GPUs of its own, a task sees all.
        environment = {"CUDA_VISIBLE_DEVICES": ""} if hide_gpus else {}
        end = worker.run_job(base.Job(Path(folder), *others), environment, name=f"Ray, process {os.getpid()}")
        return end.status, end.why

    return work


def make_look() -> Callable[[str], str]:
    """What a node does when it is asked whether it sees a file."""
    root = str(ROOT)

    def look(path: str) -> str:
        import sys
        from pathlib import Path

        if root not in sys.path:
            sys.path.insert(0, root)
        from . import worker

        return worker.check_token(Path(path))

    return look


def check_nodes(ray: Any, folder: Path) -> None:
    """Look whether every node sees what the driver writes, and has its Python's packages.

    Raises:
        UserError: One does not, or none answers.
    """
    path, token = folder / ".token", secrets.token_hex(8)
    write_text(path, token)
    look = ray.remote(num_cpus=0, max_retries=0)(make_look())
    on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    hosts = {
        look.options(scheduling_strategy=on(each["NodeID"], soft=False)).remote(str(path)): each["NodeManagerHostname"]
        for each in ray.nodes()
        if each["Alive"]
    }
    answered, silent = ray.wait(list(hosts), num_returns=len(hosts), timeout=CHECK_SECONDS)
    path.unlink(missing_ok=True)
    seen = {reference: _answer(ray, reference) for reference in answered} | dict.fromkeys(silent)
    for reference, told in seen.items():
        if told is None:  # it has just died, and Ray places nothing on it
            log.warning("node %s of the Ray cluster does not answer", hosts[reference])
        elif told != token:
            raise UserError(f"node {hosts[reference]} of the Ray cluster cannot do what the search needs: {told}")
    if not any(seen.values()):
        raise UserError("no node of the Ray cluster answers")


def _answer(ray: Any, reference: Any) -> str | None:
    """What a node says, be it how its Python failed; None where it says nothing."""
    try:
        return str(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        return last_line(str(error))
    except ray.exceptions.RayError:
        return None


def connect(address: str | None) -> Any:
    """The package, connected to a cluster that is there.

    Raises:
        UserError: It is not installed, or no cluster answers.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise UserError(f"--engine ray needs Ray: {INSTALL}") from None
    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS")
        if address and not _listens(address):
            raise UserError(f"no Ray cluster at {address}; start one: ray start --head")
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"at {address}" if address else "here"
            raise UserError(f"no Ray cluster {where} ({first_sentence(error)}); start one: ray start --head") from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)  # Ray takes SIGTERM for itself
    return ray


def _listens(address: str) -> bool:
    """Whether anything is there; Ray itself tries for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
