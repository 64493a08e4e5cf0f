"""The user's own folder of images: layout, views, workers."""

import gc
import itertools
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.data.image_folder import folder
from model.data.image_listing import OnError
from model.data.image_pipeline import CENTRE_CROP, ImagePipeline
from model.data.image_reader import random_resized_crop
from model.data.pixels import Photo
from model.errors import OptionError, UserError
from model.fingerprint import content_hash
from model.randomness import VIEW, random_bits
from model.registry import DATASETS
from model.types import Batch, Shard, Split, SplitOptions

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
CPU = torch.device("cpu")
SIZE = 14  # the centre crop of 16


def opened(
    root: Path, *, num_workers: int = 0, seed: int = 0, on_error: OnError = "refuse", **options: Any
) -> ImagePipeline:
    source = folder(root.parent, path=root.name, image_size=SIZE, num_workers=num_workers, on_error=on_error)
    pipeline: ImagePipeline = source.open(SplitOptions(**options), seed=seed, device=CPU)
    return pipeline


def assert_equal(batches: list[Batch], others: list[Batch]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(batch, other, strict=True))


def test_layout_declares_classes_and_shape(image_folder: Path) -> None:
    source = DATASETS.build("folder", image_folder.parent, path="photos", image_size=SIZE)
    assert source.class_names == ("ant", "bee", "cow")
    assert source.image_shape == (3, SIZE, SIZE)


def test_all_images_are_listed_with_their_labels(image_folder: Path) -> None:
    pipeline = opened(image_folder, val_size=3)
    assert [pipeline.size(split) for split in ("train", "val", "test")] == [18, 3, 9]
    (batch,) = pipeline.eval_batches("test", 9)
    assert batch.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_val_is_the_test_set_without_a_folder_test(image_folder: Path) -> None:
    expected = list(opened(image_folder).eval_batches("test", 4))
    (image_folder / "test").rename(image_folder / "val")
    assert_equal(list(opened(image_folder).eval_batches("test", 4)), expected)


def test_a_class_without_test_images_keeps_the_others_numbers(image_folder: Path) -> None:
    for file in (image_folder / "test" / "ant").rglob("*.png"):
        file.unlink()
    (batch,) = opened(image_folder).eval_batches("test", 9)
    assert batch.labels.tolist() == [1, 1, 1, 2, 2, 2]


