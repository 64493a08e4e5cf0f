"""The plan of a search: its trials with their params.json, the pending runs, and what is trained before them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.dotted import differences, value_of, with_values
from ..config.folder import Folder, State
from ..config.legacy import is_flat, nested_from_flat
from ..config.params import PARAMS_FILE, Params, load_params, parse_params
from ..config.references import find_folder, find_weights_file, is_foreign, rebase_paths
from ..errors import OptionError, UserError
from ..files import read_intact, read_json, write_json, write_text
from ..logs import ProgressBar
from .space.existing import TRIAL_FILE, existing_points
from .space.metric import Metric
from .space.points import Point, covering_points, describe_axes, num_points
from .space.schema import Space
from .space.search_file import load_space

CheckParams = Callable[[Params, Path], object]  # raises UserError where params cannot be trained

STATE_LABELS: dict[State, str] = {
    "new": "new",
    "finished": "finished",
    "stopped": "to be resumed",
    "killed": "to be resumed",
    "failed": "failed, to be retried",
    "running": "running in another process",
    "pruned": "pruned",
}
ENDED: tuple[State, ...] = ("finished", "pruned")  # nothing is left to do


@dataclass(frozen=True, eq=False)
class TrialRun:
    """A folder to be trained.

    Args:
        params: The content of its params.json; None to leave the file as it is, as for a teacher.
        number: Of the trial, where the sampler is sequential.
        restart: Whether an earlier run in the folder is discarded.
    """

    folder: Folder
    name: str
    params: dict[str, Any] | None = None
    number: int | None = None
    restart: bool = False

    @property
    def num_epochs(self) -> int:
        return int((self.params or {}).get("num_epochs", Params.model_fields["num_epochs"].default))

    def prepare(self, *, restart: bool) -> None:
        """Make the folder and its params.json, unless they exist and are the same.

        Args:
            restart: Whether an earlier run in the folder is discarded.
        """
        self.folder.path.mkdir(exist_ok=True)
        if restart:
            self.folder.run.unlink(missing_ok=True)  # first: a finished run must not be taken for one of these params
        if self.number is not None:
            write_json(self.folder.path / TRIAL_FILE, {"number": self.number})
        if self.params is not None:  # last: with it the folder counts as one of the search's
            text = json.dumps(self.params, indent=2) + "\n"
            if not self.folder.params.exists() or self.folder.params.read_bytes() != text.encode():
                write_text(self.folder.params, text)


@dataclass(frozen=True, eq=False)
class Trial:
    """A point of the space, its number in the order of the grid or of the proposals, and the run of its first seed."""

    point: Point
    number: int
    run: TrialRun


@dataclass(frozen=True)
class Plan:
    """All trials of a search that are known, in order, and what is left to do.

    Args:
        base: The content of params.json, in our form.
        restart: Whether every run begins anew.
        pending: The runs of trials that are not finished or pruned.
        prerequisites: Folders that have to be trained first: teachers of pending runs, and those that runs start from.
    """

    parent_dir: Path
    base: dict[str, Any]
    space: Space
    restart: bool
    trials: tuple[Trial, ...] = ()
    pending: tuple[TrialRun, ...] = ()
    prerequisites: tuple[TrialRun, ...] = ()

    @property
    def runs(self) -> tuple[TrialRun, ...]:
        return tuple(trial.run for trial in self.trials)

    @property
    def metric(self) -> Metric:
        """The metric that determines the best run; of several the first."""
        return self.space.metric[0]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the search; the first is that of all trials."""
        return self.space.seeds or [self.base_seed]

    @property
    def base_seed(self) -> int:
        with_shared = with_values(self.base, self.space.shared)
        return int(value_of({"seed": 0} | with_shared, "seed"))

    @property
    def num_trials(self) -> int:
        """The number of trials when the search is done."""
        if not self.space.is_sequential:
            return len(self.trials)
        limits = (self.space.run_cap, num_points(self.space))
        return min(limit for limit in limits if limit is not None)

    def seed_suffix(self, seed: int) -> str:
        """The end of the folder names of a seed's runs: nothing for the seed of params.json."""
        return "" if seed == self.base_seed else f"_seed_{seed}"

    def make_run(self, point: Point, seed: int, *, number: int | None = None) -> TrialRun:
        """The run of a point with a seed, in a folder of its own."""
        suffix = self.seed_suffix(seed)
        params = rebase_paths(with_values(self.base, point.values), self.parent_dir)
        params = params | {"seed": seed} if suffix else params
        name = f"{point.name}{suffix}"
        return TrialRun(Folder(self.parent_dir / name), name, params, number, self.restart)


