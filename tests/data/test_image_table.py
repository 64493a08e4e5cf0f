"""Images listed in a table: what its rows mean, what is refused, and that it is the same data as class folders."""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.image_folder import folder
from model.data.image_pipeline import ImagePipeline
from model.data.image_table import table
from model.errors import OptionError, UserError
from model.fingerprint import content_hash
from model.registry import DATASETS
from model.types import Batch, Split, SplitOptions

CPU = torch.device("cpu")
SIZE = 14
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def write_table(root: Path, rows: list[dict[str, Any]], name: str = "photos.csv") -> Path:
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / name


def rows_of(root: Path) -> list[dict[str, Any]]:
    """A row for each image of split folders."""
    files = sorted(file.relative_to(root) for file in root.rglob("*.png"))
    return [{"path": file.as_posix(), "label": file.parts[1], "split": file.parts[0]} for file in files]


def opened(file: Path, options: SplitOptions | None = None, **own: Any) -> ImagePipeline:
    source = DATASETS.build("table", file.parent, path=file.name, image_size=SIZE, num_workers=0, **own)
    pipeline: ImagePipeline = source.open(options or SplitOptions(), seed=0, device=CPU)
    return pipeline


def hashes(pipeline: ImagePipeline) -> dict[Split, set[int]]:
    return {split: set(pipeline.image_hashes(split).tolist()) for split in SPLITS}


def batches_of(pipeline: ImagePipeline) -> list[Batch]:
    held_out = [pipeline.eval_batches(split, 4) for split in SPLITS]
    return list(itertools.chain(pipeline.train_batches(1, 4), *held_out))


def assert_same_batches(one: ImagePipeline, other: ImagePipeline) -> None:
    for batch, again in zip(batches_of(one), batches_of(other), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(batch, again, strict=True))


# The same data as class folders ---------------------------------------------------------------------------------------


def test_a_table_with_given_splits_has_the_batches_of_folders(image_folder: Path) -> None:
    source = folder(image_folder.parent, path="photos", image_size=SIZE, num_workers=0)
    folders: ImagePipeline = source.open(SplitOptions(), seed=0, device=CPU)
    rows = rows_of(image_folder)
    training = [row for row in rows if row["split"] == "train"]
    for index in folders.indices["val"]:
        training[index]["split"] = "val"
    np.random.default_rng(0).shuffle(rows)
    assert_same_batches(folders, opened(write_table(image_folder, rows)))


def test_a_table_without_splits_is_drawn_as_class_folders_are(image_folder: Path) -> None:
    root = image_folder / "train"
    source = folder(root.parent, path="train", image_size=SIZE, num_workers=0, test_fraction=0.3)
    folders: ImagePipeline = source.open(SplitOptions(val_size=4), seed=0, device=CPU)
    rows = [{"path": file.relative_to(root), "label": file.parent.parent.name} for file in root.rglob("*.png")]
    table = opened(write_table(image_folder, rows), SplitOptions(val_size=4), root="train", test_fraction=0.3)
    assert_same_batches(folders, table)


