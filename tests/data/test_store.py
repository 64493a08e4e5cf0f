"""The store: made once, verified, whole."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.data.memory import Arrays
from model.data.store import PATIENCE_SECONDS, Source, Store, sha256, shapes
from model.errors import UserError

SHAPES = shapes(20, 10, (4, 4, 3))
RNG = np.random.default_rng(0)
CONTENT = {name: RNG.integers(0, 10, shape, np.uint8) for name, shape in SHAPES.items()}
DIGESTS = {name: sha256(array) for name, array in CONTENT.items()}


def store(folder: Path, *fetches: Callable[[Path], Arrays]) -> Store:
    return Store(
        folder=folder,
        shapes=SHAPES,
        sources=tuple(Source(f"source {number}", fetch) for number, fetch in enumerate(fetches, start=1)),
        by_hand="by hand: put cats.zip there",
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


def test_what_was_fetched_is_what_is_loaded(tmp_path: Path) -> None:
    arrays = store(tmp_path / "cats", fetch).load()
    assert all(np.array_equal(getattr(arrays, name), array) for name, array in CONTENT.items())


def test_what_lies_there_is_not_fetched_again(tmp_path: Path) -> None:
    store(tmp_path / "cats", fetch).load()
    assert store(tmp_path / "cats", fetch_nothing).is_ready()
    store(tmp_path / "cats", fetch_nothing).load()


def test_arrays_are_mapped_and_may_be_written_without_changing_the_file(tmp_path: Path) -> None:
    arrays = store(tmp_path / "cats", fetch).load()
    assert isinstance(arrays.train_images, np.memmap)
    arrays.train_images[:] = 0
    assert np.array_equal(store(tmp_path / "cats", fetch_nothing).load().train_images, CONTENT["train_images"])


def test_the_next_source_is_tried(tmp_path: Path) -> None:
    store(tmp_path / "cats", fetch_nothing, fetch_other_images, fetch).load()
    assert store(tmp_path / "cats").is_ready()


def test_failing_all_ways_says_what_was_tried_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        store(tmp_path / "cats", fetch_nothing, fetch_other_images).load()
    assert str(error.value) == (
        f"{tmp_path / 'cats'} is missing or damaged and cannot be fetched: tried source 1 (no route to host), "
        "source 2 (test_images has the wrong SHA-256 sum); by hand: put cats.zip there"
    )


@pytest.mark.parametrize("wrong", [fetch_other_images, fetch_too_few_images])
def test_wrong_content_is_refused_and_not_kept(tmp_path: Path, wrong: Callable[[Path], Arrays]) -> None:
    with pytest.raises(UserError):
        store(tmp_path / "cats", wrong).load()
    assert not list((tmp_path / "cats").glob("*.npy"))


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_cut_short_is_made_again(tmp_path: Path, name: str) -> None:
    store(tmp_path / "cats", fetch).load()
    path = tmp_path / "cats" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert not store(tmp_path / "cats").is_ready()
    assert np.array_equal(getattr(store(tmp_path / "cats", fetch).load(), name), CONTENT[name])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array"])
def test_a_file_that_is_no_array_is_made_again(tmp_path: Path, content: bytes) -> None:
    store(tmp_path / "cats", fetch).load()
    (tmp_path / "cats" / "train_images.npy").write_bytes(content)
    store(tmp_path / "cats", fetch).load()
    assert store(tmp_path / "cats").is_ready()


@pytest.mark.parametrize("wrong", [np.zeros((19, 4, 4, 3), np.uint8), np.zeros((20, 4, 4, 3), np.float32)])
def test_a_file_of_another_shape_or_type_is_made_again(tmp_path: Path, wrong: np.ndarray) -> None:
    store(tmp_path / "cats", fetch).load()
    np.save(tmp_path / "cats" / "train_images.npy", wrong)
    assert np.array_equal(store(tmp_path / "cats", fetch).load().train_images, CONTENT["train_images"])


def test_writing_that_breaks_off_leaves_no_file_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(file: object, array: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", disk_full)
    with pytest.raises(UserError, match=r"cats: cannot write the data set there \(No space left on device\)"):
        store(tmp_path / "cats", fetch).load()
    assert not store(tmp_path / "cats").is_ready()
    assert [path.name for path in (tmp_path / "cats").iterdir()] == [".lock"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(UserError, match="data/cats: cannot write the data set there"):
        store(tmp_path / "data" / "cats", fetch).load()


def test_downloads_are_removed_also_those_of_a_process_that_was_killed(tmp_path: Path) -> None:
    def fetch_in_parts(temporary: Path) -> Arrays:
        (temporary / "cats.zip").write_bytes(b"half")
        return fetch(temporary)

    (tmp_path / "cats" / ".fetch.killed").mkdir(parents=True)
    store(tmp_path / "cats", fetch_in_parts).load()
    assert not list((tmp_path / "cats").glob(".fetch.*"))


def test_silent_sites_are_given_up_and_sockets_are_as_before(tmp_path: Path) -> None:
    limits = []

    def fetch_and_look(temporary: Path) -> Arrays:
        limits.append(socket.getdefaulttimeout())
        return fetch(temporary)

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(7)
    try:
        store(tmp_path / "cats", fetch_and_look).load()
        assert limits == [PATIENCE_SECONDS]
        assert socket.getdefaulttimeout() == 7
    finally:
        socket.setdefaulttimeout(before)


def fetch_slowly(temporary: Path) -> Arrays:
    with (temporary.parent.parent / "fetches.txt").open("a") as record:
        record.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return fetch(temporary)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_at_once_fetch_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=store(tmp_path / "cats", fetch_slowly).load) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=20)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len((tmp_path / "fetches.txt").read_text().splitlines()) == 1
