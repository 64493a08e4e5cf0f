"""The balanced sampler: classes of unequal size are shown equally often."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.memory import Arrays, Augmentation, MemoryPipeline
from model.data.sampler import BalancedSampler
from model.types import Batch, Normalisation, Shard, SplitOptions
from tests.data.test_image_folder import opened as opened_folder

CPU = torch.device("cpu")
LABELS = np.array([0] * 40 + [1] * 3 + [2] * 12 + [3] * 5)
TEST_LABELS = np.arange(8) % 4
ARRAYS = Arrays(
    train_images=np.random.default_rng(0).integers(0, 256, (60, 6, 6, 3), np.uint8),
    train_labels=LABELS,
    test_images=np.random.default_rng(1).integers(0, 256, (8, 6, 6, 3), np.uint8),
    test_labels=TEST_LABELS,
)
VARIANTS: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "cutout": {"cutout": 2},
    "colours": {"color_jitter": 0.5},
    "strong views": {"strong_view": True},
    "fixed views": {"views_per_image": 6},
    "mixed": {"mixup": 1.0},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def opened(seed: int = 0, **options: Any) -> MemoryPipeline:
    defaults: dict[str, Any] = {"val_size": 0, "sampler": "balanced"}
    settings = SplitOptions(**defaults | options)
    normalisation = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    return MemoryPipeline(ARRAYS, settings, normalisation, Augmentation(pad=4, flip=True), seed=seed, device=CPU)


def shown(pipeline: MemoryPipeline, epoch: int) -> list[tuple[int, int]]:
    """Index and view of all samples of an epoch, sorted."""
    batches = pipeline.train_batches(epoch, 16)
    return sorted(itertools.chain.from_iterable(pairs_of(batch) for batch in batches))


def pairs_of(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.index.tolist(), batch.view.tolist(), strict=True))


def test_every_class_is_shown_equally_often_in_epochs_of_the_same_length() -> None:
    for epoch in range(5):
        indices = [index for index, _ in shown(opened(), epoch)]
        assert Counter(LABELS[indices].tolist()) == {0: 15, 1: 15, 2: 15, 3: 15}
        counts = Counter(indices)
        # 15 of 40 images once; 3 images five times; 12 images once and 3 of them again; 5 images three times.
        by_class = [sorted(Counter(n for i, n in counts.items() if LABELS[i] == label).items()) for label in range(4)]
        assert by_class == [[(1, 15)], [(5, 3)], [(1, 9), (2, 3)], [(3, 5)]]


def test_where_classes_do_not_divide_an_epoch_other_classes_come_once_more() -> None:
    counts = [Counter(LABELS[[i for i, _ in shown(opened(val_size=3), epoch)]].tolist()) for epoch in range(20)]
    assert all(sorted(count.values()) == [14, 14, 14, 15] for count in counts)
    assert {max(count, key=lambda label: count[label]) for count in counts} == {0, 1, 2, 3}


def test_epochs_show_other_parts_of_a_frequent_class() -> None:
    parts = [{index for index, _ in shown(opened(), epoch) if LABELS[index] == 0} for epoch in range(20)]
    assert len({frozenset(part) for part in parts}) == 20
    assert set().union(*parts) == set(range(40))


def test_val_images_and_classes_without_images_are_not_shown() -> None:
    pipeline = opened(val_size=20)
    assert not {index for index, _ in shown(pipeline, 0)} & set(pipeline.indices["val"].tolist())
    sampler = BalancedSampler(np.arange(4), np.array([0, 0, 0, 2]), seed=0)
    assert sampler.most_repeats == 2
    assert sorted(sampler.sample(0).index.tolist())[2:] == [3, 3]


@every_variant
def test_a_repeated_image_is_shown_in_a_view_of_its_own(options: dict[str, Any]) -> None:
    """Crops and flips are drawn independently: among 162, two are seldom the same."""
    pipeline = opened(**options)
    pairs = list(itertools.chain.from_iterable(shown(pipeline, epoch) for epoch in range(3)))
    per_epoch = [shown(pipeline, epoch) for epoch in range(3)]
    distinct = [len(set(pairs)) / len(pairs) for pairs in per_epoch]
    is_drawn_by_number = options.keys() & {"color_jitter", "views_per_image"}
    assert min(distinct) == 1 if is_drawn_by_number else np.mean(distinct) > 0.95
    assert len(pairs) == 3 * 60 * pipeline.views_shown


@every_variant
def test_epoch_views_are_those_of_the_epochs_batches(options: dict[str, Any]) -> None:
    pipeline = opened(**options)
    views = pipeline.views(num_epochs=4)
    for epoch in (0, 3):
        index, view = pipeline.epoch_views(epoch)
        assert sorted(zip(index.tolist(), view.tolist(), strict=True)) == shown(pipeline, epoch)
        assert view.max() < views.per_image


@every_variant
def test_resumed_epochs_and_shards_have_the_same_batches(options: dict[str, Any]) -> None:
    batches = list(opened(**options).train_batches(2, 16))
    assert [len(batch.labels) for batch in batches] == [16 * opened(**options).views_shown] * 3 + [
        12 * opened(**options).views_shown
    ]
    for batch, again in zip(batches[2:], opened(**options).train_batches(2, 16, first_step=2), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))
    for rank in range(3):
        for batch, part in zip(batches, opened(**options).train_batches(2, 16, 0, Shard(rank, 3)), strict=True):
            assert all(torch.equal(mine, rows[rank::3]) for mine, rows in zip(part, batch, strict=True))


def test_order_and_choice_depend_on_the_seed_and_the_epoch() -> None:
    orders = [
        torch.cat([batch.index for batch in opened(seed).train_batches(epoch, 16)]).tolist()
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert len({tuple(order) for order in orders}) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 3
    repeats = [place for place, index in enumerate(orders[0]) if index == 41]
    assert max(np.diff(repeats)) > 3, "copies of an image do not follow one another"


def test_views_are_those_of_shuffled_epochs() -> None:
    """So teacher outputs are cached together."""
    balanced, shuffled = opened(), opened(sampler="shuffled")
    assert balanced.views(3) == shuffled.views(3)
    index = np.arange(60)
    batches = [pipeline.augmented_batch(index, index) for pipeline in (balanced, shuffled)]
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


@pytest.mark.parametrize("options", [{}, {"views_per_image": 3}, {"augment": False}], ids=str)
def test_image_files_are_balanced_alike(image_folder: Path, options: dict[str, Any]) -> None:
    for file in sorted((image_folder / "train" / "ant").rglob("*.png"))[2:]:
        file.unlink()
    pipeline = opened_folder(image_folder, val_size=1, sampler="balanced", **options)
    for epoch in range(3):
        batches = list(pipeline.train_batches(epoch, 5))
        counts = Counter(torch.cat([batch.labels for batch in batches]).tolist())
        assert sorted(counts.values()) == [5, 5, 5]
        pairs = list(itertools.chain.from_iterable(pairs_of(batch) for batch in batches))
        index, view = pipeline.epoch_views(epoch)
        assert sorted(zip(index.tolist(), view.tolist(), strict=True)) == sorted(pairs)
        assert options or len(set(pairs)) == len(pairs)
        if pipeline.augment:
            assert view.max() < pipeline.views(3).per_image
