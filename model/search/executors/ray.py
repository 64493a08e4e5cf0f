"""Runs as tasks of a running Ray cluster, each with its share of cores and GPUs, such as half a GPU.

Ray schedules the tasks, and retries them where a worker or a node dies. They end with the driver; the runs save, and
the next call resumes them. `ray.cancel` is only for tasks that no node runs yet: it would discard how a run ended.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EXIT_FAILED, UserError, first_sentence, last_line
from ...files import write_text
from ...logs import log
from ...registry import EXECUTORS
from . import worker
from .base import Job, JobEnd, JobHandle
from .options import CPUS, ExecutorOption, positive_int

INSTALL = 'pip install "ray>=2.58,<3"'
MAX_RETRIES = 2  # of a task whose worker or node died

POLL_SECONDS = 0.2
CONNECT_SECONDS = 10.0
CHECK_SECONDS = 30.0  # for all nodes to read a file
KILL_SECONDS = 10.0  # for a node to kill a job on command; then Ray kills it


@dataclass(frozen=True)
class RayResources:
    """The resources of one run."""

    cpus: int
    gpus: float

    def __post_init__(self) -> None:
        if not 0 <= self.gpus < math.inf or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise UserError(f"--gpus of --engine ray must be a part of one GPU or a whole number, got {self.gpus:g}")

    def runs_per_node(self, node: dict[str, float]) -> int:
        """The number of runs that fit on a node at a time, from the node's resources."""
        limits = [node.get("CPU", 0) / self.cpus]
        limits += [node.get("GPU", 0) / self.gpus] if self.gpus else []
        return int(min(limits) + 1e-9)

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        return f"{self.cpus} core{'s' * (self.cpus > 1)}{gpus}"


@dataclass
class SubmittedTask:
    """A job that Ray has as a task.

    Args:
        object_ref: Ray's reference to the task's result.
        force_at: When Ray is to kill the task's worker, as it has not killed the job.
    """

    job: Job
    object_ref: Any
    force_at: float | None = None


def number_of_gpus(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"of --engine ray must be a number, got {text}") from None


