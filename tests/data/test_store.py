"""The store: downloaded once, verified, complete."""

import dataclasses
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.data.memory import Arrays
from model.data.store import SOCKET_TIMEOUT_SECONDS, Download, Store, sha256, shapes
from model.errors import UserError

SHAPES = shapes(20, 10, (4, 4, 3))
RNG = np.random.default_rng(0)
CONTENT = {name: RNG.integers(0, 10, shape, np.uint8) for name, shape in SHAPES.items()}
DIGESTS = {name: sha256(array) for name, array in CONTENT.items()}


def store(folder: Path, *fetches: Callable[[Path], Arrays]) -> Store:
    return Store(
        folder=folder,
        shapes=SHAPES,
        downloads=tuple(Download(f"site {number}", fetch) for number, fetch in enumerate(fetches, start=1)),
        manual_download="download cats.zip",
        digests=DIGESTS,
    )


def fetch(temporary: Path) -> Arrays:
    return Arrays(**CONTENT)


def fetch_nothing(temporary: Path) -> Arrays:
    raise OSError("no route\n to host")


def fetch_other_images(temporary: Path) -> Arrays:
    return Arrays(**CONTENT | {"test_images": CONTENT["test_images"] ^ 1})


def fetch_too_few_images(temporary: Path) -> Arrays:
    return Arrays(**CONTENT | {"train_images": CONTENT["train_images"][:19]})


def test_loaded_arrays_are_the_downloaded_ones(tmp_path: Path) -> None:
    arrays = store(tmp_path / "cats", fetch).load()
    assert all(np.array_equal(getattr(arrays, name), array) for name, array in CONTENT.items())


def test_existing_files_are_not_downloaded_again(tmp_path: Path) -> None:
    store(tmp_path / "cats", fetch).load()
    assert store(tmp_path / "cats", fetch_nothing).is_ready()
    store(tmp_path / "cats", fetch_nothing).load()


@pytest.mark.parametrize("digests", [DIGESTS, {}])
@pytest.mark.parametrize("name", SHAPES)
def test_files_that_have_changed_are_downloaded_again(tmp_path: Path, name: str, digests: dict[str, str]) -> None:
    cats = dataclasses.replace(store(tmp_path / "cats", fetch), digests=digests)
    cats.load()
    path = tmp_path / "cats" / f"{name}.npy"
    np.save(path, CONTENT[name] ^ 1)
    assert np.array_equal(getattr(cats.load(), name), CONTENT[name])
    np.save(path, CONTENT[name] ^ 1)
    with pytest.raises(UserError, match="cats is missing or damaged and cannot be downloaded"):
        dataclasses.replace(cats, downloads=()).load()


def test_arrays_are_memory_mapped_copy_on_write(tmp_path: Path) -> None:
    arrays = store(tmp_path / "cats", fetch).load()
    assert isinstance(arrays.train_images, np.memmap)
    arrays.train_images[:] = 0
    assert np.array_equal(store(tmp_path / "cats", fetch_nothing).load().train_images, CONTENT["train_images"])


def test_the_next_download_is_tried(tmp_path: Path) -> None:
    store(tmp_path / "cats", fetch_nothing, fetch_other_images, fetch).load()
    assert store(tmp_path / "cats").is_ready()


def test_the_error_lists_all_failed_downloads_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        store(tmp_path / "cats", fetch_nothing, fetch_other_images).load()
    assert str(error.value) == (
        f"{tmp_path / 'cats'} is missing or damaged and cannot be downloaded: tried site 1 (no route to host), "
        "site 2 (test_images has the wrong SHA-256 sum); download cats.zip"
    )


@pytest.mark.parametrize("wrong", [fetch_other_images, fetch_too_few_images])
def test_wrong_content_is_refused_and_not_saved(tmp_path: Path, wrong: Callable[[Path], Arrays]) -> None:
    with pytest.raises(UserError):
        store(tmp_path / "cats", wrong).load()
    assert not list((tmp_path / "cats").glob("*.npy"))


@pytest.mark.parametrize("name", SHAPES)
def test_a_truncated_file_is_downloaded_again(tmp_path: Path, name: str) -> None:
    store(tmp_path / "cats", fetch).load()
    path = tmp_path / "cats" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert not store(tmp_path / "cats").is_ready()
    assert np.array_equal(getattr(store(tmp_path / "cats", fetch).load(), name), CONTENT[name])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array"])
def test_a_file_that_is_no_array_is_downloaded_again(tmp_path: Path, content: bytes) -> None:
    store(tmp_path / "cats", fetch).load()
    (tmp_path / "cats" / "train_images.npy").write_bytes(content)
    store(tmp_path / "cats", fetch).load()
    assert store(tmp_path / "cats").is_ready()


@pytest.mark.parametrize("wrong", [np.zeros((19, 4, 4, 3), np.uint8), np.zeros((20, 4, 4, 3), np.float32)])
def test_a_file_of_another_shape_or_type_is_downloaded_again(tmp_path: Path, wrong: np.ndarray) -> None:
    store(tmp_path / "cats", fetch).load()
    np.save(tmp_path / "cats" / "train_images.npy", wrong)
    assert np.array_equal(store(tmp_path / "cats", fetch).load().train_images, CONTENT["train_images"])


def test_an_interrupted_write_leaves_no_complete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(file: object, array: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", disk_full)
    with pytest.raises(UserError, match=r"cats: the data set cannot be written \(No space left on device\)"):
        store(tmp_path / "cats", fetch).load()
    assert not store(tmp_path / "cats").is_ready()
    assert [path.name for path in (tmp_path / "cats").iterdir()] == [".lock"]


def test_a_folder_that_is_not_writable_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(UserError, match="data/cats: the data set cannot be written"):
        store(tmp_path / "data" / "cats", fetch).load()


def test_temporary_files_are_removed_also_those_of_a_killed_process(tmp_path: Path) -> None:
    def fetch_in_parts(temporary: Path) -> Arrays:
        (temporary / "cats.zip").write_bytes(b"half")
        return fetch(temporary)

    (tmp_path / "cats" / ".fetch.killed").mkdir(parents=True)
    store(tmp_path / "cats", fetch_in_parts).load()
    assert not list((tmp_path / "cats").glob(".fetch.*"))


def test_downloads_have_a_socket_timeout_which_is_reset_afterwards(tmp_path: Path) -> None:
    timeouts = []

    def fetch_and_record_timeout(temporary: Path) -> Arrays:
        timeouts.append(socket.getdefaulttimeout())
        return fetch(temporary)

    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(7)
    try:
        store(tmp_path / "cats", fetch_and_record_timeout).load()
        assert timeouts == [SOCKET_TIMEOUT_SECONDS]
        assert socket.getdefaulttimeout() == 7
    finally:
        socket.setdefaulttimeout(previous)


def fetch_slowly(temporary: Path) -> Arrays:
    with (temporary.parent.parent / "fetches.txt").open("a") as record:
        record.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return fetch(temporary)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_at_once_download_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=store(tmp_path / "cats", fetch_slowly).load) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=20)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len((tmp_path / "fetches.txt").read_text().splitlines()) == 1
