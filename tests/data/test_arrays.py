"""The user's own .npz file: its arrays, and a one-line error for everything that can be wrong with it."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.arrays import arrays, channel_statistics
from model.errors import OptionError
from model.registry import DATASETS
from model.types import SplitOptions

CPU = torch.device("cpu")


def changed(npz: Path, **changes: Any) -> Path:
    """The file with some arrays changed; None takes one out."""
    with np.load(npz) as archive:
        content = {key: archive[key] for key in archive.files} | changes
    np.savez(npz, **{key: value for key, value in content.items() if value is not None})
    return npz


def build(path: Path) -> Any:
    return DATASETS.build("arrays", path.parent, path=path.name)


def test_shape_and_classes_are_read_from_the_file(npz: Path) -> None:
    source = build(npz)
    assert source.image_shape == (3, 6, 5)
    assert source.class_names == ("0", "1", "2")


def test_images_and_labels_are_the_files(npz: Path) -> None:
    with np.load(npz) as archive:
        images, labels = archive["test_images"], archive["test_labels"]
    source = build(npz)
    (batch,) = source.open(SplitOptions(), seed=0, device=CPU).eval_batches("test", 10)
    expected = (images / 255 - source.normalisation.mean) / source.normalisation.std
    assert np.allclose(batch.images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert batch.labels.tolist() == labels.tolist()


def test_normalisation_is_that_of_the_training_images(npz: Path) -> None:
    with np.load(npz) as archive:
        pixels = archive["train_images"] / 255
    source = build(npz)
    assert np.allclose(source.normalisation.mean, pixels.mean(axis=(0, 1, 2)))
    assert np.allclose(source.normalisation.std, pixels.std(axis=(0, 1, 2)))


def test_statistics_of_more_images_than_one_chunk() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2500, 2, 2, 2), np.uint8)
    mean, std = channel_statistics(images)
    assert np.allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    assert np.allclose(std, (images / 255).std(axis=(0, 1, 2)))


def test_grey_images_need_no_channel_axis(npz: Path) -> None:
    with np.load(npz) as archive:
        grey = {key: archive[key][..., 0] for key in ("train_images", "test_images")}
    source = build(changed(npz, **grey))
    assert source.image_shape == (1, 6, 5)
    (batch,) = source.open(SplitOptions(), seed=0, device=CPU).eval_batches("test", 10)
    assert batch.images.shape == (10, 1, 6, 5)


def test_class_names_are_read_from_the_file(npz: Path) -> None:
    assert build(changed(npz, class_names=np.array(["a", "b", "c", "d"]))).class_names == ("a", "b", "c", "d")


def test_labels_may_be_of_any_integer_type(npz: Path) -> None:
    source = build(changed(npz, train_labels=(np.arange(30) % 3).astype(">u2")))
    batch = next(source.open(SplitOptions(), seed=0, device=CPU).train_batches(0, 30))
    assert batch.labels.tolist() == [index % 3 for index in batch.index.tolist()]


def test_a_compressed_file_is_read(npz: Path) -> None:
    with np.load(npz) as archive:
        np.savez_compressed(npz, **{key: archive[key] for key in archive.files})
    assert len(build(npz).arrays.train_images) == 30


def rewritten(npz: Path, *, name: str = "{}.npy", version: tuple[int, int] = (1, 0), fortran: bool = False) -> Path:
    """The same arrays under other names of members, in another version of the format, or another order in memory."""
    with np.load(npz) as archive:
        content = {key: archive[key] for key in archive.files}
    with zipfile.ZipFile(npz, "w") as file:
        for key, array in content.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.asfortranarray(array) if fortran else array, version=version)
            file.writestr(name.format(key), data.getvalue())
    return npz


@pytest.mark.parametrize(
    "how", [{"name": "{}"}, {"version": (2, 0)}, {"version": (3, 0)}, {"fortran": True}], ids=lambda how: str(how)
)
def test_other_ways_to_write_the_same_arrays_are_read(npz: Path, how: dict[str, Any]) -> None:
    before = build(npz)
    images, labels = before.arrays.train_images.copy(), before.arrays.train_labels.copy()
    after = build(rewritten(npz, **how))
    assert (after.image_shape, after.class_names) == ((3, 6, 5), ("0", "1", "2"))
    assert np.array_equal(after.arrays.train_images, images)
    assert np.array_equal(after.arrays.train_labels, labels)


def test_class_names_may_be_bytes(npz: Path) -> None:
    names = np.array(["café".encode(), b"caf\xe9", b"dog"])
    assert build(changed(npz, class_names=names)).class_names == ("café", "caf\udce9", "dog")


def test_an_image_of_few_rows_is_not_taken_for_channels_first(npz: Path) -> None:
    shapes = {"train_images": np.zeros((30, 3, 40, 3), np.uint8), "test_images": np.zeros((10, 3, 40, 3), np.uint8)}
    assert build(changed(npz, **shapes)).image_shape == (3, 3, 40)


def test_images_that_are_damaged_are_one_line(npz: Path) -> None:
    with np.load(npz) as archive:
        np.savez_compressed(npz, **{key: archive[key] for key in archive.files})
    with zipfile.ZipFile(npz) as file:
        member = file.getinfo("train_images.npy")
    content = bytearray(npz.read_bytes())
    middle = member.header_offset + member.compress_size // 2
    content[middle : middle + 200] = bytes(200)
    npz.write_bytes(content)
    with pytest.raises(OptionError, match=r"mine\.npz cannot be read"):
        build(npz).open(SplitOptions(), seed=0, device=CPU)


def test_pad_and_flip_are_options(npz: Path) -> None:
    assert arrays(npz.parent, path=npz.name).augmentation.num_views == 162
    assert arrays(npz.parent, path=npz.name, pad=0, flip=False).augmentation.num_views == 1


def test_path_may_be_absolute(npz: Path, tmp_path: Path) -> None:
    assert arrays(tmp_path / "elsewhere", path=str(npz)).image_shape == (3, 6, 5)


IMAGES = np.zeros((30, 6, 5, 3), np.uint8)
LABELS = np.arange(30) % 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "no array test_labels; the file has train_images, train_labels, test_images"),
        (
            {"train_images": IMAGES.astype(np.float32)},
            "train_images must be uint8, got float32; (255 * images).round().astype(np.uint8) converts values from 0",
        ),
        ({"train_images": IMAGES.astype(int)}, "got int64; images.astype(np.uint8) converts values from 0 to 255"),
        (
            {"train_images": np.zeros((30, 3, 32, 32), np.uint8)},
            "must have the shape (N, H, W, C), got (30, 3, 32, 32); images.transpose(0, 2, 3, 1) puts channels last",
        ),
        ({"train_images": np.zeros((30, 1, 28, 28), np.uint8)}, "got (30, 1, 28, 28); images.transpose(0, 2, 3, 1)"),
        (
            {"train_images": IMAGES[0, :, :, 0]},
            "train_images must have the shape (N, H, W, C) or (N, H, W), got (6, 5)",
        ),
        ({"train_images": IMAGES[:0], "train_labels": LABELS[:0]}, "train_images is empty: its shape is (0, 6, 5, 3)"),
        ({"train_images": IMAGES[:29]}, "train_images has 29 images, train_labels 30 labels"),
        ({"test_images": IMAGES[:10, :4]}, "train_images are (6, 5, 3), test_images (4, 5, 3)"),
        ({"train_labels": LABELS.astype(np.float64)}, "train_labels must be integers, got float64"),
        ({"train_labels": np.eye(3, dtype=int)[LABELS]}, "train_labels must have the shape (N,), got (30, 3)"),
        ({"train_labels": LABELS - 1}, "train_labels must be from 0 to 1, got -1"),
        ({"train_labels": LABELS + 1}, "no training image has the label 0; labels count from 0, the highest is 3"),
        ({"train_labels": -1 - LABELS}, "no training image has the label 0"),
        ({"train_labels": LABELS * 0}, "all train_labels are 0: one class, nothing to tell apart"),
        ({"train_labels": LABELS == 1}, "train_labels must be integers, got bool"),
        (
            {"train_labels": np.where(LABELS == 1, 2**32 - 1, LABELS).astype(np.uint32)},
            "no training image has the label 1; labels count from 0, the highest is 4294967295 (-1 as uint32?)",
        ),
        (
            {"train_labels": np.where(LABELS == 1, np.uint64(2**63 + 5), np.uint64(0))},
            "the highest is 9223372036854775813",
        ),
        ({"test_labels": (LABELS[:10] - 1).astype(np.uint8)}, "must be from 0 to 2, got 255 (-1 as uint8?)"),
        ({"test_labels": LABELS[:10] + 1}, "test_labels must be from 0 to 2, got 3"),
        ({"class_names": np.array(["a", "b"])}, "train_labels must be from 0 to 1, got 2"),
        ({"class_names": np.array(["a", None])}, "cannot be read (Object arrays cannot be loaded"),
        ({"class_names": np.array("abc")}, "class_names must have the shape (K,), got ()"),
        ({"class_names": np.array(["a", "b", "a"])}, 'class_names has "a" twice'),
        ({"class_names": np.array(["a", " ", "c"])}, "class_names: the name of class 1 is empty"),
        ({"class_names": np.array(["a"]), "train_labels": LABELS * 0, "test_labels": LABELS[:10] * 0}, "one class"),
    ],
)
def test_errors_in_the_file_are_one_line(npz: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        build(changed(npz, **changes))
    assert str(npz) in str(error.value)
    assert message in str(error.value)
    assert error.value.key == "path"
    assert "\n" not in str(error.value)


def test_a_channel_without_content_is_refused(npz: Path) -> None:
    with np.load(npz) as archive:
        images = archive["train_images"]
    images[..., 1] = 7
    with pytest.raises(OptionError, match="channel 1 of train_images has one value only"):
        build(changed(npz, train_images=images)).open(SplitOptions(), seed=0, device=CPU)


def test_a_missing_file_is_named_with_the_nearest_name(npz: Path) -> None:
    with pytest.raises(OptionError, match=r'no "mime.npz" under .*, did you mean "mine.npz"\?'):
        arrays(npz.parent, path="mime.npz")


@pytest.mark.parametrize("path", ["~nosuchuser/mine.npz", "a" * 300, "a" * 300 + "/mine.npz"])
def test_a_path_that_cannot_be_is_missing(npz: Path, path: str) -> None:
    with pytest.raises(OptionError, match=r'^path: no ".*" under '):
        arrays(npz.parent, path=path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY an array alone"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(OptionError, match=r"mine.npz is not a .npz file"):
        arrays(tmp_path, path="mine.npz")


def test_a_negative_pad_is_refused(npz: Path) -> None:
    with pytest.raises(OptionError, match="pad must be 0 or more, got -1"):
        DATASETS.build("arrays", npz.parent, path=npz.name, pad=-1)
