"""The in-memory pipeline against slow loops over PIL images."""

import itertools
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model.data.memory import Arrays, Augmentation, MemoryPipeline, MemorySource, crop_and_flip
from model.types import Batch, Normalisation, Shard, Split, SplitOptions

CPU = torch.device("cpu")
CROP_AND_FLIP = Augmentation(pad=4, flip=True)
NUM_TRAIN, NUM_TEST = 61, 20
RNG = np.random.default_rng(0)
ARRAYS = Arrays(
    train_images=RNG.integers(
        0, 256, (NUM_TRAIN, 7, 5, 3), np.uint8
    ),  # not square: rows and columns must not be confused
    train_labels=RNG.integers(0, 4, NUM_TRAIN),
    test_images=RNG.integers(0, 256, (NUM_TEST, 7, 5, 3), np.uint8),
    test_labels=RNG.integers(0, 4, NUM_TEST),
)
NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))


def opened(
    seed: int = 0, augmentation: Augmentation = CROP_AND_FLIP, device: torch.device = CPU, **options: Any
) -> MemoryPipeline:
    return MemoryPipeline(
        ARRAYS,
        SplitOptions(**options),
        NORMALISATION,
        augmentation,
        seed=seed,
        device=device,
    )


def order(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.index for batch in batches]).tolist()


def cropped_and_flipped(image: NDArray[np.uint8], row: int, column: int, flipped: bool, pad: int) -> NDArray[np.uint8]:
    """torchvision's RandomCrop(size, padding=pad), then RandomHorizontalFlip, with these random numbers."""
    height, width = image.shape[:2]
    padded = ImageOps.expand(Image.fromarray(image), border=pad, fill=0)
    crop = padded.crop((column, row, column + width, row + height))
    return np.asarray(ImageOps.mirror(crop) if flipped else crop)


@pytest.mark.parametrize(
    ("augmentation", "flips"),
    [
        (Augmentation(pad=4, flip=True), (False, True)),
        (Augmentation(pad=2, flip=False), (False,)),
        (Augmentation(pad=0, flip=True), (False, True)),
    ],
)
def test_every_view_is_torchvisions_crop_and_flip(augmentation: Augmentation, flips: tuple[bool, ...]) -> None:
    offsets = range(2 * augmentation.pad + 1)
    views = list(product(offsets, offsets, flips))
    assert augmentation.num_views == len(views)
    image = ARRAYS.train_images[0]
    expected = np.stack([cropped_and_flipped(image, *view, augmentation.pad) for view in views])
    images_NHWC = torch.from_numpy(image).expand(len(views), -1, -1, -1)
    assert np.array_equal(crop_and_flip(images_NHWC, torch.arange(len(views)), augmentation).numpy(), expected)


def test_cifars_augmentation_has_162_views() -> None:
    assert CROP_AND_FLIP.num_views == 162


@pytest.mark.parametrize("augmentation", [CROP_AND_FLIP, Augmentation(pad=2), Augmentation(flip=True), Augmentation()])
def test_the_identity_view_changes_nothing(augmentation: Augmentation) -> None:
    images_NHWC = torch.from_numpy(ARRAYS.train_images)
    view_N = torch.full((NUM_TRAIN,), augmentation.identity)
    assert torch.equal(crop_and_flip(images_NHWC, view_N, augmentation), images_NHWC)