def test_a_parquet_file_has_the_batches_of_its_csv_file(image_folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    from pyarrow import parquet

    rows = rows_of(image_folder)
    numbered = [row | {"label": ("ant", "bee", "cow").index(row["label"])} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(numbered), image_folder / "photos.parquet")
    assert_same_batches(opened(write_table(image_folder, numbered)), opened(image_folder / "photos.parquet"))


def test_parquet_without_pyarrow_names_what_is_to_be_installed(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image_folder / "photos.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"photos.parquet: Parquet files are read by pyarrow: pip install pyarrow$"):
        table(image_folder, path="photos.parquet")


# Splits and groups ----------------------------------------------------------------------------------------------------


def test_without_given_val_images_val_is_held_out_of_train(image_folder: Path) -> None:
    pipeline = opened(write_table(image_folder, rows_of(image_folder)), SplitOptions(val_size=6))
    assert [pipeline.size(split) for split in SPLITS] == [15, 6, 9]


def with_val(root: Path) -> list[dict[str, Any]]:
    return [row | {"split": "val" if row["path"].endswith("/0.png") else row["split"]} for row in rows_of(root)]


def test_val_size_is_refused_beside_given_val_images(image_folder: Path) -> None:
    file = write_table(image_folder, with_val(image_folder))
    with pytest.raises(ValueError, match="val_size must be left out where val images are given, got 3"):
        opened(file, SplitOptions(val_size=3))


@pytest.mark.parametrize("val_size", [4, 8])
def test_images_of_a_group_are_drawn_together(image_folder: Path, val_size: int) -> None:
    rows = [row | {"video": f"{row['label']} {int(Path(row['path']).stem) % 4}"} for row in rows_of(image_folder)]
    rows = [{key: value for key, value in row.items() if key != "split"} for row in rows]
    file = write_table(image_folder, rows)
    pipeline = opened(file, SplitOptions(val_size=val_size), group_column="video", test_fraction=0.2)
    video_of = {content_hash((image_folder / row["path"]).read_bytes()): row["video"] for row in rows}
    videos = [{video_of[image] for image in images} for images in hashes(pipeline).values()]
    assert all(videos)
    assert sum(map(len, videos)) == len(set().union(*videos))


def test_a_changed_group_is_another_fingerprint(image_folder: Path) -> None:
    rows = [row | {"group": "a"} for row in rows_of(image_folder) if row["split"] == "train"]
    rows = [*rows, *(row | {"group": "b"} for row in rows_of(image_folder) if row["split"] == "test")]
    before = opened(write_table(image_folder, rows), SplitOptions(val_size=0)).fingerprint
    rows[0]["group"] = ""
    after = opened(write_table(image_folder, rows), SplitOptions(val_size=0)).fingerprint
    assert after.changes_since(before.as_json()) == "train images of other content"


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("start", "newline"), [("", "\n"), ("\ufeff", "\r\n")])
def test_separators_and_ends_of_lines_of_other_programs_are_read(
    image_folder: Path, separator: str, start: str, newline: str
) -> None:
    rows = rows_of(image_folder)
    lines = [separator.join(rows[0]), *(separator.join(f'"{value}" ' for value in row.values()) for row in rows), ""]
    lines = [line.replace('" ', '"') for line in lines]
    file = image_folder / "photos.csv"
    file.write_bytes((start + newline.join([*lines, ""])).encode())
    assert [opened(file).size(split) for split in SPLITS] == [19, 2, 9]


def test_a_class_may_be_called_na(image_folder: Path) -> None:
    rows = [row | {"label": row["label"].replace("ant", "NA")} for row in rows_of(image_folder)]
    file = write_table(image_folder, rows)
    assert table(image_folder, path=file.name).class_names == ("NA", "bee", "cow")


def test_rows_that_repeat_others_count_once(image_folder: Path) -> None:
    rows = rows_of(image_folder)
    rows.append(rows[0] | {"path": f"./{rows[0]['path']}"})
    assert sum(opened(write_table(image_folder, rows)).size(split) for split in SPLITS) == 30


def test_columns_may_have_other_names(image_folder: Path) -> None:
    rows = [{"file": row["path"], "kind": row["label"], "part": row["split"]} for row in rows_of(image_folder)]
    file = write_table(image_folder, rows)
    pipeline = opened(file, path_column="file", label_column="kind", split_column="part")
    assert pipeline.size("test") == 9


def test_paths_are_relative_to_the_root(image_folder: Path) -> None:
    file = write_table(image_folder.parent, rows_of(image_folder))
    assert opened(file, root="photos").size("test") == 9
    with pytest.raises(OptionError, match=r'^root: no "fotos" under .*, did you mean "photos"\?'):
        table(image_folder.parent, path=file.name, root="fotos")


# What is refused ------------------------------------------------------------------------------------------------------

HEADER = "path,label,split,group\n"
GOOD = "train/ant/part_0/0.png,ant,train,\ntrain/bee/part_0/0.png,bee,train,\ntest/ant/part_0/0.png,ant,test,\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + GOOD + "a.png,,train,\n", ", row 5: the label is empty"),
        (HEADER + GOOD + "\n,ant,train,\n", ", row 6: the path is empty"),
        (HEADER + GOOD + "a.png,ant,,\n", ", row 5: the split is empty"),
        (
            HEADER + GOOD + "a.png,ant,Tset,\n",
            ', row 5: a split is train, val or test, got "Tset", did you mean "test"?',
        ),
        (HEADER + GOOD + "a.png,ant,train\n", ", row 5: 3 values in 4 columns"),
        (HEADER + GOOD + "a.png,ant,train,,,\n", ", row 5: 6 values in 4 columns"),
        (HEADER + GOOD + 'a.png,"ant,train,\n', ", line 5: unexpected end of data"),
        (HEADER + GOOD + "a.png,a\x07nt,train,\n", r", row 5: a label must be printable, got a\x07nt"),
        (
            HEADER + GOOD + "train/ant/part_0/0.png,bee,train,\n",
            ': ROOT/train/ant/part_0/0.png has two labels: "ant" in row 2, "bee" in row 5',
        ),
        (
            HEADER + GOOD + "train/ant/part_0/0.png,ant,test,\n",
            ': ROOT/train/ant/part_0/0.png has two splits: "train" in row 2, "test" in row 5',
        ),
        (
            HEADER + GOOD + "a.png,ant,train,v\nb.png,ant,val,v\n",
            ': the group "v" is in two splits, train (row 5) and val (row 6)',
        ),
        ("", ' has no column "path"; it has none'),
        (HEADER, " has no rows"),
        ("file,label\na.png,ant\n", ' has no column "path"; it has "file", "label"'),
        ("path,path,label\na.png,a.png,ant\n", ' has 2 columns "path"'),
        (HEADER + "a.png,ant,train,\nb.png,ant,test,\n", " has one class, ant: nothing to tell apart"),
        (HEADER + "a.png,ant,val,\nb.png,bee,test,\n", " has no training images: no row has the split train"),
        (
            HEADER + "a.png,ant,train,\nb.png,bee,train,\n",
            ' has no test images; "test_fraction": 0.1 draws a tenth of each class',
        ),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(image_folder: Path, content: str, message: str) -> None:
    (image_folder / "photos.csv").write_text(content, encoding="utf-8")
    with pytest.raises(OptionError) as error:
        table(image_folder, path="photos.csv")
    assert error.value.message == f"{image_folder}/photos.csv{message}".replace("ROOT", str(image_folder))


@pytest.mark.parametrize(
    ("content", "byte"), [("path,label\ncaf\xe9.png,ant".encode("latin-1"), 14), (b"\xff\xfep\0", 0)]
)
def test_another_encoding_is_refused(image_folder: Path, content: bytes, byte: int) -> None:
    (image_folder / "photos.csv").write_bytes(content)
    with pytest.raises(OptionError, match=rf"photos\.csv is not UTF-8 text \(byte {byte}\)$"):
        table(image_folder, path="photos.csv")


def test_a_folder_is_no_table(image_folder: Path) -> None:
    with pytest.raises(OptionError, match=r"photos cannot be read \(Is a directory\)$"):
        table(image_folder.parent, path="photos")


def test_a_misspelt_column_is_named_with_the_nearest(image_folder: Path) -> None:
    file = write_table(image_folder, rows_of(image_folder))
    with pytest.raises(OptionError) as error:
        table(image_folder, path=file.name, group_column="spilt")
    assert error.value.key == "group_column"
    assert 'has no column "spilt", did you mean "split"?' in error.value.message


def test_a_fraction_of_a_table_with_test_images_is_refused(image_folder: Path) -> None:
    file = write_table(image_folder, rows_of(image_folder))
    with pytest.raises(OptionError, match=r"^test_fraction: is for a table without test images; .*: leave it out$"):
        table(image_folder, path=file.name, test_fraction=0.1)


def test_missing_files_are_named_with_their_rows_before_any_is_read(image_folder: Path) -> None:
    rows = rows_of(image_folder)
    rows[3]["path"], rows[5]["path"] = "gone.png", "ant"
    file = write_table(image_folder, rows)
    with pytest.raises(UserError) as error:
        opened(file)
    missing = f"row 5 ({image_folder}/gone.png), row 7 ({image_folder}/ant)"
    assert str(error.value) == f'{file}: no such file in {missing}; "on_error": "skip" trains without them'


def test_missing_files_may_be_skipped(image_folder: Path) -> None:
    rows = rows_of(image_folder)
    rows[3]["path"] = "gone.png"
    pipeline = opened(write_table(image_folder, rows), on_error="skip")
    assert pipeline.skipped == ("gone.png",)
    assert sum(pipeline.size(split) for split in SPLITS) == 29


def test_a_class_without_training_images_is_refused(image_folder: Path) -> None:
    rows = [row for row in rows_of(image_folder) if (row["label"], row["split"]) != ("bee", "train")]
    file = write_table(image_folder, rows)
    with pytest.raises(UserError) as error:
        opened(file)
    assert str(error.value) == f"{file} (train) has no images of the class bee that can be read"
