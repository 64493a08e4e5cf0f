"""The cached teacher: it says what the network says, rounded to float16, and runs the network on each view once."""

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
from model.teachers.cached import CachedTeacher, open_cache, wanted_rows
from model.teachers.encoding import Encoding, Float16Encoding, TopKEncoding
from model.teachers.ensemble import EnsembleTeacher
from model.teachers.live import LiveTeacher
from model.teachers.row_file import RowFile, Rows
from model.teachers.row_store import DeviceRowStore
from model.types import Batch, Output, Part, Views
from tests.teachers.test_row_store import damage
from tests.teachers.test_teachers import Says
from tests.training.toy import CPU, NORMALISATION, SmallNet, live_teacher, open_data, seeded

NUM_EPOCHS, NUM_IMAGES, NUM_CLASSES = 2, 100, 5
ABOUT = {"weights": "best", "digest": "1111", "precision": "float32"}
LOGITS: dict[Part, Encoding] = {"logits": Float16Encoding(NUM_CLASSES)}
EMBEDDING: dict[Part, Encoding] = {"embedding": Float16Encoding(6)}
TOP_2: dict[Part, Encoding] = {"logits": TopKEncoding(2, NUM_CLASSES)}

DATA = open_data()
FIRST = next(DATA.train_batches(0, 16))


def batches() -> list[Batch]:
    """All that a run sees."""
    return [batch for epoch in range(NUM_EPOCHS) for batch in DATA.train_batches(epoch, 16)]


def views_of(seen: list[Batch]) -> list[tuple[int, int]]:
    """The different (index, view) of some batches."""
    return sorted({pair for batch in seen for pair in zip(batch.index.tolist(), batch.view.tolist(), strict=True)})


def part_of(batch: Batch, part: slice) -> Batch:
    return DATA.augmented_batch(batch.index[part].numpy(), batch.view[part].numpy())


def small_teacher(seed: int = 1) -> LiveTeacher:
    return live_teacher(seeded(SmallNet, seed))


def cached_teacher(
    path: Path,
    live: LiveTeacher | None = None,
    codings: Mapping[Part, Encoding] = LOGITS,
    about: Mapping[str, str] = ABOUT,
) -> CachedTeacher:
    """A teacher whose answers are kept below `path`; by default the same network each time."""
    views = DATA.views(NUM_EPOCHS)
    live = live or small_teacher()
    return open_cache(
        live,
        path,
        about=dict(about),
        codings=codings,
        views=views,
        wanted=wanted_rows(views, [DATA.epoch_views(epoch) for epoch in range(NUM_EPOCHS)]),
        dtype=live.dtype,
        device=CPU,
    )


def ask_everything(teacher: CachedTeacher) -> list[Output]:
    return [teacher(batch) for batch in batches()]


def assert_rounded(said: Tensor, expected: Tensor) -> None:
    """Equal, or neighbours in float16: arithmetic on part of a batch may sum in another order."""
    # A logit near 0 is a sum of larger values and rounded as they are.
    torch.testing.assert_close(said, expected, rtol=2**-10, atol=1e-6 * float(expected.abs().max()))


def answers_of(teacher: CachedTeacher, part: Part = "logits") -> RowFile:
    return teacher.kept[part].answers