def test_training_images_are_a_function_of_index_and_view() -> None:
    views = list(product(range(9), range(9), (False, True)))
    for batch in opened().train_batches(epoch=3, batch_size=16):
        for image, label, index, view in zip(*batch, strict=True):
            row, column, flipped = views[view]
            pixels = cropped_and_flipped(ARRAYS.train_images[index], row, column, flipped, 4)
            expected = (pixels / 255 - NORMALISATION.mean) / NORMALISATION.std
            assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)
            assert label == ARRAYS.train_labels[index]


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_images_are_not_augmented(split: Split) -> None:
    images, labels = {
        "val": (ARRAYS.train_images, ARRAYS.train_labels),
        "test": (ARRAYS.test_images, ARRAYS.test_labels),
    }[split]
    for batch in opened().eval_batches(split, batch_size=3):
        expected = (images[batch.index] / 255 - NORMALISATION.mean) / NORMALISATION.std
        assert np.allclose(batch.images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
        assert batch.labels.tolist() == labels[batch.index].tolist()
        assert (batch.view == CROP_AND_FLIP.identity).all()


@pytest.mark.parametrize("cutout", [1, 2, 3, 20])
def test_cutout_blanks_a_square_around_any_pixel_and_nothing_else(cutout: int) -> None:
    centres = set()
    views = list(product(range(7), range(5), range(9), range(9), (False, True)))
    for batch in itertools.chain.from_iterable(opened(cutout=cutout).train_batches(epoch, 16) for epoch in range(10)):
        for image, index, view in zip(batch.images, batch.index, batch.view, strict=True):
            centre_row, centre_column, row, column, flipped = views[view]
            pixels = cropped_and_flipped(ARRAYS.train_images[index], row, column, flipped, 4)
            expected = (pixels / 255 - NORMALISATION.mean) / NORMALISATION.std
            top, left = centre_row - cutout // 2, centre_column - cutout // 2
            expected[max(top, 0) : top + cutout, max(left, 0) : left + cutout] = 0
            assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)
            centres.add((centre_row, centre_column))
    assert centres == set(product(range(7), range(5)))


def test_every_batch_of_strong_views_begins_with_the_weak_ones() -> None:
    plain, strong = (list(opened(strong_view=strong_view).train_batches(2, 16)) for strong_view in (False, True))
    assert opened().views_shown == 1
    assert opened(strong_view=True).views_shown == 2
    for weak, both in zip(plain, strong, strict=True):
        size = len(weak.labels)
        assert len(both.labels) == 2 * size
        assert all(torch.equal(one, other[:size]) for one, other in zip(weak, both, strict=True))
        assert torch.equal(both.index[size:], weak.index)
        assert torch.equal(both.labels[size:], weak.labels)
        assert not set(both.view[size:].tolist()) & set(both.view[:size].tolist())


@pytest.mark.parametrize("cutout", [0, 4])
def test_a_strong_view_is_a_crop_with_randaugment_and_a_blank_square(cutout: int) -> None:
    """Few crops are left unchanged by both operations, such as two shifts by less than a pixel."""
    crops: dict[int, set[bytes]] = {}
    for index in range(NUM_TRAIN):
        images_NHWC = torch.from_numpy(ARRAYS.train_images[[index]]).expand(162, -1, -1, -1)
        views_NHWC = crop_and_flip(images_NHWC, torch.arange(162), CROP_AND_FLIP)
        crops[index] = {image.numpy().tobytes() for image in views_NHWC}
    pipeline = opened(strong_view=True, cutout=cutout, val_size=0)
    num_plain, squares = 0, []
    for epoch in range(60):
        (batch,) = pipeline.train_batches(epoch, NUM_TRAIN)
        again = pipeline.augmented_batch(batch.index.numpy()[::-1].copy(), batch.view.numpy()[::-1].copy())
        assert torch.equal(batch.images.flip(0), again.images)
        for image, index in zip(batch.images[NUM_TRAIN:], batch.index[NUM_TRAIN:].tolist(), strict=True):
            blank = (image == 0).all(0)
            squares.append(int(blank.sum()))
            pixels = image.permute(1, 2, 0) * torch.tensor(NORMALISATION.std) + torch.tensor(NORMALISATION.mean)
            num_plain += (pixels * 255).round().to(torch.uint8).numpy().tobytes() in crops[index]
    assert 0.005 < num_plain / len(squares) < 0.1
    assert set(squares) == {0, 1, 2, 4}  # sides of 0, 1 and 2, some cut by the border
    assert 0.25 < np.mean(np.array(squares) == 0) < 0.42


def test_strong_views_differ_from_epoch_to_epoch_and_with_the_seed() -> None:
    strong_views = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        batches = list(opened(seed=seed, strong_view=True).train_batches(epoch, 16))
        halves = [(batch.index.chunk(2)[1], batch.images.chunk(2)[1]) for batch in batches]
        strong_views.append({int(i): x for index, images in halves for i, x in zip(index, images, strict=True)})
    for one, other in itertools.combinations(strong_views, 2):
        assert np.mean([torch.equal(one[index], other[index]) for index in one.keys() & other.keys()]) < 0.1


