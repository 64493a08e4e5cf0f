"""What every pruner has: the learning curves of all runs, read from their folders.

A run is compared by its best value so far, as its best epoch is what counts in the end. All values come from the
folders, so nothing has to be remembered from call to call.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from ...config.folder import Folder
from ..results import curve_of
from ..space.metric import Metric


@dataclass
class LearningCurve:
    """The values of one run.

    Args:
        num_epochs: How many it is trained for.
        bracket: Runs compete within a bracket.
        best: The best value so far after each epoch; larger is better, whatever the metric's goal.
        num_checked: The number of epochs of which `should_prune` has decided.
    """

    num_epochs: int
    bracket: int
    best: list[float] = field(default_factory=list)
    num_checked: int = 0
    is_finished: bool = False


class Pruner(ABC):
    """Decides after each epoch of a run whether it is stopped. Its keyword arguments are its options in search.json.

    Args:
        metric: What is compared.
        seed: Of the search.
    """

    def __init__(self, metric: Metric, seed: int) -> None:
        self.metric, self.seed = metric, seed
        self.curves: dict[Folder, LearningCurve] = {}  # of all runs, ended ones included

    def begin(self, folder: Folder, *, num_epochs: int) -> None:
        """Add a run, or one that has ended."""
        curve = self.curves[folder] = LearningCurve(num_epochs, self.bracket_of(folder.path.name, num_epochs))
        self.update(folder)
        curve.num_checked = len(curve.best) - 1  # a search that was killed may not have checked the last epoch

    def update(self, folder: Folder) -> None:
        """Read how far a run is."""
        curve = self.curves[folder]
        sign = 1 if self.metric.is_maximized else -1
        values = curve_of(folder, self.metric) if folder.run.exists() else {}  # else an earlier run's, to be removed
        ordered = [sign * values.get(epoch, -sign * math.inf) for epoch in range(1, max(values, default=0) + 1)]
        curve.best = list(itertools.accumulate(ordered, max))
        curve.is_finished = folder.state() == "finished"

    def should_prune(self, folder: Folder) -> bool:
        """Whether a run is too bad at one of the epochs that were not checked yet; never at its last."""
        curve = self.curves[folder]
        epochs = range(max(curve.num_checked, 0) + 1, min(len(curve.best), curve.num_epochs - 1) + 1)
        curve.num_checked = len(curve.best)
        return any(self.is_too_bad(curve, epoch) for epoch in epochs)

    @abstractmethod
    def is_too_bad(self, curve: LearningCurve, epoch: int) -> bool:
        """Whether a run should be stopped after an epoch, counted from 1."""

    def bracket_of(self, name: str, num_epochs: int) -> int:
        """The bracket of the run in a folder of this name; only Hyperband has more than one."""
        return 0
