"""The user's own images in class sub-folders, read while training: torchvision's ImageFolder layout.

    PATH/train/CLASS/*.jpg
    PATH/test/CLASS/*.jpg      or PATH/val/CLASS/*.jpg without a folder `test`, as ImageNet has it

or, with the option `test_fraction`, PATH/CLASS/*.jpg. Classes are the sub-folders, in the order of their names.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import OptionError, did_you_mean, preview
from ..logs import log
from ..registry import DATASETS
from .image_files import ImageFiles, is_hidden
from .image_index import ImagePaths, index_name, name_hashes
from .image_listing import TEST, TRAIN, ImageListing, OnError, log_class_names, refuse_wrong_fraction
from .image_pipeline import ImageSource
from .paths import find_data
from .pixels import printable


@DATASETS.register
def folder(
    data_dir: Path,
    *,
    path: str,
    image_size: int = 224,
    test_fraction: float | None = None,
    num_workers: int | None = None,
    draft: bool = True,
    cache_size: int | None = None,
    on_error: OnError = "refuse",
) -> ImageSource:
    """Your own images in class sub-folders: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg, or PATH/CLASS/*.jpg.

    Without a folder `test`, the folder `val` is the test set, as with ImageNet: a run's validation images are always
    held out of `train`. Training images are randomly cropped, resized and flipped; others are resized and cropped at
    the centre.

    Args:
        data_dir: The folder of the data sets.
        path: The folder, relative to the data folder or to the repository's root, or absolute.
        image_size: Height and width of the network's input.
        test_fraction: For class folders that nobody has split, PATH/CLASS/*.jpg: the part of each class that is held
            out as test images. Files are drawn by their names below PATH; copies of an image stay together.
        num_workers: Number of processes that read images, by default one per CPU, eight at most; 0 reads them in the
            training process.
        draft: Decode a JPEG file that is much larger than needed at a half, a quarter or an eighth of its size, where
            that leaves at least twice the network's input in each direction: several times as fast on large photos.
        cache_size: Store a copy of every larger image, with this shorter side, when it is first read, and read the
            copies from then on. They are JPEG files of high quality under `image_folders/` in the data folder.
        on_error: What is done about images that cannot be read: "refuse" to train, or "skip" them. All images are
            opened before the first epoch.
    """
    root = find_data(path, data_dir)
    refuse_wrong_fraction(test_fraction)
    form = _split_folders(root) if test_fraction is None else _class_folders_alone(root, test_fraction)
    return ImageSource(
        form=form,
        class_names=form.class_names,
        image_size=image_size,
        num_workers=num_workers,
        draft=draft,
        cache_size=cache_size,
        on_error=on_error,
        index_folder=data_dir / "image_folders",
    )


def _split_folders(root: Path) -> ImageFolder:
    train, test = root / "train", root / ("test" if (root / "test").is_dir() else "val")
    if not train.is_dir() and root.is_dir() and _subfolders(root):
        expected = "expected train/CLASS/ and test/CLASS/ or val/CLASS/"
        hint = f'"test_fraction": 0.1 draws the test images of class folders that are not split, {root}/CLASS/'
        raise OptionError("path", f"no folder {train}; {expected}; {hint}")
    train_folders, test_folders = _class_folders(train), _class_folders(test)
    if unknown := sorted(set(test_folders) - set(train_folders)):
        same = [name for name in train_folders if name.casefold() == unknown[0].casefold()]
        hint = did_you_mean(same[0] if same else unknown[0], train_folders)
        raise OptionError("path", f"{test} has a class that {train} does not have: {unknown[0]}{hint}")
    _refuse_one_class(train, train_folders)
    return ImageFolder(root=root, folders=((train, train_folders), (test, test_folders)))


def _class_folders_alone(root: Path, test_fraction: float) -> ImageFolder:
    if split := [name for name in ("train", "test", "val") if (root / name).is_dir()]:
        message = f"is for class folders that are not split, {root}/CLASS/; there is {root / split[0]}: leave it out"
        raise OptionError("test_fraction", message)
    folders = _class_folders(root)
    _refuse_one_class(root, folders)
    return ImageFolder(root=root, folders=((root, folders),), test_fraction=test_fraction)


def _class_folders(parent: Path) -> dict[str, str]:
    """The class folders of a split by the names of their classes: the folder's own in Unicode's normal form."""
    if not parent.is_dir():
        raise OptionError("path", f"no folder {parent}; expected train/CLASS/ and test/CLASS/ or val/CLASS/")
    folders: dict[str, str] = {}
    for entry in sorted(_subfolders(parent)):
        name = unicodedata.normalize("NFC", entry)
        if name in folders:
            raise OptionError("path", f"{parent} has two class folders with the same name in Unicode: {name}")
        if not name.isprintable():  # bytes that are not UTF-8 are not, either
            raise OptionError("path", f"{parent}: the name of a class must be printable UTF-8, got {printable(entry)}")
        folders[name] = entry
    if not folders:
        other = parent.parent / "val"
        hint = f"; {other} has: name it test" if parent.name == "test" and other.is_dir() and _subfolders(other) else ""
        raise OptionError("path", f"{parent} has no class sub-folders{hint}")
    return folders


def _subfolders(parent: Path) -> list[str]:
    try:
        return [entry.name for entry in parent.iterdir() if not is_hidden(entry.name) and entry.is_dir()]
    except OSError as error:
        raise OptionError("path", f"{parent} cannot be read ({error.strerror})") from None


def _refuse_one_class(parent: Path, folders: dict[str, str]) -> None:
    if len(folders) > 1:
        return
    (name,) = folders.values()
    inner = sorted(_subfolders(parent / name))
    hint = f"; if {preview(inner)} are the classes, move them into {parent}" if len(inner) > 1 else ""
    raise OptionError("path", f"{parent} has one class, {name}: nothing to tell apart{hint}")


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Class folders whose layout has been checked; their files are listed when they are needed.

    Args:
        folders: The folder of the training images, then that of the test images where they are split, each with the
            names of the class folders in it by class.
    """

    root: Path
    folders: tuple[tuple[Path, dict[str, str]], ...]
    test_fraction: float | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.folders[0][1]))

    def list_images(self) -> ImageListing:
        parents = [parent for parent, _ in self.folders]
        self._log_layout(parents)
        parts = [self._list_part(parent, class_folders) for parent, class_folders in self.folders]
        files = [file for part in parts for file in part.files]
        splits = [np.full(len(part.files), split, np.int8) for part, split in zip(parts, (TRAIN, TEST), strict=False)]
        keys = [name_hashes(part.files, parent) for part, parent in zip(parts, parents, strict=True)]
        return ImageListing(
            root=str(self.root),
            places=(str(parents[0]), str(parents[-1])),
            images=ImagePaths(files),
            labels=np.concatenate([part.labels for part in parts]),
            splits=np.concatenate(splits),
            keys=np.concatenate(keys),
            keeps_copies_together=self.test_fraction is not None,
            test_fraction=self.test_fraction,
            index_name=index_name(str(self.root.resolve())),
            index_keys=name_hashes(files, self.root),
        )

    def _list_part(self, parent: Path, class_folders: dict[str, str]) -> ImageFiles:
        files = ImageFiles(parent, [class_folders.get(name) for name in self.class_names])
        if files.left_out:
            log.info("%s: left out %s", printable(parent), files.describe_left_out())
        return files

    def _log_layout(self, parents: list[Path]) -> None:
        """How splits and classes follow from the names of folders, where there is more than one way."""
        train, test = parents[0], parents[-1]
        if self.test_fraction is None and test.name == "test" and (val := self.root / "val").is_dir():
            log.info("%s is the test set, %s is not used: validation images are held out of %s", test, val, train)
        log_class_names(str(train), self.class_names)