def test_epoch_views_are_those_of_the_epochs_batches() -> None:
    pipeline = opened(strong_view=True)
    expected = set(zip(*(values.tolist() for values in pipeline.epoch_views(3)), strict=True))
    batches = list(pipeline.train_batches(3, 16))
    in_batches = {pair for batch in batches for pair in zip(batch.index.tolist(), batch.view.tolist(), strict=True)}
    assert expected == in_batches
    assert len(in_batches) == 2 * pipeline.size("train")
    views = pipeline.views(num_epochs=4)
    assert views.unbounded
    assert views.config != opened(strong_view=True, seed=1).views(num_epochs=4).config
    rows = views.row(*pipeline.epoch_views(3))
    assert len(set(rows.tolist())) == len(in_batches)
    assert rows.max() < views.num_rows


def test_strong_views_without_augmentation_are_refused() -> None:
    with pytest.raises(ValueError, match="strong_view is an augmentation: it must be false where augment is"):
        SplitOptions(augment=False, strong_view=True)


@pytest.mark.parametrize(
    "option",
    [{"strong_view": True}, {"auto_augment": "rand_augment"}, {"color_jitter": 0.1}],
    ids=lambda option: next(iter(option)),
)
def test_changes_of_images_with_two_channels_are_refused(option: dict[str, Any]) -> None:
    arrays = Arrays(
        train_images=ARRAYS.train_images[..., :2],
        train_labels=ARRAYS.train_labels,
        test_images=ARRAYS.test_images[..., :2],
        test_labels=ARRAYS.test_labels,
    )
    normalisation = Normalisation(mean=(0.5, 0.5), std=(0.2, 0.2))
    (name,) = option
    with pytest.raises(ValueError, match=f"{name} is for images of 1 or 3 channels, these have 2"):
        MemoryPipeline(arrays, SplitOptions(**option), normalisation, CROP_AND_FLIP, seed=0, device=CPU)


# Changes of pixels ---------------------------------------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "trivial_augment": {"auto_augment": "trivial_augment"},
    "rand_augment": {"auto_augment": "rand_augment"},
    "color_jitter": {"color_jitter": 0.4},
    "hue": {"color_jitter": [0.0, 0.0, 0.0, 0.5]},
    "random_erasing": {"random_erasing": 0.5},
    "all": {"auto_augment": "trivial_augment", "color_jitter": 0.4, "random_erasing": 0.5, "cutout": 2},
}
every_change = pytest.mark.parametrize("options", CHANGES.values(), ids=CHANGES)


@pytest.mark.parametrize("views_per_image", [None, 4])
@every_change
def test_a_changed_image_is_a_function_of_index_and_view(options: dict[str, Any], views_per_image: int | None) -> None:
    pipeline = opened(views_per_image=views_per_image, **options)
    for batch in pipeline.train_batches(3, 16):
        order = np.random.default_rng(0).permutation(len(batch.index))
        again = pipeline.augmented_batch(batch.index.numpy()[order], batch.view.numpy()[order])
        assert torch.equal(batch.images[order], again.images)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@every_change
def test_changes_are_others_in_every_epoch_and_with_every_seed(options: dict[str, Any]) -> None:
    epochs = [shown(opened(seed, val_size=0, **options), range(epoch, epoch + 1)) for seed, epoch in EPOCHS]
    for one, other in itertools.combinations(epochs, 2):
        assert np.mean([pixels == others for (*_, pixels), (*_, others) in zip(one, other, strict=True)]) < 0.1


EPOCHS = [(0, 0), (0, 1), (1, 0)]  # seed, epoch


@every_change
def test_views_of_changed_images_are_numbered_by_epoch_and_unbounded(options: dict[str, Any]) -> None:
    pipeline = opened(**options)
    views = pipeline.views(num_epochs=5)
    assert (views.per_image, views.unbounded, views.can_grow) == (5, True, True)
    assert set(pipeline.epoch_views(3)[1].tolist()) == {3}
    fixed = opened(views_per_image=4, **options).views(num_epochs=5)
    assert (fixed.per_image, fixed.unbounded) == (4, False)


