"""Runs that are proposed one after another, each by what is known of those before it."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from ...config.folder import Folder
from ...logs import log
from ..plan import Plan, Trial, TrialRun
from ..results import TrialResult, result_of_trial
from ..space.points import LONGEST_NAME, Point, combinations, num_points
from .dashboard import Dashboard
from .sampler import Sampler

# A sampler may propose what has been run. So many of its proposals are looked at to find something new, and then so
# many of a sampler that was told of no run, which makes every sampler draw at random.
ATTEMPTS, RANDOM_ATTEMPTS = 5, 20


class Suggester:
    """The points of a search whose method is no grid.

    Args:
        plan: What is there already; the runs that are to be done count as known from now on.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.sampler = plan, Sampler(plan.space)
        self._cells = {cell.run: cell for cell in plan.cells}
        self._outcomes = {cell.run: self._outcome(cell) for cell in plan.cells}
        self._outcomes |= {run: TrialResult("open") for run in plan.to_do}
        self._is_exhausted = False
        self.journal = Dashboard(plan.parent_dir, plan.space, self._known())

    def next(self) -> TrialRun | None:
        """One more run, or None as long as enough of them are finished, pruned or going on."""
        if self._is_exhausted or sum(each.state != "failed" for each in self._outcomes.values()) >= self.plan.cap:
            return None
        number = max([len(self._cells), *(cell.number + 1 for cell in self._cells.values())])
        point = self._new_point(number)
        if point is None:
            return None
        run = self.plan.make_run(point, self.plan.seeds[0], number=number)
        self._cells[run] = Trial(point, number, run)
        self._outcomes[run] = TrialResult("open")
        self.journal.add(point, self._outcomes[run])
        return run

    def look(self, run: TrialRun) -> None:
        """Take note of how far a run is that goes on."""
        self.journal.update(self._cells[run].point, replace(self._outcome(self._cells[run]), state="open"))

    def ended(self, run: TrialRun) -> None:
        """Take note of how a run ended."""
        self._outcomes[run] = self._outcome(self._cells[run])
        self.journal.update(self._cells[run].point, self._outcomes[run])

    def _outcome(self, cell: Trial) -> TrialResult:
        names = [f"{cell.point.name}{self.plan.suffix(seed)}" for seed in self.plan.seeds]
        return result_of_trial([Folder(self.plan.parent_dir / name) for name in names], self.plan.space.metric)

    def _known(self) -> list[tuple[Point, TrialResult]]:
        return [(cell.point, self._outcomes[run]) for run, cell in self._cells.items()]

    def _new_point(self, number: int) -> Point | None:
        """What the sampler proposes; where that is nothing new, the first combination that has no run yet."""
        known = {cell.point.digest for cell in self._cells.values()}
        proposed = self.sampler.proposals(self._known(), number, range(ATTEMPTS))
        drawn = self.sampler.proposals([], number, range(ATTEMPTS, ATTEMPTS + RANDOM_ATTEMPTS))
        all_others = combinations(self.plan.space) if num_points(self.plan.space) else ()
        for point in chain(proposed, drawn, all_others):
            if point.digest not in known:
                return self._named(point)
        self._is_exhausted = True
        log.info("%s proposes nothing new any more, after %d runs", self.plan.space.method, len(self._cells))
        return None

    def _named(self, point: Point) -> Point:
        taken = {cell.point.name.casefold() for cell in self._cells.values()}
        is_plain = point.name.casefold() not in taken and len(point.name) <= LONGEST_NAME
        return point if is_plain else replace(point, name=point.unique_name)
