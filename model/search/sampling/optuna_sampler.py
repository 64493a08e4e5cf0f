"""What the samplers of Optuna have in common: a study is made of the known points and asked for the next one.

Nothing of the study is kept. Optuna is imported when the first point is proposed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ..results import TrialResult
from ..space.points import Point, axes, make_point
from .base import Sampler

if TYPE_CHECKING:
    import optuna

    from .optuna_parameter import OptunaParameter


class OptunaSampler(Sampler, ABC):
    """A sampler of Optuna."""

    packages: ClassVar[tuple[str, ...]] = ("optuna",)
    keeps_generations: ClassVar[bool] = False  # in the study, by counting the trials that were asked for and told

    @abstractmethod
    def build_optuna_sampler(self, seed: int) -> optuna.samplers.BaseSampler: ...

    @cached_property
    def parameters(self) -> dict[str, OptunaParameter]:
        """Name of an axis -> its parameter."""
        from .optuna_parameter import optuna_parameter

        return {axis.name: optuna_parameter(axis.parameter) for axis in axes(self.space)}

    def propose(self, known: Sequence[tuple[Point, TrialResult]], seeds: Iterable[int]) -> Iterator[Point]:
        import optuna

        from .optuna_parameter import directions

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=directions(self.space.metric))
        for point, result in known:
            self._add_trial(study, point, result)
        for seed in seeds:
            study.sampler = self.build_optuna_sampler(seed)
            trial = study.ask()
            yield self._suggest(trial)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _suggest(self, trial: optuna.Trial) -> Point:
        return make_point(self.space, lambda axis, _: self.parameters[axis].suggest(trial, axis))

    def _add_trial(self, study: optuna.Study, point: Point, result: TrialResult) -> None:
        from optuna.trial import TrialState, create_trial

        if result.state == "failed":  # nothing is known of its values
            return
        params = {axis: self.parameters[axis].encode(option) for axis, option in point.picks.items()}
        distributions = {axis: self.parameters[axis].distribution for axis in params}
        if result.state == "complete" and self.keeps_generations:
            # Replayed as if it had been proposed when all trials before it had ended.
            study.enqueue_trial(params)
            trial = study.ask(distributions)
            _ = trial.relative_params  # makes the sampler count it
            study.tell(trial, result.values)
            return
        states = {"pending": TrialState.RUNNING, "complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        curve = result.curve if result.state == "pruned" else {}  # no sampler reads that of another trial
        values = result.values or ([curve[max(curve)]] if curve else None)
        study.add_trial(
            create_trial(
                state=states[result.state],
                params=params,
                distributions=distributions,
                values=values,
                intermediate_values=dict(curve),
            )
        )
