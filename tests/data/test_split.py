"""Which images are held out, which are used, and the bounds of batches."""

import numpy as np
import pytest

from model.data.split import batch_bounds, split_indices
from model.types import SplitOptions

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
UNEVEN = np.random.default_rng(0).permutation(np.repeat(np.arange(4), (7, 60, 133, 300)))


def test_val_is_a_tenth_by_default() -> None:
    train, val = split_indices(LABELS, SplitOptions())
    assert (len(train), len(val)) == (900, 100)


@pytest.mark.parametrize("val_size", [0, 1, 9, 100, 333, 499])
@pytest.mark.parametrize("train_fraction", [1.0, 0.5, 0.017])
def test_sizes_are_exact_where_classes_are_uneven(val_size: int, train_fraction: float) -> None:
    train, val = split_indices(UNEVEN, SplitOptions(val_size=val_size, train_fraction=train_fraction))
    assert len(val) == val_size
    assert len(train) == max(1, round((500 - val_size) * train_fraction))


def test_train_and_val_are_disjoint_and_sorted() -> None:
    train, val = split_indices(LABELS, SplitOptions(val_size=300, train_fraction=0.5))
    assert not set(train.tolist()) & set(val.tolist())
    assert train.tolist() == sorted(set(train.tolist()))
    assert val.tolist() == sorted(set(val.tolist()))


def test_without_a_fraction_no_image_is_lost() -> None:
    train, val = split_indices(UNEVEN, SplitOptions(val_size=123))
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(500))


def test_classes_are_represented_in_proportion() -> None:
    train, val = split_indices(UNEVEN, SplitOptions(val_size=50, train_fraction=0.5))
    assert np.abs(np.bincount(UNEVEN[val]) - np.array([0.7, 6, 13.3, 30])).max() < 1
    assert np.abs(np.bincount(UNEVEN[train], minlength=4) - 0.45 * np.array([7, 60, 133, 300])).max() < 1


def test_balanced_classes_stay_balanced() -> None:
    train, val = split_indices(LABELS, SplitOptions(val_size=200, train_fraction=0.25))
    assert np.bincount(LABELS[val]).tolist() == [20] * 10
    assert np.bincount(LABELS[train]).tolist() == [20] * 10


def test_a_class_is_sampled_from_everywhere() -> None:
    """A class in one block, half of which is held out: about half of these are from its first half."""
    labels = np.repeat(np.arange(2), 1000)
    _, val = split_indices(labels, SplitOptions(val_size=1000))
    assert 200 < (val < 500).sum() < 300


def test_split_seed_draws_another_split() -> None:
    _, val = split_indices(LABELS, SplitOptions(split_seed=0))
    _, other = split_indices(LABELS, SplitOptions(split_seed=1))
    assert len(set(val.tolist()) & set(other.tolist())) < 30


def test_val_does_not_depend_on_the_fraction() -> None:
    _, val = split_indices(LABELS, SplitOptions(train_fraction=1.0))
    _, other = split_indices(LABELS, SplitOptions(train_fraction=0.1))
    assert np.array_equal(val, other)


def test_smaller_fractions_are_nested() -> None:
    small, _ = split_indices(LABELS, SplitOptions(train_fraction=0.1))
    large, _ = split_indices(LABELS, SplitOptions(train_fraction=0.5))
    assert set(small.tolist()) < set(large.tolist())


@pytest.mark.parametrize("val_size", [1000, 5000])
def test_a_val_that_leaves_nothing_is_refused(val_size: int) -> None:
    with pytest.raises(ValueError, match=f"val_size must be below the 1000 training images, got {val_size}"):
        split_indices(LABELS, SplitOptions(val_size=val_size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": -1}, "val_size must be 0 or more, got -1"),
        ({"train_fraction": 0.0}, "train_fraction must be above 0 and at most 1, got 0.0"),
        ({"train_fraction": 1.5}, "train_fraction must be above 0 and at most 1, got 1.5"),
        ({"split_seed": -2}, "split_seed must be 0 or more, got -2"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "batch_size", "bounds"),
    [
        (10, 5, [0, 5, 10]),
        (12, 5, [0, 5, 10, 12]),
        (11, 5, [0, 5, 11]),
        (3, 5, [0, 3]),
        (1, 5, [0, 1]),
        (3, 1, [0, 1, 2, 3]),
        (3, 2, [0, 3]),
    ],
)
def test_a_last_batch_of_one_joins_the_one_before(size: int, batch_size: int, bounds: list[int]) -> None:
    assert batch_bounds(size, batch_size) == bounds
