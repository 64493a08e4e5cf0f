"""Schedules against torch's schedulers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from model.registry import SCHEDULES
from model.training.schedules import Schedule, warmed_up
from model.types import ScheduleOptions

EPOCHS, STEPS_PER_EPOCH = 6, 5
STEPS = EPOCHS * STEPS_PER_EPOCH
MakeOracle = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def factors(name: str, **options: object) -> list[float]:
    schedule: Schedule = SCHEDULES.build(name, EPOCHS, STEPS_PER_EPOCH, **options)
    return [schedule(step / STEPS_PER_EPOCH) for step in range(STEPS)]


def torch_factors(make: MakeOracle, *, every: int) -> list[float]:
    """Learning rates that torch's scheduler gives to an optimizer of rate 1 when it is stepped every few steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for step in range(1, STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            scheduler.step()
    return rates


def test_constant_is_always_1() -> None:
    assert factors("constant") == [1.0] * STEPS


def test_step_matches_torch() -> None:
    expected = torch_factors(
        lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.3), every=STEPS_PER_EPOCH
    )
    assert factors("step", step_epochs=2, factor=0.3) == pytest.approx(expected, rel=1e-12)


def test_multistep_matches_torch() -> None:
    expected = torch_factors(
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones=[1, 4, 5], gamma=0.2), every=STEPS_PER_EPOCH
    )
    assert factors("multistep", milestones=[1, 4, 5], factor=0.2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("final_factor", [0.0, 0.1])
def test_cosine_matches_torch(final_factor: float) -> None:
    expected = torch_factors(
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=final_factor), every=1
    )
    assert factors("cosine", final_factor=final_factor) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("rise", "initial_factor", "final_div"), [(0.3, 0.04, 1e4), (0.5, 0.1, 10.0), (0.2, 0.5, 1e3)])
def test_onecycle_matches_torch(rise: float, initial_factor: float, final_div: float) -> None:
    expected = torch_factors(
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=1.0,
            total_steps=STEPS,
            pct_start=rise,
            anneal_strategy="cos",
            cycle_momentum=False,
            div_factor=1 / initial_factor,
            final_div_factor=final_div,
        ),
        every=1,
    )
    actual = factors("onecycle", rise=rise, initial_factor=initial_factor, final_factor=initial_factor / final_div)
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_onecycle_ends_at_its_final_factor() -> None:
    assert factors("onecycle", final_factor=0.001)[-1] == pytest.approx(0.001, rel=1e-9)


@pytest.mark.parametrize(("num_epochs", "expected"), [(1, [1.0]), (2, [1.0, 0.5])])
def test_onecycle_of_too_few_steps_does_not_rise(num_epochs: int, expected: list[float]) -> None:
    schedule: Schedule = SCHEDULES.build("onecycle", num_epochs, 1, rise=0.3, final_factor=0.5)
    assert [schedule(epoch) for epoch in range(num_epochs)] == expected


def test_onecycle_s_defaults_are_torch_s() -> None:
    assert factors("onecycle") == factors("onecycle", rise=0.3, initial_factor=1 / 25, final_factor=1 / 25 / 1e4)


def test_warmup_rises_linearly_and_then_has_no_effect() -> None:
    schedule = warmed_up(SCHEDULES.build("constant", EPOCHS, STEPS_PER_EPOCH), ScheduleOptions(warmup_epochs=2.0))
    assert [schedule(epoch) for epoch in (0.0, 0.5, 1.0, 1.5, 2.0, 5.0)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_warmup_multiplies_a_schedule_that_falls_meanwhile() -> None:
    falling: Schedule = SCHEDULES.build("step", EPOCHS, STEPS_PER_EPOCH, step_epochs=1)
    schedule = warmed_up(falling, ScheduleOptions(warmup_epochs=4.0))
    assert [schedule(epoch) for epoch in (0.0, 1.0, 2.0, 4.0)] == pytest.approx([0.0, 0.025, 0.005, 0.0001])


def test_no_warmup_returns_the_schedule_itself() -> None:
    schedule: Schedule = SCHEDULES.build("cosine", EPOCHS, STEPS_PER_EPOCH)
    assert warmed_up(schedule, ScheduleOptions()) is schedule


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_factors_are_from_0_to_1(name: str) -> None:
    required: dict[str, dict[str, object]] = {"step": {"step_epochs": 2}, "multistep": {"milestones": [2, 4]}}
    assert all(0 <= factor <= 1 for factor in factors(name, **required.get(name, {})))