def test_whatever_an_image_depends_on_is_in_the_configuration_of_views() -> None:
    variants = [{}, *CHANGES.values(), {"color_jitter": 0.5}, {"random_erasing": 0.25}, {"cutout": 2}]
    variants += [options | {"views_per_image": 4} for options in variants]
    configs = [opened(seed, **options).views(3).config for options in variants for seed in (0, 1)]
    # Views that are not drawn by the run's seed are shared by both seeds.
    num_shared = sum("views_per_image" in options or not options.keys() - {"cutout"} for options in variants)
    assert len({str(config) for config in configs}) == 2 * len(variants) - num_shared


def test_a_number_is_the_strength_of_brightness_contrast_and_saturation() -> None:
    number, listed = (next(opened(color_jitter=jitter).train_batches(0, 16)) for jitter in (0.4, [0.4, 0.4, 0.4, 0.0]))
    assert torch.equal(number.images, listed.images)


def test_changes_keep_crop_and_flip() -> None:
    """Random erasing alone leaves all other pixels those of a crop."""
    plain, pipeline = opened(val_size=0), opened(val_size=0, random_erasing=1.0)
    crops = [plain.augmented_batch(np.full(162, index), np.arange(162)).images for index in range(NUM_TRAIN)]
    for batch in pipeline.train_batches(0, 16):
        for image, index in zip(batch.images, batch.index.tolist(), strict=True):
            blank_HW = (image == 0).all(dim=0)
            rows, columns = blank_HW.any(dim=1), blank_HW.any(dim=0)
            assert torch.equal(blank_HW, rows[:, None] & columns[None, :])
            assert 1 <= blank_HW.sum() <= 0.4 * 35
            same = torch.where(blank_HW, image, crops[index]) == image
            assert same.flatten(1).all(dim=1).any()


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_random_erasing_erases_a_share_of_the_images(probability: float) -> None:
    pipeline = opened(val_size=0, random_erasing=probability)
    batches = itertools.chain.from_iterable(pipeline.train_batches(epoch, 61) for epoch in range(20))
    erased = [bool(((image == 0).all(dim=0)).any()) for batch in batches for image in batch.images]
    assert np.mean(erased) == pytest.approx(probability, abs=0.05)


def test_strong_views_are_as_they_are_without_changes_of_the_weak_ones() -> None:
    plain = opened(strong_view=True, views_per_image=4)
    changed = opened(strong_view=True, views_per_image=4, color_jitter=0.4, random_erasing=1.0)
    for one, other in zip(plain.train_batches(0, 16), changed.train_batches(0, 16), strict=True):
        half = len(one.labels) // 2
        assert torch.equal(one.images[half:], other.images[half:])
        assert not (one.images[:half] == other.images[:half]).flatten(1).all(dim=1).any()


def test_flips_alternate_with_changes_too() -> None:
    rising = np.broadcast_to(np.arange(20, 70, 10, dtype=np.uint8)[None, None, :, None], (20, 7, 5, 3)).copy()
    arrays = Arrays(
        train_images=rising, train_labels=np.zeros(20, int), test_images=rising, test_labels=np.zeros(20, int)
    )
    options = SplitOptions(val_size=0, alternating_flip=True, color_jitter=0.2)
    pipeline = MemoryPipeline(arrays, options, NORMALISATION, Augmentation(flip=True), seed=0, device=CPU)
    epochs = [next(pipeline.train_batches(epoch, 20)) for epoch in range(4)]
    rises = [(batch.images[:, 0, 0, -1] > batch.images[:, 0, 0, 0])[batch.index.argsort()] for batch in epochs]
    assert all((one != other).all() for one, other in itertools.pairwise(rises))


