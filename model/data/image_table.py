"""The user's own images, listed in a table: a CSV or Parquet file with a row for each image.

    path,label,split,video
    ant/001.jpg,ant,train,a
    bee/002.jpg,bee,test,b

What a user may want to know is in docs/images.md.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import OptionError, UserError, did_you_mean, first_sentence, preview
from ..fingerprint import content_hash
from ..registry import DATASETS
from .image_index import ImagePaths, index_name, name_hashes
from .image_listing import (
    TEST,
    TRAIN,
    VAL,
    ImageListing,
    OnError,
    log_class_names,
    refuse_one_class,
    refuse_wrong_fraction,
)
from .image_pipeline import ImageSource
from .paths import find_data
from .pixels import printable

SPLITS = {"train": TRAIN, "val": VAL, "test": TEST}
SEPARATORS = ",;\t"
PARQUET = (".parquet", ".pq")
NUM_NAMED = 3  # of missing files, in an error of one line


@DATASETS.register
def table(
    data_dir: Path,
    *,
    path: str,
    root: str | None = None,
    path_column: str = "path",
    label_column: str = "label",
    split_column: str | None = None,
    group_column: str | None = None,
    image_size: int = 224,
    test_fraction: float | None = None,
    num_workers: int | None = None,
    draft: bool = True,
    cache_size: int | None = None,
    on_error: OnError = "refuse",
) -> ImageSource:
    """Your own images, listed in a CSV or Parquet file: a row an image, with columns for its path and its label.

    The columns `split` and `group` are used where the table has them. Training images are randomly cropped, resized
    and flipped; others are resized and cropped at the centre.

    Args:
        data_dir: The folder of the data sets.
        path: The file, relative to the data folder or to the repository's root, or absolute: Parquet where it ends in
            .parquet, else CSV in UTF-8, separated by commas, semicolons or tabs.
        root: The folder that the paths of images are relative to, by default the table's.
        path_column: The column of the images' paths.
        label_column: The column of the classes' names; numbers are names, too.
        split_column: The column that says `train`, `val` or `test`, by default `split`, where the table has it. Without
            a `val`, val is held out of train.
        group_column: The column of a name that images share which must not be split, such as frames of one video; by
            default `group`, where the table has it.
        image_size: Height and width of the network's input.
        test_fraction: For a table without test images: the part of each class that is held out as test images. Images
            are drawn by their paths, or by their groups; copies of an image stay together.
        num_workers: Number of processes that read images, by default one per CPU, eight at most; 0 reads them in the
            training process.
        draft: Decode a JPEG file that is much larger than needed at a half, a quarter or an eighth of its size, where
            that leaves at least twice the network's input in each direction: several times as fast on large photos.
        cache_size: Store a copy of every larger image, with this shorter side, when it is first read, and read the
            copies from then on. They are JPEG files of high quality under `image_folders/` in the data folder.
        on_error: What is done about images that cannot be read: "refuse" to train, or "skip" them. All images are
            opened before the first epoch.
    """
    file = find_data(path, data_dir)
    refuse_wrong_fraction(test_fraction)
    folder = file.parent if root is None else find_data(root, data_dir, key="root")
    columns = Columns(path=path_column, label=label_column, split=split_column, group=group_column)
    rows = read_rows(file, folder, columns)
    refuse_contradictions(rows, file)
    _refuse_wrong_splits(rows, file, test_fraction)
    class_names = tuple(sorted({row.label for row in rows}))
    refuse_one_class(str(file), class_names)
    return ImageSource(
        form=ImageTable(file=file, folder=folder, rows=rows, test_fraction=test_fraction, on_error=on_error),
        class_names=class_names,
        image_size=image_size,
        num_workers=num_workers,
        draft=draft,
        cache_size=cache_size,
        on_error=on_error,
        index_folder=data_dir / "image_folders",
    )


class Columns(NamedTuple):
    """The columns of a table by their names; None for one that is used under its own name, where there is one."""

    path: str
    label: str
    split: str | None
    group: str | None


class Row(NamedTuple):
    """A row that counts; of equal ones, the first."""

    number: int  # as a spreadsheet shows it
    path: str  # of the image, joined with the folder
    label: str
    split: str | None  # None without this column
    group: str  # empty without one


def read_rows(file: Path, folder: Path, columns: Columns) -> list[Row]:
    """The rows of a table that are not blank.

    Raises:
        OptionError: The file cannot be read, lacks a column, or a value is missing or of a wrong type.
    """
    names, records = (_read_parquet if file.suffix.lower() in PARQUET else _read_csv)(file)
    place = {role: _find_column(file, names, role, name) for role, name in columns._asdict().items()}
    used = {role: position for role, position in place.items() if position is not None}
    rows = []
    for number, record in records:
        texts = {role: _text(record[position], file, number, names[position]) for role, position in used.items()}
        if not any(texts.values()):
            continue
        for role, text in texts.items():
            if not text and role != "group":
                raise OptionError("path", f"{file}, row {number}: the {role} is empty")
        label, split = unicodedata.normalize("NFC", texts["label"]), texts.get("split")
        if not label.isprintable():
            raise OptionError("path", f"{file}, row {number}: a label must be printable, got {printable(label)}")
        if split is not None and split not in SPLITS:
            known = f"a split is train, val or test, got {preview(split)}{did_you_mean(split.lower(), SPLITS)}"
            raise OptionError("path", f"{file}, row {number}: {known}")
        path = os.path.normpath(folder / texts["path"])
        rows.append(Row(number, path, label, split, texts.get("group", "")))
    if not rows:
        raise OptionError("path", f"{file} has no rows")
    return rows


def _read_csv(file: Path) -> tuple[list[str], Iterable[tuple[int, Sequence[Any]]]]:
    """The names of the columns; number and values of each row, of which the names are the first."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError("path", f"{file} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise OptionError("path", f"{file} cannot be read ({error.strerror})") from None
    header = io.StringIO(text, newline="").readline()
    separator = max(SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        records = list(enumerate(reader, start=1))
    except csv.Error as error:
        raise OptionError("path", f"{file}, line {reader.line_num}: {error}") from None
    names = [name.strip() for name in records[0][1]] if records else []
    for number, values in records:
        if values and len(values) != len(names):
            raise OptionError("path", f"{file}, row {number}: {len(values)} values in {len(names)} columns")
    return names, ((number, values) for number, values in records[1:] if values)


def _read_parquet(file: Path) -> tuple[list[str], Iterable[tuple[int, Sequence[Any]]]]:
    """The same; the first row is number 1."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise OptionError("path", f"{file}: Parquet files are read by pyarrow: pip install pyarrow") from None
    try:
        content = parquet.read_table(file)
    except (ArrowException, OSError) as error:
        raise OptionError("path", f"{file} cannot be read as Parquet ({first_sentence(error)})") from None
    columns = [column.to_pylist() for column in content.columns]
    return content.column_names, enumerate(zip(*columns, strict=True), start=1)


def _find_column(file: Path, names: Sequence[str], role: str, name: str | None) -> int | None:
    """Where a column is; None for one that is not there and was not named."""
    wanted = role if name is None else name
    if (count := names.count(wanted)) == 1:
        return names.index(wanted)
    if count:
        raise OptionError(f"{role}_column", f"{file} has {count} columns {preview(wanted)}")
    if name is None:
        return None
    known = ", ".join(map(preview, names)) or "none"
    message = f"{file} has no column {preview(name)}{did_you_mean(name, names)}; it has {known}"
    raise OptionError(f"{role}_column", message)


def _text(value: Any, file: Path, number: int, column: str) -> str:
    """A value without spaces around it; empty where it is missing."""
    if value is None:
        return ""
    if not isinstance(value, str | int):
        kind = type(value).__name__
        raise OptionError("path", f"{file}, row {number}: {column} must be a text or a whole number, got {kind}")
    return str(value).strip()


def refuse_contradictions(rows: list[Row], file: Path) -> None:
    """Drop rows that repeat others.

    Raises:
        OptionError: Rows say different things of an image, or put a group into two splits.
    """
    by_path: dict[str, Row] = {}
    by_group: dict[str, Row] = {}
    for row in rows:
        first = by_path.setdefault(row.path, row)
        for what in ("label", "split", "group"):
            if (one := getattr(first, what)) != (other := getattr(row, what)):
                both = f"{preview(one)} in row {first.number}, {preview(other)} in row {row.number}"
                raise OptionError("path", f"{file}: {printable(row.path)} has two {what}s: {both}")
        first = by_group.setdefault(row.group, row)
        if row.group and first.split != row.split:
            both = f"{first.split} (row {first.number}) and {row.split} (row {row.number})"
            raise OptionError("path", f"{file}: the group {preview(row.group)} is in two splits, {both}")
    rows[:] = by_path.values()


def _refuse_wrong_splits(rows: Sequence[Row], file: Path, test_fraction: float | None) -> None:
    given = {row.split for row in rows}
    if "test" in given and test_fraction is not None:
        raise OptionError("test_fraction", f"is for a table without test images; {file} has some: leave it out")
    if "test" not in given and test_fraction is None:
        raise OptionError("path", f'{file} has no test images; "test_fraction": 0.1 draws a tenth of each class')
    if given != {None} and "train" not in given:
        raise OptionError("path", f"{file} has no training images: no row has the split train")


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """A table that has been read and checked; whether its files are there is seen when they are listed.

    Args:
        folder: The folder that the images lie in.
    """

    file: Path
    folder: Path
    rows: Sequence[Row]
    test_fraction: float | None
    on_error: OnError

    def list_images(self) -> ImageListing:
        """The images class by class, in the order of their folders and names, whatever the order of the rows."""
        self._refuse_missing_files()
        class_names = sorted({row.label for row in self.rows})
        log_class_names(str(self.file), class_names)
        rows = sorted(self.rows, key=lambda row: (row.label, *os.path.split(row.path)))
        number = {name: label for label, name in enumerate(class_names)}
        keys = name_hashes([os.path.relpath(row.path, self.folder) for row in rows])
        groups = keys.copy()
        for index, row in enumerate(rows):
            if row.group:
                groups[index] = content_hash(f"group {row.group}".encode())
        return ImageListing(
            root=str(self.folder),
            places=(f"{self.file} (train)", f"{self.file} (test)"),
            images=ImagePaths([row.path for row in rows]),
            labels=np.array([number[row.label] for row in rows], np.int64),
            splits=np.array([SPLITS[row.split or "train"] for row in rows], np.int8),
            keys=keys,
            groups=groups,
            test_fraction=self.test_fraction,
            index_name=index_name(str(self.file.resolve())),
            index_keys=keys,
        )

    def _refuse_missing_files(self) -> None:
        """Before all images are opened, which takes longer.

        Raises:
            UserError: Files are missing, and are not to be skipped.
        """
        if self.on_error == "skip":
            return
        missing = [row for row in self.rows if not Path(row.path).is_file()]
        if not missing:
            return
        named = ", ".join(f"row {row.number} ({printable(row.path)})" for row in missing[:NUM_NAMED])
        more = f" and {len(missing) - NUM_NAMED:,} more" if len(missing) > NUM_NAMED else ""
        hint = "; folders are separated by /" if "\\" in missing[0].path else ""
        raise UserError(f'{self.file}: no such file in {named}{more}{hint}; "on_error": "skip" trains without them')
