"""Kept answers: a row that is whole is right, whatever happened to its file and whoever writes at the same time."""

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
ROW_SIZE = 10  # bytes: a check of 4 and three words of 2
ALL = np.arange(NUM_ROWS)
MOST_ROWS = 300


def opened(path: Path, num_rows: int = NUM_ROWS) -> RowFile:
    return RowFile(path, num_rows=num_rows, width=WIDTH)


def words_of(rows: Rows, writer: int = 0, width: int = WIDTH) -> Words:
    """What a writer says in each row: random words, of whose bytes the last is never 0."""
    return np.random.default_rng(writer).integers(256, 2**16, (MOST_ROWS, width), np.uint16)[rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logits"


@pytest.fixture
def answers(path: Path) -> RowFile:
    """A file of which every row is kept."""
    answers = opened(path)
    answers.write(ALL, words_of(ALL))
    return answers


@contextmanager
def overwritten(path: Path, offset: int, content: bytes) -> Iterator[None]:
    """Other bytes at a place of the file, for the length of the block."""
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


def test_written_rows_are_read_back_in_the_order_asked_for(path: Path) -> None:
    answers = opened(path)
    answers.write(np.array([40, 4, 17]), np.array([[1, 2, 3], [40000, 0, 65535], [7, 8, 9]], np.uint16))
    words, whole = answers.read(np.array([4, 17, 40, 4]))
    assert words.tolist() == [[40000, 0, 65535], [7, 8, 9], [1, 2, 3], [40000, 0, 65535]]
    assert whole.tolist() == [True, True, True, True]


def test_rows_that_nobody_wrote_are_not_whole(path: Path) -> None:
    answers = opened(path)
    answers.write(np.array([4, 40]), np.array([[1, 2, 3], [0, 0, 0]], np.uint16))
    _, whole = answers.read(ALL)
    assert np.flatnonzero(whole).tolist() == [4, 40]


def test_rows_that_nobody_wrote_are_not_damaged(path: Path) -> None:
    answers = opened(path)
    answers.read(ALL)
    assert answers.num_damaged == 0


def test_rows_that_were_written_are_there(path: Path) -> None:
    answers = opened(path)
    answers.write(np.array([4, 40]), np.array([[1, 2, 3], [0, 0, 0]], np.uint16))
    assert answers.are_there(np.array([3, 4, 5, 40])).tolist() == [False, True, False, True]


def test_row_that_is_written_again_has_the_new_words(answers: RowFile) -> None:
    answers.write(np.array([4]), np.array([[9, 8, 7]], np.uint16))
    words, whole = answers.read(np.array([4]))
    assert (words.tolist(), whole.tolist()) == ([[9, 8, 7]], [True])


# Damage -------------------------------------------------------------------------------------------------------------


def read_with_each_bit_flipped(answers: RowFile, row: int) -> Iterator[bool]:
    """Whether the row is whole while one of its bits is flipped, for every bit."""
    right = int.from_bytes(bytes_of(answers.path, row), "little")
    for bit in range(8 * ROW_SIZE):
        with overwritten(answers.path, row * ROW_SIZE, (right ^ 1 << bit).to_bytes(ROW_SIZE, "little")):
            yield bool(answers.read(np.array([row]))[1][0])


def test_any_flipped_bit_makes_a_row_not_whole(answers: RowFile) -> None:
    assert list(read_with_each_bit_flipped(answers, 17)) == [False] * 80


def test_every_damaged_row_that_is_read_is_counted(answers: RowFile) -> None:
    list(read_with_each_bit_flipped(answers, 17))
    assert answers.num_damaged == 80


def test_damage_of_a_row_leaves_its_neighbours_whole(answers: RowFile) -> None:
    with overwritten(answers.path, 17 * ROW_SIZE, bytes(range(100, 100 + ROW_SIZE))):
        _, whole = answers.read(ALL)
    assert np.flatnonzero(~whole).tolist() == [17]


def test_row_in_another_row_s_place_is_not_whole(answers: RowFile) -> None:
    with overwritten(answers.path, 18 * ROW_SIZE, bytes_of(answers.path, 17)):
        _, whole = answers.read(np.array([17, 18]))
    assert whole.tolist() == [True, False]


def test_words_in_another_order_are_not_whole(answers: RowFile) -> None:
    row = bytes_of(answers.path, 17)
    with overwritten(answers.path, 17 * ROW_SIZE, row[:4] + row[6:8] + row[4:6] + row[8:]):
        assert not answers.read(np.array([17]))[1][0]


@pytest.mark.parametrize("num_bytes", range(1, ROW_SIZE))
def test_row_that_was_written_in_part_is_not_whole(num_bytes: int, answers: RowFile, tmp_path: Path) -> None:
    other = opened(tmp_path / "other")
    with overwritten(other.path, 17 * ROW_SIZE, bytes_of(answers.path, 17)[:num_bytes]):
        assert not other.read(np.array([17]))[1][0]


@pytest.mark.parametrize("num_bytes", range(1, ROW_SIZE))
def test_row_that_was_overwritten_in_part_is_not_whole(num_bytes: int, answers: RowFile, tmp_path: Path) -> None:
    other = opened(tmp_path / "other")
    other.write(ALL, np.bitwise_not(words_of(ALL)))
    with overwritten(answers.path, 17 * ROW_SIZE, bytes_of(other.path, 17)[:num_bytes]):
        assert not answers.read(np.array([17]))[1][0]


def test_damaged_row_can_be_written_again(answers: RowFile) -> None:
    with overwritten(answers.path, 17 * ROW_SIZE, b"damaged"):
        answers.write(np.array([17]), words_of(np.array([17])))
        assert answers.read(np.array([17]))[1][0]


# A file that was cut short ------------------------------------------------------------------------------------------


@pytest.fixture
def cut(answers: RowFile) -> RowFile:
    """A file of which 20 rows and 3 bytes were left, opened again."""
    path = answers.path
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: 20 * ROW_SIZE + 3])
    return opened(path)