@pytest.mark.parametrize("split", ["val", "test"])
@every_change
def test_evaluation_images_are_not_changed(split: Split, options: dict[str, Any]) -> None:
    plain, changed = (next(opened(**each).eval_batches(split, 8)) for each in ({}, options))
    assert torch.equal(plain.images, changed.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"augment": False, "random_erasing": 0.5},
            "random_erasing is an augmentation: it must be left out where augmen",
        ),
        (
            {"augment": False, "color_jitter": [0, 0, 0, 0.1]},
            "color_jitter is an augmentation: it must be left out where",
        ),
        (
            {"augment": False, "auto_augment": "rand_augment"},
            "auto_augment is an augmentation: it must be left out wher",
        ),
        (
            {"augment": False, "crop_scale": [0.5, 1.0]},
            "crop_scale is an augmentation: it must be left out where augment",
        ),
        (
            {"strong_view": True, "auto_augment": "rand_augment"},
            "auto_augment must be left out with strong_view, whose",
        ),
        ({"random_erasing": 1.5}, r"random_erasing must be in \[0, 1\], got 1.5"),
        ({"color_jitter": -0.1}, "color_jitter must be a number or a list of .* 0 or more, hue at most 0.5, got -0.1"),
        ({"color_jitter": [0.4, 0.4]}, r"color_jitter must be .*, got \[0.4, 0.4\]"),
        ({"color_jitter": [0.4, 0.4, 0.4, 0.6]}, "color_jitter must be .*, hue at most 0.5, got"),
        ({"crop_scale": [0.0, 1.0]}, r"crop_scale must be two shares of the area, .* got \[0.0, 1.0\]"),
        ({"crop_scale": [0.9, 0.5]}, "crop_scale must be two shares of the area, ascending"),
        ({"crop_scale": [0.5]}, "crop_scale must be two shares of the area"),
        ({"crop_ratio": [2.0, 1.0]}, "crop_ratio must be two aspect ratios, ascending"),
    ],
)
def test_wrong_augmentations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitOptions(**options)


@pytest.mark.parametrize("option", [{"crop_scale": [0.5, 1.0]}, {"crop_ratio": [1.0, 1.0]}])
def test_bounds_of_resized_crops_are_refused_for_images_in_memory(option: dict[str, Any]) -> None:
    (name,) = option
    source = MemorySource(
        class_names=("a", "b", "c", "d"),
        image_shape=(3, 7, 5),
        normalisation=NORMALISATION,
        augmentation=CROP_AND_FLIP,
        load=lambda: pytest.fail("data was read"),
    )
    with pytest.raises(ValueError, match=f"{name} is for image files: images in memory are padded and shifted"):
        source.open(SplitOptions(**option), seed=0, device=CPU)


def test_without_cutout_views_are_those_of_crop_and_flip() -> None:
    plain, cut = opened().epoch_views(3), opened(cutout=4).epoch_views(3)
    assert plain[1].max() < CROP_AND_FLIP.num_views <= cut[1].max()
    assert not opened().views(1).unbounded
    assert opened(cutout=4).views(1).unbounded


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_has_neither_cutout_nor_strong_views(split: Split) -> None:
    cases: list[dict[str, Any]] = [{}, {"cutout": 4}, {"strong_view": True}]
    plain, *others = (next(opened(**options).eval_batches(split, 8)) for options in cases)
    assert all(torch.equal(plain.images, other.images) for other in others)


