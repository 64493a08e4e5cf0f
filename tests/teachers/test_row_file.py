"""Row files: a valid row is right, whatever happened to its file and whoever writes at the same time."""

from __future__ import annotations

import errno
import fcntl
import gc
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from model.teachers.row_file import RowFile, Rows, Words

NUM_ROWS, WIDTH = 50, 3
ROW_SIZE = 10  # bytes: a checksum of 4 and three words of 2
ALL = np.arange(NUM_ROWS)
MOST_ROWS = 300


def open_file(path: Path, num_rows: int = NUM_ROWS) -> RowFile:
    return RowFile(path, num_rows=num_rows, width=WIDTH)


def words_of(rows: Rows, writer: int = 0, width: int = WIDTH) -> Words:
    """The words that a writer puts into each row: random ones whose last byte is never 0."""
    return np.random.default_rng(writer).integers(256, 2**16, (MOST_ROWS, width), np.uint16)[rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logits"


@pytest.fixture
def full_file(path: Path) -> RowFile:
    """A file all rows of which have been written."""
    file = open_file(path)
    file.write(ALL, words_of(ALL))
    return file


@contextmanager
def overwritten(path: Path, offset: int, content: bytes) -> Iterator[None]:
    """Replaces bytes of the file inside the block."""
    with path.open("r+b", buffering=0) as file:
        before = os.pread(file.fileno(), len(content), offset)
        os.pwrite(file.fileno(), content, offset)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), before, offset)


def bytes_of(path: Path, row: int) -> bytes:
    return path.read_bytes()[row * ROW_SIZE : (row + 1) * ROW_SIZE]


# Rows ---------------------------------------------------------------------------------------------------------------


def test_rows_are_read_back_in_the_order_of_the_request(path: Path) -> None:
    file = open_file(path)
    file.write(np.array([40, 4, 17]), np.array([[1, 2, 3], [40000, 0, 65535], [7, 8, 9]], np.uint16))
    words, valid = file.read(np.array([4, 17, 40, 4]))
    assert words.tolist() == [[40000, 0, 65535], [7, 8, 9], [1, 2, 3], [40000, 0, 65535]]
    assert valid.tolist() == [True, True, True, True]


def test_rows_that_were_never_written_are_not_valid(path: Path) -> None:
    file = open_file(path)
    file.write(np.array([4, 40]), np.array([[1, 2, 3], [0, 0, 0]], np.uint16))
    _, valid = file.read(ALL)
    assert np.flatnonzero(valid).tolist() == [4, 40]


def test_rows_that_were_never_written_do_not_count_as_corrupt(path: Path) -> None:
    file = open_file(path)
    file.read(ALL)
    assert file.num_corrupt == 0


def test_written_rows_are_reported_as_written(path: Path) -> None:
    file = open_file(path)
    file.write(np.array([4, 40]), np.array([[1, 2, 3], [0, 0, 0]], np.uint16))
    assert file.is_written(np.array([3, 4, 5, 40])).tolist() == [False, True, False, True]


def test_row_that_is_written_again_has_the_new_words(full_file: RowFile) -> None:
    full_file.write(np.array([4]), np.array([[9, 8, 7]], np.uint16))
    words, valid = full_file.read(np.array([4]))
    assert (words.tolist(), valid.tolist()) == ([[9, 8, 7]], [True])


# Corruption ---------------------------------------------------------------------------------------------------------


def read_with_each_bit_flipped(file: RowFile, row: int) -> Iterator[bool]:
    """Whether the row is valid while one of its bits is flipped, for every bit."""
    right = int.from_bytes(bytes_of(file.path, row), "little")
    for bit in range(8 * ROW_SIZE):
        with overwritten(file.path, row * ROW_SIZE, (right ^ 1 << bit).to_bytes(ROW_SIZE, "little")):
            yield bool(file.read(np.array([row]))[1][0])


def test_any_flipped_bit_makes_a_row_invalid(full_file: RowFile) -> None:
    assert list(read_with_each_bit_flipped(full_file, 17)) == [False] * 80


def test_every_corrupt_row_that_is_read_is_counted(full_file: RowFile) -> None:
    list(read_with_each_bit_flipped(full_file, 17))
    assert full_file.num_corrupt == 80


