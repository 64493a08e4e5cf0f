"""Which runs are stopped before their end, as others did better at the same epoch.

median      Golovin et al., "Google Vizier", KDD 2017, sec. 3.2.2: worse than the median of the finished runs at the
            same epoch. There means over the epochs are compared; here, as in Optuna, the best values so far.
asha        Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, with stopping in the place
            of pausing: rungs at min_iter * eta^k epochs; of all that have reached a rung the best 1 / eta go on.
hyperband   Li et al., "Hyperband", JMLR 18, 2018, alg. 1: brackets, each with a first rung that is eta times higher
            than the one before. A run competes within one, drawn so that they share the runs as in the paper.

What counts is a run's best value so far, as its best epoch is what counts in the end. All values come from the folders,
so nothing is remembered from call to call. A run that is the best of all at an epoch is never stopped there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...config.folder import Folder
from ..results import curve_of
from ..space.points import seed_of
from ..space.schema import EarlyTerminate, Metric

FEWEST_FOR_A_MEDIAN = 5  # finished runs


@dataclass
class LearningCurve:
    """How a run goes.

    Args:
        bracket: In which it competes.
        best: The best value so far after each epoch; larger is better here, whatever the goal.
        judged: The last epoch after which it was decided whether it goes on.
    """

    bracket: int
    best: list[float] = field(default_factory=list)
    judged: int = 0
    is_finished: bool = False


class Pruner:
    """Decides after each epoch of a run whether it goes on.

    Args:
        rule: What search.json says.
        metric: What is compared.
        seed: Draws the brackets.
    """

    def __init__(self, rule: EarlyTerminate, metric: Metric, *, seed: int = 0) -> None:
        self.rule, self.metric, self.seed = rule, metric, seed
        self._courses: dict[Folder, LearningCurve] = {}

    def begin(self, folder: Folder, *, num_epochs: int) -> None:
        """Count a run in, one that has ended, too."""
        course = self._courses[folder] = LearningCurve(self._bracket(folder.path.name, num_epochs))
        self.look(folder)
        course.judged = len(course.best) - 1  # a search that was killed may not have judged the last

    def look(self, folder: Folder) -> None:
        """Read how far a run is."""
        course = self._courses[folder]
        sign = 1 if self.metric.is_maximized else -1
        curve = curve_of(folder, self.metric) if folder.run.exists() else {}  # else an earlier run's, to be removed
        values = [sign * curve.get(epoch, -sign * math.inf) for epoch in range(1, max(curve, default=0) + 1)]
        course.best = list(itertools.accumulate(values, max))
        course.is_finished = folder.state() == "finished"

    def should_stop(self, folder: Folder, *, num_epochs: int) -> bool:
        """Whether a run does too badly at one of the epochs that were not judged yet."""
        course = self._courses[folder]
        epochs = range(max(course.judged, 0) + 1, min(len(course.best), num_epochs - 1) + 1)  # the last one is its end
        course.judged = len(course.best)
        return any(self._is_too_bad(course, epoch) for epoch in epochs)

    def _is_too_bad(self, course: LearningCurve, epoch: int) -> bool:
        if self.rule.type == "median":
            finished = [each.best for each in self._courses.values() if each.is_finished]
            others = [best[epoch - 1] for best in finished if len(best) >= epoch]
            if epoch < self.rule.min_iter or len(others) < FEWEST_FOR_A_MEDIAN:
                return False
            return course.best[epoch - 1] < median(others)
        if not self._is_rung(epoch, course.bracket):
            return False
        competing = [each.best for each in self._courses.values() if each.bracket == course.bracket]
        reached = [best[epoch - 1] for best in competing if len(best) >= epoch]
        num_to_go_on = max(1, len(reached) // self.rule.eta)
        return course.best[epoch - 1] < sorted(reached)[-num_to_go_on]

    def _is_rung(self, epoch: int, bracket: int) -> bool:
        rung: int = self.rule.min_iter * self.rule.eta**bracket
        while rung < epoch:
            rung *= self.rule.eta
        return rung == epoch

    def _bracket(self, name: str, num_epochs: int) -> int:
        if self.rule.type != "hyperband" or num_epochs < self.rule.min_iter:
            return 0
        shares = shares_of_brackets(num_epochs / self.rule.min_iter, self.rule.eta)
        drawn = seed_of(self.seed, name) / 2**32 * sum(shares)
        return next(bracket for bracket, end in enumerate(itertools.accumulate(shares)) if drawn < end)


def shares_of_brackets(longest: float, eta: int) -> list[int]:
    """How many runs each bracket begins with, the lowest first: the paper's n for s = s_max, ..., 0.

    Args:
        longest: The length of a run, in first rungs: the paper's R.
    """
    s_max = int(math.log(longest, eta) + 1e-9)
    return [math.ceil((s_max + 1) * eta**s / (s + 1)) for s in range(s_max, -1, -1)]


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number the lower one of the two, so that no infinite one is counted in."""
    return sorted(values)[(len(values) - 1) // 2]
