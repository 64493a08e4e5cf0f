"""Learning-rate schedules as functions of the step: the factor that the optimizer's learning rate is multiplied by.

A function has no state to save: a resumed run evaluates it at its step. Lengths are in epochs, which may be
part epochs; the last step begins at `num_epochs - 1 / steps_per_epoch`. Every schedule also has `warmup_epochs`, a
linear rise that multiplies the factor (`warmed_up`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..registry import SCHEDULES
from ..types import ScheduleOptions

Schedule = Callable[[float], float]  # epochs done, part epochs included -> factor


@SCHEDULES.register
def constant(num_epochs: int, steps_per_epoch: int) -> Schedule:
    """The same learning rate throughout."""
    return lambda _: 1.0


@SCHEDULES.register
def step(num_epochs: int, steps_per_epoch: int, *, step_epochs: int, factor: float = 0.1) -> Schedule:
    """Multiply by `factor` every `step_epochs` epochs."""
    if step_epochs < 1:
        raise ValueError(f"step_epochs must be 1 or more, got {step_epochs}")
    _check_factor(factor)
    return lambda epoch: factor ** (int(epoch) // step_epochs)


@SCHEDULES.register
def multistep(num_epochs: int, steps_per_epoch: int, *, milestones: tuple[int, ...], factor: float = 0.1) -> Schedule:
    """Multiply by `factor` at each of the epochs in `milestones`."""
    if any(milestone < 1 for milestone in milestones) or list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones must be rising epochs from 1 on, got {list(milestones)}")
    _check_factor(factor)
    return lambda epoch: factor ** sum(epoch >= milestone for milestone in milestones)


@SCHEDULES.register
def cosine(num_epochs: int, steps_per_epoch: int, *, final_factor: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `final_factor` (Loshchilov and Hutter, 2017, eq. 5, one cycle)."""
    if not 0 <= final_factor <= 1:
        raise ValueError(f"final_factor must be in [0, 1], got {final_factor}")
    return lambda epoch: final_factor + (1 - final_factor) * (1 + math.cos(math.pi * epoch / num_epochs)) / 2


@SCHEDULES.register
def onecycle(
    num_epochs: int,
    steps_per_epoch: int,
    *,
    rise: float = 0.3,
    initial_factor: float = 0.04,
    final_factor: float = 4e-6,
) -> Schedule:
    """Rise to the learning rate, then fall to almost nothing, each as half a cosine (Smith and Topin, 2018).

    The factors are those of torch's OneCycleLR.

    Args:
        rise: Share of the run's steps that rise, in (0, 1).
        initial_factor: Factor at the first step.
        final_factor: Factor at the last step.
    """
    if not 0 < rise < 1:
        raise ValueError(f"rise must be between 0 and 1, got {rise}")
    if not 0 <= initial_factor <= 1 or not 0 <= final_factor <= 1:
        raise ValueError(f"initial_factor and final_factor must be in [0, 1], got {initial_factor} and {final_factor}")

    last = num_epochs - 1 / steps_per_epoch
    top = max(0.0, rise * num_epochs - 1 / steps_per_epoch)  # 0 where too few steps are left for a rise

    def factor(epoch: float) -> float:
        if epoch < top:
            return _half_cosine(initial_factor, 1.0, epoch / top)
        return _half_cosine(1.0, final_factor, (epoch - top) / (last - top)) if top < last else 1.0

    return factor


def warmed_up(schedule: Schedule, options: ScheduleOptions) -> Schedule:
    """The schedule with the linear rise of its common options."""
    if not options.warmup_epochs:
        return schedule
    return lambda epoch: schedule(epoch) * min(1.0, epoch / options.warmup_epochs)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _check_factor(factor: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"factor must be above 0 and at most 1, got {factor}")