@pytest.fixture(params=["file", "device"])
def every_shelf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are looked up in the file, as on a CPU, or in a copy of it, as on a GPU."""
    if request.param == "device":
        monkeypatch.setattr("model.teachers.cached._shelf", DeviceRowStore)


# What it says -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_shelf")
def test_answers_are_the_network_s_rounded_to_float16(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in DATA.train_batches(0, 16):
        assert torch.equal(teacher(batch).logits, live(batch).logits.half().float())


@pytest.mark.usefixtures("every_shelf")
def test_answers_of_which_some_are_kept_are_the_network_s_too(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    teacher(part_of(FIRST, slice(3, 9)))
    assert_rounded(teacher(FIRST).logits, live(FIRST).logits)


@pytest.mark.usefixtures("every_shelf")
def test_answers_of_later_epochs_are_the_network_s_too(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in batches():
        assert_rounded(teacher(batch).logits, live(batch).logits)


@pytest.mark.usefixtures("every_shelf")
@pytest.mark.parametrize("codings", [LOGITS | EMBEDDING, TOP_2], ids=["half", "top 2"])
def test_found_answers_are_bit_for_bit_the_computed_ones(codings: Mapping[Part, Encoding], tmp_path: Path) -> None:
    computed = ask_everything(cached_teacher(tmp_path, codings=codings))
    found = ask_everything(cached_teacher(tmp_path, codings=codings))
    for one, other in zip(computed, found, strict=True):
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.embedding, other.embedding)


@pytest.mark.parametrize("state", ["computed", "found"])
@pytest.mark.parametrize(
    ("codings", "sizes"),
    [(LOGITS, (5, 0)), (EMBEDDING, (0, 6)), (LOGITS | EMBEDDING, (5, 6))],
    ids=["logits", "embedding", "both"],
)
def test_parts_that_are_not_kept_are_empty(
    codings: Mapping[Part, Encoding], sizes: tuple[int, int], state: str, tmp_path: Path
) -> None:
    teacher = cached_teacher(tmp_path, codings=codings)
    if state == "found":
        teacher(FIRST)
    output = teacher(FIRST)
    assert (output.logits.shape, output.embedding.shape) == ((16, sizes[0]), (16, sizes[1]))
    assert output[2:] == ((), (), (), None)


@pytest.mark.parametrize("codings", [EMBEDDING, LOGITS | EMBEDDING], ids=["alone", "with logits"])
def test_embeddings_are_the_network_s_rounded_to_float16(codings: Mapping[Part, Encoding], tmp_path: Path) -> None:
    output = cached_teacher(tmp_path, codings=codings)(FIRST)
    assert torch.equal(output.embedding, small_teacher()(FIRST).embedding.half().float())


@pytest.mark.parametrize("part", ["logits", "embedding"])
def test_bfloat16_answers_are_kept_exactly(part: Part, tmp_path: Path) -> None:
    live = LiveTeacher(
        seeded(SmallNet, 1), trained_on=NORMALISATION, fed_with=NORMALISATION, dtype=torch.bfloat16, device=CPU
    )
    cached_teacher(tmp_path, live, LOGITS | EMBEDDING)(FIRST)
    found = getattr(cached_teacher(tmp_path, live, LOGITS | EMBEDDING)(FIRST), part)
    said = getattr(live(FIRST), part)
    assert said.dtype == torch.bfloat16
    assert torch.equal(found, said.float())


def test_ensemble_of_cached_teachers_is_that_of_the_rounded_answers(tmp_path: Path) -> None:
    ensemble = EnsembleTeacher([cached_teacher(tmp_path / str(seed), small_teacher(seed)) for seed in (1, 2)])
    rounded = [small_teacher(seed)(FIRST).logits.half().double().numpy() for seed in (1, 2)]
    probabilities = np.mean([np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in rounded], axis=0)
    np.testing.assert_allclose(ensemble(FIRST).logits.exp().numpy(), probabilities, rtol=1e-5)


# How often the network is run ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_shelf")
def test_network_is_run_on_missing_images_only(tmp_path: Path) -> None:
    live = small_teacher()
    teacher = cached_teacher(tmp_path, live)
    teacher(part_of(FIRST, slice(3, 9)))
    teacher(FIRST)
    assert live.num_forwards == 6 + 10


@pytest.mark.usefixtures("every_shelf")
def test_network_is_run_once_on_each_view_of_all_epochs(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    ask_everything(teacher)
    assert teacher.num_forwards == len(views_of(batches())) < 160


@pytest.mark.usefixtures("every_shelf")
def test_network_is_run_where_one_of_two_parts_is_missing(tmp_path: Path) -> None:
    cached_teacher(tmp_path, codings=LOGITS)(FIRST)
    teacher = cached_teacher(tmp_path, codings=LOGITS | EMBEDDING)
    assert torch.equal(teacher(FIRST).embedding, small_teacher()(FIRST).embedding.half().float())
    assert teacher.num_forwards == 16


@pytest.mark.usefixtures("every_shelf")
def test_next_run_does_not_run_the_network(tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path)
    ask_everything(teacher)
    assert (teacher.num_queries, teacher.num_forwards) == (160, 0)


def test_ensemble_s_next_run_runs_no_network(tmp_path: Path) -> None:
    for expected in (32, 0):
        ensemble = EnsembleTeacher([cached_teacher(tmp_path / str(seed), small_teacher(seed)) for seed in (1, 2)])
        ensemble(FIRST)
        assert ensemble.num_forwards == expected


def test_answers_that_another_process_adds_meanwhile_are_found(tmp_path: Path) -> None:
    one, other = cached_teacher(tmp_path), cached_teacher(tmp_path)
    one(FIRST)
    other(FIRST)
    assert other.num_forwards == 0


class Looks(nn.Module):
    """A network that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Output:
        self.seen.append(images)
        return Output(images.flatten(1)[:, :NUM_CLASSES], images.flatten(1))


