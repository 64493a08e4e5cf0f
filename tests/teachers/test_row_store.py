"""Row stores: a copy on the device has the rows of the file, and neither loses one."""

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

NEEDED = np.array([3, 7, 8, 20, 21, 30, 41, 42, 49])
WRITTEN = np.array([0, 3, 7, 9, 20, 30, 42, 45, 49])
MISSING = [8, 21, 41]  # of those needed


def words_of(rows: Rows) -> Tensor:
    return torch.from_numpy(np.stack([rows, -rows, 100 * rows], axis=1).astype(np.int16))


def corrupt(file: RowFile, rows: Rows) -> None:
    row_size = 4 + 2 * file.width
    with file.path.open("r+b") as handle:
        for row in rows.tolist():
            handle.seek(row * row_size + 5)
            handle.write(bytes([handle.read(1)[0] ^ 1]))


@pytest.fixture
def file(tmp_path: Path) -> RowFile:
    """Room for 50 rows, of which some have been written, and one of these, 30, is corrupt."""
    file = RowFile(tmp_path / "logits", num_rows=50, width=3)
    FileRowStore(file).write(torch.from_numpy(WRITTEN), words_of(WRITTEN))
    corrupt(file, np.array([30]))
    return file


@pytest.fixture(params=[100_000, 4], ids=["at once", "in chunks"])
def store(request: pytest.FixtureRequest, file: RowFile, monkeypatch: pytest.MonkeyPatch) -> DeviceRowStore:
    monkeypatch.setattr(row_store, "CHUNK", request.param)
    return DeviceRowStore(file, NEEDED, CPU)


def test_device_store_has_the_rows_of_the_file(store: DeviceRowStore, file: RowFile) -> None:
    rows_N = torch.from_numpy(NEEDED[[5, 0, 8, 2, 2, 7, 1, 3, 4, 6]])
    copied, expected = store.read(rows_N), FileRowStore(file).read(rows_N)
    assert copied.valid.tolist() == expected.valid.tolist()
    assert torch.equal(copied.words[copied.valid], expected.words[expected.valid])


def test_device_store_has_no_rows_that_are_not_needed(store: DeviceRowStore) -> None:
    assert not store.read(torch.tensor([0, 9, 22, 45])).valid.any()


def test_rows_written_to_the_device_are_read_there(store: DeviceRowStore) -> None:
    rows = np.array([41, 8])
    store.write(torch.from_numpy(rows), words_of(rows))
    stored = store.read(torch.from_numpy(rows))
    assert stored.valid.all()
    assert torch.equal(stored.words, words_of(rows))


def test_rows_written_to_the_device_are_in_the_file(store: DeviceRowStore, file: RowFile) -> None:
    rows = np.array([41, 8, 10])
    store.write(torch.from_numpy(rows), words_of(rows))
    words, valid = file.read(rows)
    assert valid.all()
    np.testing.assert_array_equal(words.view(np.int16), words_of(rows).numpy())


def test_rows_that_are_not_needed_overwrite_none_on_the_device(store: DeviceRowStore) -> None:
    before = store.read(torch.from_numpy(NEEDED))
    rows = np.array([0, 6, 22, 48])
    store.write(torch.from_numpy(rows), words_of(rows))
    after = store.read(torch.from_numpy(NEEDED))
    assert torch.equal(before.valid, after.valid)
    assert torch.equal(before.words[before.valid], after.words[after.valid])


def test_store_is_complete_where_every_needed_row_is_valid(file: RowFile) -> None:
    rows = np.array([*MISSING, 30])
    FileRowStore(file).write(torch.from_numpy(rows), words_of(rows))
    assert DeviceRowStore(file, NEEDED, CPU).refresh(NEEDED)


@pytest.mark.parametrize("missing", [[*MISSING], [30]], ids=["never written", "corrupt"])
def test_store_is_not_complete_where_a_needed_row_is_missing(missing: list[int], file: RowFile) -> None:
    rows = np.array(sorted({*MISSING, 30} - set(missing)))
    FileRowStore(file).write(torch.from_numpy(rows), words_of(rows))
    assert not DeviceRowStore(file, NEEDED, CPU).refresh(NEEDED)


def test_store_is_complete_for_rows_of_which_none_is_missing(store: DeviceRowStore) -> None:
    assert store.refresh(np.array([49, 3, 20, 3]))


def test_rows_that_another_process_wrote_are_read_after_a_refresh(store: DeviceRowStore, file: RowFile) -> None:
    rows = np.array([8, 41])
    FileRowStore(file).write(torch.from_numpy(rows), words_of(rows))
    assert not store.read(torch.from_numpy(rows)).valid.any()
    assert store.refresh(rows)
    assert torch.equal(store.read(torch.from_numpy(rows)).words, words_of(rows))


def test_file_store_never_reports_rows_as_sure_to_be_valid(file: RowFile) -> None:
    assert not FileRowStore(file).refresh(np.array([3, 7]))
