"""What Optuna's dashboard shows of a search: a journal of its points and how they do.

It is written anew from the folders by every call and never read by one, so it may be lost, torn or thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from ...errors import first_sentence
from ...files import write_text
from ...logs import log
from ..results import TrialResult
from ..space.naming import canonical
from ..space.points import Point, axes
from ..space.schema import Parameter, Space
from .sampler import directions, distribution_of_range, is_numeric

JOURNAL_FILE = "optuna.journal"

STATES = {
    "open": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Dashboard:
    """The journal in a search's folder; where it cannot be written, the search goes on without it.

    Args:
        known: All points that have a folder, in the order of their numbers.
    """

    def __init__(self, parent_dir: Path, space: Space, known: Sequence[tuple[Point, TrialResult]]) -> None:
        self._parameters = {axis: parameter for axis, _, parameter in axes(space)}
        self._trials: dict[str, int] = {}  # name of a point -> Optuna's id of its trial
        self._told: dict[str, int] = {}  # name of a point -> its last epoch in the journal
        self._storage: JournalStorage | None = None
        path = parent_dir / JOURNAL_FILE
        with self._giving_up():
            lines = InMemory()  # a thousand lines in one go: a file is synchronised with the disk at each
            self._storage = JournalStorage(lines)
            self._study = self._storage.create_new_study(directions(space.metric), parent_dir.resolve().name)
            for point, outcome in known:
                self.add(point, outcome)
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines.logs))
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a search that was killed while it wrote
            self._storage = JournalStorage(JournalFileBackend(str(path)))

    def add(self, point: Point, outcome: TrialResult) -> None:
        """A point that has got a folder."""
        if self._storage is None:
            return
        with self._giving_up():
            self._trials[point.name] = self._storage.create_new_trial(self._study, self._trial(point, outcome))
            self._told[point.name] = max(outcome.curve, default=0)

    def update(self, point: Point, outcome: TrialResult) -> None:
        """What is newly known of a point."""
        if self._storage is None:
            return
        trial = self._trials[point.name]
        with self._giving_up():
            for epoch, value in outcome.curve.items():
                if epoch > self._told[point.name]:
                    self._storage.set_trial_intermediate_value(trial, epoch, value)
            self._told[point.name] = max(outcome.curve, default=0)
            if outcome.state != "open":
                self._storage.set_trial_state_values(trial, STATES[outcome.state], values_of(outcome))

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk, or somebody removed the file: a picture must not end the search
            self._storage = None
            log.warning("the journal for optuna-dashboard is not written any more (%s)", first_sentence(error))

    def _trial(self, point: Point, outcome: TrialResult) -> FrozenTrial:
        parameters = {axis: self._parameters[axis] for axis in point.picks}
        return create_trial(
            state=STATES[outcome.state],
            params={axis: shown_value(each, point.picks[axis]) for axis, each in parameters.items()},
            distributions={axis: shown_distribution(each) for axis, each in parameters.items()},
            values=values_of(outcome),
            intermediate_values=dict(outcome.curve),
            user_attrs={"folder": point.name},
        )


class InMemory(BaseJournalBackend):
    """The lines of a journal that is no file yet."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def values_of(outcome: TrialResult) -> list[float] | None:
    """What Optuna takes for a trial's values: of one that was pruned the last."""
    if outcome.state == "pruned":
        return [outcome.curve[max(outcome.curve)]]
    return list(outcome.values) or None


def shown_distribution(parameter: Parameter) -> BaseDistribution:
    """As people want to see it: with the values themselves, where a sampler sees places in their order."""
    if parameter.is_range:
        return distribution_of_range(parameter)
    if is_numeric(parameter):
        return FloatDistribution(min(parameter.values), max(parameter.values))
    return CategoricalDistribution([shown_value(parameter, option) for option in parameter.options])


def shown_value(parameter: Parameter, picked: Any) -> Any:
    is_text = parameter.choices or isinstance(picked, str) or parameter.is_range or is_numeric(parameter)
    return picked if is_text else canonical(picked)