def test_evaluation_images_are_centre_crops_normalised_as_imagenet(image_folder: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    for file in (image_folder / "test").rglob("*.png"):
        Image.fromarray(pixels).save(file)
    batch = next(opened(image_folder).eval_batches("test", 2))
    expected = (pixels[1:15, 1:15] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert np.allclose(batch.images[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert (batch.view == CENTRE_CROP).all()


def test_batches_are_channels_last_floats(image_folder: Path) -> None:
    batch = next(opened(image_folder).train_batches(0, 5))
    assert batch.images.shape == (5, 3, SIZE, SIZE)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == batch.index.dtype == batch.view.dtype == torch.int64


def test_batches_do_not_depend_on_the_number_of_workers(image_folder: Path) -> None:
    in_process = opened(image_folder)
    with_workers = opened(image_folder, num_workers=2)
    assert_equal(list(in_process.train_batches(1, 4)), list(with_workers.train_batches(1, 4)))
    assert_equal(list(in_process.eval_batches("val", 1)), list(with_workers.eval_batches("val", 1)))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("first_step", "strong_view"), [(1, False), (4, True), (5, False)])
def test_first_step_skips_exactly_the_batches_before_it(
    image_folder: Path, num_workers: int, first_step: int, strong_view: bool
) -> None:
    pipeline = opened(image_folder, num_workers=num_workers, strong_view=strong_view)
    batches = list(pipeline.train_batches(2, 4))
    assert len(batches) == pipeline.steps_per_epoch(4) == 5
    assert_equal(list(pipeline.train_batches(2, 4, first_step)), batches[first_step:])


@pytest.mark.parametrize("strong_view", [False, True])
def test_shards_partition_every_training_batch(image_folder: Path, strong_view: bool) -> None:
    pipeline = opened(image_folder, strong_view=strong_view)
    batches = list(pipeline.train_batches(1, 4, 1))
    for rank in range(2):
        shard_batches = list(pipeline.train_batches(1, 4, 1, Shard(rank, 2)))
        assert_equal(shard_batches, [Batch(*(rows[rank::2] for rows in batch)) for batch in batches])


def test_shards_partition_the_evaluation_samples(image_folder: Path) -> None:
    pipeline = opened(image_folder)
    (full,) = pipeline.eval_batches("test", 1000)
    for rank in range(2):
        batches = list(pipeline.eval_batches("test", 2, Shard(rank, 2)))
        assert torch.equal(torch.cat([batch.index for batch in batches]), full.index[rank::2])


def test_an_epoch_sees_every_training_image_once(image_folder: Path) -> None:
    pipeline = opened(image_folder)
    seen_indices = torch.cat([batch.index for batch in pipeline.train_batches(0, 4)]).tolist()
    assert sorted([*seen_indices, *pipeline.indices["val"].tolist()]) == list(range(21))


def test_epochs_and_seeds_differ_in_order_and_in_views(image_folder: Path) -> None:
    epochs = [
        next(opened(image_folder, seed=seed).train_batches(epoch, 19)) for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert len({tuple(batch.index.tolist()) for batch in epochs}) == 3
    assert [set(batch.view.tolist()) for batch in epochs] == [{0}, {1}, {0}]
    by_index = [{int(index): image for index, image in zip(batch.index, batch.images, strict=True)} for batch in epochs]
    for one, other in itertools.combinations(by_index, 2):
        same = one.keys() & other.keys()
        assert same
        assert not any(torch.equal(one[index], other[index]) for index in same)


def test_the_image_is_a_function_of_index_and_view(image_folder: Path) -> None:
    batch = next(opened(image_folder).train_batches(3, 4))
    files = sorted((image_folder / "train").rglob("*.png"))
    assert batch.view.tolist() == [3, 3, 3, 3]
    for image, index in zip(batch.images, batch.index, strict=True):
        crop_seed = int(random_bits(0, VIEW, 3, index=int(index))) >> 1
        pixels = np.asarray(random_resized_crop(Photo(Image.open(files[index])), crop_seed, SIZE))
        expected = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_cutout_blanks_one_square_that_depends_on_index_and_view(image_folder: Path) -> None:
    plain, cut = (opened(image_folder, cutout=side, seed=1) for side in (0, 6))
    corners = set()
    for epoch in range(3):
        for uncut, batch in zip(plain.train_batches(epoch, 4), cut.train_batches(epoch, 4), strict=True):
            again = cut.augmented_batch(batch.index.numpy(), batch.view.numpy())
            assert torch.equal(batch.images, again.images)
            for before, after in zip(uncut.images, batch.images, strict=True):
                blank = (after == 0).all(0)
                rows, columns = blank.any(1).nonzero().flatten(), blank.any(0).nonzero().flatten()
                top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
                assert blank[top:bottom, left:right].all()
                assert 3 <= bottom - top <= 6
                assert 3 <= right - left <= 6
                assert torch.equal(after, before.masked_fill(blank, 0))
                corners.add((top, left))
    assert len(corners) > 15


def test_alternating_flips_are_refused(image_folder: Path) -> None:
    with pytest.raises(ValueError, match="alternating_flip is for data sets in memory: it must be false here"):
        opened(image_folder, alternating_flip=True)


@pytest.mark.parametrize("strong_view", [False, True])
def test_fixed_views_are_those_of_the_first_epochs_of_the_split_seed(image_folder: Path, strong_view: bool) -> None:
    fixed = opened(image_folder, seed=7, split_seed=3, views_per_image=3, strong_view=strong_view)
    unlimited = opened(image_folder, seed=3, split_seed=3, strong_view=strong_view)
    assert images_by_view(fixed, range(3)) == images_by_view(fixed, range(3, 6)) == images_by_view(unlimited, range(3))
    assert fixed.views(9).config == unlimited.views(9).config
    assert (fixed.views(9).num_rows, fixed.views(9).unbounded) == (21 * 3 * fixed.views_shown, False)


def images_by_view(pipeline: ImagePipeline, epochs: range) -> dict[tuple[int, int], bytes]:
    batches = itertools.chain.from_iterable(pipeline.train_batches(epoch, 4) for epoch in epochs)
    return {
        (int(index), int(view)): image.numpy().tobytes()
        for batch in batches
        for image, index, view in zip(batch.images, batch.index, batch.view, strict=True)
    }


def test_the_seed_draws_which_fixed_view_a_photo_begins_with(image_folder: Path) -> None:
    first = [opened(image_folder, seed=seed, views_per_image=3).epoch_views(0)[1] for seed in range(10)]
    assert all(len(set(of_one_image)) > 1 for of_one_image in np.stack(first).T)


def test_cutout_leaves_evaluation_alone(image_folder: Path) -> None:
    plain, cut = (next(opened(image_folder, cutout=side).eval_batches("test", 8)) for side in (0, 6))
    assert torch.equal(plain.images, cut.images)


def test_strong_views_follow_the_weak_ones_of_their_batch(image_folder: Path) -> None:
    pipeline = opened(image_folder, strong_view=True, cutout=4)
    epochs = [list(pipeline.train_batches(epoch, 4)) for epoch in (0, 1)]
    for epoch, batches in enumerate(epochs):
        for batch in batches:
            half = len(batch.labels) // 2
            assert batch.view.tolist() == half * [2 * epoch] + half * [2 * epoch + 1]
            assert torch.equal(batch.index[:half], batch.index[half:])
            again = pipeline.augmented_batch(batch.index.numpy(), batch.view.numpy())
            assert torch.equal(batch.images, again.images)
            assert ((batch.images[:half] == 0).all(1).sum(dim=(1, 2)) >= 4).all()  # 4 x 4, or the part inside the image
            assert not any(
                torch.equal(weak, strong) for weak, strong in batch.images.view(2, half, 3, SIZE, SIZE).unbind(1)
            )
    index, view = pipeline.epoch_views(1)
    assert set(zip(index.tolist(), view.tolist(), strict=True)) == {
        pair for batch in epochs[1] for pair in zip(batch.index.tolist(), batch.view.tolist(), strict=True)
    }
    rows = pipeline.views(2).row(index, view)
    assert len(set(rows.tolist())) == len(index)
    assert rows.max() < pipeline.views(2).num_rows


def test_half_of_the_views_are_flipped_and_crops_have_at_least_8_percent_of_the_area() -> None:
    """Brightness rises by 2 a column, so the slope of a crop reveals its width and its flip."""
    rising = Image.fromarray(np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1)))
    slopes = []
    for crop_seed in range(300):
        row = np.asarray(random_resized_crop(Photo(rising), crop_seed, 50))[25, :, 0].astype(float)
        slopes.append((row[45] - row[5]) / 40)
    widths = np.abs(slopes) * 50 / 2
    assert 110 < (np.array(slopes) < 0).sum() < 190
    assert widths.min() > 100 * np.sqrt(0.08 * 3 / 4) - 2
    assert widths.max() < 102


CHANGES: dict[str, dict[str, Any]] = {
    "trivial_augment": {"auto_augment": "trivial_augment"},
    "color_jitter": {"color_jitter": [0.4, 0.4, 0.4, 0.1]},
    "random_erasing": {"random_erasing": 0.5},
    "crop": {"crop_scale": [0.5, 1.0], "crop_ratio": [1.0, 1.0]},
    "strong views": {"color_jitter": 0.4, "random_erasing": 0.5, "strong_view": True},
}
every_change = pytest.mark.parametrize("options", CHANGES.values(), ids=CHANGES)


@every_change
def test_a_changed_image_is_a_function_of_index_and_view(image_folder: Path, options: dict[str, Any]) -> None:
    plain, changed = opened(image_folder), opened(image_folder, **options)
    for batch in changed.train_batches(1, 8):
        index, view = batch.index.numpy()[::-1].copy(), batch.view.numpy()[::-1].copy()
        assert torch.equal(batch.images.flip(0), changed.augmented_batch(index, view).images)
        assert not torch.equal(batch.images.flip(0), plain.augmented_batch(index, view).images)


@every_change
def test_fixed_views_with_changes_are_those_of_the_split_seed(image_folder: Path, options: dict[str, Any]) -> None:
    fixed = opened(image_folder, seed=7, split_seed=3, views_per_image=2, **options)
    unlimited = opened(image_folder, seed=3, split_seed=3, **options)
    assert images_by_view(fixed, range(2)) == images_by_view(fixed, range(2, 4)) == images_by_view(unlimited, range(2))
    assert fixed.views(9).config == unlimited.views(9).config != opened(image_folder, seed=3).views(9).config


def test_crops_have_the_bounds_that_are_given() -> None:
    """Brightness rises by 2 a column: the slope of a crop reveals its width."""
    rising = Image.fromarray(np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))).convert("RGB")
    widths = []
    for crop_seed in range(200):
        crop = random_resized_crop(Photo(rising), crop_seed, 50, scale=[0.25, 0.49], ratio=[1.0, 1.0])
        row = np.asarray(crop)[25, :, 0].astype(float)
        widths.append(abs(row[45] - row[5]) / 40 * 50 / 2)
    assert min(widths) == pytest.approx(50, abs=2)
    assert max(widths) == pytest.approx(70, abs=2)


