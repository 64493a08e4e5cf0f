"""Data sets of Hugging Face: folders that the library reads or has written, and what is refused."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.data import image_index
from model.data.image_huggingface import huggingface
from model.data.image_pipeline import ImagePipeline
from model.errors import OptionError, UserError
from model.fingerprint import content_hash
from model.registry import DATASETS
from model.types import Batch, Split, SplitOptions

datasets = pytest.importorskip("datasets", exc_type=ImportError)

CPU = torch.device("cpu")
SIZE = 14
SPLITS: tuple[Split, ...] = ("train", "val", "test")

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def load(image_folder: Path) -> Any:
    return datasets.load_dataset(str(image_folder))


def save_to_disk(image_folder: Path) -> Path:
    load(image_folder).save_to_disk(str(image_folder.with_name("saved")))
    return image_folder.with_name("saved")


def write_parquet(image_folder: Path) -> Path:
    path = image_folder.with_name("parquet")
    path.mkdir()
    for split, part in load(image_folder).items():
        part.to_parquet(str(path / f"{split}-0.parquet"))
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "images": lambda image_folder: image_folder,
    "save_to_disk": save_to_disk,
    "parquet": write_parquet,
}


def opened(path: Path, options: SplitOptions | None = None, *, num_workers: int = 0, **own: Any) -> ImagePipeline:
    source = DATASETS.build("huggingface", path.parent, path=path.name, image_size=SIZE, num_workers=num_workers, **own)
    pipeline: ImagePipeline = source.open(options or SplitOptions(), seed=0, device=CPU)
    return pipeline


def batches_of(pipeline: ImagePipeline) -> list[Batch]:
    held_out = [pipeline.eval_batches(split, 4) for split in SPLITS]
    return list(itertools.chain(pipeline.train_batches(1, 4), *held_out))


def assert_same_batches(one: ImagePipeline, other: ImagePipeline) -> None:
    for batch, again in zip(batches_of(one), batches_of(other), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(batch, again, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_with_equal_splits_batches_are_those_of_folders(flat_folder: Path, form: str) -> None:
    source = DATASETS.build("folder", flat_folder.parent, path="photos", image_size=SIZE, num_workers=0)
    folders: ImagePipeline = source.open(SplitOptions(), seed=0, device=CPU)
    files = sorted((flat_folder / "train").rglob("*.png"))
    for index in folders.indices["val"]:
        target = flat_folder / "validation" / files[index].relative_to(flat_folder / "train")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[index], target)
    expected = batches_of(folders)
    for index in folders.indices["val"]:
        files[index].unlink()
    assert_same = zip(batches_of(opened(FORMS[form](flat_folder))), expected, strict=True)
    for batch, again in assert_same:
        assert all(torch.equal(left, right) for left, right in zip(batch, again, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_workers_read_the_same_batches(flat_folder: Path, form: str) -> None:
    path = FORMS[form](flat_folder)
    assert_same_batches(opened(path), opened(path, num_workers=2))


def test_without_a_test_split_the_validation_images_are_the_test_set(
    flat_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (flat_folder / "test").rename(flat_folder / "validation")
    with caplog.at_level("INFO", "retort"):
        pipeline = opened(flat_folder)
    assert [pipeline.size(split) for split in SPLITS] == [19, 2, 9]
    assert "photos: validation is the test set; validation images are held out of train" in caplog.text


def test_test_and_val_are_drawn_by_content(flat_folder: Path) -> None:
    shutil.rmtree(flat_folder / "test")
    path = save_to_disk(flat_folder)
    pipeline = opened(path, SplitOptions(val_size=3), test_fraction=0.3)
    test = set(pipeline.image_hashes("test").tolist())
    assert [pipeline.size(split) for split in SPLITS] == [12, 3, 6]
    renamed = flat_folder.with_name("renamed")
    for number, file in enumerate(sorted(flat_folder.rglob("*.png"), reverse=True)):
        target = renamed / "train" / file.parent.name / f"x{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    again = opened(renamed, SplitOptions(val_size=3), test_fraction=0.3)
    assert set(again.image_hashes("test").tolist()) == test


def test_classes_keep_their_own_order(flat_folder: Path) -> None:
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["cow", "ant", "bee"])})
    files = sorted((flat_folder / "train").rglob("*.png"))
    rows = {"photo": [str(file) for file in files], "kind": [file.parent.name for file in files]}
    data = datasets.Dataset.from_dict(rows, features=features)
    data.shuffle(seed=1).save_to_disk(str(flat_folder.with_name("saved")))
    path = flat_folder.with_name("saved")
    assert huggingface(path.parent, path="saved", test_fraction=0.3).class_names == ("cow", "ant", "bee")
    pipeline = opened(path, test_fraction=0.3)
    (batch,) = pipeline.eval_batches("test", 9)
    names = {content_hash(file.read_bytes()): file.parent.name for file in files}
    shown = [names[image] for image in pipeline.image_hashes("test").tolist()]
    assert [("cow", "ant", "bee")[label] for label in batch.labels] == shown


@pytest.mark.parametrize("kind", ["string", "int64"])
def test_texts_and_numbers_are_names_of_classes(flat_folder: Path, kind: str) -> None:
    files = sorted((flat_folder / "train").rglob("*.png"))
    labels = [file.parent.name if kind == "string" else ("ant", "bee", "cow").index(file.parent.name) for file in files]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    data = datasets.Dataset.from_dict({"image": [str(file) for file in files], "label": labels}, features=features)
    data.save_to_disk(str(flat_folder.with_name("saved")))
    expected = ("ant", "bee", "cow") if kind == "string" else ("0", "1", "2")
    source = huggingface(flat_folder.parent, path="saved", test_fraction=0.3)
    assert source.class_names == expected


def saved(root: Path, **columns: Any) -> Path:
    """A data set of two rows, written by the library."""
    features = {name: feature for name, (feature, _) in columns.items()}
    values = {name: value for name, (_, value) in columns.items()}
    data = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    data.save_to_disk(str(root / "saved"))
    return root / "saved"


def test_an_image_without_a_label_is_refused(flat_folder: Path) -> None:
    files = [str(file) for file in sorted((flat_folder / "train").rglob("*.png"))[:3]]
    labels = datasets.ClassLabel(names=["ant", "bee"])
    path = saved(flat_folder.parent, image=(datasets.Image(), files), label=(labels, [0, 1, -1]))
    with pytest.raises(UserError, match="saved, split train: row 2 has the label -1; classes count from 0"):
        opened(path, test_fraction=0.5)


def test_a_broken_image_is_named_by_its_split_and_row(flat_folder: Path) -> None:
    files = sorted((flat_folder / "train").rglob("*.png"))
    files[1].write_bytes(b"a text")
    with pytest.raises(UserError, match=r"1 of 30 images cannot be read: saved/train, row 1 \(it has no known image"):
        opened(save_to_disk(flat_folder))
    assert opened(save_to_disk(flat_folder), on_error="skip").skipped == ("train, row 1",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_split": "tset"}, 'test_split: photos has no split "tset", did you mean "test"?; it has train, test'),
        ({"train_split": "all"}, 'train_split: photos has no split "all"; it has train, test'),
        ({"test_fraction": 0.1}, "test_fraction: is for a data set without test images; photos has test: leave it out"),
        ({"val_split": "test"}, "test_split: train, val and test must be different splits, got train, test and test"),
        (
            {"image_column": "label"},
            "image_column: the data set has the columns of images image; "
            'its columns are image (Image), label (ClassLabel), got "label"',
        ),
        (
            {"label_column": "image"},
            "label_column: labels are of the type ClassLabel, texts or whole numbers; "
            'the columns are image (Image), label (ClassLabel), got "image"',
        ),
    ],
)
def test_wrong_options_are_refused_in_one_line(flat_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        DATASETS.build("huggingface", flat_folder.parent, path="photos", **options)
    assert str(error.value) == message


def test_a_folder_that_holds_no_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"^path: .*/empty cannot be loaded by datasets \("):
        huggingface(tmp_path, path="empty")


def test_a_name_that_cannot_be_fetched_is_told_with_the_librarys_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'ants/and_bees' on the Hub. Try again")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(OptionError) as error:
        huggingface(tmp_path, path="ants/and_bees")
    assert str(error.value).startswith(f'path: "ants/and_bees": no folder under {tmp_path} or ')
    assert str(error.value).endswith(
        f"not in the library's folder {tmp_path}/cache, and it cannot be fetched "
        "(Couldn't reach 'ants/and_bees' on the Hub)"
    )


def test_a_name_is_passed_on_with_configuration_and_revision(
    flat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, asked = load(flat_folder), dict[str, Any]()

    def load_dataset(path: str, name: str | None, revision: str | None) -> Any:
        asked.update(path=path, name=name, revision=revision)
        return local

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    huggingface(flat_folder.parent / "data", path="ants/and_bees", config="small", revision="v2")
    assert asked == {"path": "ants/and_bees", "name": "small", "revision": "v2"}


def test_images_are_decoded_once(flat_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_to_disk(flat_folder)
    opened(path)
    monkeypatch.setattr(image_index, "decode", lambda *_: pytest.fail("decoded again"))
    opened(path)


def test_without_the_library_it_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionError, match=r"^name: huggingface needs the package datasets: pip install datasets$"):
        huggingface(tmp_path, path="ants")
