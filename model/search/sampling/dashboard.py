"""A journal file for optuna-dashboard, with all points of a search and their results.

Every call of the search rewrites it from the folders, and none reads it, so it may be lost, truncated or deleted.
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
from ..space.parameter import Parameter, Range
from ..space.points import Point, axes
from ..space.schema import Space
from .optuna_parameter import directions, range_distribution

JOURNAL_FILE = "optuna.journal"

STATES = {
    "pending": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Dashboard:
    """The journal in a search's folder; if it cannot be written, the search continues without it.

    Args:
        known: All points that have a folder, in the order of their numbers.
    """

    def __init__(self, parent_dir: Path, space: Space, known: Sequence[tuple[Point, TrialResult]]) -> None:
        self._parameters = {axis.name: axis.parameter for axis in axes(space)}
        self._trial_ids: dict[str, int] = {}  # name of a point -> Optuna's id of its trial
        self._last_epochs: dict[str, int] = {}  # name of a point -> its last epoch in the journal
        self._storage: JournalStorage | None = None
        path = parent_dir / JOURNAL_FILE
        with self._disabling_on_error():
            journal = InMemoryJournal()  # a thousand lines at once: a file is flushed to the disk after each
            self._storage = JournalStorage(journal)
            self._study = self._storage.create_new_study(directions(space.metric), parent_dir.resolve().name)
            for point, result in known:
                self.add(point, result)
            write_text(path, "".join(json.dumps(line) + "\n" for line in journal.lines))
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a search that was killed while it wrote
            self._storage = JournalStorage(JournalFileBackend(str(path)))

    def add(self, point: Point, result: TrialResult) -> None:
        """Add a point whose folder is new."""
        if self._storage is None:
            return
        with self._disabling_on_error():
            trial = self._frozen_trial(point, result)
            self._trial_ids[point.name] = self._storage.create_new_trial(self._study, trial)
            self._last_epochs[point.name] = max(result.curve, default=0)

    def update(self, point: Point, result: TrialResult) -> None:
        """Append what is new in the result of a point."""
        if self._storage is None:
            return
        trial_id = self._trial_ids[point.name]
        with self._disabling_on_error():
            for epoch, value in result.curve.items():
                if epoch > self._last_epochs[point.name]:
                    self._storage.set_trial_intermediate_value(trial_id, epoch, value)
            self._last_epochs[point.name] = max(result.curve, default=0)
            if result.state != "pending":
                self._storage.set_trial_state_values(trial_id, STATES[result.state], values_of(result))

    @contextmanager
    def _disabling_on_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk, or the file was removed: a picture must not end the search
            self._storage = None
            log.warning("%s, for optuna-dashboard, is no longer written: %s", JOURNAL_FILE, first_sentence(error))

    def _frozen_trial(self, point: Point, result: TrialResult) -> FrozenTrial:
        parameters = {axis: self._parameters[axis] for axis in point.picks}
        return create_trial(
            state=STATES[result.state],
            params={axis: shown_value(parameter, point.picks[axis]) for axis, parameter in parameters.items()},
            distributions={axis: shown_distribution(parameter) for axis, parameter in parameters.items()},
            values=values_of(result),
            intermediate_values=dict(result.curve),
            user_attrs={"folder": point.name},
        )


class InMemoryJournal(BaseJournalBackend):
    """The lines of a journal that has no file yet."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += logs


def values_of(result: TrialResult) -> list[float] | None:
    """The values of an Optuna trial; of one that was pruned the last intermediate value."""
    if result.state == "pruned":
        return [result.curve[max(result.curve)]]
    return list(result.values) or None


def shown_distribution(parameter: Parameter) -> BaseDistribution:
    """A distribution over the options themselves, where a sampler sees their indices."""
    match parameter:
        case Range():
            return range_distribution(parameter)
    if parameter.is_numeric:
        return FloatDistribution(min(parameter.options), max(parameter.options))
    return CategoricalDistribution([shown_value(parameter, option) for option in parameter.options])


def shown_value(parameter: Parameter, option: Any) -> Any:
    is_shown_as_is = parameter.is_numeric or not parameter.is_enumerated or isinstance(option, str)
    return option if is_shown_as_is else canonical(option)