@EXECUTORS.register("ray")
class RayExecutor:
    """Tasks of a Ray cluster.

    Args:
        ray: The package, connected to the cluster.
        resources: Of each run.
        search_dir: The search's folder; all nodes must see it.
    """

    OPTIONS = (
        ExecutorOption("jobs", positive_int, "runs at a time (default: as many as fit)", "N"),
        CPUS,
        ExecutorOption("gpus", number_of_gpus, "GPUs per run, such as 1 or 0.5 (default: 1 if there are any)", "N"),
        ExecutorOption("address", str, "of the head node (default: RAY_ADDRESS, or this machine's cluster)"),
    )

    def __init__(self, ray: Any, resources: RayResources, *, search_dir: Path, max_jobs: int) -> None:
        self.ray, self.resources, self.search_dir, self.max_jobs = ray, resources, search_dir.absolute(), max_jobs
        self._tasks: dict[JobHandle, SubmittedTask] = {}
        self._ready: set[JobHandle] = set()
        self._next_poll = 0.0
        self._are_nodes_checked = False
        remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=MAX_RETRIES)
        self._remote_run_task = remote(sent_by_name(run_task))

    @classmethod
    def for_runs(
        cls,
        num_runs: int,
        *,
        search_dir: Path,
        device: str = "auto",
        jobs: int | None = None,
        cpus: int = 1,
        gpus: float | None = None,
        address: str | None = None,
    ) -> RayExecutor:
        """An executor for a number of runs.

        Args:
            search_dir: The search's folder; all nodes must see it.
            device: As of train.py.
            jobs: Runs at a time; by default as many as fit the cluster.
            cpus: Of each run.
            gpus: Of each run; by default one where the cluster has any and `device` is not "cpu".
            address: The head node's; by default RAY_ADDRESS, or that of the cluster which this machine belongs to.
        """
        ray = connect(address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if gpus is None:
            gpus = float(device != "cpu" and any(node.get("GPU", 0) for node in nodes))
        resources = RayResources(cpus, gpus)
        capacity = sum(resources.runs_per_node(node) for node in nodes)
        if capacity == 0:
            sizes = sorted({f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes})
            raise UserError(f"no node of the Ray cluster has {resources} for a run; they have {', '.join(sizes)}")
        return cls(ray, resources, search_dir=search_dir, max_jobs=max(1, min(jobs or capacity, num_runs)))

    @property
    def threads_per_job(self) -> int:
        return self.resources.cpus

    def describe(self) -> str:
        num_nodes = sum(node["Alive"] for node in self.ray.nodes())
        return f"{self.max_jobs} at a time on {num_nodes} Ray node{'s' * (num_nodes > 1)}, {self.resources} each"

    def can_submit(self) -> bool:
        if not self._are_nodes_checked:
            check_nodes(self.ray, self.search_dir)
            self._are_nodes_checked = True
        return len(self._tasks) < self.max_jobs

    def submit(self, job: Job) -> JobHandle:
        worker.clear_commands(job)
        handle = JobHandle(str(job.folder))
        # Plain values: a worker unpickles the arguments before it can import this package.
        fields = (str(job.folder), job.command, job.options_if_new, job.time_limit, job.grace_seconds)
        run_task_as = self._remote_run_task.options(name=job.folder.name)
        self._tasks[handle] = SubmittedTask(job, run_task_as.remote(fields, hide_gpus=self.resources.gpus == 0))
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        return None  # tasks end with their driver

    def poll(self, handle: JobHandle) -> JobEnd | None:
        self._update()
        if handle not in self._ready:
            return None
        self._ready.remove(handle)
        return self._get_end(self._tasks.pop(handle))

    def stop(self, handle: JobHandle) -> None:
        self._send_command(self._tasks[handle], "stop")

    def kill(self, handle: JobHandle) -> None:
        task = self._tasks[handle]
        if task.force_at is None:
            task.force_at = time.monotonic() + KILL_SECONDS
            self._send_command(task, "kill")

    def _send_command(self, task: SubmittedTask, command: worker.WorkerCommand) -> None:
        worker.send_command(task.job, command)
        if not worker.is_running(task.job):
            self.ray.cancel(task.object_ref)

    def _update(self) -> None:
        """See which tasks have ended, and kill by force those that should have been killed by now."""
        if time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + POLL_SECONDS
        if not self._tasks:
            return
        handles = {task.object_ref: handle for handle, task in self._tasks.items()}
        ready, _ = self.ray.wait(list(handles), num_returns=len(handles), timeout=0)
        self._ready = {handles[object_ref] for object_ref in ready}
        for task in self._tasks.values():
            if task.force_at is not None and time.monotonic() > task.force_at:
                self.ray.cancel(task.object_ref, force=True)

    def _get_end(self, task: SubmittedTask) -> JobEnd:
        exceptions = self.ray.exceptions
        try:
            return JobEnd(*self.ray.get(task.object_ref))
        except exceptions.TaskCancelledError:
            return JobEnd(-signal.SIGTERM)
        except exceptions.RayError as error:
            if task.force_at is not None:
                return JobEnd(-signal.SIGKILL)
            return JobEnd(EXIT_FAILED, f"Ray task failed: {last_line(str(error))}")


def run_task(fields: tuple[Any, ...], *, hide_gpus: bool) -> tuple[int, str | None]:
    """Run a job on a node of Ray.

    Args:
        fields: Of the Job, in their order.
        hide_gpus: A task that has no GPU of its own would see all; the number of threads is set by Ray.

    Returns:
        The fields of its JobEnd.
    """
    folder, *others = fields
    environment = {"CUDA_VISIBLE_DEVICES": ""} if hide_gpus else {}
    end = worker.run_job(Job(Path(folder), *others), environment, name=f"Ray, process {os.getpid()}")
    return end.status, end.error


def sent_by_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper of a function of this package that workers of Ray can unpickle without the package.

    A closure is pickled by value. On the node it imports the package under its name in the driver: `model` in a
    checkout, whose folder workers do not have in sys.path, or `retort` once installed.
    """
    module, name, package_parent = function.__module__, function.__name__, str(worker.PACKAGE_PARENT)

    def call(*arguments: Any, **options: Any) -> Any:
        import importlib
        import sys

        if package_parent not in sys.path:
            sys.path.insert(0, package_parent)
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return call


def check_nodes(ray: Any, search_dir: Path) -> None:
    """Check that every node can import this package and read what the driver writes.

    Raises:
        UserError: One cannot, or none responds.
    """
    path, token = search_dir / ".token", secrets.token_hex(8)
    write_text(path, token)
    read_token = ray.remote(num_cpus=0, max_retries=0)(sent_by_name(worker.read_token))
    on_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    hosts = {
        read_token.options(scheduling_strategy=on_node(node["NodeID"], soft=False)).remote(path): node[
            "NodeManagerHostname"
        ]
        for node in ray.nodes()
        if node["Alive"]
    }
    ready, pending = ray.wait(list(hosts), num_returns=len(hosts), timeout=CHECK_SECONDS)
    path.unlink(missing_ok=True)
    results = {object_ref: get_result(ray, object_ref) for object_ref in ready} | dict.fromkeys(pending)
    for object_ref, result in results.items():
        if result is None:  # it has just died, and Ray schedules nothing on it
            log.warning("Ray node %s does not respond", hosts[object_ref])
        elif result != token:
            raise UserError(f"Ray node {hosts[object_ref]} cannot execute runs: {result}")
    if not any(results.values()):
        raise UserError("no node of the Ray cluster responds")


def get_result(ray: Any, object_ref: Any) -> str | None:
    """The result of a task, or the last line of its traceback; None if its node died."""
    try:
        return str(ray.get(object_ref))
    except ray.exceptions.RayTaskError as error:
        return last_line(str(error))
    except ray.exceptions.RayError:
        return None


def connect(address: str | None) -> Any:
    """The package, connected to a running cluster.

    Raises:
        UserError: It is not installed, or there is no cluster.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise UserError(f"--engine ray needs Ray: {INSTALL}") from None
    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS")
        if address and not is_reachable(address):
            raise UserError(f"no Ray cluster at {address}; start one: ray start --head")
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"at {address}" if address else "on this machine"
            raise UserError(f"no Ray cluster {where} ({first_sentence(error)}); start one: ray start --head") from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray has replaced SIGTERM's
    return ray


def is_reachable(address: str) -> bool:
    """Whether anything listens there; Ray itself tries for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
