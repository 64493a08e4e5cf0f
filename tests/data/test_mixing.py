"""Mixup and CutMix against torchvision's, with the shares and boxes that they draw."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from model.data.memory import Augmentation
from model.data.mixing import Mixing, Step
from model.types import Batch, Pipeline, Shard, SplitOptions
from tests.data.test_image_folder import opened as opened_folder
from tests.data.test_memory import NUM_TRAIN, opened

MIXUP, CUTMIX, BOTH = {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}
every_kind = pytest.mark.parametrize("options", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])


def unmixed(pipeline: Pipeline, batch: Batch) -> Batch:
    return pipeline.augmented_batch(batch.index.numpy(), batch.view.numpy())


def partners(plain: Batch, mixed: Batch, shift: int) -> Batch:
    assert mixed.partner_labels is not None
    other = Batch(*(rows.roll(shift, 0) for rows in plain))
    assert torch.equal(mixed.partner_labels, other.labels)
    return other


def shift_of(step: Step, mixing: Mixing) -> int:
    """Places between an image and its partner."""
    places, partner = mixing.pairs(step, Shard())
    assert places.tolist() == list(range(step.start, step.stop))
    (shift,) = set(((np.arange(len(partner)) - partner) % len(partner)).tolist())
    return int(shift)


def test_mixup_is_torchvisions_with_the_same_share() -> None:
    pipeline = opened(mixup=0.4, val_size=0)
    mixing = Mixing(mixup=0.4, cutmix=0.0, seed=0)
    for number, batch in enumerate(pipeline.train_batches(2, 20)):
        plain = unmixed(pipeline, batch)
        size = len(batch.labels)
        other = partners(plain, batch, shift_of(Step(2, number, 20 * number, 20 * number + size), mixing))
        assert batch.label_share is not None
        (share,) = set(batch.label_share.tolist())
        # torchvision mixes each image with the one before it in the batch.
        pairs = torch.stack([other.images, plain.images], dim=1)
        expected = [v2.MixUp().transform(pair, {"lam": share, "labels": None, "batch_size": 2})[1] for pair in pairs]
        torch.testing.assert_close(batch.images, torch.stack(expected))
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_is_torchvisions_with_the_same_box() -> None:
    # Without crops, as a box's edge could not be seen on the zeros at their borders.
    pipeline, boxes = opened(cutmix=1.0, val_size=0, augmentation=Augmentation()), set()
    mixing = Mixing(mixup=0.0, cutmix=1.0, seed=0)
    for epoch in range(20):
        for number, batch in enumerate(pipeline.train_batches(epoch, 20)):
            plain, size = unmixed(pipeline, batch), len(batch.labels)
            other = partners(plain, batch, shift_of(Step(epoch, number, 20 * number, 20 * number + size), mixing))
            is_pasted_HW = (batch.images != plain.images).any(dim=1).any(dim=0)
            rows, columns = (is_pasted_HW.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows else (0, 0, 0, 0)
            params = {"box": box, "labels": None, "batch_size": 2}
            pairs = torch.stack([other.images, plain.images], dim=1)
            expected = torch.stack([v2.CutMix().transform(pair, params)[1] for pair in pairs])
            assert torch.equal(batch.images, expected)
            exact = 1 - (box[2] - box[0]) * (box[3] - box[1]) / 35
            assert batch.label_share is not None
            assert batch.label_share.tolist() == pytest.approx([exact] * size)
            boxes.add(box)
    assert len(boxes) > 30


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_of_mixup_have_the_beta_distribution(alpha: float) -> None:
    mixing = Mixing(mixup=alpha, cutmix=0.0, seed=5)
    shares = [mixing._share(alpha, Step(epoch, number, 0, 8)) for epoch in range(20) for number in range(50)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_boxes_of_cutmix_are_drawn_as_torchvision_draws_them() -> None:
    """Centres are uniform, and sides the root of the partner's share: sizes as torchvision's generator gives them."""
    mixing, H, W = Mixing(mixup=0.0, cutmix=1.0, seed=3), 24, 32
    ours = [
        1 - mixing._paste(torch.zeros(1, 1, H, W), torch.ones(1, 1, H, W), Step(0, n, 0, 8))[1] for n in range(2000)
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [1 - v2.CutMix().make_params([torch.zeros(2, 3, H, W)])["lam_adjusted"] for _ in range(2000)]
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_with_both_half_of_the_batches_have_either() -> None:
    mixing = Mixing(mixup=0.4, cutmix=1.0, seed=0)
    kinds = [mixing._is_cutmix(Step(epoch, number, 0, 8)) for epoch in range(20) for number in range(50)]
    assert np.mean(kinds) == pytest.approx(0.5, abs=0.05)


@every_kind
def test_mixing_is_a_function_of_seed_epoch_and_step(options: dict[str, Any]) -> None:
    first, again = (list(opened(**options).train_batches(3, 16)) for _ in range(2))
    resumed = list(opened(**options).train_batches(3, 16, first_step=2))
    for one, other in itertools.chain(zip(first, again, strict=True), zip(first[2:], resumed, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert len([*one]) == 6


def test_shares_are_others_in_every_step_and_with_every_seed() -> None:
    mixings = [Mixing(mixup=0.4, cutmix=0.0, seed=seed) for seed in (0, 1)]
    steps = [Step(epoch, number, 0, 16) for epoch in range(3) for number in range(4)]
    assert len({mixing._share(0.4, step) for mixing in mixings for step in steps}) == 24


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8])
@every_kind
def test_any_number_of_processes_mix_as_one_does(options: dict[str, Any], size: int) -> None:
    pipeline = opened(val_size=0, **options)  # the last of four batches has 13 images
    batches = list(pipeline.train_batches(1, 16))
    for rank in range(size):
        for batch, part in zip(batches, pipeline.train_batches(1, 16, 0, Shard(rank, size)), strict=True):
            assert all(torch.equal(mine, rows[rank::size]) for mine, rows in zip(part, batch, strict=True))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_processes_read_their_own_images_alone_where_batches_can_be_divided(size: int) -> None:
    mixing = Mixing(mixup=1.0, cutmix=0.0, seed=0)
    for number in range(30):
        for rank in range(size):
            places, _ = mixing.pairs(Step(0, number, 64 * number, 64 * number + 64), Shard(rank, size))
            assert places.tolist() == list(range(64 * number + rank, 64 * number + 64, size))


@pytest.mark.parametrize("batch_size", [2, 3, 8, 9, 17])
def test_no_image_is_its_own_partner(batch_size: int) -> None:
    mixing = Mixing(mixup=1.0, cutmix=0.0, seed=0)
    for number in range(20):
        _, partner = mixing.pairs(Step(0, number, 0, batch_size), Shard())
        assert sorted(partner.tolist()) == list(range(batch_size))
        assert (partner != np.arange(batch_size)).all()


def test_a_batch_of_one_image_stays_as_it_is() -> None:
    pipeline = opened(mixup=1.0)
    batch = next(pipeline.train_batches(0, 1))
    torch.testing.assert_close(batch.images, unmixed(pipeline, batch).images)
    assert batch.partner_labels is not None
    assert torch.equal(batch.partner_labels, batch.labels)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_image_files_are_mixed_alike(image_folder: Path, num_workers: int) -> None:
    pipeline = opened_folder(image_folder, num_workers=num_workers, mixup=0.4, cutmix=1.0, val_size=0)
    batches = list(pipeline.train_batches(1, 6))
    for number, batch in enumerate(batches):
        plain, share = unmixed(pipeline, batch), batch.label_share
        assert batch.partner_labels is not None
        assert share is not None
        mixing = Mixing(mixup=0.4, cutmix=1.0, seed=0)
        step = Step(1, number, 6 * number, 6 * number + len(batch.labels))
        other: Tensor = plain.images.roll(shift_of(step, mixing), 0)
        if not mixing._is_cutmix(step):
            torch.testing.assert_close(batch.images, share[0] * plain.images + (1 - share[0]) * other)
        else:
            assert ((batch.images == plain.images) | (batch.images == other)).all()
    for rank in range(2):
        for batch, part in zip(batches, pipeline.train_batches(1, 6, 0, Shard(rank, 2)), strict=True):
            assert all(torch.equal(mine, rows[rank::2]) for mine, rows in zip(part, batch, strict=True))


@every_kind
def test_views_and_evaluation_are_not_mixed(options: dict[str, Any]) -> None:
    plain, mixed = opened(), opened(**options)
    assert plain.views(3) == mixed.views(3)
    for split in ("val", "test"):
        batches = (next(each.eval_batches(split, 8)) for each in (plain, mixed))
        assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))
    index = np.arange(NUM_TRAIN)
    for one, other in zip(mixed.augmented_batch(index, index), plain.augmented_batch(index, index), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -0.1}, "mixup must be 0 or more, got -0.1"),
        ({"cutmix": -1.0}, "cutmix must be 0 or more, got -1.0"),
        (
            {"cutmix": 1.0, "strong_view": True},
            "cutmix must be 0 with strong_view, whose losses compare two views of one",
        ),
    ],
)
def test_wrong_mixing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitOptions(**options)