def test_without_augmentation_training_images_are_centre_crops(image_folder: Path) -> None:
    pipeline = opened(image_folder, augment=False)
    for batch in pipeline.train_batches(0, 4):
        assert (batch.view == CENTRE_CROP).all()
    first, second = (
        {int(i): x for b in pipeline.train_batches(e, 4) for i, x in zip(b.index, b.images, strict=True)}
        for e in (0, 1)
    )
    assert all(torch.equal(first[index], second[index]) for index in first)


def test_the_global_generator_does_not_advance(image_folder: Path) -> None:
    before = torch.get_rng_state()
    list(opened(image_folder).train_batches(0, 4))
    list(opened(image_folder, num_workers=1).train_batches(0, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_live_from_epoch_to_epoch_and_end_with_the_pipeline(image_folder: Path) -> None:
    pipeline = opened(image_folder, num_workers=2)
    list(pipeline.train_batches(0, 4))
    processes = {process.pid for process in multiprocessing.active_children()}
    list(pipeline.eval_batches("val", 4))
    batches = pipeline.train_batches(1, 4)
    next(batches)
    assert {process.pid for process in multiprocessing.active_children()} == processes
    assert len(processes) == 2
    batches.close()  # type: ignore[attr-defined]
    del batches, pipeline
    gc.collect()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_of_any_mode_are_read(image_folder: Path, mode: str) -> None:
    file = image_folder / "test" / "ant" / "part_0" / "0.tif"
    Image.new("RGB", (24, 20), (255, 0, 0)).convert(mode).save(file)
    assert next(opened(image_folder).eval_batches("test", 1)).images.shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_breaks_after_the_check_is_named_in_one_line(image_folder: Path, num_workers: int) -> None:
    pipeline = opened(image_folder, num_workers=num_workers)
    broken = image_folder / "test" / "bee" / "part_1" / "1.png"
    broken.write_bytes(b"a text")
    with pytest.raises(UserError) as error:
        list(pipeline.eval_batches("test", 2))
    assert str(error.value) == f"{broken} cannot be read as an image (it has no known image format)"


def test_a_missing_folder_is_named_with_the_nearest_name(image_folder: Path) -> None:
    with pytest.raises(OptionError, match=r'no "fotos" under .*, did you mean "photos"\?'):
        folder(image_folder.parent, path="fotos")


def test_a_missing_split_is_named(image_folder: Path) -> None:
    (image_folder / "train").rename(image_folder / "training")
    with pytest.raises(OptionError, match=r"no folder .*photos/train; expected train/CLASS/ and test/CLASS/"):
        folder(image_folder.parent, path="photos")


def test_a_class_of_test_that_is_not_in_train_is_refused(image_folder: Path) -> None:
    (image_folder / "test" / "Ant").mkdir()
    with pytest.raises(
        OptionError, match=r'photos/test has a class that .*photos/train does not have: Ant, did you mean "ant"\?'
    ):
        folder(image_folder.parent, path="photos")


def test_a_split_without_classes_is_refused(image_folder: Path) -> None:
    (image_folder / "empty" / "train").mkdir(parents=True)
    with pytest.raises(OptionError, match="empty/train has no class sub-folders"):
        folder(image_folder, path="empty")


def test_a_class_whose_name_looks_the_same_in_both_splits_is_the_same(image_folder: Path) -> None:
    """As after copying one of the splits through macOS, which writes the accent as a character of its own."""
    (image_folder / "train" / "cow").rename(image_folder / "train" / "caf\u00e9")
    (image_folder / "test" / "cow").rename(image_folder / "test" / "cafe\u0301")
    (batch,) = opened(image_folder).eval_batches("test", 9)
    assert batch.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert folder(image_folder.parent, path="photos").class_names == ("ant", "bee", "caf\u00e9")


def test_two_classes_whose_names_look_the_same_are_refused(image_folder: Path) -> None:
    for name in ("caf\u00e9", "cafe\u0301"):
        (image_folder / "train" / name).mkdir()
    with pytest.raises(
        OptionError, match="photos/train has two class folders with the same name in Unicode: caf\u00e9"
    ):
        folder(image_folder.parent, path="photos")


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
def test_a_class_name_that_is_not_printable_is_refused(image_folder: Path, name: bytes) -> None:
    (image_folder / "train" / os.fsdecode(name)).mkdir()
    with pytest.raises(OptionError, match=r"the name of a class must be printable UTF-8, got (caf\\xe9|two\\nlines)$"):
        folder(image_folder.parent, path="photos")


def test_one_class_is_refused_with_what_may_be_the_classes(image_folder: Path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            shutil.rmtree(image_folder / split / name)
    with pytest.raises(OptionError) as error:
        folder(image_folder.parent, path="photos")
    train = image_folder / "train"
    assert str(error.value) == (
        f'path: {train} has one class, cow: nothing to tell apart; if ["part_0", "part_1"] are the classes, '
        f"move them into {train}"
    )


def test_hidden_and_system_folders_are_no_classes(image_folder: Path) -> None:
    for split, name in (("train", "__MACOSX"), ("test", ".ipynb_checkpoints")):
        (image_folder / split / name).mkdir()
    assert folder(image_folder.parent, path="photos").class_names == ("ant", "bee", "cow")


def test_a_test_folder_without_classes_is_refused_with_the_hint_at_val(image_folder: Path) -> None:
    (image_folder / "test").rename(image_folder / "val")
    (image_folder / "test").mkdir()
    with pytest.raises(OptionError, match=r"photos/test has no class sub-folders; .*photos/val has: name it test"):
        folder(image_folder.parent, path="photos")


def test_a_class_without_training_images_is_refused(image_folder: Path) -> None:
    (image_folder / "train" / "dog").mkdir()
    with pytest.raises(UserError, match="photos/train has no images of the class dog that can be read"):
        opened(image_folder)


# Class folders that nobody has split ----------------------------------------------------------------------------------


@pytest.fixture
def unsplit_folder(image_folder: Path) -> Path:
    """The same 30 images, ten in each class, without `train` and `test`."""
    root = image_folder.with_name("unsplit")
    for file in image_folder.rglob("*.png"):
        split, name, *_ = file.relative_to(image_folder).parts
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / name / f"{split}_{file.name}")
    return root


def opened_unsplit(root: Path, test_fraction: float = 0.3, **options: Any) -> ImagePipeline:
    source = folder(root.parent, path=root.name, image_size=SIZE, num_workers=0, test_fraction=test_fraction)
    pipeline: ImagePipeline = source.open(SplitOptions(**options), seed=0, device=CPU)
    return pipeline


def hashes(pipeline: ImagePipeline) -> dict[Split, set[int]]:
    splits: tuple[Split, ...] = ("train", "val", "test")
    return {split: set(pipeline.image_hashes(split).tolist()) for split in splits}


def test_every_class_gives_its_share_of_test_images(unsplit_folder: Path) -> None:
    for file in sorted((unsplit_folder / "bee").iterdir())[:5]:
        file.unlink()
    pipeline = opened_unsplit(unsplit_folder)
    (batch,) = pipeline.eval_batches("test", 100)
    assert batch.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]  # 0.3 of 10, 5 and 10
    assert sum(map(len, hashes(pipeline).values())) == 25


def test_test_images_depend_on_names_alone(unsplit_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "photos"
    shutil.copytree(unsplit_folder, moved)
    test = hashes(opened_unsplit(unsplit_folder))["test"]
    assert hashes(opened_unsplit(moved, split_seed=3, val_size=5))["test"] == test


def test_new_images_move_few_others_into_test_or_out_of_it(unsplit_folder: Path) -> None:
    before = hashes(opened_unsplit(unsplit_folder))["test"]
    rng = np.random.default_rng(2)
    for number in range(4):
        file = unsplit_folder / "ant" / f"new_{number}.png"
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
    after = hashes(opened_unsplit(unsplit_folder))["test"]
    assert len(after) == len(before) + 1  # 0.3 of 14 is 4
    assert len(before - after) <= 4


def test_copies_of_an_image_are_never_split(unsplit_folder: Path) -> None:
    for file in list(unsplit_folder.rglob("*.png")):
        shutil.copy(file, file.with_name(f"copy_of_{file.name}"))
    splits = hashes(opened_unsplit(unsplit_folder, val_size=9))
    assert all(splits.values())
    assert not splits["test"] & (splits["train"] | splits["val"])
    assert not splits["val"] & splits["train"]


def test_images_split_by_hand_in_the_same_way_give_equal_batches(unsplit_folder: Path, tmp_path: Path) -> None:
    drawn = opened_unsplit(unsplit_folder)
    test = hashes(drawn)["test"]
    by_hand = tmp_path / "by_hand"
    for file in unsplit_folder.rglob("*.png"):
        split = "test" if content_hash(file.read_bytes()) in test else "train"
        target = by_hand / split / file.relative_to(unsplit_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    given = opened(by_hand)
    assert_equal(list(drawn.train_batches(1, 4)), list(given.train_batches(1, 4)))
    assert_equal(list(drawn.eval_batches("val", 4)), list(given.eval_batches("val", 4)))
    assert_equal(list(drawn.eval_batches("test", 4)), list(given.eval_batches("test", 4)))


def test_class_folders_without_a_split_are_refused_with_the_option(unsplit_folder: Path) -> None:
    with pytest.raises(OptionError) as error:
        folder(unsplit_folder.parent, path="unsplit")
    assert str(error.value) == (
        f"path: no folder {unsplit_folder}/train; expected train/CLASS/ and test/CLASS/ or val/CLASS/; "
        f'"test_fraction": 0.1 draws the test images of class folders that are not split, {unsplit_folder}/CLASS/'
    )


def test_a_fraction_of_folders_that_are_split_is_refused(image_folder: Path) -> None:
    with pytest.raises(OptionError, match=r"^test_fraction: .* there is .*photos/train: leave it out$"):
        folder(image_folder.parent, path="photos", test_fraction=0.1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_that_is_no_part_is_refused(unsplit_folder: Path, fraction: float) -> None:
    with pytest.raises(OptionError, match=f"^test_fraction: must be above 0 and below 1, got {fraction}$"):
        folder(unsplit_folder.parent, path="unsplit", test_fraction=fraction)


# Images that cannot be read -------------------------------------------------------------------------------------------


def break_images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes(b"a text")


def test_broken_images_are_refused_before_training(image_folder: Path) -> None:
    break_images(image_folder, "train/ant/part_0/2.png", "test/bee/part_1/1.png")
    with pytest.raises(UserError) as error:
        opened(image_folder)
    assert str(error.value) == (
        f"2 of 30 images cannot be read: {image_folder}/train/ant/part_0/2.png (it has no known image format), "
        f"{image_folder}/test/bee/part_1/1.png (it has no known image format); "
        '"on_error": "skip" trains without them'
    )


def test_all_broken_images_are_logged_where_the_error_names_the_first(
    image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"train/{name}/part_{number % 2}/{number}.png" for name in ("ant", "bee") for number in range(3)]
    break_images(image_folder, *names)
    with caplog.at_level("INFO", "retort"), pytest.raises(UserError, match=r"6 of 30 images .* and 3 more; "):
        opened(image_folder)
    assert all(name in caplog.text for name in names)


def test_skipped_images_are_left_out_and_named(image_folder: Path) -> None:
    names = ("train/ant/part_0/2.png", "test/bee/part_1/1.png")
    break_images(image_folder, *names)
    skipping = opened(image_folder, on_error="skip", val_size=0)
    assert skipping.skipped == names
    assert [skipping.size(split) for split in ("train", "test")] == [20, 8]
    (batch,) = skipping.eval_batches("test", 9)
    assert batch.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_a_class_whose_images_are_all_skipped_is_refused(image_folder: Path) -> None:
    images = (image_folder / "train" / "cow").rglob("*.png")
    break_images(image_folder, *(str(file.relative_to(image_folder)) for file in images))
    with pytest.raises(UserError, match="photos/train has no images of the class cow that can be read"):
        opened(image_folder, on_error="skip")


def test_skipping_does_not_move_other_images_between_train_and_val(image_folder: Path) -> None:
    before = opened(image_folder, val_size=9)
    break_images(image_folder, "train/bee/part_0/0.png")
    after = opened(image_folder, val_size=9, on_error="skip")
    assert len(set(after.image_hashes("val").tolist()) - set(before.image_hashes("val").tolist())) <= 1


# What is told ---------------------------------------------------------------------------------------------------------


def log_of(root: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level("INFO", "retort"):
        opened(root)
    return [record.getMessage() for record in caplog.records]


def test_nothing_is_told_of_a_plain_folder(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert log_of(image_folder, caplog) == []


def test_left_out_files_are_told_for_each_split(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (image_folder / "train" / "ant" / "notes.txt").write_text("none")
    (image_folder / "test" / "ant" / "._1.png").write_text("none")
    assert log_of(image_folder, caplog) == [
        f"{image_folder}/train: left out 1 .txt (ant/notes.txt)",
        f"{image_folder}/test: left out 1 hidden or of the system (ant/._1.png)",
    ]


def test_it_is_told_which_of_test_and_val_is_used(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(image_folder / "test", image_folder / "val")
    (line,) = log_of(image_folder, caplog)
    assert line.startswith(f"{image_folder}/test is the test set, {image_folder}/val is not used")


def test_it_is_told_that_numbers_are_in_the_order_of_texts(
    image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "test"):
        for name, number in (("ant", "0"), ("bee", "2"), ("cow", "10")):
            (image_folder / split / name).rename(image_folder / split / number)
    (line,) = log_of(image_folder, caplog)
    assert line == f"{image_folder}/train: classes are in the order of their names as text: 0, 10, 2, ..."


def test_classes_that_differ_in_case_are_told(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        (image_folder / split / "bee").rename(image_folder / split / "Cow")
    (line,) = log_of(image_folder, caplog)
    assert line == f"{image_folder}/train: the classes Cow and cow differ in case only"


def test_classes_without_test_images_are_told(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(image_folder / "test" / "bee")
    (line,) = log_of(image_folder, caplog)
    assert line == f"{image_folder}/test has no images of 1 of 3 classes, such as bee"


def test_test_images_that_are_training_images_are_told(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(image_folder / "train/ant/part_0/0.png", image_folder / "test/ant/part_0/copy.png")
    (line,) = log_of(image_folder, caplog)
    example = f"{image_folder}/test/ant/part_0/copy.png"
    assert line == f"1 of 10 test images are training images, too, such as {example}"


def test_an_image_in_two_classes_is_told(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, other = image_folder / "train/ant/part_0/0.png", image_folder / "train/bee/part_0/copy.png"
    shutil.copy(one, other)
    (line,) = log_of(image_folder, caplog)
    assert line == f"1 training images are in two classes, such as {one} and {other}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be positive, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
    ],
)
def test_wrong_options_are_refused(image_folder: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DATASETS.build("folder", image_folder.parent, path="photos", **options)


# The same views at another size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"random_erasing": 0.0, "views_per_image": 2}], ids=["views", "fixed views"])
def test_other_sizes_are_the_views_of_a_data_set_of_that_size(
    image_folder: Path, num_workers: int, options: dict[str, Any]
) -> None:
    def source(size: int) -> Any:
        return folder(image_folder.parent, path=image_folder.name, image_size=size, num_workers=num_workers)

    split_options = SplitOptions(**options)
    both = source(SIZE).open(split_options, seed=3, device=CPU)
    both.draw_at((20, 9))
    alone = {size: source(size).open(split_options, seed=3, device=CPU) for size in (SIZE, 20, 9)}
    for epoch in (0, 1):
        batches = [list(pipeline.train_batches(epoch, 4)) for pipeline in (both, *alone.values())]
        for batch, own, large, small in zip(*batches, strict=True):
            assert torch.equal(batch.images, own.images)
            assert torch.equal(batch.at_size[20], large.images)
            assert torch.equal(batch.at_size[9], small.images)
    for batch, large in zip(both.eval_batches("test", 4), alone[20].eval_batches("test", 4), strict=True):
        assert torch.equal(batch.at_size[20], large.images)


def test_a_cutout_square_covers_the_same_part_at_another_size(image_folder: Path) -> None:
    source = folder(image_folder.parent, path=image_folder.name, image_size=SIZE, num_workers=0)
    pipeline = source.open(SplitOptions(cutout=6), seed=0, device=CPU)
    pipeline.draw_at((3 * SIZE,))
    batch = next(pipeline.train_batches(0, 18))
    erased, erased_large = (each.abs().sum(dim=1) == 0 for each in (batch.images, batch.at_size[3 * SIZE]))
    enlarged = erased.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
    assert torch.equal(enlarged, erased_large)