def test_rows_before_a_cut_are_kept_and_those_behind_it_lost(cut: RowFile) -> None:
    _, whole = cut.read(ALL)
    assert np.flatnonzero(whole).tolist() == list(range(20))


def test_rows_before_a_cut_have_their_words(cut: RowFile) -> None:
    np.testing.assert_array_equal(cut.read(ALL[:20])[0], words_of(ALL[:20]))


def test_rows_behind_a_cut_can_be_written_again(cut: RowFile) -> None:
    cut.write(ALL[20:], words_of(ALL[20:]))
    words, whole = cut.read(ALL)
    assert whole.all()
    np.testing.assert_array_equal(words, words_of(ALL))


def test_file_that_was_cut_short_says_so(cut: RowFile) -> None:
    assert cut.was_cut_short


def test_new_file_was_not_cut_short(path: Path) -> None:
    assert not opened(path).was_cut_short


def test_whole_file_was_not_cut_short(answers: RowFile) -> None:
    assert not opened(answers.path).was_cut_short


def test_rows_that_others_keep_behind_the_last_one_are_left_alone(answers: RowFile) -> None:
    opened(answers.path, num_rows=20)
    assert opened(answers.path).read(ALL)[1].all()


# The file -----------------------------------------------------------------------------------------------------------


def test_file_has_room_for_every_view_of_cifar10(path: Path) -> None:
    RowFile(path, num_rows=50_000 * 162, width=10)
    assert path.stat().st_size == 8_100_000 * 24


def test_new_file_takes_no_room_on_the_disk(path: Path) -> None:
    RowFile(path, num_rows=8_100_000, width=10)
    assert path.stat().st_blocks * 512 < 100_000


def test_one_row_takes_little_room_wherever_it_lies(path: Path) -> None:
    answers = RowFile(path, num_rows=8_100_000, width=10)
    answers.write(np.array([8_099_999]), words_of(np.array([0]), width=10))
    assert path.stat().st_blocks * 512 < 100_000


def test_file_that_can_be_neither_opened_nor_made_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing/logits"):
        opened(tmp_path / "missing" / "logits")