def test_alternating_flips_alternate_and_keep_the_crops() -> None:
    plain, alternating = opened(val_size=0), opened(val_size=0, alternating_flip=True)
    epochs = [(plain.epoch_views(epoch)[1], alternating.epoch_views(epoch)[1]) for epoch in range(6)]
    flipped = np.stack([views % 2 for _, views in epochs])
    assert (flipped[1:] != flipped[:-1]).all(), "every image is flipped in every second epoch"
    assert 0.3 < flipped[0].mean() < 0.7, "about half of them in the first"
    assert all((drawn // 2 == views // 2).all() for drawn, views in epochs)
    assert alternating.views(6) == plain.views(6), "the views are the same, so cached teacher outputs stay valid"


def test_the_seed_draws_which_images_are_flipped_first() -> None:
    first, other = (opened(seed, val_size=0, alternating_flip=True).epoch_views(0)[1] % 2 for seed in (0, 1))
    assert (first != other).any()


@pytest.mark.parametrize("augment", [True, False])
def test_alternating_flips_without_flips_are_refused(augment: bool) -> None:
    source = MemorySource(
        class_names=("a", "b", "c", "d"),
        image_shape=(3, 7, 5),
        normalisation=NORMALISATION,
        augmentation=Augmentation(pad=4) if augment else CROP_AND_FLIP,
        load=lambda: ARRAYS,
    )
    with pytest.raises(ValueError, match="alternating_flip needs an augmentation that flips: it must be false here"):
        source.open(SplitOptions(alternating_flip=True, augment=augment), seed=0, device=CPU)


def test_a_label_beyond_the_classes_is_refused() -> None:
    source = MemorySource(
        class_names=("a", "b", "c"),
        image_shape=(3, 7, 5),
        normalisation=NORMALISATION,
        augmentation=CROP_AND_FLIP,
        load=lambda: ARRAYS,
    )
    with pytest.raises(ValueError, match="a label is 3, and 3 classes count from 0 to 2"):
        source.open(SplitOptions(), seed=0, device=CPU)


def test_cutout_without_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="cutout is an augmentation: it must be 0 where augment is false, got 8"):
        SplitOptions(augment=False, cutout=8)


def test_normalisation_by_hand() -> None:
    white = np.full((4, 2, 2, 1), 255, np.uint8)
    white[:, 0, 0] = 0
    arrays = Arrays(train_images=white, train_labels=np.zeros(4, int), test_images=white, test_labels=np.zeros(4, int))
    normalisation = Normalisation(mean=(0.5,), std=(0.25,))
    pipeline = MemoryPipeline(arrays, SplitOptions(val_size=0), normalisation, Augmentation(), seed=0, device=CPU)
    (batch,) = pipeline.eval_batches("test", 4)
    assert batch.images[0, 0].tolist() == [[-2.0, 2.0], [2.0, 2.0]]


def test_padding_is_black_before_normalisation() -> None:
    black = (0 - np.array(NORMALISATION.mean)) / NORMALISATION.std
    corners = [
        image[:, 0, 0].numpy()
        for batch in opened().train_batches(0, 16)
        for image, view in zip(batch.images, batch.view, strict=True)
        if view // 18 == 0  # the crop begins at the topmost row of the padded image
    ]
    assert corners
    assert np.allclose(corners, black)


def test_batches_are_channels_last_floats() -> None:
    for batch in [next(opened().train_batches(0, 8)), next(opened().eval_batches("test", 8))]:
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.index.dtype == batch.view.dtype == torch.int64


@pytest.mark.parametrize("pipeline", [opened(cutout=4), opened(strong_view=True)], ids=["cutout", "strong_view"])
def test_blanking_squares_keeps_batches_channels_last(pipeline: MemoryPipeline) -> None:
    batch = next(pipeline.train_batches(0, 8))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_sees_every_training_image_once() -> None:
    pipeline = opened(val_size=10)
    train = order(list(pipeline.train_batches(0, 8)))
    val = order(list(pipeline.eval_batches("val", 8)))
    assert sorted(train + val) == list(range(NUM_TRAIN))
    assert len(val) == pipeline.size("val") == 10


def test_evaluation_keeps_the_data_sets_order() -> None:
    pipeline = opened()
    assert order(list(pipeline.eval_batches("test", 7))) == list(range(NUM_TEST))
    val = order(list(pipeline.eval_batches("val", 4)))
    assert val == sorted(val)


def test_the_same_seed_gives_the_same_batches() -> None:
    for batch, again in zip(opened(seed=5).train_batches(2, 16), opened(seed=5).train_batches(2, 16), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


def test_epochs_and_seeds_differ_in_order_and_in_views() -> None:
    epochs = [list(opened(seed=seed).train_batches(epoch, 64)) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len({tuple(order(batches)) for batches in epochs}) == 3
    views = [
        dict(zip(order(batches), torch.cat([b.view for b in batches]).tolist(), strict=True)) for batches in epochs
    ]
    assert sum(views[0][index] == views[1][index] for index in views[0]) < 10
    assert sum(views[0][index] == views[2][index] for index in views[0]) < 10


def test_the_split_does_not_depend_on_the_runs_seed() -> None:
    assert np.array_equal(opened(seed=0).indices["val"], opened(seed=1).indices["val"])


def test_the_view_of_an_image_does_not_depend_on_the_batch_size() -> None:
    by_size = []
    for batch_size in (8, 32):
        batches = list(opened().train_batches(1, batch_size))
        by_size.append([torch.cat(parts) for parts in zip(*batches, strict=True)])
    assert all(torch.equal(one, other) for one, other in zip(*by_size, strict=True))


@pytest.mark.parametrize("strong_view", [False, True])
@pytest.mark.parametrize("first_step", [0, 1, 3, 6, 7])
def test_first_step_skips_exactly_the_batches_before_it(first_step: int, strong_view: bool) -> None:
    batches = list(opened(strong_view=strong_view).train_batches(4, 8))
    tail = list(opened(strong_view=strong_view).train_batches(4, 8, first_step))
    assert len(tail) == len(batches) - first_step
    for batch, again in zip(batches[first_step:], tail, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


@pytest.mark.parametrize("strong_view", [False, True])
@pytest.mark.parametrize("first_step", [0, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_shards_partition_every_training_batch(size: int, first_step: int, strong_view: bool) -> None:
    pipeline = opened(strong_view=strong_view)
    batches = list(pipeline.train_batches(1, 16, first_step))
    shards = [list(pipeline.train_batches(1, 16, first_step, Shard(rank, size))) for rank in range(size)]
    for number, batch in enumerate(batches):
        for rank in range(size):
            assert all(
                torch.equal(part, rows[rank::size]) for part, rows in zip(shards[rank][number], batch, strict=True)
            )
    assert {len(shard_batches) for shard_batches in shards} == {len(batches)}


def test_shards_partition_the_evaluation_samples() -> None:
    (full,) = opened().eval_batches("test", 1000)
    for rank in range(3):
        index = torch.cat([batch.index for batch in opened().eval_batches("test", 5, Shard(rank, 3))])
        assert torch.equal(index, full.index[rank::3])


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    pipeline = opened(val_size=0)
    assert [len(batch.labels) for batch in pipeline.train_batches(0, 20)] == [20, 20, 21]
    assert pipeline.steps_per_epoch(20) == 3


def test_no_val_gives_no_batch() -> None:
    assert list(opened(val_size=0).eval_batches("val", 8)) == []


def test_without_augmentation_all_epochs_see_the_same_images() -> None:
    pipeline = opened(augmentation=Augmentation())
    first, second = (
        {int(i): x for b in pipeline.train_batches(epoch, 16) for i, x in zip(b.index, b.images, strict=True)}
        for epoch in (0, 1)
    )
    assert all(torch.equal(first[index], second[index]) for index in first)


def test_images_are_not_copied_where_they_can_be_shared() -> None:
    pipeline = opened()
    assert pipeline._images["train"].data_ptr() == ARRAYS.train_images.ctypes.data


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_batches() -> None:
    device = torch.device("cuda")
    for batch, on_gpu in zip(opened().train_batches(0, 16), opened(device=device).train_batches(0, 16), strict=True):
        assert all(tensor.is_cuda for tensor in on_gpu)
        assert torch.allclose(batch.images, on_gpu.images.cpu(), atol=1e-6)
        assert torch.equal(batch.view, on_gpu.view.cpu())
        assert torch.equal(batch.labels, on_gpu.labels.cpu())


# A fixed number of views ---------------------------------------------------------------------------------------------

FIXED: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "cutout": {"cutout": 4},
    "strong views": {"strong_view": True},
    "alternating flips": {"alternating_flip": True},
}


def shown(pipeline: MemoryPipeline, epochs: range) -> list[tuple[int, int, bytes]]:
    """Index, view and pixels of all that is shown in some epochs, sorted."""
    batches = itertools.chain.from_iterable(pipeline.train_batches(epoch, 16) for epoch in epochs)
    return sorted(
        (int(index), int(view), image.numpy().tobytes())
        for batch in batches
        for image, index, view in zip(batch.images, batch.index, batch.view, strict=True)
    )


@pytest.mark.parametrize("options", FIXED.values(), ids=FIXED)
def test_every_image_shows_each_of_its_views_once_in_as_many_epochs(options: dict[str, Any]) -> None:
    pipeline = opened(views_per_image=4, **options)
    first, second = shown(pipeline, range(4)), shown(pipeline, range(4, 8))
    assert first == second
    assert len({(index, view) for index, view, _ in first}) == 4 * pipeline.views_shown * pipeline.size("train")


@pytest.mark.parametrize("options", FIXED.values(), ids=FIXED)
def test_all_seeds_show_the_same_views(options: dict[str, Any]) -> None:
    one, other = (opened(seed, views_per_image=4, **options) for seed in (0, 1))
    assert shown(one, range(4)) == shown(other, range(4))
    assert one.views(num_epochs=9) == other.views(num_epochs=2)


def test_the_seed_draws_which_view_an_image_begins_with() -> None:
    first = [opened(seed, views_per_image=4, val_size=0).epoch_views(0)[1] for seed in range(20)]
    assert [np.mean(np.stack(first) == view) for view in range(4)] == pytest.approx([0.25] * 4, abs=0.05)
    assert all(len(set(of_one_image)) > 1 for of_one_image in np.stack(first).T)


def test_another_split_seed_has_other_views() -> None:
    one, other = (opened(views_per_image=4, val_size=0, split_seed=split_seed) for split_seed in (0, 1))
    same = [
        pixels == other_pixels
        for (*_, pixels), (*_, other_pixels) in zip(shown(one, range(4)), shown(other, range(4)), strict=True)
    ]
    assert np.mean(same) < 0.05
    assert one.views(1).config != other.views(1).config


def test_more_views_contain_fewer() -> None:
    few, many = (shown(opened(views_per_image=number), range(number)) for number in (2, 6))
    assert set(few) < set(many)
    assert opened(views_per_image=2).views(1).config == opened(views_per_image=6).views(1).config


def test_a_fixed_view_is_a_crop_and_a_flip() -> None:
    index = np.arange(NUM_TRAIN)
    plain, fixed = opened(val_size=0), opened(val_size=0, views_per_image=3)
    every = [plain.augmented_batch(index, np.full(NUM_TRAIN, view)).images for view in range(CROP_AND_FLIP.num_views)]
    drawn = set()
    for view in range(3):
        images = fixed.augmented_batch(index, np.full(NUM_TRAIN, view)).images
        for i in range(NUM_TRAIN):
            (same,) = [number for number, others in enumerate(every) if torch.equal(others[i], images[i])]
            drawn.add(same)
    assert len(drawn) > 90  # of 183 draws from 162: 110 are expected


def test_fixed_views_are_numbered_below_their_number_of_rows() -> None:
    views = opened(views_per_image=4, cutout=4, strong_view=True).views(num_epochs=300)
    assert (views.num_rows, views.unbounded) == (NUM_TRAIN * 8, False)


def test_fixed_views_of_alternating_flips_alternate() -> None:
    pipeline = opened(views_per_image=4, alternating_flip=True, val_size=0, augmentation=Augmentation(flip=True))
    epochs = [shown(pipeline, range(epoch, epoch + 1)) for epoch in range(6)]
    unflipped = (ARRAYS.train_images / 255 - NORMALISATION.mean) / NORMALISATION.std
    is_flipped = np.array(
        [
            [
                not np.allclose(
                    np.frombuffer(pixels, np.float32).reshape(3, 7, 5).transpose(1, 2, 0), unflipped[index], atol=1e-5
                )
                for index, _, pixels in epoch
            ]
            for epoch in epochs
        ]
    )
    assert (is_flipped[1:] != is_flipped[:-1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views_per_image": 0}, "views_per_image must be 1 or more, got 0"),
        ({"views_per_image": 4, "augment": False}, "views_per_image is for augmented views: it must be left out where"),
        ({"views_per_image": 3, "alternating_flip": True}, "views_per_image must be even with alternating_flip, got 3"),
    ],
)
def test_wrong_numbers_of_views_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitOptions(**options)
