"""An experiment folder: its files, the state of its run, and the lock that lets one process work in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import filelock

from ..errors import UserError
from ..files import read_intact, read_jsonl, write_json
from ..home import ROOT, TRAIN_COMMAND
from ..logs import log
from .params import PARAMS_FILE

Weights = Literal["best", "last", "ema"]  # "ema" where params.json asks for averaged weights
State = Literal["new", "running", "stopped", "failed", "finished", "killed", "pruned"]


@dataclass(frozen=True)
class Folder:
    """The files of one experiment. Reading needs no lock: every file is replaced atomically."""

    path: Path

    @property
    def params(self) -> Path:
        return self.path / PARAMS_FILE

    @property
    def resolved(self) -> Path:
        return self.path / "params_resolved.json"

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def history(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def cache(self) -> Path:
        """Outputs of this experiment's network, cached for the students that it teaches."""
        return self.path / "cache"

    def checkpoint(self, weights: Weights) -> Path:
        return self.path / f"{weights}.pth.tar"

    def metrics(self, split: str, weights: Weights) -> Path:
        return self.path / f"metrics_{split}_{weights}_weights.json"

    @property
    def name(self) -> str:
        """The path as a user would type it: relative to the repository's root if it lies inside."""
        path = self.path.resolve()
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)

    def read_run(self) -> dict[str, Any]:
        """run.json; an empty object before the first run, or where the file is damaged."""
        return read_intact(self.run)

    def read_history(self) -> list[dict[str, Any]]:
        """One object per finished epoch."""
        return read_jsonl(self.history)

    def state(self) -> State:
        """The state in run.json; `killed` if that is `running`, but its process no longer exists."""
        return state_of(self.read_run())

    def is_trained(self) -> bool:
        """Whether there are weights to use: of a finished run, or copied here without any run."""
        return self.checkpoint("best").exists() and self.state() in ("finished", "new")

    def accuracies(self, weights: Weights = "best") -> str:
        """One line: the accuracies of the best weights, or of others."""
        parts = []
        for split in ("val", "test"):
            metrics = read_intact(self.metrics(split, weights))
            if "accuracy" in metrics:
                parts.append(f"{split} accuracy {100 * metrics['accuracy']:.2f} % (epoch {metrics.get('epoch', '-')})")
        return ", ".join(parts) or "no metrics"

    def results(self) -> list[Path]:
        """What a run leaves behind that a new run would replace: metrics and weights."""
        metrics = [self.metrics(split, weights) for split in ("val", "test") for weights in get_args(Weights)]
        candidates = [self.history, *metrics, *map(self.checkpoint, get_args(Weights))]
        return [path for path in candidates if path.exists() and path.stat().st_size]

    def has_results_to_lose(self) -> bool:
        """Whether there are results that a new run would replace and that no run can go on from.

        Such are results that came without their weights, weights that came without a run, and those of a run whose
        checkpoint is gone.
        """
        if self.checkpoint("last").exists() or (self.state() == "finished" and self.is_trained()):
            return False
        has_saved = "epoch" in self.read_run()  # written after the first checkpoint
        return bool(self.results()) and (has_saved or self.state() == "new")

    def refuse_to_lose_results(self) -> None:
        """Results that no run can go on from are replaced only where that is asked for.

        Raises:
            UserError: There are such results; they are named.
        """
        if self.has_results_to_lose():
            raise UserError(
                f"{self.name}: holds results that no run here can go on from: {self.shown_results()}; "
                f"{TRAIN_COMMAND} --model_dir {self.name} --restart replaces them by a new run's"
            )

    def shown_results(self) -> str:
        """The files of the results, the first few by name."""
        names = [path.name for path in self.results()]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more

    def update_run(self, **values: Any) -> None:
        """Set some values of run.json and keep the others."""
        write_json(self.run, self.read_run() | values)

    def is_busy(self) -> bool:
        """Whether another process works in this folder: run.json has the state `running`, and the lock is held."""
        if self.state() != "running":
            return False
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return True
        except OSError:
            return False  # the run itself reports what is wrong with the folder
        lock.release()
        return False

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the folder's lock. The system releases it when the process ends, however it ends.

        Raises:
            UserError: Another process holds the lock and `wait` is not set, or the folder cannot be written to.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            run = self.read_run()
            holder = f"process {run.get('process', '?')} on {run.get('host', '?')}"
            if not wait:
                raise UserError(f"{self.name}: {holder} works in this folder") from None
            log.info("waiting for %s, which works in %s", holder, self.name)
            lock.acquire()
        except OSError as error:
            raise UserError(f"{self.name}: cannot write to this folder ({error.strerror})") from None
        try:
            yield
        finally:
            lock.release()


def state_of(run: dict[str, Any]) -> State:
    """The state that the content of a run.json tells; `new` where it tells none."""
    state: State = run.get("state", "new")
    if state not in get_args(State):
        return "new"
    return "killed" if state == "running" and _is_process_gone(run) else state


def _is_process_gone(run: dict[str, Any]) -> bool:
    if run.get("host") != socket.gethostname():
        return False  # processes of another host cannot be checked
    try:
        os.kill(int(run["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, TypeError, ValueError):
        return False
    return False
