"""Parameters as Optuna knows them: a distribution, and the encoding of options as values of the distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection

from ..space.metric import Metric
from ..space.naming import canonical
from ..space.parameter import Parameter, Range


class OptunaParameter(ABC):
    """A parameter as a sampler sees it: values of a distribution, which stand for options."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self.distribution = distribution

    @abstractmethod
    def encode(self, option: Any) -> Any: ...

    @abstractmethod
    def decode(self, value: Any) -> Any: ...

    def suggest(self, trial: optuna.Trial, axis: str) -> Any:
        """The option that the study's sampler proposes."""
        value: Any = None
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                value = trial.suggest_categorical(axis, choices)
            case IntDistribution(low=low, high=high):
                value = trial.suggest_int(axis, low, high)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                value = trial.suggest_float(axis, low, high, step=step, log=log)
        return self.decode(value)


class OptionIndex(OptunaParameter):
    """A list of options, encoded as their indices.

    Those of a list of numbers are in ascending order and not categories, so that a sampler learns from neighbours.
    """

    def __init__(self, parameter: Parameter) -> None:
        self._options = sorted(parameter.options) if parameter.is_numeric else parameter.options
        indices = range(len(self._options))
        super().__init__(
            IntDistribution(0, indices[-1]) if parameter.is_numeric else CategoricalDistribution(tuple(indices))
        )

    def encode(self, option: Any) -> Any:
        return [canonical(other) for other in self._options].index(canonical(option))

    def decode(self, value: Any) -> Any:
        return self._options[value]


class OptunaRange(OptunaParameter):
    """A range, whose values are those of the distribution."""

    def __init__(self, parameter: Range) -> None:
        super().__init__(range_distribution(parameter))
        self._range = parameter

    def encode(self, option: Any) -> Any:
        return option

    def decode(self, value: Any) -> Any:
        return self._range.rounded(value)


def optuna_parameter(parameter: Parameter) -> OptunaParameter:
    match parameter:
        case Range():
            return OptunaRange(parameter)
        case _:
            return OptionIndex(parameter)


def range_distribution(parameter: Range) -> FloatDistribution | IntDistribution:
    low, high = parameter.bounds
    if parameter.distribution == "int_uniform":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=parameter.distribution == "log_uniform_values", step=parameter.q)


def directions(metrics: Sequence[Metric]) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if metric.is_maximized else StudyDirection.MINIMIZE for metric in metrics]
