"""What a search has to do: the runs with their params.json, and the folders that are trained before them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config.dotted import differences, value_of, with_values
from ..config.folder import Folder, State
from ..config.legacy import is_flat, nested_from_flat
from ..config.params import PARAMS_FILE, Params, load_params, parse_params
from ..config.references import find_folder, rebase_paths
from ..errors import OptionError, UserError
from ..files import read_json, write_json, write_text
from .space.existing import TRIAL_FILE, existing_points
from .space.points import Point, describe, num_points, points, samples
from .space.schema import Metric, Space, load_space

CheckParams = Callable[[Params, Path], object]  # raises UserError where params cannot be trained

TOLD: dict[State, str] = {
    "new": "new",
    "finished": "finished",
    "stopped": "to go on",
    "killed": "to go on",
    "failed": "failed, to be tried again",
    "running": "running in another process",
    "pruned": "pruned",
}
ENDED: tuple[State, ...] = ("finished", "pruned")  # nothing is left to do


@dataclass(frozen=True, eq=False)
class TrialRun:
    """A folder to be trained.

    Args:
        params: What its params.json must say; None where the one that is there counts, as for a teacher.
        number: Of the proposal that it is.
        restart: Whether an earlier run in the folder is thrown away.
    """

    folder: Folder
    name: str
    params: dict[str, Any] | None = None
    number: int | None = None
    restart: bool = False

    @property
    def num_epochs(self) -> int:
        return int((self.params or {}).get("num_epochs", Params.model_fields["num_epochs"].default))

    def prepare(self, *, anew: bool) -> None:
        """Make the folder and its params.json, unless it is there and the same.

        Args:
            anew: Whether an earlier run in the folder is thrown away.
        """
        self.folder.path.mkdir(exist_ok=True)
        if anew:
            self.folder.run.unlink(missing_ok=True)  # first: a finished run must not be taken for one of these params
        if self.number is not None:
            write_json(self.folder.path / TRIAL_FILE, {"number": self.number})
        if self.params is not None:  # last: with it the folder counts as one of the search's
            text = json.dumps(self.params, indent=2) + "\n"
            if not self.folder.params.exists() or self.folder.params.read_text(encoding="utf-8") != text:
                write_text(self.folder.params, text)


@dataclass(frozen=True, eq=False)
class Trial:
    """A point of the space, its number in the order of the grid or of the proposals, and its first seed's run."""

    point: Point
    number: int
    run: TrialRun


@dataclass(frozen=True)
class Plan:
    """All runs of a search that are known, in order, and what is left to do."""

    parent_dir: Path
    base: dict[str, Any]  # params.json in our form
    space: Space
    restart: bool
    cells: tuple[Trial, ...] = ()
    to_do: tuple[TrialRun, ...] = ()
    needed: tuple[
        TrialRun, ...
    ] = ()  # folders that teach runs to do, or that these start from, and that are not trained yet

    @property
    def runs(self) -> tuple[TrialRun, ...]:
        return tuple(cell.run for cell in self.cells)

    @property
    def metric(self) -> Metric:
        """What the best run is the best in; of several the first."""
        return self.space.metric[0]

    @property
    def seeds(self) -> list[int]:
        """The seeds that decide; the first is that of all cells."""
        return self.space.seeds or [self.base_seed]

    @property
    def base_seed(self) -> int:
        with_shared = with_values(self.base, self.space.shared)
        return int(value_of({"seed": 0} | with_shared, "seed"))

    @property
    def cap(self) -> int:
        """How many cells there are in the end."""
        if not self.space.has_proposals:
            return len(self.cells)
        known = (self.space.run_cap, num_points(self.space))
        return min(number for number in known if number is not None)

    def suffix(self, seed: int) -> str:
        """What the name of a seed's run ends in: nothing for that of params.json."""
        return "" if seed == self.base_seed else f"_seed_{seed}"

    def make_run(self, point: Point, seed: int, *, number: int | None = None) -> TrialRun:
        """The run of a point with a seed, in a folder of its own."""
        name = f"{point.name}{self.suffix(seed)}"
        raw = rebase_paths(with_values(self.base, point.values), self.parent_dir)
        raw = raw | {"seed": seed} if self.suffix(seed) else raw
        return TrialRun(Folder(self.parent_dir / name), name, raw, number, self.restart)


