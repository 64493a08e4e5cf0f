"""Which files below the class folders are images, and which are left out."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..logs import ProgressBar
from .pixels import image_extensions, open_image, printable

# Made by systems and programs beside a user's files, or instead of them; hidden files are left out, too.
SYSTEM_NAMES = {"__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found"}
SYSTEM_NAMES |= {"@eaDir", "#recycle", "$RECYCLE.BIN", "__pycache__"}
# TIFF files, of which Pillow would read the small preview.
CAMERA_RAW = {".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".pef"}
CAMERA_RAW |= {".raw", ".sr2", ".srf", ".srw"}
HIDDEN, LINKED, LOOSE = "hidden or of the system", "links to images that count already", "beside the class folders"
MAX_KINDS = 5  # of left-out files in a message


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_NAMES


class ImageFiles:
    """The images of one split, in the order of their names within each class.

    A file that several symbolic links lead to counts once: as itself where it lies below the folder, else under the
    first of its names.

    Args:
        folder: The folder of the split.
        class_folders: The names of the class folders in it, in the order of their labels; None for a class that has
            none here.

    Attributes:
        files: Paths.
        labels: The class of each file.
        left_out: For each kind of file that does not count, how many there are.

    Raises:
        UserError: A folder cannot be read.
    """

    def __init__(self, folder: Path, class_folders: Sequence[str | None]) -> None:
        self.folder, self.left_out = folder, Counter[str]()
        self._examples: dict[str, str] = {}
        self._directories: set[str] = set()  # real paths of those that have been listed
        self._links: dict[str, str] = {}  # a link to a file -> the file's real path
        class_names = {name for name in class_folders if name is not None}
        for entry in _sorted_entries(folder):
            if entry.name not in class_names:
                self._leave_out(HIDDEN if is_hidden(entry.name) else LOOSE, entry.path)
        parts = sorted(self._walk(class_folders))
        files = [f"{directory}{os.sep}{name}" for _, directory, names in parts for name in names]
        labels = np.repeat([label for label, _, _ in parts], [len(names) for _, _, names in parts]).astype(np.int64)
        kept = np.fromiter(self._counts_once(files), bool, len(files))
        self.labels: NDArray[np.int64] = labels[kept]
        self.files = files if kept.all() else [file for file, keep in zip(files, kept, strict=True) if keep]

    def describe_left_out(self) -> str:
        """`3 .txt (such as ant/notes.txt), 1 hidden or of the system (ant/.DS_Store)`; empty if nothing is left out."""
        kinds = self.left_out.most_common()
        parts = [f"{n:,} {kind} ({'such as ' if n > 1 else ''}{self._examples[kind]})" for kind, n in kinds[:MAX_KINDS]]
        if others := sum(count for _, count in kinds[MAX_KINDS:]):
            parts.append(f"{others:,} others")
        return ", ".join(parts)

    def _walk(self, class_folders: Sequence[str | None]) -> Iterator[tuple[int, str, list[str]]]:
        """Label, path and image names of every directory; those that links lead to come last, and each comes once."""
        real_root = os.path.realpath(self.folder)
        pending: deque[tuple[int, Path, Path]] = deque()  # label, path, real path
        linked: list[tuple[int, Path]] = []

        def add(label: int, path: Path, real_parent: Path) -> None:
            if path.is_symlink():
                linked.append((label, path))
            else:
                pending.append((label, path, real_parent / path.name))

        for label, name in enumerate(class_folders):
            if name is not None:
                add(label, self.folder / name, Path(real_root))
        extensions = image_extensions()
        description = f"listing {printable(self.folder)}"
        with ProgressBar(desc=description, unit=" folders", delay=1) as bar:
            while pending or linked:
                if not pending:
                    linked.sort()
                    label, path = linked.pop(0)
                    pending.append((label, path, Path(os.path.realpath(path))))
                label, path, real = pending.popleft()
                if str(real) in self._directories:
                    self._leave_out(LINKED, path)
                    continue
                self._directories.add(str(real))
                names = []
                for entry in _sorted_entries(path):
                    if is_hidden(entry.name):
                        self._leave_out(HIDDEN, entry.path)
                    elif Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir():
                        add(label, path / entry.name, real)
                    elif self._is_image(entry, extensions):
                        names.append(entry.name)
                        if entry.is_symlink() and Path(entry.path).exists():
                            self._links[entry.path] = os.path.realpath(entry.path)
                yield label, str(path), names
                bar.update()

    def _is_image(self, entry: os.DirEntry[str], extensions: frozenset[str]) -> bool:
        """By the extension, else by the content; a link that leads nowhere counts, and is found broken later."""
        path = Path(entry.path)
        extension = path.suffix.lower()
        is_file = path.is_file() or not path.exists() if entry.is_symlink() else entry.is_file()
        if not is_file:
            self._leave_out("neither files nor folders", path)  # such as pipes, which would be waited for
        elif extension in extensions or (extension not in CAMERA_RAW and _has_image_header(path)):
            return True
        else:
            self._leave_out(extension or "without an extension", path)
        return False

    def _counts_once(self, files: list[str]) -> Iterator[bool]:
        seen: set[str] = set()
        for file in files:
            target = self._links.get(file)
            if target is None:
                yield True
            elif target in seen or self._is_listed(target):
                self._leave_out(LINKED, file)
                yield False
            else:
                seen.add(target)
                yield True

    def _is_listed(self, target: str) -> bool:
        """Whether a real path is that of a file in one of the directories."""
        path = Path(target)
        return str(path.parent) in self._directories and not is_hidden(path.name)

    def _leave_out(self, kind: str, path: str | Path) -> None:
        self.left_out[kind] += 1
        self._examples.setdefault(kind, printable(os.path.relpath(path, self.folder)))


def _sorted_entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{printable(directory)}: the folder cannot be read ({error.strerror})") from None


def _has_image_header(path: Path) -> bool:
    try:
        with open_image(path):
            return True
    except Exception:  # Pillow raises almost anything on files that are no images
        return False