def test_missing_images_are_shown_to_the_network_in_their_order(tmp_path: Path) -> None:
    net = Looks()
    teacher = cached_teacher(tmp_path, live_teacher(net))
    teacher(part_of(FIRST, slice(3, 9)))
    teacher(FIRST)
    assert torch.equal(net.seen[-1], torch.cat([FIRST.images[:3], FIRST.images[9:]]))


def test_missing_images_are_shown_to_the_network_channels_last(tmp_path: Path) -> None:
    net = Looks()
    teacher = cached_teacher(tmp_path, live_teacher(net))
    teacher(part_of(FIRST, slice(3, 9)))
    teacher(FIRST)
    assert net.seen[-1].is_contiguous(memory_format=torch.channels_last)


def test_missing_images_are_counted_before_the_run(tmp_path: Path) -> None:
    cached_teacher(tmp_path)(FIRST)
    assert cached_teacher(tmp_path).num_missing == len(views_of(batches())) - 16


def test_image_of_which_one_of_two_parts_is_missing_is_missing(tmp_path: Path) -> None:
    cached_teacher(tmp_path, codings=LOGITS)(FIRST)
    teacher = cached_teacher(tmp_path, codings=LOGITS | EMBEDDING)
    assert teacher.num_missing == len(teacher.wanted)


def test_nothing_is_to_come_where_all_is_kept(tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path)
    assert teacher.seconds_remaining(FIRST) == 0
    assert teacher.num_forwards == 0


def test_time_is_to_come_where_answers_are_missing(tmp_path: Path) -> None:
    assert cached_teacher(tmp_path).seconds_remaining(FIRST) > 0


def test_wanted_rows_are_those_that_the_batches_ask_for() -> None:
    wanted = wanted_rows(DATA.views(NUM_EPOCHS), [DATA.epoch_views(epoch) for epoch in range(NUM_EPOCHS)])
    assert wanted.tolist() == sorted(view * NUM_IMAGES + index for index, view in views_of(batches()))


# Kept answers are checked -------------------------------------------------------------------------------------------


def sample_of(teacher: CachedTeacher) -> Batch:
    return DATA.augmented_batch(*teacher.sample())


@pytest.mark.usefixtures("every_shelf")
def test_right_answers_pass_the_check(tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path, codings=LOGITS | EMBEDDING))
    teacher = cached_teacher(tmp_path, codings=LOGITS | EMBEDDING)
    teacher.check(sample_of(teacher))


@pytest.mark.usefixtures("every_shelf")
@pytest.mark.parametrize("part", ["logits", "embedding"])
def test_answers_of_other_images_do_not_pass_the_check(part: Part, tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, codings=LOGITS | EMBEDDING)
    ask_everything(teacher)
    answers, rows = answers_of(teacher, part), teacher.wanted
    answers.write(rows, np.roll(answers.read(rows)[0], 1, axis=0))
    again = cached_teacher(tmp_path, codings=LOGITS | EMBEDDING)
    with pytest.raises(UserError, match=rf"image \d+, view \d+, {part} \[.*\] are kept, but the teacher says \["):
        again.check(sample_of(again))


def keep(teacher: CachedTeacher, said: list[float]) -> tuple[int, int]:
    """Keep an answer for the first of the training images as the first epoch shows it; returns its index and view."""
    index, view = (int(values[0]) for values in DATA.epoch_views(0))
    answers_of(teacher).write(np.array([view * NUM_IMAGES + index]), np.array([said], np.float16).view(np.uint16))
    return index, view


