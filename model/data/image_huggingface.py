"""Image data sets of Hugging Face, by name or from a local folder, through the package `datasets`.

What a user may want to know is in docs/images.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UserError, did_you_mean, first_sentence, preview
from ..files import first_existing
from ..fingerprint import content_hash
from ..home import ROOT
from ..logs import log
from ..registry import DATASETS
from .image_index import ImagePaths, Images, Stamps, index_name
from .image_listing import TEST, TRAIN, VAL, ImageListing, OnError, refuse_one_class, refuse_wrong_fraction
from .image_pipeline import ImageSource

VAL_NAMES = ("validation", "val", "valid", "dev")
EMBEDDED = Stamps(0, 0, 0)  # of images inside the data set's own files, which are told apart by its fingerprint


@DATASETS.register
def huggingface(
    data_dir: Path,
    *,
    path: str,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str | None = None,
    image_size: int = 224,
    test_fraction: float | None = None,
    num_workers: int | None = None,
    draft: bool = True,
    cache_size: int | None = None,
    on_error: OnError = "refuse",
) -> ImageSource:
    """An image data set of Hugging Face, by its name on the hub or from a local folder (`pip install datasets`).

    A folder may be one that `save_to_disk` wrote, or one that `load_dataset` reads, of Parquet files or images.
    Training images are randomly cropped, resized and flipped; others are resized and cropped at the centre.

    Args:
        data_dir: The folder of the data sets.
        path: A folder, relative to the data folder or to the repository's root, or absolute; else a name on the hub.
        config: The configuration of a data set that has several.
        revision: The version of a data set on the hub: a branch, a tag or a commit.
        image_column: The column of images, by default the only one.
        label_column: The column of labels, by default `label`, or the only one of the type ClassLabel. Texts and whole
            numbers are the names of classes, in the order of the names as text.
        train_split: The split of training images.
        val_split: The split of validation images, by default `validation`, `val`, `valid` or `dev`, where there is one
            beside a test split. Without it, val is held out of train.
        test_split: The split of test images, by default `test`, or the validation images where there is none.
        image_size: Height and width of the network's input.
        test_fraction: For a data set without test images: the part of each class that is held out as test images.
            Images are drawn by their content.
        num_workers: Number of processes that read images, by default one per CPU, eight at most; 0 reads them in the
            training process.
        draft: Decode a JPEG file that is much larger than needed at a half, a quarter or an eighth of its size, where
            that leaves at least twice the network's input in each direction: several times as fast on large photos.
        cache_size: Store a copy of every larger image, with this shorter side, when it is first read, and read the
            copies from then on. They are JPEG files of high quality under `image_folders/` in the data folder.
        on_error: What is done about images that cannot be read: "refuse" to train, or "skip" them. All images are
            opened before the first epoch.
    """
    refuse_wrong_fraction(test_fraction)
    parts = load_splits(path, data_dir, config, revision)
    used = _choose_splits(path, list(parts), (train_split, val_split, test_split), test_fraction)
    splits = {code: parts[name] for code, name in used.items()}
    image = _image_column(splits[TRAIN], image_column)
    label = _label_column(splits[TRAIN], label_column)
    class_names = _class_names(splits, label)
    refuse_one_class(path, class_names)
    form = HuggingFaceImages(
        path=path,
        splits=splits,
        split_names=used,
        image_column=image,
        label_column=label,
        class_names=class_names,
        test_fraction=test_fraction,
    )
    return ImageSource(
        form=form,
        class_names=class_names,
        image_size=image_size,
        num_workers=num_workers,
        draft=draft,
        cache_size=cache_size,
        on_error=on_error,
        index_folder=data_dir / "image_folders",
    )


def load_splits(path: str, data_dir: Path, config: str | None, revision: str | None) -> dict[str, Any]:
    """The splits of a data set by their names, as the library gives them.

    Raises:
        OptionError: The library is missing, or cannot load the data set.
    """
    try:
        import datasets
    except ImportError:
        raise OptionError("name", "huggingface needs the package datasets: pip install datasets") from None
    folder = first_existing(path, (data_dir, ROOT))
    try:
        if folder is not None and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(folder))
        else:
            source = path if folder is None else str(folder)
            loaded = datasets.load_dataset(source, name=config, revision=None if folder else revision)
    except Exception as error:  # of many libraries: of the hub, of the network, of Arrow
        if folder is not None:
            raise OptionError("path", f"{folder} cannot be loaded by datasets ({first_sentence(error)})") from None
        cache = f"the library's folder {datasets.config.HF_DATASETS_CACHE}"
        places = f"no folder under {data_dir} or {ROOT}, not in {cache}, and it cannot be fetched"
        raise OptionError("path", f"{preview(path)}: {places} ({first_sentence(error)})") from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _choose_splits(
    path: str, names: Sequence[str], wanted: tuple[str, str | None, str | None], test_fraction: float | None
) -> dict[int, str]:
    """The name of the split that is train, of that which is val and of that which is test, where there are such."""
    for key, name in zip(("train_split", "val_split", "test_split"), wanted, strict=True):
        if name is not None and name not in names:
            raise OptionError(
                key, f"{path} has no split {preview(name)}{did_you_mean(name, names)}; it has {', '.join(names)}"
            )
    train, val, test = wanted
    if test is None and "test" in names:
        test = "test"
    if val is None:
        val = next((name for name in VAL_NAMES if name in names and name not in (train, test)), None)
        if test is None and test_fraction is None:
            val, test = None, val
    if test is None and test_fraction is None:
        raise OptionError("path", f'{path} has no test images; "test_fraction": 0.1 draws a tenth of each class')
    if test is not None and test_fraction is not None:
        raise OptionError("test_fraction", f"is for a data set without test images; {path} has {test}: leave it out")
    used = {TRAIN: train, VAL: val, TEST: test}
    if len(set(used.values()) - {None}) < sum(name is not None for name in used.values()):
        raise OptionError("test_split", f"train, val and test must be different splits, got {train}, {val} and {test}")
    return {code: name for code, name in used.items() if name is not None}


def _image_column(split: Any, wanted: str | None) -> str:
    kinds = {name: type(feature).__name__ for name, feature in split.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    chosen = images[0] if wanted is None and len(images) == 1 else wanted
    if chosen in images:
        return str(chosen)
    message = "has no column of images" if not images else f"has the columns of images {', '.join(images)}"
    raise OptionError("image_column", f"the data set {message}; its columns are {_listed(kinds)}{_came(wanted)}")


def _label_column(split: Any, wanted: str | None) -> str:
    kinds = {name: type(feature).__name__ for name, feature in split.features.items()}
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if wanted is None:
        wanted = "label" if "label" in kinds else classes[0] if len(classes) == 1 else None
    feature = split.features.get(wanted)
    is_plain = getattr(feature, "dtype", "").removeprefix("large_").rstrip("0123456789") in ("string", "int", "uint")
    if wanted is not None and (wanted in classes or is_plain):
        return wanted
    hint = "labels are of the type ClassLabel, texts or whole numbers"
    raise OptionError("label_column", f"{hint}; the columns are {_listed(kinds)}{_came(wanted)}")


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _came(wanted: str | None) -> str:
    return "" if wanted is None else f", got {preview(wanted)}"


def _class_names(splits: Mapping[int, Any], column: str) -> tuple[str, ...]:
    """The names of a ClassLabel in its order, or all labels that are there.

    Raises:
        OptionError: Two splits have other names.
    """
    names = [tuple(getattr(split.features.get(column), "names", ())) for split in splits.values()]
    if len(set(names)) > 1:
        raise OptionError("label_column", f"{preview(column)} has other classes in one split than in another")
    labels = (label for split in splits.values() for label in _values(split, column))
    return names[0] or tuple(sorted({str(label) for label in labels if label is not None}))


@dataclass(frozen=True, kw_only=True)
class HuggingFaceImages:
    """The splits of a data set that has been loaded; images are read from its files when they are needed.

    Args:
        splits: The splits by what they are: TRAIN, VAL or TEST.
        split_names: What the data set calls them.
    """

    path: str
    splits: Mapping[int, Any]
    split_names: Mapping[int, str]
    image_column: str
    label_column: str
    class_names: tuple[str, ...]
    test_fraction: float | None

    def list_images(self) -> ImageListing:
        """The images class by class, in the order of the names that they have in the data set, then of their rows."""
        self._log_splits()
        labels = {code: self._labels(code) for code in self.splits}
        codes = np.repeat(list(labels), [len(part) for part in labels.values()]).astype(np.int8)
        rows = np.concatenate([np.arange(len(part)) for part in labels.values()])
        all_labels = np.concatenate(list(labels.values()))
        parts = {code: self._without_decoding(code) for code in self.splits}
        files = [file for part in parts.values() for file in _paths(part, self.image_column)]
        names = [PurePath(file).name for file in files]
        order = np.array(sorted(range(len(rows)), key=lambda i: (all_labels[i], names[i], i)), np.int64)
        images: Images
        if any(_has_bytes(part, self.image_column) for part in parts.values()):
            images = EmbeddedImages(self.path, parts, self.split_names, self.image_column, codes[order], rows[order])
        else:
            images = ImagePaths([files[index] for index in order])
        fingerprints = {code: part._fingerprint for code, part in self.splits.items()}
        keys = (
            content_hash(f"{fingerprints[code]}/{row}".encode())
            for code, row in zip(codes[order], rows[order], strict=True)
        )
        place = {code: f"{self.path}, split {name}" for code, name in self.split_names.items()}
        return ImageListing(
            root=self.path,
            places=(place[TRAIN], place.get(TEST, place[TRAIN])),
            images=images,
            labels=all_labels[order],
            splits=codes[order],
            keys=None,
            test_fraction=self.test_fraction,
            index_name=index_name(f"huggingface {self.path} {self.image_column}"),
            index_keys=np.fromiter(keys, np.uint64, len(rows)),
        )

    def _labels(self, code: int) -> NDArray[np.int64]:
        """The class of each row.

        Raises:
            UserError: A row has none.
        """
        values, name = _values(self.splits[code], self.label_column), self.split_names[code]
        number = {name: label for label, name in enumerate(self.class_names)}
        is_class_label = hasattr(self.splits[code].features[self.label_column], "names")
        labels = [value if is_class_label else None if value is None else number[str(value)] for value in values]
        for row, label in enumerate(labels):
            if label is None or not 0 <= label < len(self.class_names):
                came = "no label" if label is None else f"the label {label}"
                raise UserError(f"{self.path}, split {name}: row {row} has {came}; classes count from 0")
        return np.array(labels, np.int64)

    def _without_decoding(self, code: int) -> Any:
        """The column of images of a split, as bytes or paths."""
        from datasets import Image

        column = self.splits[code].select_columns([self.image_column])
        return column.cast_column(self.image_column, Image(decode=False))

    def _log_splits(self) -> None:
        if self.split_names.get(TEST) in VAL_NAMES:
            test, train = self.split_names[TEST], self.split_names[TRAIN]
            log.info("%s: %s is the test set; validation images are held out of %s", self.path, test, train)


def _values(part: Any, column: str) -> list[Any]:
    values: list[Any] = part.select_columns([column])[:][column]
    return values


def _paths(part: Any, column: str) -> list[str]:
    """The path of each image of a split, which may be no more than a name; empty where there is none."""
    from pyarrow import compute

    paths = compute.struct_field(part.data.column(column), "path").to_pylist()  # the images' bytes stay where they are
    rows = range(len(paths)) if part._indices is None else part._indices.column(0).to_pylist()
    return [paths[row] or "" for row in rows]


def _has_bytes(part: Any, column: str) -> bool:
    from pyarrow import compute

    contents = compute.struct_field(part.data.column(column), "bytes")
    return bool(contents.null_count < len(contents))


class EmbeddedImages:
    """Images whose bytes are in the files of a data set, each by its split and row."""

    def __init__(
        self,
        root: str,
        parts: Mapping[int, Any],
        split_names: Mapping[int, str],
        column: str,
        codes: NDArray[np.int8],
        rows: NDArray[np.integer],
    ) -> None:
        self.root, self.parts, self.split_names, self.column = root, parts, split_names, column
        self.codes, self.rows = codes, rows

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, index: int) -> str:
        return f"{self.root}/{self.split_names[int(self.codes[index])]}, row {self.rows[index]}"

    def stamps(self, index: int) -> Stamps:
        return EMBEDDED

    def read(self, index: int) -> tuple[Stamps, bytes]:
        image = self.parts[int(self.codes[index])][int(self.rows[index])][self.column]
        if image is None or not (image["bytes"] or image["path"]):
            raise OSError("the row has no image")
        return EMBEDDED, image["bytes"] or Path(image["path"]).read_bytes()

    def select(self, rows: NDArray[np.integer]) -> EmbeddedImages:
        return EmbeddedImages(self.root, self.parts, self.split_names, self.column, self.codes[rows], self.rows[rows])
