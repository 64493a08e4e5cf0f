"""The cached teacher: it returns the network's outputs, rounded to float16, and runs the network on each view once."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.errors import UserError
from model.files import read_json
from model.logs import logging_to
from model.teachers.cached import CachedTeacher, open_cache, unique_rows
from model.teachers.encoding import Encoding, Float16Encoding, TopKEncoding
from model.teachers.ensemble import EnsembleTeacher
from model.teachers.live import LiveTeacher
from model.teachers.row_file import RowFile, Rows
from model.teachers.row_store import DeviceRowStore
from model.types import Batch, Output, Part, Views
from tests.teachers.test_row_store import corrupt
from tests.teachers.test_teachers import ConstantLogits
from tests.training.toy import CPU, NORMALISATION, SmallNet, live_teacher, open_data, seeded

NUM_EPOCHS, NUM_IMAGES, NUM_CLASSES = 2, 100, 5
KEY = {"weights": "best", "digest": "1111", "precision": "float32"}
LOGITS: dict[Part, Encoding] = {"logits": Float16Encoding(NUM_CLASSES)}
EMBEDDING: dict[Part, Encoding] = {"embedding": Float16Encoding(6)}
TOP_2: dict[Part, Encoding] = {"logits": TopKEncoding(2, NUM_CLASSES)}

DATA = open_data()
FIRST = next(DATA.train_batches(0, 16))


def batches() -> list[Batch]:
    """All batches of a run."""
    return [batch for epoch in range(NUM_EPOCHS) for batch in DATA.train_batches(epoch, 16)]


def views_of(batches: list[Batch]) -> list[tuple[int, int]]:
    """The different (index, view) of some batches."""
    return sorted({pair for batch in batches for pair in zip(batch.index.tolist(), batch.view.tolist(), strict=True)})


def part_of(batch: Batch, part: slice) -> Batch:
    return DATA.augmented_batch(batch.index[part].numpy(), batch.view[part].numpy())


def small_teacher(seed: int = 1) -> LiveTeacher:
    return live_teacher(seeded(SmallNet, seed))


def cached_teacher(
    path: Path,
    live: LiveTeacher | None = None,
    encodings: Mapping[Part, Encoding] = LOGITS,
    key: Mapping[str, str] = KEY,
) -> CachedTeacher:
    """A teacher whose outputs are cached below `path`; by default the same network each time."""
    views = DATA.views(NUM_EPOCHS)
    live = live or small_teacher()
    return open_cache(
        live,
        path,
        key=dict(key),
        encodings=encodings,
        views=views,
        needed_rows=unique_rows(views, [DATA.epoch_views(epoch) for epoch in range(NUM_EPOCHS)]),
        dtype=live.dtype,
        device=CPU,
    )


def run_all_epochs(teacher: CachedTeacher) -> list[Output]:
    return [teacher(batch) for batch in batches()]


def assert_rounded(actual: Tensor, expected: Tensor) -> None:
    """Equal, or neighbours in float16: arithmetic on part of a batch may sum in another order."""
    # A logit near 0 is a sum of larger values and rounded as they are.
    torch.testing.assert_close(actual, expected, rtol=2**-10, atol=1e-6 * float(expected.abs().max()))


def file_of(teacher: CachedTeacher, part: Part = "logits") -> RowFile:
    return teacher.parts[part].file


@pytest.fixture(params=["file", "device"])
def every_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are looked up in the file, as on a CPU, or in a copy of it, as on a GPU."""
    if request.param == "device":
        monkeypatch.setattr("model.teachers.cached._open_store", DeviceRowStore)


# Outputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_store")
def test_outputs_are_the_network_s_rounded_to_float16(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in DATA.train_batches(0, 16):
        assert torch.equal(teacher(batch).logits, live(batch).logits.half().float())


@pytest.mark.usefixtures("every_store")
def test_outputs_of_a_batch_that_is_cached_in_part_are_the_network_s_too(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    teacher(part_of(FIRST, slice(3, 9)))
    assert_rounded(teacher(FIRST).logits, live(FIRST).logits)


@pytest.mark.usefixtures("every_store")
def test_outputs_of_later_epochs_are_the_network_s_too(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in batches():
        assert_rounded(teacher(batch).logits, live(batch).logits)


@pytest.mark.usefixtures("every_store")
@pytest.mark.parametrize("encodings", [LOGITS | EMBEDDING, TOP_2], ids=["half", "top 2"])
def test_cached_outputs_are_bit_for_bit_the_computed_ones(encodings: Mapping[Part, Encoding], tmp_path: Path) -> None:
    computed = run_all_epochs(cached_teacher(tmp_path, encodings=encodings))
    cached = run_all_epochs(cached_teacher(tmp_path, encodings=encodings))
    for one, other in zip(computed, cached, strict=True):
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.embedding, other.embedding)


@pytest.mark.parametrize("state", ["computed", "cached"])
@pytest.mark.parametrize(
    ("encodings", "sizes"),
    [(LOGITS, (5, 0)), (EMBEDDING, (0, 6)), (LOGITS | EMBEDDING, (5, 6))],
    ids=["logits", "embedding", "both"],
)
def test_parts_that_are_not_cached_are_empty(
    encodings: Mapping[Part, Encoding], sizes: tuple[int, int], state: str, tmp_path: Path
) -> None:
    teacher = cached_teacher(tmp_path, encodings=encodings)
    if state == "cached":
        teacher(FIRST)
    output = teacher(FIRST)
    assert (output.logits.shape, output.embedding.shape) == ((16, sizes[0]), (16, sizes[1]))
    assert output[2:] == ((), (), (), None)


@pytest.mark.parametrize("encodings", [EMBEDDING, LOGITS | EMBEDDING], ids=["alone", "with logits"])
def test_embeddings_are_the_network_s_rounded_to_float16(encodings: Mapping[Part, Encoding], tmp_path: Path) -> None:
    output = cached_teacher(tmp_path, encodings=encodings)(FIRST)
    assert torch.equal(output.embedding, small_teacher()(FIRST).embedding.half().float())


@pytest.mark.parametrize("part", ["logits", "embedding"])
def test_bfloat16_outputs_are_cached_exactly(part: Part, tmp_path: Path) -> None:
    live = LiveTeacher(
        seeded(SmallNet, 1),
        normalisation=NORMALISATION,
        data_normalisation=NORMALISATION,
        dtype=torch.bfloat16,
        device=CPU,
    )
    cached_teacher(tmp_path, live, LOGITS | EMBEDDING)(FIRST)
    cached = getattr(cached_teacher(tmp_path, live, LOGITS | EMBEDDING)(FIRST), part)
    computed = getattr(live(FIRST), part)
    assert computed.dtype == torch.bfloat16
    assert torch.equal(cached, computed.float())


def test_ensemble_of_cached_teachers_is_that_of_the_rounded_outputs(tmp_path: Path) -> None:
    ensemble = EnsembleTeacher([cached_teacher(tmp_path / str(seed), small_teacher(seed)) for seed in (1, 2)])
    rounded = [small_teacher(seed)(FIRST).logits.half().double().numpy() for seed in (1, 2)]
    probabilities = np.mean([np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in rounded], axis=0)
    np.testing.assert_allclose(ensemble(FIRST).logits.exp().numpy(), probabilities, rtol=1e-5)


# How often the network is run ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_store")
def test_network_is_run_on_missing_images_only(tmp_path: Path) -> None:
    live = small_teacher()
    teacher = cached_teacher(tmp_path, live)
    teacher(part_of(FIRST, slice(3, 9)))
    teacher(FIRST)
    assert live.num_forwards == 6 + 10


@pytest.mark.usefixtures("every_store")
def test_network_is_run_once_on_each_view_of_all_epochs(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    run_all_epochs(teacher)
    assert teacher.num_forwards == len(views_of(batches())) < 160


@pytest.mark.usefixtures("every_store")
def test_network_is_run_where_one_of_two_parts_is_missing(tmp_path: Path) -> None:
    cached_teacher(tmp_path, encodings=LOGITS)(FIRST)
    teacher = cached_teacher(tmp_path, encodings=LOGITS | EMBEDDING)
    assert torch.equal(teacher(FIRST).embedding, small_teacher()(FIRST).embedding.half().float())
    assert teacher.num_forwards == 16


@pytest.mark.usefixtures("every_store")
def test_next_run_does_not_run_the_network(tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path)
    run_all_epochs(teacher)
    assert (teacher.num_queries, teacher.num_forwards) == (160, 0)


def test_ensemble_s_next_run_runs_no_network(tmp_path: Path) -> None:
    for expected in (32, 0):
        ensemble = EnsembleTeacher([cached_teacher(tmp_path / str(seed), small_teacher(seed)) for seed in (1, 2)])
        ensemble(FIRST)
        assert ensemble.num_forwards == expected


def test_outputs_that_another_process_caches_meanwhile_are_used(tmp_path: Path) -> None:
    one, other = cached_teacher(tmp_path), cached_teacher(tmp_path)
    one(FIRST)
    other(FIRST)
    assert other.num_forwards == 0


class RecordsInputs(nn.Module):
    """A network that records the images that it is run on."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Output:
        self.inputs.append(images)
        return Output(images.flatten(1)[:, :NUM_CLASSES], images.flatten(1))


def test_network_is_run_on_missing_images_in_their_order(tmp_path: Path) -> None:
    net = RecordsInputs()
    teacher = cached_teacher(tmp_path, live_teacher(net))
    teacher(part_of(FIRST, slice(3, 9)))
    teacher(FIRST)
    assert torch.equal(net.inputs[-1], torch.cat([FIRST.images[:3], FIRST.images[9:]]))


def test_network_is_run_on_missing_images_channels_last(tmp_path: Path) -> None:
    net = RecordsInputs()
    teacher = cached_teacher(tmp_path, live_teacher(net))
    teacher(part_of(FIRST, slice(3, 9)))
    teacher(FIRST)
    assert net.inputs[-1].is_contiguous(memory_format=torch.channels_last)


def test_missing_images_are_counted_before_the_run(tmp_path: Path) -> None:
    cached_teacher(tmp_path)(FIRST)
    assert cached_teacher(tmp_path).num_missing == len(views_of(batches())) - 16


def test_image_of_which_one_of_two_parts_is_missing_is_missing(tmp_path: Path) -> None:
    cached_teacher(tmp_path, encodings=LOGITS)(FIRST)
    teacher = cached_teacher(tmp_path, encodings=LOGITS | EMBEDDING)
    assert teacher.num_missing == len(teacher.needed_rows)


def test_no_time_remains_where_all_rows_are_cached(tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path)
    assert teacher.seconds_remaining(FIRST) == 0
    assert teacher.num_forwards == 0


def test_time_remains_where_rows_are_missing(tmp_path: Path) -> None:
    assert cached_teacher(tmp_path).seconds_remaining(FIRST) > 0


def test_unique_rows_are_those_of_the_batches() -> None:
    rows = unique_rows(DATA.views(NUM_EPOCHS), [DATA.epoch_views(epoch) for epoch in range(NUM_EPOCHS)])
    assert rows.tolist() == sorted(view * NUM_IMAGES + index for index, view in views_of(batches()))


# Verification -------------------------------------------------------------------------------------------------------


def sample_of(teacher: CachedTeacher) -> Batch:
    return DATA.augmented_batch(*teacher.sample_cached_views())


@pytest.mark.usefixtures("every_store")
def test_right_rows_pass_verification(tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path, encodings=LOGITS | EMBEDDING))
    teacher = cached_teacher(tmp_path, encodings=LOGITS | EMBEDDING)
    teacher.verify(sample_of(teacher))


@pytest.mark.usefixtures("every_store")
@pytest.mark.parametrize("part", ["logits", "embedding"])
def test_rows_of_other_images_fail_verification(part: Part, tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, encodings=LOGITS | EMBEDDING)
    run_all_epochs(teacher)
    file, rows = file_of(teacher, part), teacher.needed_rows
    file.write(rows, np.roll(file.read(rows)[0], 1, axis=0))
    again = cached_teacher(tmp_path, encodings=LOGITS | EMBEDDING)
    with pytest.raises(UserError, match=rf"image \d+, view \d+: cached {part} \[.*\] differ from the network's \["):
        again.verify(sample_of(again))


def cache_logits(teacher: CachedTeacher, logits: list[float]) -> tuple[int, int]:
    """Cache logits for the first training image and its view in the first epoch; returns its index and view."""
    index, view = (int(values[0]) for values in DATA.epoch_views(0))
    file_of(teacher).write(np.array([view * NUM_IMAGES + index]), np.array([logits], np.float16).view(np.uint16))
    return index, view


def test_error_names_the_wrong_row_and_both_values(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, live_teacher(ConstantLogits([5.0, 4.0, 3.0, 2.25, 1.0])))
    index, view = cache_logits(teacher, [1.0, 2.0, -3.5, 0.125, 1000.0])
    with pytest.raises(UserError) as error:
        teacher.verify(sample_of(teacher))
    file = file_of(teacher).path
    assert str(error.value) == (
        f"{file}: image {index}, view {view}: cached logits [1, 2, -3.5, 0.125, ...] differ from the network's "
        f"[5, 4, 3, 2.25, ...]; remove {file.parent} to compute the cache again"
    )


@pytest.mark.parametrize(("dtype", "cached"), [(torch.float32, 100.5), (torch.bfloat16, 105.0)], ids=str)
def test_difference_from_rounding_is_tolerated(dtype: torch.dtype, cached: float, tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, constant_teacher(dtype))
    cache_logits(teacher, [cached, 1.0, 0.0, 0.0, 0.0])
    teacher.verify(sample_of(teacher))


@pytest.mark.parametrize(("dtype", "cached"), [(torch.float32, 102.0), (torch.bfloat16, 120.0)], ids=str)
def test_larger_difference_is_an_error(dtype: torch.dtype, cached: float, tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, constant_teacher(dtype))
    cache_logits(teacher, [cached, 1.0, 0.0, 0.0, 0.0])
    with pytest.raises(UserError, match="differ from the network's"):
        teacher.verify(sample_of(teacher))


def constant_teacher(dtype: torch.dtype) -> LiveTeacher:
    net = ConstantLogits([100.0, 1.0, 0.0, 0.0, 0.0])
    return LiveTeacher(net, normalisation=NORMALISATION, data_normalisation=NORMALISATION, dtype=dtype, device=CPU)


def test_sample_has_cached_views_only(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    teacher(part_of(FIRST, slice(3, 9)))
    index, view = teacher.sample_cached_views()
    assert sorted(zip(index, view, strict=True)) == views_of([part_of(FIRST, slice(3, 9))])


def test_sample_is_a_few_different_views(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    run_all_epochs(teacher)
    assert len(set(zip(*teacher.sample_cached_views(), strict=True))) == 16


def test_sample_is_empty_where_nothing_is_cached(tmp_path: Path) -> None:
    assert [len(values) for values in cached_teacher(tmp_path).sample_cached_views()] == [0, 0]


# Corrupt rows, full disks, large values ------------------------------------------------------------------------------


def corrupt_cache(path: Path) -> Rows:
    """Cache all rows and corrupt three of them, which are returned."""
    teacher = cached_teacher(path)
    run_all_epochs(teacher)
    rows = teacher.needed_rows[[5, 50, 100]]
    corrupt(file_of(teacher), rows)
    return rows


@pytest.mark.usefixtures("every_store")
def test_corrupt_rows_are_computed_again(tmp_path: Path) -> None:
    corrupt_cache(tmp_path)
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in batches():
        assert_rounded(teacher(batch).logits, live(batch).logits)


@pytest.mark.usefixtures("every_store")
def test_network_is_run_on_corrupt_rows_only(tmp_path: Path) -> None:
    corrupt_cache(tmp_path)
    teacher = cached_teacher(tmp_path)
    run_all_epochs(teacher)
    assert teacher.num_forwards == 3


@pytest.mark.usefixtures("every_store")
def test_corrupt_rows_are_written_again(tmp_path: Path) -> None:
    rows = corrupt_cache(tmp_path)
    teacher = cached_teacher(tmp_path)
    run_all_epochs(teacher)
    assert file_of(teacher).read(rows)[1].all()


def test_verification_skips_corrupt_rows(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    teacher(FIRST)
    sample = sample_of(teacher)
    corrupt(file_of(teacher), teacher.views.row(sample.index, sample.view).numpy())
    teacher.verify(sample)


class LargeLogits(nn.Module):
    """Returns the brightness of dark images, and values beyond the range of float16 for bright ones."""

    def forward(self, images: Tensor) -> Output:
        brightness_N = images.mean(dim=(1, 2, 3))
        logits_NK = brightness_N[:, None].repeat(1, NUM_CLASSES)
        logits_NK[brightness_N > 0, 1] = 70001.5
        return Output(logits_NK, images.flatten(1))


def is_bright(batch: Batch) -> Tensor:
    bright_N: Tensor = batch.images.mean(dim=(1, 2, 3)) > 0
    assert 0 < bright_N.sum() < len(bright_N)
    return bright_N


@pytest.mark.usefixtures("every_store")
def test_outputs_that_float16_cannot_represent_are_exact_every_time(tmp_path: Path) -> None:
    teacher, live, bright_N = (
        cached_teacher(tmp_path, live_teacher(LargeLogits())),
        live_teacher(LargeLogits()),
        is_bright(FIRST),
    )
    for _ in range(3):
        assert torch.equal(teacher(FIRST).logits[bright_N], live(FIRST).logits[bright_N])


@pytest.mark.usefixtures("every_store")
def test_outputs_that_float16_cannot_represent_are_not_cached(tmp_path: Path) -> None:
    teacher, bright_N = cached_teacher(tmp_path, live_teacher(LargeLogits())), is_bright(FIRST)
    teacher(FIRST)
    rows_N = FIRST.view * NUM_IMAGES + FIRST.index
    assert file_of(teacher).is_written(rows_N.numpy()).tolist() == (~bright_N).tolist()


@pytest.mark.usefixtures("every_store")
def test_outputs_beside_one_that_float16_cannot_represent_are_cached(tmp_path: Path) -> None:
    live = live_teacher(LargeLogits())
    cached_teacher(tmp_path, live)(FIRST)
    again = cached_teacher(tmp_path, live_teacher(LargeLogits()))
    again(FIRST)
    assert again.num_forwards == is_bright(FIRST).sum()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)


@pytest.mark.usefixtures("full_disk", "every_store")
def test_outputs_are_right_on_a_full_disk(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in DATA.train_batches(0, 16):
        assert torch.equal(teacher(batch).logits, live(batch).logits.half().float())


@pytest.mark.usefixtures("full_disk")
def test_full_disk_is_logged_once(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    with logging_to(tmp_path / "train.log"):
        run_all_epochs(teacher)
    (line,) = (tmp_path / "train.log").read_text().splitlines()
    assert f"{file_of(teacher).path}: No space left on device" in line


@pytest.mark.usefixtures("full_disk")
def test_network_is_run_on_every_batch_on_a_full_disk(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    with logging_to(None):
        run_all_epochs(teacher)
    assert teacher.num_forwards == 160


# Keys ---------------------------------------------------------------------------------------------------------------


def digests(path: Path) -> list[str]:
    """Of the weights that have a cache."""
    return sorted(read_json(file)["digest"] for file in path.glob("*/about.json"))


def test_about_json_holds_the_key(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, key=KEY | {"images": "cifar"})
    assert read_json(file_of(teacher).path.parent / "about.json") == {
        "weights": "best",
        "digest": "1111",
        "precision": "float32",
        "images": "cifar",
    }


def test_cache_of_earlier_weights_is_removed(tmp_path: Path) -> None:
    earlier = file_of(cached_teacher(tmp_path, key=KEY | {"digest": "1111"})).path.parent
    cached_teacher(tmp_path, key=KEY | {"digest": "2222"})
    assert not earlier.exists()
    assert digests(tmp_path) == ["2222"]


def test_cache_of_earlier_weights_is_not_used(tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path, key=KEY | {"digest": "1111"}))
    teacher = cached_teacher(tmp_path, key=KEY | {"digest": "2222"})
    assert teacher.num_missing == len(teacher.needed_rows)


def test_cache_of_the_last_weights_stays_beside_that_of_the_best(tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path, key=KEY | {"weights": "last", "digest": "3333"}))
    cached_teacher(tmp_path, key=KEY | {"digest": "1111"})
    cached_teacher(tmp_path, key=KEY | {"digest": "2222"})
    assert digests(tmp_path) == ["2222", "3333"]
    assert cached_teacher(tmp_path, key=KEY | {"weights": "last", "digest": "3333"}).num_missing == 0


@pytest.mark.parametrize("other", [{"precision": "bfloat16"}, {"views": "other"}, {"images": "other"}], ids=str)
def test_another_key_has_a_cache_of_its_own(other: dict[str, str], tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path, key=KEY | other)
    assert teacher.num_missing == len(teacher.needed_rows)


def test_top_k_rows_are_stored_apart_from_all_logits(tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path, encodings=TOP_2)
    assert teacher.num_missing == len(teacher.needed_rows)


def test_caches_of_other_keys_stay(tmp_path: Path) -> None:
    run_all_epochs(cached_teacher(tmp_path))
    cached_teacher(tmp_path, key=KEY | {"precision": "bfloat16"})
    assert cached_teacher(tmp_path).num_missing == 0


def test_truncated_file_is_logged(tmp_path: Path) -> None:
    file = file_of(cached_teacher(tmp_path)).path
    file.write_bytes(file.read_bytes()[:1000])
    with logging_to(tmp_path / "train.log"):
        cached_teacher(tmp_path)
    assert f"{file}: the file was truncated" in (tmp_path / "train.log").read_text()


def test_file_that_grows_with_the_epochs_is_not_truncated(tmp_path: Path) -> None:
    def opened(num_epochs: int) -> CachedTeacher:
        return open_cache(
            small_teacher(),
            tmp_path,
            key=KEY,
            encodings=LOGITS,
            views=Views(num_images=NUM_IMAGES, per_image=num_epochs, config={}, unbounded=False, can_grow=True),
            needed_rows=np.arange(NUM_IMAGES * num_epochs),
            dtype=torch.float32,
            device=CPU,
        )

    with logging_to(tmp_path / "train.log"):
        opened(num_epochs=1)
        opened(num_epochs=2)
    assert (tmp_path / "train.log").read_text() == ""


def test_cache_that_another_process_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = file_of(cached_teacher(tmp_path, key=KEY | {"digest": "1111"})).path.parent
    glob = Path.glob

    def glob_then_remove(folder: Path, pattern: str) -> list[Path]:
        paths = list(glob(folder, pattern))
        shutil.rmtree(earlier)
        return paths

    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", glob_then_remove)
        cached_teacher(tmp_path, key=KEY | {"digest": "2222"})
    assert digests(tmp_path) == ["2222"]


# Computing ahead of an epoch -----------------------------------------------------------------------------------------


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.teachers.cached.MAX_PRECOMPUTE_BATCH_SIZE", 10)


@pytest.mark.usefixtures("every_store", "small_batches")
def test_network_is_not_run_in_an_epoch_that_was_precomputed(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    assert list(teacher.precompute(DATA, 1)) == pytest.approx([n / 8 for n in range(1, 9)])
    num_precomputed = teacher.num_forwards
    for batch in DATA.train_batches(1, 16):
        teacher(batch)
    assert (num_precomputed, teacher.num_forwards) == (80, 80)


@pytest.mark.usefixtures("every_store", "small_batches")
def test_outputs_that_another_run_caches_while_an_epoch_is_precomputed_are_used(tmp_path: Path) -> None:
    teacher, other = cached_teacher(tmp_path), cached_teacher(tmp_path)
    progress = teacher.precompute(DATA, 0)
    next(progress)
    list(other.precompute(DATA, 0))
    list(progress)
    for batch in DATA.train_batches(0, 16):
        teacher(batch)
    assert (teacher.num_forwards, other.num_forwards) == (10, 70)


@pytest.mark.usefixtures("small_batches")
def test_precomputing_does_not_count_as_a_query(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    list(teacher.precompute(DATA, 0))
    assert teacher.num_queries == 0


@pytest.mark.usefixtures("small_batches")
def test_outputs_of_an_epoch_that_was_precomputed_are_the_network_s(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    list(teacher.precompute(DATA, 0))
    for batch in DATA.train_batches(0, 16):
        assert_rounded(teacher(batch).logits, live(batch).logits)


@pytest.mark.usefixtures("small_batches")
def test_runs_that_precompute_an_epoch_together_share_the_work(tmp_path: Path) -> None:
    teachers = [cached_teacher(tmp_path), cached_teacher(tmp_path)]
    iterators = [teacher.precompute(DATA, 0) for teacher in teachers]
    for _ in range(8):
        for iterator in iterators:
            next(iterator, None)
    assert sum(teacher.num_forwards for teacher in teachers) == 80
    assert min(teacher.num_forwards for teacher in teachers) > 20


def test_unbounded_views_are_not_precomputed(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    teacher.views = dataclasses.replace(teacher.views, unbounded=True)
    assert list(teacher.precompute(DATA, 0)) == []
    assert teacher.num_forwards == 0


@pytest.mark.usefixtures("small_batches")
def test_all_members_of_an_ensemble_precompute(tmp_path: Path) -> None:
    members = [cached_teacher(tmp_path / "one"), cached_teacher(tmp_path / "two", small_teacher(2))]
    progress = list(EnsembleTeacher(members).precompute(DATA, 0))
    assert progress == pytest.approx([n / 16 for n in range(1, 17)])
    assert [member.num_forwards for member in members] == [80, 80]
