"""Which files below class folders count as images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data.image_files import ImageFiles
from model.errors import UserError


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Two classes of two images."""
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(2):
            write(tmp_path / name / f"{number}.png")
    return tmp_path


def write(path: Path, image_format: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path, image_format)


def listed(train: Path) -> ImageFiles:
    return ImageFiles(train, ["ant", "bee"])


def names(train: Path) -> list[str]:
    return [str(Path(file).relative_to(train)) for file in listed(train).files]


FOUR = ["ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"]


def test_images_have_the_labels_of_their_folders(train: Path) -> None:
    assert names(train) == FOUR
    assert listed(train).labels.tolist() == [0, 0, 1, 1]
    assert not listed(train).left_out


def test_a_class_without_a_folder_has_no_images(train: Path) -> None:
    assert ImageFiles(train, [None, "bee"]).labels.tolist() == [1, 1]


def test_images_in_sub_folders_count(train: Path) -> None:
    write(train / "ant" / "more" / "deeper" / "0.png")
    assert names(train) == ["ant/0.png", "ant/1.png", "ant/more/deeper/0.png", "bee/0.png", "bee/1.png"]


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.png", "._0.png", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png", "@eaDir/0.png"),
        *("a/b/.c/0.png", "a/._0.png", "lost+found/0.png"),
    ],
)
def test_hidden_and_system_files_do_not_count(train: Path, name: str) -> None:
    write(train / "ant" / name)
    assert names(train) == FOUR
    assert listed(train).left_out == {"hidden or of the system": 1}


@pytest.mark.parametrize("name", ["2.jfif", "2.JPG", "2", "2.photo", "2.jpeg.download"])
def test_images_count_whatever_their_extension(train: Path, name: str) -> None:
    write(train / "bee" / name, "JPEG")
    assert names(train) == [*FOUR, f"bee/{name}"]


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow cannot read AVIF")
def test_avif_images_count(train: Path) -> None:
    write(train / "bee" / "2.avif", "AVIF")
    assert names(train) == [*FOUR, "bee/2.avif"]


def test_files_that_are_no_images_are_left_out_and_described(train: Path) -> None:
    for name in ("notes.txt", "labels.CSV", "README", "more.txt"):
        (train / "ant" / name).write_text("P3 is not an image")
    (train / "bee" / ".DS_Store").write_bytes(b"")
    assert names(train) == FOUR
    assert listed(train).describe_left_out() == (
        "2 .txt (such as ant/more.txt), 1 without an extension (ant/README), 1 .csv (ant/labels.CSV), "
        "1 hidden or of the system (bee/.DS_Store)"
    )


def test_previews_of_raw_photos_do_not_count(train: Path) -> None:
    write(train / "ant" / "2.NEF", "TIFF")
    assert listed(train).left_out == {".nef": 1}


def test_images_of_refused_formats_do_not_count(train: Path) -> None:
    write(train / "ant" / "2.eps", "EPS")
    assert listed(train).left_out == {".eps": 1}


def test_images_beside_the_class_folders_are_left_out(train: Path) -> None:
    write(train / "0.png")
    assert listed(train).describe_left_out() == "1 beside the class folders (0.png)"


def test_broken_images_count_by_their_extension(train: Path) -> None:
    (train / "ant" / "2.png").write_bytes(b"")
    assert "ant/2.png" in names(train)


def test_pipes_are_not_opened(train: Path) -> None:
    os.mkfifo(train / "ant" / "2.png")
    assert names(train) == FOUR


def test_a_folder_that_cannot_be_read_is_named(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "bee":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"bee: the folder cannot be read \(Permission denied\)"):
        listed(train)


# Links ----------------------------------------------------------------------------------------------------------------


def test_links_to_images_elsewhere_count(train: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pool = tmp_path_factory.mktemp("pool")
    write(pool / "x.png")
    write(pool / "folder" / "y.png")
    (train / "ant" / "2.png").symlink_to(pool / "x.png")
    (train / "ant" / "more").symlink_to(pool / "folder")
    assert names(train) == ["ant/0.png", "ant/1.png", "ant/2.png", "ant/more/y.png", "bee/0.png", "bee/1.png"]


def test_class_folders_may_be_links(train: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("pool") / "bee"
    (train / "bee").rename(elsewhere)
    (train / "bee").symlink_to(elsewhere)
    assert names(train) == FOUR


def test_links_to_one_image_count_once(train: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pool = tmp_path_factory.mktemp("pool")
    write(pool / "x.png")
    for name in ("ant/4.png", "ant/3.png", "bee/2.png"):
        (train / name).symlink_to(pool / "x.png")
    assert names(train) == ["ant/0.png", "ant/1.png", "ant/3.png", "bee/0.png", "bee/1.png"]
    assert listed(train).left_out == {"links to images that count already": 2}


@pytest.mark.parametrize(("link", "target"), [("ant/2.png", "bee/0.png"), ("ant/more", "bee"), ("ant/a/b", "bee")])
def test_an_image_counts_as_itself_rather_than_as_a_link(train: Path, link: str, target: str) -> None:
    (train / link).parent.mkdir(exist_ok=True)
    (train / link).symlink_to(train / target)
    assert names(train) == FOUR


@pytest.mark.parametrize("targets", [{"ant/again": "."}, {"ant/a": "../bee", "bee/b": "../ant"}, {"ant/up": "../.."}])
def test_loops_of_links_end(train: Path, targets: dict[str, str]) -> None:
    inner = train / "train"
    inner.mkdir()
    for name in ("ant", "bee"):
        (train / name).rename(inner / name)
    for link, target in targets.items():
        (inner / link).symlink_to(target)
    assert names(inner) == FOUR


def test_hard_links_count_each(train: Path) -> None:
    (train / "ant" / "2.png").hardlink_to(train / "ant" / "0.png")
    assert "ant/2.png" in names(train)


@pytest.mark.parametrize("target", ["nowhere.png", "2.png"])
def test_a_link_that_leads_nowhere_counts_and_is_found_broken_later(train: Path, target: str) -> None:
    (train / "ant" / "2.png").symlink_to(target)
    assert "ant/2.png" in names(train)
