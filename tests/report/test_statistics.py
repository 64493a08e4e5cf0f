"""Differences, intervals, Holm's levels and numbers of seeds, against scipy and against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from model.report.statistics import compare, difference, holm_levels

RNG = np.random.default_rng(0)


def seeds(values: list[float], first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, first))


def test_common_seeds_are_pairs() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1. The 97.5 % quantile of t with 2 degrees of freedom is 4.303.
    found = difference(seeds([11.0, 22.0, 33.0]), seeds([10.0, 20.0, 30.0]))
    assert found is not None
    assert (found.mean, found.deviation, found.is_paired, found.num_seeds) == (2.0, 1.0, True, (3, 3))
    assert found.interval() == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), abs=1e-3)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_pairs_agree_with_scipy(count: int) -> None:
    one, other = RNG.normal(0.5, 1, count), RNG.normal(0, 2, count)
    found, expected = difference(seeds([*one]), seeds([*other])), stats.ttest_rel(one, other)
    assert found is not None
    assert found.p_value == pytest.approx(expected.pvalue)
    for level in (0.05, 0.01):
        assert found.interval(level) == pytest.approx(tuple(expected.confidence_interval(1 - level)))


@pytest.mark.parametrize(("count", "other_count"), [(2, 2), (3, 7), (12, 4)])
def test_other_seeds_are_compared_by_welch_s_test(count: int, other_count: int) -> None:
    one, other = RNG.normal(0.5, 1, count), RNG.normal(0, 2, other_count)
    found = difference(seeds([*one]), seeds([*other], first=100))
    expected = stats.ttest_ind(one, other, equal_var=False)
    assert found is not None
    assert not found.is_paired
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_one_common_seed_makes_no_pairs() -> None:
    found = difference(seeds([1.0, 2.0, 4.0]), seeds([1.0, 3.0, 2.0], first=2))
    assert found is not None
    assert (found.is_paired, found.num_seeds) == (False, (3, 3))


def test_spread_is_at_least_that_of_rounding_to_the_resolution() -> None:
    # Two equal differences of 4 images of 100, with a spread of sqrt(2 / 12) images; 12.706 is a quantile of t.
    found = difference(seeds([0.64, 0.66]), seeds([0.60, 0.62]), resolution=0.01)
    assert found is not None
    half = 12.706 * 0.01 * math.sqrt(2 / 12 / 2)
    assert found.interval() == pytest.approx((0.04 - half, 0.04 + half), rel=1e-3)


def test_accuracies_on_few_images_are_rarely_shown_to_differ_from_themselves() -> None:
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        one, other = (dict(enumerate(generator.binomial(50, 0.8, 2) / 50)) for _ in range(2))
        (comparison,) = compare([difference(one, other, resolution=1 / 50)])
        wrong += comparison.verdict != "not shown"
    assert wrong <= 50


@pytest.mark.parametrize(("values", "baseline"), [([1.0], [0.5, 0.6]), ([1.0, 2.0], [0.5]), ([1.0], [0.5]), ([], [])])
def test_one_seed_has_no_verdict(values: list[float], baseline: list[float]) -> None:
    found = difference(seeds(values), seeds(baseline))
    assert found is None
    (comparison,) = compare([found])
    assert (comparison.verdict, comparison.interval) == ("one seed", None)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([11.0, 12.0, 13.1], "better"), ([9.0, 10.0, 11.1], "worse"), ([10.5, 10.6, 12.2], "not shown")],
)
def test_verdict_says_on_which_side_of_zero_the_interval_is(values: list[float], verdict: str) -> None:
    (comparison,) = compare([difference(seeds(values), seeds([10.0, 11.0, 12.0]))])
    assert comparison.verdict == verdict
    assert comparison.interval is not None
    low, high = comparison.interval
    assert (low > 0) == (verdict == "better")
    assert (high < 0) == (verdict == "worse")


def test_equal_runs_are_not_shown_to_differ() -> None:
    (comparison,) = compare([difference(seeds([1.0, 2.0]), seeds([1.0, 2.0]))])
    assert (comparison.verdict, comparison.interval) == ("not shown", (0.0, 0.0))


@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize("num_comparisons", [1, 4])
def test_without_a_difference_none_is_shown_in_95_percent_of_all_tables(is_paired: bool, num_comparisons: int) -> None:
    generator, wrong, num_tables = np.random.default_rng(1), 0, 1000
    for _ in range(num_tables):
        baseline = seeds([*generator.normal(size=5)])
        first = 0 if is_paired else 100
        runs = [seeds([*generator.normal(size=5)], first) for _ in range(num_comparisons)]
        wrong += any(each.verdict != "not shown" for each in compare([difference(run, baseline) for run in runs]))
    assert wrong / num_tables < 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_tables)


def test_holm_s_levels_of_a_worked_case() -> None:
    # 0.01 < 0.05 / 4 and 0.013 < 0.05 / 3 pass; 0.03 >= 0.05 / 2 fails, and with it 0.04, which alone is below 0.05.
    assert holm_levels([0.04, 0.01, 0.03, 0.013]) == pytest.approx([0.025, 0.0125, 0.025, 0.05 / 3])


def test_several_comparisons_are_stricter_than_one() -> None:
    found = difference(seeds([1.0, 2.0, 3.2, 4.1]), seeds([0.9, 1.7, 2.7, 3.8]))
    assert found is not None
    assert 0.025 < found.p_value < 0.05
    assert compare([found])[0].verdict == "better"
    assert [each.verdict for each in compare([found, None, found])] == ["not shown", "one seed", "not shown"]


@pytest.mark.parametrize(("effect", "count"), [(0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5)])
def test_seeds_needed_for_pairs_are_the_published_numbers(effect: float, count: int) -> None:
    # Sample sizes of the paired t test at a power of 80 % and two-sided 5 %, as G*Power and R's power.t.test have them.
    half = math.sqrt(0.5)  # two differences of deviation 1 around `effect`
    found = difference(seeds([effect - half, effect + half]), seeds([0.0, 0.0]))
    assert found is not None
    assert found.deviation == pytest.approx(1.0)
    assert found.seeds_needed() == count


@pytest.mark.parametrize(("effect", "count"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_without_pairs_are_the_published_numbers(effect: float, count: int) -> None:
    # Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, table 2.4.1: 64, 26 and 17 a group.
    half = math.sqrt(0.5)
    found = difference(seeds([effect - half, effect + half]), seeds([-half, half], first=100))
    assert found is not None
    assert found.seeds_needed() == count


def test_no_number_of_seeds_shows_no_difference() -> None:
    found = difference(seeds([1.0, 2.0]), seeds([2.0, 1.0]))
    assert found is not None
    assert found.seeds_needed() is None