def test_file_is_closed_once_nobody_uses_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, os_open = [], os.open

    def noted(*arguments: Any) -> int:
        files.append(os_open(*arguments))
        return files[-1]

    monkeypatch.setattr(os, "open", noted)
    answers = opened(path)
    del answers
    gc.collect()
    (file,) = files
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


@pytest.fixture
def read_only(answers: RowFile, monkeypatch: pytest.MonkeyPatch) -> RowFile:
    """A whole file, opened by a user who may read it only."""
    os_open = os.open

    def open_to_read(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return os_open(path, flags, mode)

    monkeypatch.setattr(os, "open", open_to_read)
    return opened(answers.path)


def test_file_that_may_not_be_written_to_is_read(read_only: RowFile) -> None:
    words, whole = read_only.read(ALL)
    assert whole.all()
    np.testing.assert_array_equal(words, words_of(ALL))


def test_writing_to_a_file_that_may_only_be_read_is_an_os_error(read_only: RowFile) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_only.write(np.array([4]), words_of(np.array([4])))


def test_writing_to_a_full_disk_is_an_os_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    answers = opened(path)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left on device"):
        answers.write(np.array([4]), words_of(np.array([4])))


# Several at once ----------------------------------------------------------------------------------------------------


def test_rows_are_seen_by_one_who_opens_the_file_later(answers: RowFile) -> None:
    words, whole = opened(answers.path).read(ALL)
    assert whole.all()
    np.testing.assert_array_equal(words, words_of(ALL))


def test_rows_are_seen_by_one_who_opened_the_file_before(path: Path) -> None:
    earlier, later = opened(path), opened(path)
    earlier.read(ALL)
    later.write(np.array([4]), np.array([[9, 8, 7]], np.uint16))
    words, whole = earlier.read(np.array([4]))
    assert (words.tolist(), whole.tolist()) == ([[9, 8, 7]], [True])


def test_no_other_lengthens_a_file_while_one_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ftruncate, tries = os.ftruncate, []

    def interrupted(file: int, length: int) -> None:
        with path.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tries.append(file)
        ftruncate(file, length)

    monkeypatch.setattr(os, "ftruncate", interrupted)
    opened(path)
    assert len(tries) == 1
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_file_with_room_for_more_rows_keeps_its_length(path: Path) -> None:
    RowFile(path, num_rows=2 * NUM_ROWS, width=opened(path).width)
    opened(path)
    assert path.stat().st_size == 2 * NUM_ROWS * ROW_SIZE


NUM_WRITERS, WIDE = 2, 2000  # rows so wide that one is often read while it is written


def write_over_and_over(path: Path, writer: int, ready: Barrier) -> None:
    """A process that writes all rows thirty times, each time in an order of its own."""
    answers, words = RowFile(path, num_rows=MOST_ROWS, width=WIDE), words_of(np.arange(MOST_ROWS), writer, WIDE)
    random = np.random.default_rng(writer)
    ready.wait(timeout=100)
    for _ in range(30):
        for rows in np.array_split(random.permutation(MOST_ROWS), 10):
            answers.write(rows, words[rows])


def test_rows_that_processes_write_at_once_are_right_where_they_are_whole(path: Path) -> None:
    answers, rows = RowFile(path, num_rows=MOST_ROWS, width=WIDE), np.arange(MOST_ROWS)
    said = [words_of(rows, writer, WIDE) for writer in range(NUM_WRITERS)]

    def are_right(words: Words) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = np.any([(words == by_one).all(axis=1) for by_one in said], axis=0)
        return right

    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(NUM_WRITERS + 1)
    writers = [spawn.Process(target=write_over_and_over, args=(path, n, ready)) for n in range(NUM_WRITERS)]
    for writer in writers:
        writer.start()
    ready.wait(timeout=100)
    while any(writer.is_alive() for writer in writers):
        words, whole = answers.read(rows)
        assert are_right(words)[whole].all()
    assert [writer.exitcode for writer in writers] == [0] * NUM_WRITERS
    words, whole = answers.read(rows)
    assert whole.all()
    assert are_right(words).all()