def test_wrong_answer_is_told_with_its_place_and_both_values(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, live_teacher(Says([5.0, 4.0, 3.0, 2.25, 1.0])))
    index, view = keep(teacher, [1.0, 2.0, -3.5, 0.125, 1000.0])
    with pytest.raises(UserError) as error:
        teacher.check(sample_of(teacher))
    file = answers_of(teacher).path
    assert str(error.value) == (
        f"{file}: for image {index}, view {view}, logits [1, 2, -3.5, 0.125, ...] are kept, "
        f"but the teacher says [5, 4, 3, 2.25, ...]; remove {file.parent} to have all made anew"
    )


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 100.5), (torch.bfloat16, 105.0)], ids=str)
def test_difference_that_rounding_makes_passes_the_check(dtype: torch.dtype, kept: float, tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, says_100(dtype))
    keep(teacher, [kept, 1.0, 0.0, 0.0, 0.0])
    teacher.check(sample_of(teacher))


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 102.0), (torch.bfloat16, 120.0)], ids=str)
def test_larger_difference_does_not_pass_the_check(dtype: torch.dtype, kept: float, tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, says_100(dtype))
    keep(teacher, [kept, 1.0, 0.0, 0.0, 0.0])
    with pytest.raises(UserError, match="are kept"):
        teacher.check(sample_of(teacher))


def says_100(dtype: torch.dtype) -> LiveTeacher:
    net = Says([100.0, 1.0, 0.0, 0.0, 0.0])
    return LiveTeacher(net, trained_on=NORMALISATION, fed_with=NORMALISATION, dtype=dtype, device=CPU)


