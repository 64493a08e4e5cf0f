"""Proposes the runs of a sequential search one after another, each from the results of those before it."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from ...config.folder import Folder
from ...logs import log
from ..plan import Plan, Trial, TrialRun
from ..results import TrialResult, result_of_trial
from ..space.points import MAX_NAME_LENGTH, Point, combinations, num_points
from .dashboard import Dashboard

# A sampler may propose a point that has been run. This many of its proposals are examined to find a new one; then this
# many of a sampler that knows of no runs, as every sampler then draws at random.
NUM_ATTEMPTS, NUM_RANDOM_ATTEMPTS = 5, 20


class Suggester:
    """Proposes trials and keeps their results.

    Args:
        plan: The trials that exist already; the runs that are to be done count as pending.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.sampler = plan, plan.space.build_sampler()
        self._trials = {trial.run: trial for trial in plan.trials}
        self._results = {trial.run: self._result(trial) for trial in plan.trials}
        self._results |= {run: TrialResult("pending") for run in plan.pending}
        self._is_exhausted = False
        self.dashboard = Dashboard(plan.parent_dir, plan.space, self._known())

    def next(self) -> TrialRun | None:
        """One more run, or None while enough of them are complete, pruned or pending."""
        num_counted = sum(result.state != "failed" for result in self._results.values())
        if self._is_exhausted or num_counted >= self.plan.num_trials:
            return None
        number = max([len(self._trials), *(trial.number + 1 for trial in self._trials.values())])
        point = self._new_point(number)
        if point is None:
            return None
        run = self.plan.make_run(point, self.plan.seeds[0], number=number)
        self._trials[run] = Trial(point, number, run)
        self._results[run] = TrialResult("pending")
        self.dashboard.add(point, self._results[run])
        return run

    def update(self, run: TrialRun) -> None:
        """Record the progress of a run that has not ended."""
        trial = self._trials[run]
        self.dashboard.update(trial.point, replace(self._result(trial), state="pending"))

    def end(self, run: TrialRun) -> None:
        """Record the result of a run that has ended."""
        trial = self._trials[run]
        self._results[run] = self._result(trial)
        self.dashboard.update(trial.point, self._results[run])

    def _result(self, trial: Trial) -> TrialResult:
        names = [f"{trial.point.name}{self.plan.seed_suffix(seed)}" for seed in self.plan.seeds]
        return result_of_trial([Folder(self.plan.parent_dir / name) for name in names], self.plan.space.metric)

    def _known(self) -> list[tuple[Point, TrialResult]]:
        return [(trial.point, self._results[run]) for run, trial in self._trials.items()]

    def _new_point(self, number: int) -> Point | None:
        """The sampler's proposal; if all of these are known, the first combination that has no run yet."""
        known = {trial.point.digest for trial in self._trials.values()}
        proposed = self.sampler.proposals(self._known(), number, range(NUM_ATTEMPTS))
        drawn = self.sampler.proposals([], number, range(NUM_ATTEMPTS, NUM_ATTEMPTS + NUM_RANDOM_ATTEMPTS))
        all_others = combinations(self.plan.space) if num_points(self.plan.space) else ()
        for point in chain(proposed, drawn, all_others):
            if point.digest not in known:
                return self._with_free_name(point)
        self._is_exhausted = True
        log.info("%s proposes no new point any more, after %d runs", self.plan.space.method, len(self._trials))
        return None

    def _with_free_name(self, point: Point) -> Point:
        taken = {trial.point.name.casefold() for trial in self._trials.values()}
        is_free = point.name.casefold() not in taken and len(point.name) <= MAX_NAME_LENGTH
        return point if is_free else replace(point, name=point.unique_name)
