"""What Optuna proposes next, knowing how all earlier points did.

A proposal is a function of these points, in the order of their numbers, and of the search's seed. Nothing is kept from
one proposal to the next, so a search that was killed goes on as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from ..results import TrialResult
from ..space.naming import canonical
from ..space.points import Point, axes, point_of, seed_of
from ..space.schema import Metric, Parameter, Space

# A generation. Optuna's 50 would be more than most searches that train networks have runs in all.
POPULATION = 10

# Their samplers keep generations in the study: every point is replayed, as if proposed when those before it had ended.
REPLAYED = ("cmaes", "nsga2")


class Sampler:
    """Proposes points of a space."""

    def __init__(self, space: Space) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._axes = {axis: Axis(parameter) for axis, _, parameter in axes(space)}

    def proposals(
        self, known: Sequence[tuple[Point, TrialResult]], number: int, attempts: range = range(1)
    ) -> Iterator[Point]:
        """The point to try next, and others in its place.

        Args:
            known: All points that have a folder, in the order of their numbers.
            number: How many there are, which seeds the proposals.
            attempts: Of one number, each gives a point of its own.
        """
        study = optuna.create_study(directions=directions(self.space.metric))
        for point, outcome in known:
            self._tell(study, point, outcome)
        for attempt in attempts:
            study.sampler = self._make_sampler(seed_of(self.space.search_seed, number, attempt))
            trial = study.ask()
            yield self._point(trial)
            study.tell(trial, state=TrialState.FAIL)

    def _point(self, trial: optuna.Trial) -> Point:
        return point_of(self.space, lambda axis, _: self._axes[axis].suggest(trial, axis))

    def _make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        match self.space.method:
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)

    def _tell(self, study: optuna.Study, point: Point, outcome: TrialResult) -> None:
        if outcome.state == "failed":  # tells nothing of the values
            return
        params = {axis: self._axes[axis].encoded(picked) for axis, picked in point.picks.items()}
        distributions = {axis: self._axes[axis].distribution for axis in params}
        if outcome.state == "complete" and self.space.method in REPLAYED:
            study.enqueue_trial(params)
            trial = study.ask(distributions)
            _ = trial.relative_params  # makes the sampler count it
            study.tell(trial, outcome.values)
            return
        states = {"open": TrialState.RUNNING, "complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        curve = outcome.curve if outcome.state == "pruned" else {}  # else no sampler looks at it
        values = outcome.values or ([curve[max(curve)]] if curve else None)
        study.add_trial(
            create_trial(
                state=states[outcome.state],
                params=params,
                distributions=distributions,
                values=values,
                intermediate_values=dict(curve),
            )
        )


class Axis:
    """A parameter as Optuna's samplers see it.

    Numbers in a list are seen as places in their order, so that neighbours tell of one another.
    """

    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter
        self._values: list[Any] | None = None
        self.distribution: BaseDistribution
        if not parameter.is_range:
            self._values = sorted(parameter.values) if is_numeric(parameter) else parameter.options
            places = range(len(self._values))
            self.distribution = (
                IntDistribution(0, places[-1]) if is_numeric(parameter) else CategoricalDistribution(tuple(places))
            )
        else:
            self.distribution = distribution_of_range(parameter)

    def encoded(self, picked: Any) -> Any:
        if self._values is None:
            return picked
        return [canonical(value) for value in self._values].index(canonical(picked))

    def suggest(self, trial: optuna.Trial, axis: str) -> Any:
        suggested: Any = None
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                suggested = trial.suggest_categorical(axis, choices)
            case IntDistribution(low=low, high=high):
                suggested = trial.suggest_int(axis, low, high)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                suggested = trial.suggest_float(axis, low, high, step=step, log=log)
        return rounded(suggested, self.parameter) if self._values is None else self._values[suggested]


def is_numeric(parameter: Parameter) -> bool:
    return bool(parameter.values) and all(type(value) in (int, float) for value in parameter.values)


def distribution_of_range(parameter: Parameter) -> FloatDistribution | IntDistribution:
    low, high = parameter.bounds
    if parameter.distribution == "int_uniform":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=parameter.distribution == "log_uniform_values", step=parameter.q)


def rounded(value: float, parameter: Parameter) -> float:
    """A value of a range as people write it: to 1/1000 of the range or finer, or to four digits on a log scale."""
    low, high = parameter.bounds
    if parameter.distribution == "int_uniform":
        return int(value)
    if parameter.q is not None:
        return round(value, 12)
    span = value if parameter.distribution == "log_uniform_values" else high - low
    return min(max(round(value, 3 - math.floor(math.log10(span))), low), high)


def directions(metrics: Sequence[Metric]) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if metric.is_maximized else StudyDirection.MINIMIZE for metric in metrics]
