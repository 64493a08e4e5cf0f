"""The index of a folder: which images are read again, and what is known of them."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import filelock
import numpy as np
import pytest
from PIL import Image

from model.data import image_index
from model.data.image_index import CheckedImages, ImagePaths, Images, Stamps, check_images, index_name, name_hashes
from model.data.pixels import decode

NUM_IMAGES = 200


class Folder:
    """Some images, and which of them have been decoded since it was last asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.index, self._decoded = root / "photos", root / "data" / "image_folders", set[str]()
        self.root.mkdir()
        rng = np.random.default_rng(0)
        for number in range(NUM_IMAGES):
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(self.root / f"{number:03d}.png")
        self.files = sorted(str(path) for path in self.root.iterdir())

    def check(self) -> CheckedImages:
        index_file = self.index / index_name(str(self.root))
        return check_images(ImagePaths(self.files), name_hashes(self.files, self.root), index_file, str(self.root))

    def record(self, decode: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
        def decode_and_record(path: str, mode: str, content: IO[bytes]) -> Image.Image:
            self._decoded.add(Path(path).name)
            return decode(path, mode, content)

        return decode_and_record

    def decoded(self) -> set[str]:
        decoded, self._decoded = self._decoded, set()
        return decoded


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    folder = Folder(tmp_path)
    monkeypatch.setattr(image_index, "decode", folder.record(decode))
    monkeypatch.setattr(image_index, "SETTLED_NS", -1)  # these files are new
    return folder


def all_names() -> set[str]:
    return {f"{number:03d}.png" for number in range(NUM_IMAGES)}


def test_all_images_are_decoded_once(photos: Folder) -> None:
    first = photos.check()
    assert photos.decoded() == all_names()
    second = photos.check()
    assert not photos.decoded()
    assert np.array_equal(first.content, second.content)


def test_content_is_a_hash_of_the_files_bytes(photos: Folder) -> None:
    expected = [hashlib.blake2b(Path(file).read_bytes(), digest_size=8).digest() for file in photos.files]
    assert [value.tobytes() for value in photos.check().content.astype("<u8")] == expected


def test_changed_and_new_images_alone_are_read_again(photos: Folder) -> None:
    photos.check()
    photos.decoded()
    Path(photos.files[3]).write_bytes(Path(photos.files[4]).read_bytes())
    Path(photos.files[5]).unlink()
    Image.new("RGB", (2, 2)).save(photos.root / "new.png")
    photos.files = sorted(str(path) for path in photos.root.iterdir())
    content = photos.check().content
    assert photos.decoded() == {"003.png", "new.png"}
    assert content[3] == content[4]


def test_a_replacement_of_the_same_size_and_date_is_noticed(photos: Folder) -> None:
    before = photos.check().content
    path = Path(photos.files[3])
    stat = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    checked = photos.check()
    assert checked.broken == {3: "it has no known image format"}
    assert checked.content[3] != before[3]


def test_everything_is_read_again_where_a_sample_differs(photos: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without dates that one can rely on."""
    monkeypatch.setattr(image_index, "_stamps", lambda _: Stamps(0, 0, 0))
    before = photos.check().content
    photos.decoded()
    contents = [Path(file).read_bytes() for file in photos.files]
    for file, content in zip(photos.files, reversed(contents), strict=True):
        Path(file).write_bytes(content)
    assert photos.check().content.tolist() == before[::-1].tolist()
    assert photos.decoded() == all_names()


def test_images_that_have_just_changed_are_not_remembered(photos: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_index, "SETTLED_NS", 10**18)
    photos.check()
    photos.decoded()
    photos.check()
    assert photos.decoded() == all_names()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda _: b"", lambda _: b"no index", flipped])
def test_a_damaged_index_is_made_anew(photos: Folder, damage: Callable[[bytes], bytes]) -> None:
    photos.check()
    photos.decoded()
    (index,) = photos.index.glob("*.npz")
    index.write_bytes(damage(index.read_bytes()))
    photos.check()
    assert photos.decoded() == all_names()
    photos.check()
    assert not photos.decoded()


def test_without_a_writable_folder_nothing_is_remembered(photos: Folder, caplog: pytest.LogCaptureFixture) -> None:
    photos.index.parent.write_bytes(b"a file")
    with caplog.at_level("INFO", "retort"):
        photos.check()
    assert "cannot be written" in caplog.text
    assert photos.decoded() == all_names()
    photos.check()
    assert photos.decoded() == all_names()


def test_broken_images_are_found_with_the_reason(photos: Folder) -> None:
    Path(photos.files[0]).write_bytes(b"")
    path = Path(photos.files[1])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    Path(photos.files[2]).unlink()
    Image.fromarray(np.full((2, 2), 7, np.float32)).save(photos.files[3], "TIFF")
    broken = photos.check().broken
    assert broken[0] == "it has no known image format"
    assert broken[1].startswith("image file is truncated")
    assert broken[2] == "No such file or directory"
    assert broken[3] == "floats must be from 0 to 1, got 7 to 7"
    assert sorted(broken) == [0, 1, 2, 3]


def test_decompression_bombs_are_broken(photos: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    assert len(photos.check().broken) == NUM_IMAGES


def test_a_broken_image_is_read_again(photos: Folder) -> None:
    path = Path(photos.files[0])
    content = path.read_bytes()
    path.write_bytes(b"")
    assert list(photos.check().broken) == [0]
    photos.decoded()
    assert list(photos.check().broken) == [0]
    path.write_bytes(content)
    photos.decoded()
    assert not photos.check().broken
    assert photos.decoded() == {"000.png"}


def test_what_an_interrupted_check_has_read_is_remembered(photos: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    read = image_index._read

    def interrupted(images: Images, index: int, row: np.void) -> str | None:
        if index == 199:
            raise KeyboardInterrupt
        return read(images, index, row)

    monkeypatch.setattr(image_index, "usable_cpus", lambda: 1)
    monkeypatch.setattr(image_index, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        photos.check()
    monkeypatch.setattr(image_index, "_read", read)
    photos.decoded()
    photos.check()
    assert photos.decoded() == {"199.png"}


def test_a_second_process_waits_and_finds_the_work_done(photos: Folder) -> None:
    photos.check()
    photos.decoded()
    (index,) = photos.index.glob("*.npz")
    second = threading.Thread(target=photos.check)
    with filelock.FileLock(index.with_suffix(".lock")):
        second.start()
        second.join(0.2)
        assert second.is_alive()
    second.join(10)
    assert not second.is_alive()
    assert not photos.decoded()


def test_names_are_hashed_below_the_folder_in_one_form_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = f"{tmp_path}/one/caf\u00e9/1.png", f"{tmp_path}/two/cafe\u0301/1.png"
    assert name_hashes([composed], tmp_path / "one") == name_hashes([decomposed], tmp_path / "two")
    assert name_hashes([composed], tmp_path / "one") != name_hashes([composed], tmp_path)


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    assert len(name_hashes([os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")], tmp_path)) == 1
