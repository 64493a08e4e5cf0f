"""Which images are held out, which are used, and the bounds of batches."""

import hashlib

import numpy as np
import pytest

from model.data.split import batch_bounds, draw_test, split_indices
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


# Keys that follow the images ------------------------------------------------------------------------------------------


def named_split(names: list[str], **options: float) -> tuple[set[str], set[str]]:
    """The names of (train, val); an image's class is what stands before the slash."""
    classes = sorted({name.split("/")[0] for name in names})
    labels = np.array([classes.index(name.split("/")[0]) for name in names])
    keys = np.array([int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names], np.uint64)
    train, val = split_indices(labels, SplitOptions(**options), keys)  # type: ignore[arg-type]
    return {names[index] for index in train}, {names[index] for index in val}


NAMES = [
    f"{label}/{number:03d}" for label, count in zip("abcd", (40, 60, 133, 300), strict=True) for number in range(count)
]


def test_without_keys_the_split_is_by_index() -> None:
    by_index = split_indices(LABELS, SplitOptions())
    by_keys = split_indices(LABELS, SplitOptions(), np.arange(len(LABELS)).astype(np.uint64))
    assert all(np.array_equal(one, other) for one, other in zip(by_index, by_keys, strict=True))


@pytest.mark.parametrize("val_size", [53, 100])
def test_with_keys_sizes_stay_exact(val_size: int) -> None:
    train, val = named_split(NAMES, val_size=val_size)
    assert (len(train), len(val)) == (len(NAMES) - val_size, val_size)


def test_with_keys_the_order_of_the_images_does_not_matter() -> None:
    reversed_classes = [name for label in "abcd" for name in NAMES[::-1] if name[0] == label]
    assert named_split(NAMES, val_size=53) == named_split(reversed_classes, val_size=53)


@pytest.mark.parametrize("number_added", [1, 5])
@pytest.mark.parametrize("label", "abcd")
@pytest.mark.parametrize("train_fraction", [1.0, 0.4])
def test_added_images_move_about_as_many_others(number_added: int, label: str, train_fraction: float) -> None:
    added = [f"{label}/{number:03d}a" for number in range(number_added)]
    train, val = named_split(NAMES, val_size=53, train_fraction=train_fraction)
    new_train, new_val = named_split(sorted(NAMES + added), val_size=53, train_fraction=train_fraction)
    assert len(val - new_val) <= 2 * number_added + 2
    assert len(train - new_train) <= 2 * number_added + 4


@pytest.mark.parametrize("removed", [["a/000"], ["d/000", "d/001", "d/002"], ["a/007", "b/009", "c/100"]])
def test_removed_images_move_about_as_many_others(removed: list[str]) -> None:
    train, val = named_split(NAMES, val_size=53)
    new_train, new_val = named_split([name for name in NAMES if name not in removed], val_size=53)
    moved = (val & new_train) | (train & new_val)
    assert len(moved) <= 2 * len(removed) + 2


def test_a_renamed_image_moves_alone() -> None:
    train, val = named_split(NAMES, val_size=53)
    new_train, new_val = named_split([name.replace("d/000", "d/000x") for name in NAMES], val_size=53)
    assert len((val & new_train) | (train & new_val)) <= 1


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


# Groups ---------------------------------------------------------------------------------------------------------------

NUMBERS = np.random.default_rng(0).integers(0, 2**63, 300).astype(np.uint64)


def test_images_that_are_alone_in_their_group_are_drawn_as_without_groups() -> None:
    labels, options = np.arange(300) % 7, SplitOptions(val_size=50, split_seed=3)
    for one, other in zip(
        split_indices(labels, options, NUMBERS), split_indices(labels, options, groups=NUMBERS), strict=True
    ):
        assert np.array_equal(one, other)


def test_groups_are_never_split_and_the_size_is_about_right() -> None:
    """Videos of 1 to 5 frames, in three classes."""
    videos = np.repeat(np.arange(100), np.arange(100) % 5 + 1)
    labels = videos % 3
    train, val = split_indices(labels, SplitOptions(val_size=60), groups=NUMBERS[videos])
    assert not set(videos[train]) & set(videos[val])
    assert sorted([*train, *val]) == list(range(300))
    assert all(abs(np.bincount(labels[val]) - 20) <= 2)


def test_a_group_of_several_classes_is_never_split() -> None:
    labels, groups = np.arange(60) % 2, np.repeat(NUMBERS[:15], 4)
    train, val = split_indices(labels, SplitOptions(val_size=12), groups=groups)
    assert len(val) == 12
    assert not set(groups[train]) & set(groups[val])


def test_a_class_of_large_groups_gives_the_first_of_them() -> None:
    labels, groups = np.zeros(90, int), np.repeat(NUMBERS[:3], 30)
    is_test = draw_test(labels, 0.1, groups)
    assert is_test.sum() == 30
    assert len(set(groups[is_test])) == 1


def test_a_class_of_one_group_gives_none() -> None:
    labels, groups = np.repeat([0, 1], 30), np.concatenate([NUMBERS[:30], NUMBERS[:1].repeat(30)])
    groups[30:] = 5
    assert draw_test(labels, 0.1, groups).nonzero()[0].max() < 30


def test_where_no_group_can_be_held_out_it_is_said() -> None:
    labels = np.repeat([0, 1], 30)
    with pytest.raises(ValueError, match=r"no images can be held out for val: .*; val_size 0 trains on all of them"):
        split_indices(labels, SplitOptions(val_size=6), groups=NUMBERS[labels])
    train, val = split_indices(labels, SplitOptions(val_size=0), groups=NUMBERS[labels])
    assert (len(train), len(val)) == (60, 0)


def test_given_val_images_are_val_and_train_is_drawn_from_the_others() -> None:
    is_val = np.arange(100) % 10 == 3
    train, val = split_indices(np.arange(100) % 2, SplitOptions(train_fraction=0.5), is_val=is_val)
    assert val.tolist() == list(range(3, 100, 10))
    assert len(train) == 45
    assert not set(train) & set(val)


@pytest.mark.parametrize("val_size", [0, 10])
def test_val_size_is_refused_where_val_images_are_given(val_size: int) -> None:
    with pytest.raises(ValueError, match=f"val_size must be left out where val images are given, got {val_size}"):
        split_indices(np.arange(100) % 2, SplitOptions(val_size=val_size), is_val=np.arange(100) < 10)


def test_new_images_of_a_class_move_none_of_another_into_test() -> None:
    labels = np.arange(200) % 2
    before = draw_test(labels, 0.1, NUMBERS[:200])
    after = draw_test(np.append(labels, [0] * 30), 0.1, NUMBERS[:230])
    assert before.sum() == 20
    assert after.sum() == 23
    moved = np.flatnonzero(before != after[:200])
    assert len(moved) <= 3
    assert not labels[moved].any()


@pytest.mark.parametrize(
    ("images", "fraction", "expected"), [(1, 0.5, 0), (2, 0.1, 1), (4, 0.1, 1), (25, 0.1, 3), (3, 0.9, 2)]
)
def test_a_class_gives_one_test_image_at_least_and_keeps_one(images: int, fraction: float, expected: int) -> None:
    assert draw_test(np.zeros(images, int), fraction, NUMBERS[:images]).sum() == expected
