"""A search whose runs are executed by fake_train.py; the driver runs in this process or in one of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model.cli import run_script
from model.home import ROOT
from model.search.driver import search
from model.search.executors.base import Executor
from model.search.executors.local import LocalExecutor

if TYPE_CHECKING:
    import optuna

HERE = Path(__file__).parent
LOCAL = "make_executor = None"

BASE: dict[str, Any] = {
    "dataset": {"name": "cifar10"},
    "student": {"name": "cnn"},
    "loss": {"kd": {"alpha": 0.9, "temperature": 4.0}},
    "num_epochs": 2,
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


class FakeSearch:
    """A folder with params.json and search.json.

    Args:
        parameters: What is searched; None leaves search.json out.
        student: Options of the base's student, which control fake_train.py.
        search: Other keys of search.json.
        base: Other keys of the base.
    """

    def __init__(
        self,
        tmp_path: Path,
        parameters: Any = None,
        *,
        student: dict[str, Any] | None = None,
        search: dict[str, Any] | None = None,
        **base: Any,
    ) -> None:
        self.folder = tmp_path / "experiments" / "a search"
        self.events_file = tmp_path / "events.jsonl"
        write(self.folder / "params.json", BASE | base | {"student": BASE["student"] | (student or {})})
        if parameters is not None:
            write(self.folder / "search.json", {"parameters": parameters} | (search or {}))

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-IS", str(HERE / "fake_train.py"), "--events", str(self.events_file)]

    def run(self, *, jobs: int = 2, make_executor: Callable[..., Executor] | None = None, **options: Any) -> int:
        """Search in this process, as the script does; returns the exit status.

        Args:
            make_executor: Called with the number of runs and `jobs`; by default the local executor, without GPUs.
        """
        factory = partial(make_executor or partial(LocalExecutor.for_runs, device="cpu"), jobs=jobs)
        with pytest.raises(SystemExit) as exit_:
            run_script(lambda: search(self.folder, command=self.command, make_executor=factory, **options))
        assert isinstance(exit_.value.code, int)
        return exit_.value.code

    def start(
        self, *, jobs: int = 2, make_executor: str = LOCAL, stderr: int | None = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        """Search in a process of its own.

        Args:
            make_executor: A program that sets `make_executor` as `run` takes it; `parent` is the search's folder.
        """
        program = (
            "import sys; from tests.search.fake_search import FakeSearch; from pathlib import Path;"
            "self = FakeSearch.__new__(FakeSearch); self.folder, self.events_file = map(Path, sys.argv[1:3]);"
            f"parent = self.folder; {make_executor};"
            "sys.exit(self.run(jobs=int(sys.argv[3]), make_executor=make_executor))"
        )
        inherited = {name: os.environ[name] for name in ("PATH", "SLURM_CONF", "RAY_AUTH_MODE") if name in os.environ}
        return subprocess.Popen(
            [sys.executable, "-c", program, str(self.folder), str(self.events_file), str(jobs)],
            env=inherited | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
            stderr=stderr,
            text=True,
        )

    def change(self, **keys: Any) -> None:
        """Change keys of search.json."""
        path = self.folder / "search.json"
        write(path, json.loads(path.read_text()) | keys)

    def runs(self) -> list[str]:
        """The folders of runs, in the order of their numbers where they have some."""
        folders = [path.parent for path in self.folder.glob("*/params.json")]
        return [folder.name for folder in sorted(folders, key=lambda folder: (number_of(folder), folder.name))]

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The events of all runs, or those of one kind, in chronological order."""
        lines = self.events_file.read_text().splitlines() if self.events_file.exists() else []
        return [row for row in map(json.loads, lines) if kind in (None, row["event"])]

    def begun(self) -> list[str]:
        return [event["run"] for event in self.events("begin")]

    def study(self) -> "optuna.Study":
        """The journal of the dashboard as Optuna reads it."""
        import optuna  # here, as a grid's process must not import it
        from optuna.storages.journal import JournalFileBackend

        backend = JournalFileBackend(str(self.folder / "optuna.journal"))
        return optuna.load_study(study_name=self.folder.name, storage=optuna.storages.JournalStorage(backend))

    def read(self, run: str, name: str) -> Any:
        return json.loads((self.folder / run / name).read_text())

    def state(self, run: str) -> str:
        return str(self.read(run, "run.json")["state"])

    def history(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]


def number_of(folder: Path) -> int:
    trial = folder / "trial.json"
    return int(json.loads(trial.read_text())["number"]) if trial.exists() else -1


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder with its modification time and its content."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.005)


def is_alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z"