def test_neighbours_of_a_corrupt_row_are_valid(full_file: RowFile) -> None:
    with overwritten(full_file.path, 17 * ROW_SIZE, bytes(range(100, 100 + ROW_SIZE))):
        _, valid = full_file.read(ALL)
    assert np.flatnonzero(~valid).tolist() == [17]


def test_row_copied_over_another_is_not_valid(full_file: RowFile) -> None:
    with overwritten(full_file.path, 18 * ROW_SIZE, bytes_of(full_file.path, 17)):
        _, valid = full_file.read(np.array([17, 18]))
    assert valid.tolist() == [True, False]


def test_words_in_another_order_are_not_valid(full_file: RowFile) -> None:
    row = bytes_of(full_file.path, 17)
    with overwritten(full_file.path, 17 * ROW_SIZE, row[:4] + row[6:8] + row[4:6] + row[8:]):
        assert not full_file.read(np.array([17]))[1][0]


@pytest.mark.parametrize("num_bytes", range(1, ROW_SIZE))
def test_row_that_was_written_in_part_is_not_valid(num_bytes: int, full_file: RowFile, tmp_path: Path) -> None:
    other = open_file(tmp_path / "other")
    with overwritten(other.path, 17 * ROW_SIZE, bytes_of(full_file.path, 17)[:num_bytes]):
        assert not other.read(np.array([17]))[1][0]


@pytest.mark.parametrize("num_bytes", range(1, ROW_SIZE))
def test_row_that_was_overwritten_in_part_is_not_valid(num_bytes: int, full_file: RowFile, tmp_path: Path) -> None:
    other = open_file(tmp_path / "other")
    other.write(ALL, np.bitwise_not(words_of(ALL)))
    with overwritten(full_file.path, 17 * ROW_SIZE, bytes_of(other.path, 17)[:num_bytes]):
        assert not full_file.read(np.array([17]))[1][0]


def test_corrupt_row_can_be_written_again(full_file: RowFile) -> None:
    with overwritten(full_file.path, 17 * ROW_SIZE, b"corrupt"):
        full_file.write(np.array([17]), words_of(np.array([17])))
        assert full_file.read(np.array([17]))[1][0]


# A truncated file ---------------------------------------------------------------------------------------------------


@pytest.fixture
def truncated(full_file: RowFile) -> RowFile:
    """A file of which 20 rows and 3 bytes are left, opened again."""
    path = full_file.path
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: 20 * ROW_SIZE + 3])
    return open_file(path)


def test_rows_before_a_truncation_are_valid_and_those_behind_it_lost(truncated: RowFile) -> None:
    _, valid = truncated.read(ALL)
    assert np.flatnonzero(valid).tolist() == list(range(20))


def test_rows_before_a_truncation_have_their_words(truncated: RowFile) -> None:
    np.testing.assert_array_equal(truncated.read(ALL[:20])[0], words_of(ALL[:20]))


def test_rows_behind_a_truncation_can_be_written_again(truncated: RowFile) -> None:
    truncated.write(ALL[20:], words_of(ALL[20:]))
    words, valid = truncated.read(ALL)
    assert valid.all()
    np.testing.assert_array_equal(words, words_of(ALL))


def test_truncated_file_is_reported(truncated: RowFile) -> None:
    assert truncated.was_truncated


def test_new_file_is_not_truncated(path: Path) -> None:
    assert not open_file(path).was_truncated


def test_complete_file_is_not_truncated(full_file: RowFile) -> None:
    assert not open_file(full_file.path).was_truncated


def test_rows_of_others_behind_the_last_one_are_left_alone(full_file: RowFile) -> None:
    open_file(full_file.path, num_rows=20)
    assert open_file(full_file.path).read(ALL)[1].all()


# The file -----------------------------------------------------------------------------------------------------------


def test_file_has_room_for_every_view_of_cifar10(path: Path) -> None:
    RowFile(path, num_rows=50_000 * 162, width=10)
    assert path.stat().st_size == 8_100_000 * 24


def test_new_file_takes_no_disk_space(path: Path) -> None:
    RowFile(path, num_rows=8_100_000, width=10)
    assert path.stat().st_blocks * 512 < 100_000


def test_one_row_takes_little_disk_space_wherever_it_lies(path: Path) -> None:
    file = RowFile(path, num_rows=8_100_000, width=10)
    file.write(np.array([8_099_999]), words_of(np.array([0]), width=10))
    assert path.stat().st_blocks * 512 < 100_000


