"""A new sampler and a new pruner are one class each: search.json can use them, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from model.errors import UserError
from model.registry import PRUNERS, SAMPLERS
from model.search.results import TrialResult
from model.search.sampling.base import Sampler
from model.search.sampling.pruner import LearningCurve, Pruner
from model.search.space.metric import Metric
from model.search.space.points import Point, make_point
from model.search.space.search_file import load_space
from tests.search.fake_search import BASE, FakeSearch

SEARCH = {"method": "bisection", "run_cap": 3, "early_terminate": {"type": "threshold", "lowest": 0.4}}
RANGE = {"alpha": {"min": 0.0, "max": 1.0}}


class Bisection(Sampler):
    """The middle of a range, then the middles of both halves, and so on."""

    takes_several_metrics = False

    def propose(self, known: Sequence[tuple[Point, TrialResult]], seeds: Iterable[int]) -> Iterator[Point]:
        for number, _ in enumerate(seeds, len(known) + 1):
            yield self._point(sum(int(bit) / 2**digit for digit, bit in enumerate(f"{number:b}"[::-1], 1)))

    def _point(self, fraction: float) -> Point:
        return make_point(self.space, lambda _, parameter: fraction * parameter.options[-1])


class Threshold(Pruner):
    """Stops runs whose best value is too low."""

    def __init__(self, metric: Metric, seed: int, *, lowest: float = 0.3, patience: int = 1) -> None:
        if patience < 1:
            raise ValueError(f"patience must be 1 or more, got {patience}")
        super().__init__(metric, seed)
        self.lowest, self.patience = lowest, patience

    def is_too_bad(self, curve: LearningCurve, epoch: int) -> bool:
        return epoch >= self.patience and curve.best[epoch - 1] < self.lowest


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (SAMPLERS, PRUNERS):
        monkeypatch.setattr(registry, "_functions", dict(registry._functions))
    SAMPLERS.register("bisection")(Bisection)
    PRUNERS.register("threshold")(Threshold)


def test_a_search_uses_a_new_sampler_and_a_new_pruner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.search.run_queue.READ_PROGRESS_SECONDS", 0.0)
    fake = FakeSearch(tmp_path, RANGE, search=SEARCH, student={"seconds": 0.15}, num_epochs=8)
    assert fake.run(jobs=1) == 0
    assert fake.begun() == ["alpha_0.5", "alpha_0.25", "alpha_0.75"]
    assert [fake.state(run) for run in fake.begun()] == ["finished", "pruned", "finished"]


def test_the_options_of_a_new_pruner_are_checked_and_filled_in(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, RANGE, search=SEARCH)
    rule = load_space(fake.folder, BASE).early_terminate
    assert rule is not None
    assert rule.options == {"lowest": 0.4, "patience": 1}
    fake.change(early_terminate={"type": "threshold", "lowst": 0.4})
    with pytest.raises(UserError, match=r'early_terminate\.lowst: unknown option .*, did you mean "lowest"\?'):
        load_space(fake.folder, BASE)
    fake.change(early_terminate={"type": "threshold", "patience": 0})
    with pytest.raises(UserError, match="early_terminate: patience must be 1 or more, got 0"):
        load_space(fake.folder, BASE)


def test_what_a_new_sampler_declares_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSearch(tmp_path, RANGE, search=SEARCH | {"early_terminate": None})
    fake.change(metric=[{"name": "val_accuracy"}, {"name": "macs"}])
    with pytest.raises(UserError, match="method: bisection takes one metric, got val_accuracy, macs"):
        load_space(fake.folder, BASE)
    fake.change(metric={"name": "macs"})
    monkeypatch.setattr(Bisection, "packages", ("no_such_package",))
    with pytest.raises(UserError, match="bisection needs a package that is not installed: pip install no_such_package"):
        load_space(fake.folder, BASE)
    monkeypatch.setattr(Bisection, "packages", ())
    monkeypatch.setattr(Bisection, "takes_ranges", False)
    with pytest.raises(UserError, match='alpha: bisection needs "values", a list; methods that take a range: cmaes'):
        load_space(fake.folder, BASE)