def make_plan(parent_dir: Path, *, check: CheckParams | None = None, restart: bool = False) -> Plan:
    """Read a search's folder and look at how far its runs are; writes nothing.

    Args:
        parent_dir: Folder with params.json, the base of all runs, and search.json.
        check: Called with the params of each run that is to be done; where runs are yet to be proposed, with those of
            points among which every value and both ends of every range occur.
        restart: Whether all runs are to be done, finished ones too.

    Raises:
        UserError: A wrong file, a wrong value, or a run that was begun with other parameters.
    """
    load_params(parent_dir)
    base = read_json(parent_dir / PARAMS_FILE)
    base = nested_from_flat(base) if is_flat(base) else base
    space = load_space(parent_dir, base)
    plan = Plan(parent_dir, base, space, restart)
    cells = _proposed_cells(plan) if space.has_proposals else _cells_of_grid(plan)
    to_do: list[TrialRun] = []
    tried = [] if len(cells) >= plan.cap or not space.has_proposals else samples(space)
    for cell in cells:
        with _naming(cell.point):
            if not restart:
                refuse_other_params(cell.run)
        if restart or cell.run.folder.state() not in ENDED:
            to_do.append(cell.run)
            tried.append(cell.point)
    if space.has_proposals and not restart:
        failed = [run for run in to_do if run.folder.state() == "failed"]
        room = max(0, plan.cap - len(cells) + len(failed))
        to_do = [run for run in to_do if run not in failed[room:]]  # others were proposed in their place
    needed: dict[Path, TrialRun] = {}
    # Each is tried out with its networks and losses, which for hundreds of runs takes half a minute.
    for point in tqdm(tried, desc="checking", unit="run", delay=3, leave=False):
        with _naming(point):
            params = parse_params(with_values(base, point.values), parent_dir / PARAMS_FILE)
            if check is not None:
                check(params, parent_dir / PARAMS_FILE)
            for folder in _needed(params, parent_dir):
                if not folder.is_trained():
                    needed[folder.path] = TrialRun(folder, folder.name)
    return replace(plan, cells=tuple(cells), to_do=tuple(to_do), needed=tuple(needed.values()))


def _cells_of_grid(plan: Plan) -> list[Trial]:
    seed = plan.seeds[0]
    return [Trial(point, number, plan.make_run(point, seed)) for number, point in enumerate(points(plan.space))]


def _proposed_cells(plan: Plan) -> list[Trial]:
    seed = plan.seeds[0]
    found = existing_points(plan.parent_dir, plan.space, plan.base, suffix=plan.suffix(seed))
    return [Trial(point, number, plan.make_run(point, seed, number=number)) for number, point in found]


def summary(plan: Plan) -> str:
    """How many runs there are, in which state, and what comes before them."""
    states = Counter(TOLD[run.folder.state()] for run in plan.runs)
    to_come = plan.cap - len(plan.cells)
    if to_come > 0:
        states[f"proposed by {plan.space.method}"] = to_come
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    lines = [f"{plan.parent_dir}: {max(plan.cap, len(plan.cells))} runs: {told}"]
    if plan.restart and any(run.folder.state() in ENDED for run in plan.runs):
        lines[0] += "; all begin anew"
    lines += [f"to be trained first: {needed.name}" for needed in plan.needed]
    return "\n".join(lines)


def listing(plan: Plan) -> str:
    """Every run with its state, a line each, and where others will be proposed."""
    width = max((len(run.name) for run in plan.runs), default=0)
    lines = [f"  {run.name:<{width}}  {TOLD[run.folder.state()]}" for run in plan.runs]
    if plan.space.has_proposals:
        lines += [f"{plan.space.method} proposes", *(f"  {line}" for line in describe(plan.space))]
    return "\n".join(lines)


@contextmanager
def _naming(point: Point) -> Iterator[None]:
    """Say in a user's error which values it came with."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (the run with {point})") from None


def refuse_other_params(run: TrialRun) -> None:
    """A run goes on only with the parameters that it began with.

    Raises:
        UserError: Some differ; they are listed with both values.
    """
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