def test_file_that_can_neither_be_opened_nor_created_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing/logits"):
        open_file(tmp_path / "missing" / "logits")


def test_file_is_closed_once_it_is_unused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, os_open = [], os.open

    def recording_open(*arguments: Any) -> int:
        files.append(os_open(*arguments))
        return files[-1]

    monkeypatch.setattr(os, "open", recording_open)
    file = open_file(path)
    del file
    gc.collect()
    (descriptor,) = files
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.fixture
def read_only(full_file: RowFile, monkeypatch: pytest.MonkeyPatch) -> RowFile:
    """A complete file, opened by a user without write permission."""
    os_open = os.open

    def open_to_read(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return os_open(path, flags, mode)

    monkeypatch.setattr(os, "open", open_to_read)
    return open_file(full_file.path)


def test_read_only_file_is_read(read_only: RowFile) -> None:
    words, valid = read_only.read(ALL)
    assert valid.all()
    np.testing.assert_array_equal(words, words_of(ALL))


def test_writing_to_a_read_only_file_is_an_os_error(read_only: RowFile) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_only.write(np.array([4]), words_of(np.array([4])))


def test_writing_to_a_full_disk_is_an_os_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = open_file(path)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left on device"):
        file.write(np.array([4]), words_of(np.array([4])))


# Several at once ----------------------------------------------------------------------------------------------------


def test_rows_are_read_by_a_process_that_opens_the_file_later(full_file: RowFile) -> None:
    words, valid = open_file(full_file.path).read(ALL)
    assert valid.all()
    np.testing.assert_array_equal(words, words_of(ALL))


def test_rows_are_read_by_a_process_that_opened_the_file_before(path: Path) -> None:
    earlier, later = open_file(path), open_file(path)
    earlier.read(ALL)
    later.write(np.array([4]), np.array([[9, 8, 7]], np.uint16))
    words, valid = earlier.read(np.array([4]))
    assert (words.tolist(), valid.tolist()) == ([[9, 8, 7]], [True])


def test_file_is_locked_while_it_is_extended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ftruncate, calls = os.ftruncate, []

    def locked_ftruncate(file: int, length: int) -> None:
        with path.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        calls.append(file)
        ftruncate(file, length)

    monkeypatch.setattr(os, "ftruncate", locked_ftruncate)
    open_file(path)
    assert len(calls) == 1
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_file_with_room_for_more_rows_keeps_its_length(path: Path) -> None:
    RowFile(path, num_rows=2 * NUM_ROWS, width=open_file(path).width)
    open_file(path)
    assert path.stat().st_size == 2 * NUM_ROWS * ROW_SIZE


NUM_WRITERS, WIDE = 2, 2000  # rows so wide that one is often read while it is written


def write_over_and_over(path: Path, writer: int, ready: Barrier) -> None:
    """A process that writes all rows thirty times, each time in another order."""
    file, words = RowFile(path, num_rows=MOST_ROWS, width=WIDE), words_of(np.arange(MOST_ROWS), writer, WIDE)
    random = np.random.default_rng(writer)
    ready.wait(timeout=100)
    for _ in range(30):
        for rows in np.array_split(random.permutation(MOST_ROWS), 10):
            file.write(rows, words[rows])


def test_valid_rows_are_right_while_processes_write_at_once(path: Path) -> None:
    file, rows = RowFile(path, num_rows=MOST_ROWS, width=WIDE), np.arange(MOST_ROWS)
    written = [words_of(rows, writer, WIDE) for writer in range(NUM_WRITERS)]

    def are_right(words: Words) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = np.any([(words == by_one).all(axis=1) for by_one in written], axis=0)
        return right

    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(NUM_WRITERS + 1)
    writers = [spawn.Process(target=write_over_and_over, args=(path, n, ready)) for n in range(NUM_WRITERS)]
    for writer in writers:
        writer.start()
    ready.wait(timeout=100)
    while any(writer.is_alive() for writer in writers):
        words, valid = file.read(rows)
        assert are_right(words)[valid].all()
    assert [writer.exitcode for writer in writers] == [0] * NUM_WRITERS
    words, valid = file.read(rows)
    assert valid.all()
    assert are_right(words).all()
