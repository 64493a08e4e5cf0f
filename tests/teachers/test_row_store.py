"""Where answers are looked up: a copy on the device has what the file has, and neither loses a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.teachers import row_store
from model.teachers.row_file import RowFile, Rows
from model.teachers.row_store import DeviceRowStore, FileRowStore
from tests.training.toy import CPU

WANTED = np.array([3, 7, 8, 20, 21, 30, 41, 42, 49])
KEPT = np.array([0, 3, 7, 9, 20, 30, 42, 45, 49])
MISSING = [8, 21, 41]  # of those wanted


def words_of(rows: Rows) -> Tensor:
    return torch.from_numpy(np.stack([rows, -rows, 100 * rows], axis=1).astype(np.int16))


def damage(answers: RowFile, rows: Rows) -> None:
    row_size = 4 + 2 * answers.width
    with answers.path.open("r+b") as file:
        for row in rows.tolist():
            file.seek(row * row_size + 5)
            file.write(bytes([file.read(1)[0] ^ 1]))


@pytest.fixture
def answers(tmp_path: Path) -> RowFile:
    """Room for 50 rows, of which some are kept, and one of them, 30, is damaged."""
    answers = RowFile(tmp_path / "logits", num_rows=50, width=3)
    FileRowStore(answers).write(torch.from_numpy(KEPT), words_of(KEPT))
    damage(answers, np.array([30]))
    return answers


@pytest.fixture(params=[100_000, 4], ids=["at once", "in chunks"])
def shelf(request: pytest.FixtureRequest, answers: RowFile, monkeypatch: pytest.MonkeyPatch) -> DeviceRowStore:
    monkeypatch.setattr(row_store, "CHUNK", request.param)
    return DeviceRowStore(answers, WANTED, CPU)


def test_shelf_on_the_device_has_what_the_file_has(shelf: DeviceRowStore, answers: RowFile) -> None:
    rows_N = torch.from_numpy(WANTED[[5, 0, 8, 2, 2, 7, 1, 3, 4, 6]])
    found, expected = shelf.read(rows_N), FileRowStore(answers).read(rows_N)
    assert found.whole.tolist() == expected.whole.tolist()
    assert torch.equal(found.words[found.whole], expected.words[expected.whole])


def test_shelf_on_the_device_has_no_rows_that_are_not_wanted(shelf: DeviceRowStore) -> None:
    assert not shelf.read(torch.tensor([0, 9, 22, 45])).whole.any()


def test_rows_written_to_the_device_are_found_there(shelf: DeviceRowStore) -> None:
    rows = np.array([41, 8])
    shelf.write(torch.from_numpy(rows), words_of(rows))
    found = shelf.read(torch.from_numpy(rows))
    assert found.whole.all()
    assert torch.equal(found.words, words_of(rows))


def test_rows_written_to_the_device_are_in_the_file(shelf: DeviceRowStore, answers: RowFile) -> None:
    rows = np.array([41, 8, 10])
    shelf.write(torch.from_numpy(rows), words_of(rows))
    words, whole = answers.read(rows)
    assert whole.all()
    np.testing.assert_array_equal(words.view(np.int16), words_of(rows).numpy())


def test_rows_that_are_not_wanted_take_no_other_s_place_on_the_device(shelf: DeviceRowStore) -> None:
    before = shelf.read(torch.from_numpy(WANTED))
    rows = np.array([0, 6, 22, 48])
    shelf.write(torch.from_numpy(rows), words_of(rows))
    after = shelf.read(torch.from_numpy(WANTED))
    assert torch.equal(before.whole, after.whole)
    assert torch.equal(before.words[before.whole], after.words[after.whole])


def test_shelf_is_complete_where_every_wanted_row_is_kept(answers: RowFile) -> None:
    rows = np.array([*MISSING, 30])
    FileRowStore(answers).write(torch.from_numpy(rows), words_of(rows))
    assert DeviceRowStore(answers, WANTED, CPU).refresh(WANTED)


@pytest.mark.parametrize("lacking", [[*MISSING], [30]], ids=["missing", "damaged"])
def test_shelf_is_not_complete_where_a_wanted_row_is_lacking(lacking: list[int], answers: RowFile) -> None:
    rows = np.array(sorted({*MISSING, 30} - set(lacking)))
    FileRowStore(answers).write(torch.from_numpy(rows), words_of(rows))
    assert not DeviceRowStore(answers, WANTED, CPU).refresh(WANTED)


def test_shelf_is_complete_for_rows_of_which_none_is_lacking(shelf: DeviceRowStore) -> None:
    assert shelf.refresh(np.array([49, 3, 20, 3]))


def test_rows_that_another_process_kept_are_found_after_a_refresh(shelf: DeviceRowStore, answers: RowFile) -> None:
    rows = np.array([8, 41])
    FileRowStore(answers).write(torch.from_numpy(rows), words_of(rows))
    assert not shelf.read(torch.from_numpy(rows)).whole.any()
    assert shelf.refresh(rows)
    assert torch.equal(shelf.read(torch.from_numpy(rows)).words, words_of(rows))


def test_file_is_never_sure(answers: RowFile) -> None:
    assert not FileRowStore(answers).refresh(np.array([3, 7]))