def test_sample_has_kept_views_only(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    teacher(part_of(FIRST, slice(3, 9)))
    index, view = teacher.sample()
    assert sorted(zip(index, view, strict=True)) == views_of([part_of(FIRST, slice(3, 9))])


def test_sample_is_a_few_different_views(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    ask_everything(teacher)
    assert len(set(zip(*teacher.sample(), strict=True))) == 16


def test_sample_is_empty_where_nothing_is_kept(tmp_path: Path) -> None:
    assert [len(values) for values in cached_teacher(tmp_path).sample()] == [0, 0]


# Damage, full disks, large values -----------------------------------------------------------------------------------


def damaged_cache(path: Path) -> Rows:
    """Keep all answers and damage three of them, whose rows are returned."""
    teacher = cached_teacher(path)
    ask_everything(teacher)
    damage(answers_of(teacher), teacher.wanted[[5, 50, 100]])
    return teacher.wanted[[5, 50, 100]]


@pytest.mark.usefixtures("every_shelf")
def test_damaged_answers_are_computed_again(tmp_path: Path) -> None:
    damaged_cache(tmp_path)
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in batches():
        assert_rounded(teacher(batch).logits, live(batch).logits)


@pytest.mark.usefixtures("every_shelf")
def test_network_is_run_on_damaged_answers_only(tmp_path: Path) -> None:
    damaged_cache(tmp_path)
    teacher = cached_teacher(tmp_path)
    ask_everything(teacher)
    assert teacher.num_forwards == 3


@pytest.mark.usefixtures("every_shelf")
def test_damaged_answers_are_kept_anew(tmp_path: Path) -> None:
    rows = damaged_cache(tmp_path)
    teacher = cached_teacher(tmp_path)
    ask_everything(teacher)
    assert answers_of(teacher).read(rows)[1].all()


def test_damaged_answers_pass_the_check(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    teacher(FIRST)
    sample = sample_of(teacher)
    damage(answers_of(teacher), teacher.views.row(sample.index, sample.view).numpy())
    teacher.check(sample)


class Shouts(nn.Module):
    """Says of dark images their brightness, and of bright ones more than float16 can hold."""

    def forward(self, images: Tensor) -> Output:
        brightness_N = images.mean(dim=(1, 2, 3))
        logits_NK = brightness_N[:, None].repeat(1, NUM_CLASSES)
        logits_NK[brightness_N > 0, 1] = 70001.5
        return Output(logits_NK, images.flatten(1))


def shouted(batch: Batch) -> Tensor:
    loud_N: Tensor = batch.images.mean(dim=(1, 2, 3)) > 0
    assert 0 < loud_N.sum() < len(loud_N)
    return loud_N


@pytest.mark.usefixtures("every_shelf")
def test_answers_that_float16_cannot_hold_are_exact_every_time(tmp_path: Path) -> None:
    teacher, live, loud_N = cached_teacher(tmp_path, live_teacher(Shouts())), live_teacher(Shouts()), shouted(FIRST)
    for _ in range(3):
        assert torch.equal(teacher(FIRST).logits[loud_N], live(FIRST).logits[loud_N])


@pytest.mark.usefixtures("every_shelf")
def test_answers_that_float16_cannot_hold_are_not_kept(tmp_path: Path) -> None:
    teacher, loud_N = cached_teacher(tmp_path, live_teacher(Shouts())), shouted(FIRST)
    teacher(FIRST)
    rows_N = FIRST.view * NUM_IMAGES + FIRST.index
    assert answers_of(teacher).are_there(rows_N.numpy()).tolist() == (~loud_N).tolist()


@pytest.mark.usefixtures("every_shelf")
def test_answers_beside_one_that_float16_cannot_hold_are_found(tmp_path: Path) -> None:
    live = live_teacher(Shouts())
    cached_teacher(tmp_path, live)(FIRST)
    again = cached_teacher(tmp_path, live_teacher(Shouts()))
    again(FIRST)
    assert again.num_forwards == shouted(FIRST).sum()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)


@pytest.mark.usefixtures("full_disk", "every_shelf")
def test_answers_are_right_on_a_full_disk(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    for batch in DATA.train_batches(0, 16):
        assert torch.equal(teacher(batch).logits, live(batch).logits.half().float())


@pytest.mark.usefixtures("full_disk")
def test_full_disk_is_told_once(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    with logging_to(tmp_path / "train.log"):
        ask_everything(teacher)
    (line,) = (tmp_path / "train.log").read_text().splitlines()
    assert f"{answers_of(teacher).path}: No space left on device" in line


@pytest.mark.usefixtures("full_disk")
def test_network_is_run_on_every_batch_on_a_full_disk(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    with logging_to(None):
        ask_everything(teacher)
    assert teacher.num_forwards == 160


# Places -------------------------------------------------------------------------------------------------------------


def digests(path: Path) -> list[str]:
    """Of the weights for which there are answers."""
    return sorted(read_json(about)["digest"] for about in path.glob("*/about.json"))


def test_about_json_says_what_the_answers_depend_on(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path, about=ABOUT | {"images": "cifar"})
    assert read_json(answers_of(teacher).path.parent / "about.json") == {
        "weights": "best",
        "digest": "1111",
        "precision": "float32",
        "images": "cifar",
    }


def test_answers_of_earlier_weights_are_removed(tmp_path: Path) -> None:
    earlier = answers_of(cached_teacher(tmp_path, about=ABOUT | {"digest": "1111"})).path.parent
    cached_teacher(tmp_path, about=ABOUT | {"digest": "2222"})
    assert not earlier.exists()
    assert digests(tmp_path) == ["2222"]


def test_answers_of_earlier_weights_are_not_found(tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path, about=ABOUT | {"digest": "1111"}))
    teacher = cached_teacher(tmp_path, about=ABOUT | {"digest": "2222"})
    assert teacher.num_missing == len(teacher.wanted)


def test_answers_of_the_last_weights_stay_beside_those_of_the_best(tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path, about=ABOUT | {"weights": "last", "digest": "3333"}))
    cached_teacher(tmp_path, about=ABOUT | {"digest": "1111"})
    cached_teacher(tmp_path, about=ABOUT | {"digest": "2222"})
    assert digests(tmp_path) == ["2222", "3333"]
    assert cached_teacher(tmp_path, about=ABOUT | {"weights": "last", "digest": "3333"}).num_missing == 0


@pytest.mark.parametrize("other", [{"precision": "bfloat16"}, {"views": "other"}, {"images": "other"}], ids=str)
def test_answers_under_other_conditions_have_a_place_of_their_own(other: dict[str, str], tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path, about=ABOUT | other)
    assert teacher.num_missing == len(teacher.wanted)


def test_top_k_answers_are_kept_apart_from_whole_ones(tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path))
    teacher = cached_teacher(tmp_path, codings=TOP_2)
    assert teacher.num_missing == len(teacher.wanted)


def test_answers_under_other_conditions_stay(tmp_path: Path) -> None:
    ask_everything(cached_teacher(tmp_path))
    cached_teacher(tmp_path, about=ABOUT | {"precision": "bfloat16"})
    assert cached_teacher(tmp_path).num_missing == 0


def test_file_that_was_cut_short_is_told(tmp_path: Path) -> None:
    file = answers_of(cached_teacher(tmp_path)).path
    file.write_bytes(file.read_bytes()[:1000])
    with logging_to(tmp_path / "train.log"):
        cached_teacher(tmp_path)
    assert f"{file} was cut short" in (tmp_path / "train.log").read_text()


def test_file_that_grows_with_the_epochs_was_not_cut_short(tmp_path: Path) -> None:
    def opened(num_epochs: int) -> CachedTeacher:
        return open_cache(
            small_teacher(),
            tmp_path,
            about=ABOUT,
            codings=LOGITS,
            views=Views(num_images=NUM_IMAGES, per_image=num_epochs, config={}, unbounded=True),
            wanted=np.arange(NUM_IMAGES * num_epochs),
            dtype=torch.float32,
            device=CPU,
        )

    with logging_to(tmp_path / "train.log"):
        opened(num_epochs=1)
        opened(num_epochs=2)
    assert (tmp_path / "train.log").read_text() == ""


def test_place_that_another_process_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = answers_of(cached_teacher(tmp_path, about=ABOUT | {"digest": "1111"})).path.parent
    glob = Path.glob

    def overtaken(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        shutil.rmtree(earlier)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", overtaken)
        cached_teacher(tmp_path, about=ABOUT | {"digest": "2222"})
    assert digests(tmp_path) == ["2222"]


# Ahead of an epoch --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.teachers.cached.PREPARED", 10)


@pytest.mark.usefixtures("every_shelf", "small_steps")
def test_network_is_not_run_in_an_epoch_that_was_prepared(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    assert list(teacher.prepare(DATA, 1)) == pytest.approx([n / 8 for n in range(1, 9)])
    run = teacher.num_forwards
    for batch in DATA.train_batches(1, 16):
        teacher(batch)
    assert (run, teacher.num_forwards) == (80, 80)


@pytest.mark.usefixtures("every_shelf", "small_steps")
def test_answers_that_another_run_keeps_while_an_epoch_is_prepared_are_found(tmp_path: Path) -> None:
    teacher, other = cached_teacher(tmp_path), cached_teacher(tmp_path)
    turn = teacher.prepare(DATA, 0)
    next(turn)
    list(other.prepare(DATA, 0))
    list(turn)
    for batch in DATA.train_batches(0, 16):
        teacher(batch)
    assert (teacher.num_forwards, other.num_forwards) == (10, 70)


@pytest.mark.usefixtures("small_steps")
def test_preparing_is_not_being_asked(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    list(teacher.prepare(DATA, 0))
    assert teacher.num_queries == 0


@pytest.mark.usefixtures("small_steps")
def test_answers_of_an_epoch_that_was_prepared_are_the_network_s(tmp_path: Path) -> None:
    teacher, live = cached_teacher(tmp_path), small_teacher()
    list(teacher.prepare(DATA, 0))
    for batch in DATA.train_batches(0, 16):
        assert_rounded(teacher(batch).logits, live(batch).logits)


@pytest.mark.usefixtures("small_steps")
def test_runs_that_prepare_an_epoch_together_share_the_work(tmp_path: Path) -> None:
    teachers = [cached_teacher(tmp_path), cached_teacher(tmp_path)]
    turns = [teacher.prepare(DATA, 0) for teacher in teachers]
    for _ in range(8):
        for turn in turns:
            next(turn, None)
    assert sum(teacher.num_forwards for teacher in teachers) == 80
    assert min(teacher.num_forwards for teacher in teachers) > 20


def test_views_without_end_are_left_to_the_steps(tmp_path: Path) -> None:
    teacher = cached_teacher(tmp_path)
    teacher.views = dataclasses.replace(teacher.views, unbounded=True)
    assert list(teacher.prepare(DATA, 0)) == []
    assert teacher.num_forwards == 0


@pytest.mark.usefixtures("small_steps")
def test_all_members_of_an_ensemble_prepare(tmp_path: Path) -> None:
    members = [cached_teacher(tmp_path / "one"), cached_teacher(tmp_path / "two", small_teacher(2))]
    shares = list(EnsembleTeacher(members).prepare(DATA, 0))
    assert shares == pytest.approx([n / 16 for n in range(1, 17)])
    assert [member.num_forwards for member in members] == [80, 80]
