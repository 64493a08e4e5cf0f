"""What a search has to do: the runs with their params.json, and the folders that are trained before them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.folder import Folder, State
from model.legacy import is_flat, nested_from_flat
from model.params import (
    PARAMS_FILE,
    Params,
    differences,
    find_folder,
    load_params,
    one_level_deeper,
    parse_params,
    with_values,
)
from model.search.space import Metric, Point, load_space, points
from utils import OptionError, UserError, read_json, write_text

Check = Callable[[Params, Path], object]  # raises UserError where params cannot be trained

TOLD: dict[State, str] = {
    "new": "new",
    "finished": "finished",
    "stopped": "to go on",
    "killed": "to go on",
    "failed": "failed, to be tried again",
    "running": "running in another process",
}


@dataclass(frozen=True, eq=False)
class Run:
    """A folder to be trained.

    Args:
        params: What its params.json must say; None where the one that is there counts, as for a teacher.
        restart: Whether an earlier run in the folder is thrown away.
    """

    folder: Folder
    name: str
    params: dict[str, Any] | None = None
    restart: bool = False

    def prepare(self) -> None:
        """Make the folder and its params.json, unless it is there and the same."""
        self.folder.path.mkdir(exist_ok=True)
        if self.restart:
            self.folder.run.unlink(missing_ok=True)  # first: a finished run must not be taken for one of these params
        if self.params is not None:
            text = json.dumps(self.params, indent=2) + "\n"
            if not self.folder.params.exists() or self.folder.params.read_text(encoding="utf-8") != text:
                write_text(self.folder.params, text)


@dataclass(frozen=True)
class Plan:
    """All runs of a search, in order, and what is left to do."""

    parent_dir: Path
    metric: Metric
    runs: tuple[Run, ...]
    to_do: tuple[Run, ...]
    needed: tuple[Run, ...]  # folders that teach runs to do, or that these start from, and that are not trained yet


def make_plan(parent_dir: Path, *, check: Check | None = None, restart: bool = False) -> Plan:
    """Read a search's folder and look at how far its runs are; writes nothing.

    Args:
        parent_dir: Folder with params.json, the base of all runs, and search.json.
        check: Called with the params of each run that is to be done.
        restart: Whether all runs are to be done, finished ones too.

    Raises:
        UserError: A wrong file, a wrong value, or a run that was begun with other parameters.
    """
    load_params(parent_dir)
    base = read_json(parent_dir / PARAMS_FILE)
    base = nested_from_flat(base) if is_flat(base) else base
    space = load_space(parent_dir, base)
    runs: list[Run] = []
    to_do: list[Run] = []
    needed: dict[Path, Run] = {}
    for point in points(space):
        raw = with_values(base, point.values)
        run = Run(Folder(parent_dir / point.name), point.name, one_level_deeper(raw, parent_dir), restart)
        runs.append(run)
        with _naming(point):
            params = parse_params(raw, parent_dir / PARAMS_FILE)
            if not restart:
                _refuse_other_params(run)
                if run.folder.state() == "finished":
                    continue
            to_do.append(run)
            if check is not None:
                check(params, parent_dir / PARAMS_FILE)
            for folder in _needed(params, parent_dir):
                if not folder.is_trained():
                    needed[folder.path] = Run(folder, folder.name)
    return Plan(parent_dir, space.metric, tuple(runs), tuple(to_do), tuple(needed.values()))


def summary(plan: Plan) -> str:
    """How many runs there are, in which state, and what comes before them."""
    states = Counter(TOLD[run.folder.state()] for run in plan.runs)
    lines = [f"{plan.parent_dir}: {len(plan.runs)} runs: " + ", ".join(f"{n} {state}" for state, n in states.items())]
    if len(plan.to_do) > len(plan.runs) - states["finished"]:
        lines[0] += "; all begin anew"
    lines += [f"to be trained first: {needed.name}" for needed in plan.needed]
    return "\n".join(lines)


def listing(plan: Plan) -> str:
    """Every run with its state, a line each."""
    width = max(len(run.name) for run in plan.runs)
    return "\n".join(f"  {run.name:<{width}}  {TOLD[run.folder.state()]}" for run in plan.runs)


@contextmanager
def _naming(point: Point) -> Iterator[None]:
    """Say in a user's error which values it came with."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (the run with {point})") from None


def _refuse_other_params(run: Run) -> None:
    """A run goes on only with the parameters that it began with."""
    folder = run.folder
    begun = folder.state() != "new" or folder.metrics("val", "best").exists()
    if not begun or not folder.params.exists():
        return
    now = parse_params(run.params, folder.params).model_dump()
    if changed := differences(load_params(folder.path).model_dump(), now):
        raise UserError(
            f"{folder.params}: the search asks for other parameters than this run began with: {'; '.join(changed)}; "
            "put them back, use another parent folder, or begin all runs anew with --restart"
        )


def _needed(params: Params, parent_dir: Path) -> list[Folder]:
    try:
        found = [find_folder(name, parent_dir) for name in params.teacher.model_dir] if params.teacher else []
        found += [find_folder(params.init.model_dir, parent_dir, key="init")] if params.init else []
        return [Folder(path) for path in found]
    except OptionError as error:
        raise UserError(f"{parent_dir / PARAMS_FILE}: {error}") from None