def make_plan(parent_dir: Path, *, check: CheckParams | None = None, restart: bool = False) -> Plan:
    """Read a search's folder and the state of its runs; writes nothing.

    Args:
        parent_dir: Folder with params.json, the base of all runs, and search.json.
        check: Called with the params of each pending run; if runs are yet to be proposed, also with those of points in
            which every value and both ends of every range occur.
        restart: Whether all runs are pending, finished ones included.

    Raises:
        UserError: A wrong file, a wrong value, or a run that began with other parameters.
    """
    load_params(parent_dir)
    base = read_json(parent_dir / PARAMS_FILE)
    base = nested_from_flat(base) if is_flat(base) else base
    space = load_space(parent_dir, base)
    plan = Plan(parent_dir, base, space, restart)
    plan = replace(plan, trials=tuple(_proposed_trials(plan) if space.is_sequential else _grid_trials(plan)))
    if not restart:
        for trial in plan.trials:
            with _naming_point(trial.point):
                check_same_params(trial.run)
    pending = [trial for trial in plan.trials if restart or trial.run.folder.state() not in ENDED]
    points = [trial.point for trial in pending]
    if space.is_sequential and len(plan.trials) < plan.num_trials:
        points = [*covering_points(space), *points]
    return replace(
        plan,
        pending=tuple(_without_replaced(plan, [trial.run for trial in pending])),
        prerequisites=tuple(_check_points(plan, points, check)),
    )


def _grid_trials(plan: Plan) -> list[Trial]:
    seed, points = plan.seeds[0], plan.space.build_sampler().all_points()
    return [Trial(point, number, plan.make_run(point, seed)) for number, point in enumerate(points)]


def _proposed_trials(plan: Plan) -> list[Trial]:
    seed = plan.seeds[0]
    existing = existing_points(plan.parent_dir, plan.space, plan.base, suffix=plan.seed_suffix(seed))
    return [Trial(point, number, plan.make_run(point, seed, number=number)) for number, point in existing]


def _without_replaced(plan: Plan, pending: list[TrialRun]) -> list[TrialRun]:
    """Without the failed runs in whose place others have been proposed."""
    if plan.restart or not plan.space.is_sequential:
        return pending
    failed = [run for run in pending if run.folder.state() == "failed"]
    num_retried = max(0, plan.num_trials - len(plan.trials) + len(failed))
    return [run for run in pending if run not in failed[num_retried:]]


def _check_points(plan: Plan, points: list[Point], check: CheckParams | None) -> list[TrialRun]:
    """Check the params of points, and return the folders that have to be trained before them."""
    path = plan.parent_dir / PARAMS_FILE
    prerequisites: dict[Path, TrialRun] = {}
    # Each check builds networks and losses, which takes half a minute for hundreds of runs.
    for point in ProgressBar(points, desc="checking", unit="run", delay=3):
        with _naming_point(point):
            params = parse_params(with_values(plan.base, point.values), path)
            if check is not None:
                check(params, path)
            for folder in _referenced_folders(params, plan.parent_dir):
                if not folder.is_trained():
                    prerequisites[folder.path] = TrialRun(folder, folder.name)
    return list(prerequisites.values())


def _referenced_folders(params: Params, parent_dir: Path) -> list[Folder]:
    try:
        names = params.teacher.model_dir if params.teacher else []
        paths = [find_folder(name, parent_dir) for name in names if not is_foreign(name)]
        if params.init and find_weights_file(params.init.model_dir, parent_dir, key="init") is None:
            paths.append(find_folder(params.init.model_dir, parent_dir, key="init"))
        return [Folder(path) for path in paths]
    except OptionError as error:
        raise UserError(f"{parent_dir / PARAMS_FILE}: {error}") from None


@contextmanager
def _naming_point(point: Point) -> Iterator[None]:
    """Append the values of a point to a user's error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (the run with {point})") from None


def check_same_params(run: TrialRun) -> None:
    """A run can be resumed only with the parameters that it began with.

    Where a power cut has damaged its params.json, the file is written again, and the run itself compares the new one
    with params_resolved.json.

    Raises:
        UserError: Some differ; the message lists them with both values.
    """
    folder = run.folder
    has_begun = folder.state() != "new" or folder.metrics("val", "best").exists()
    if not has_begun or not read_intact(folder.params):
        return
    params = parse_params(run.params, folder.params).model_dump()
    if changed := differences(load_params(folder.path).model_dump(), params):
        raise UserError(
            f"{folder.params}: the parameters of this run have changed since it began: {'; '.join(changed)}; "
            "change them back, use another parent folder, or begin all runs anew with --restart"
        )


def format_summary(plan: Plan) -> str:
    """The number of runs in each state, and what is trained before them."""
    counts = Counter(STATE_LABELS[run.folder.state()] for run in plan.runs)
    num_proposed = plan.num_trials - len(plan.trials)
    if num_proposed > 0:
        counts[f"to be proposed by {plan.space.method}"] = num_proposed
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    lines = [f"{plan.parent_dir}: {max(plan.num_trials, len(plan.trials))} runs: {states}"]
    if plan.restart and any(run.folder.state() in ENDED for run in plan.runs):
        lines[0] += "; all begin anew"
    lines += [f"to be trained first: {run.name}" for run in plan.prerequisites]
    return "\n".join(lines)


def format_runs(plan: Plan) -> str:
    """Every run with its state, a line each, and the axes on which others will be proposed."""
    width = max((len(run.name) for run in plan.runs), default=0)
    lines = [f"  {run.name:<{width}}  {STATE_LABELS[run.folder.state()]}" for run in plan.runs]
    if plan.space.is_sequential:
        lines += [f"{plan.space.method} proposes", *(f"  {line}" for line in describe_axes(plan.space))]
    return "\n".join(lines)
