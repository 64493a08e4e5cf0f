"""Runs whose teacher's answers are kept: the second student asks for nothing new, and results are as without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.weights import weights_digest
from model.config.folder import Folder
from model.errors import UserError
from model.losses.base import DistillLoss
from model.registry import LOSSES
from model.teachers.cached import CachedTeacher
from model.training.checkpoint import load_checkpoint, save_checkpoint
from model.types import Batch, Output, Pipeline
from tests.commands.test_resume import ended, started
from tests.commands.test_train import trainer_of, weights
from tests.conftest import Call, Called, MakeFolder

NUM_TRAIN, NUM_EPOCHS, BATCH_SIZE = 200, 2, 16
ASKED = NUM_TRAIN * NUM_EPOCHS
SGD = {"name": "sgd", "learning_rate": 0.05}  # leaves small differences small, which Adam does not
LINEAR = {"name": "mlp", "widths": []}  # likewise: where a ReLU or a maximum switches, a gradient jumps


class MakeStudent(Protocol):
    """A folder that learns from the teacher: `kept` goes into `teacher` of its params.json, `changes` beside it."""

    def __call__(self, name: str, *, kept: dict[str, Any] | None = None, **changes: Any) -> Folder: ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A finished run whose network nobody has asked yet; tests take a copy."""
    folder = make_folder(tmp_path_factory.mktemp("cached") / "teacher", student={"name": "cnn", "num_channels": 6})
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def teacher(trained: Folder, tmp_path: Path) -> Folder:
    return Folder(shutil.copytree(trained.path, tmp_path / "teacher"))


@pytest.fixture
def make_student(teacher: Folder, make_folder: MakeFolder) -> MakeStudent:
    def make(name: str, *, kept: dict[str, Any] | None = None, **changes: Any) -> Folder:
        learning = {"teacher": {"model_dir": str(teacher.path)} | (kept or {}), "loss": {"kd": {}}, "optimizer": SGD}
        return make_folder(teacher.path.parent / name, **learning | changes)

    return make


@pytest.fixture
def student(make_student: MakeStudent, runtime: Runtime) -> MakeStudent:
    """The same, trained."""

    def make(name: str, *, kept: dict[str, Any] | None = None, **changes: Any) -> Folder:
        folder = make_student(name, kept=kept, **changes)
        Experiment(folder.path, runtime).train()
        return folder

    return make


def teacher_images(folder: Folder) -> dict[str, int]:
    """How many images the teacher was asked about in training, and on how many of them a network was run."""
    told: dict[str, int] = folder.read_run()["teacher_images"]
    return told


def cached_teacher(folder: Folder, runtime: Runtime) -> CachedTeacher:
    teacher = trainer_of(folder, runtime).teacher
    assert isinstance(teacher, CachedTeacher)
    return teacher


def views_of(folder: Folder, runtime: Runtime) -> set[tuple[int, int]]:
    """Every (index, view) of a run's epochs."""
    trainer = trainer_of(folder, runtime)
    epochs = [trainer.data.train_batches(epoch, BATCH_SIZE) for epoch in range(trainer.num_epochs)]
    return {view for batches in epochs for batch in batches for view in views_in(batch)}


def views_of_the_timing(folder: Folder, runtime: Runtime) -> set[tuple[int, int]]:
    """Those that a run has asked about before it begins, to tell how long it will take."""
    return set(views_in(next(trainer_of(folder, runtime).data.train_batches(0, BATCH_SIZE))))


def views_in(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.index.tolist(), batch.view.tolist(), strict=True))


def largest_difference(one: Folder, other: Folder) -> float:
    """Of all weights."""
    theirs = weights(other)
    return max(float((tensor - theirs[name]).abs().max()) for name, tensor in weights(one).items())


def assert_answers_are_the_network_s(folder: Folder, runtime: Runtime) -> None:
    """What a run finds kept is what its teacher says of the very images that the run shows."""
    trainer, teacher = trainer_of(folder, runtime), cached_teacher(folder, runtime)
    for epoch in range(trainer.num_epochs):
        for batch in trainer.data.train_batches(epoch, BATCH_SIZE):
            found, live = teacher(batch).logits, teacher.live(batch).logits
            # A logit near 0 is a sum of larger values and rounded as they are.
            torch.testing.assert_close(found, live, rtol=2**-10, atol=1e-6 * float(live.abs().max()))


# How often a teacher is run -----------------------------------------------------------------------------------------


def test_first_student_s_teacher_is_run_once_on_each_view(student: MakeStudent, runtime: Runtime) -> None:
    first = student("first")
    new = views_of(first, runtime) - views_of_the_timing(first, runtime)
    assert teacher_images(first) == {"asked": ASKED, "run": len(new)}


def test_second_student_s_teacher_is_not_run(student: MakeStudent) -> None:
    student("first")
    assert teacher_images(student("second")) == {"asked": ASKED, "run": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"logits": {}}},
        {"student": {"name": "cnn", "num_channels": 8}},
        {"optimizer": {"name": "adam", "learning_rate": 0.01}},
        {"batch_size": 25},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_second_student_may_be_another(changes: dict[str, Any], student: MakeStudent) -> None:
    student("first", num_epochs=1)
    assert teacher_images(student("second", num_epochs=1, **changes))["run"] == 0


@pytest.mark.parametrize("changes", [{"seed": 1}, {"dataset": {"split_seed": 1}}], ids=["seed", "split"])
def test_teacher_is_run_on_the_views_that_no_student_saw_before(
    changes: dict[str, Any], student: MakeStudent, tiny_data: Path, runtime: Runtime
) -> None:
    dataset = {"name": "arrays", "path": str(tiny_data), "val_size": 40, "pad": 1}
    first = student("first")
    other = student("other", **changes | {"dataset": dataset | changes.get("dataset", {})})
    new = views_of(other, runtime) - views_of(first, runtime) - views_of_the_timing(other, runtime)
    assert 0 < teacher_images(other)["run"] == len(new) < ASKED


def test_teacher_of_a_dry_run_is_not_asked_for_its_answers(
    make_student: MakeStudent, teacher: Folder, call: Call
) -> None:
    folder = make_student("dry")
    assert call(train.main, "--model_dir", folder.path, "--device", "cpu", "--dry_run").status == 0
    assert not teacher.cache.exists()


def test_ensemble_of_the_second_student_is_not_run(
    student: MakeStudent, trained: Folder, teacher: Folder, tmp_path: Path
) -> None:
    another = shutil.copytree(trained.path, tmp_path / "another")
    both = [str(teacher.path), str(another)]
    student("first", teacher=both)
    assert teacher_images(student("second", teacher=both)) == {"asked": 2 * ASKED, "run": 0}


def test_students_at_once_share_the_answers(make_student: MakeStudent, student: MakeStudent) -> None:
    folders = [make_student("one"), make_student("two", loss={"logits": {}})]
    with (
        started("train.py", "--model_dir", folders[0].path) as one,
        started("train.py", "--model_dir", folders[1].path) as two,
    ):
        for process in (one, two):
            status, out = ended(process)
            assert status == 0, out
    assert teacher_images(student("third")) == {"asked": ASKED, "run": 0}


# Results ------------------------------------------------------------------------------------------------------------


def test_kept_answers_change_the_weights_by_rounding_only(student: MakeStudent) -> None:
    student("first")
    found, live = student("found", student=LINEAR), student("live", student=LINEAR, kept={"cache": False})
    assert 0 < largest_difference(found, live) < 1e-4


def test_student_that_finds_answers_is_the_one_that_computed_them(student: MakeStudent) -> None:
    computed, found = student("computed"), student("found")
    assert weights_digest(weights(computed)) == weights_digest(weights(found))
    assert computed.metrics("test", "last").read_bytes() == found.metrics("test", "last").read_bytes()


def test_kept_answers_are_the_network_s(student: MakeStudent, runtime: Runtime) -> None:
    assert_answers_are_the_network_s(student("first"), runtime)


@pytest.fixture
def refused(student: MakeStudent, make_student: MakeStudent, runtime: Runtime, call: Call) -> tuple[Folder, Called]:
    """A run whose teacher's answers were put into one another's places by hand, and how it ended."""
    cached = cached_teacher(student("first"), runtime)
    file, rows = cached.parts["logits"].file, cached.needed_rows
    file.write(rows, np.roll(file.read(rows)[0], 1, axis=0))
    folder = make_student("second")
    return folder, call(train.main, "--model_dir", folder.path, "--device", "cpu")


def test_answers_of_other_images_end_a_run_in_one_line(refused: tuple[Folder, Called], teacher: Folder) -> None:
    _, ended = refused
    assert ended.status == 2
    assert f"error: {teacher.cache}" in ended.err.splitlines()[-1]


def test_run_goes_on_once_wrong_answers_are_removed_as_it_says(refused: tuple[Folder, Called], call: Call) -> None:
    folder, ended = refused
    shutil.rmtree(ended.err.rstrip().rpartition("; remove ")[2].removesuffix(" to compute the cache again"))
    assert call(train.main, "--model_dir", folder.path, "--device", "cpu").status == 0


def test_top_k_is_what_the_student_learns_from(student: MakeStudent, runtime: Runtime) -> None:
    folder = student("first", kept={"cache_top_k": 3})
    trainer = trainer_of(folder, runtime)
    assert trainer.teacher is not None
    answer = trainer.teacher(next(trainer.data.train_batches(0, BATCH_SIZE))).logits[0]
    assert len(set(answer.tolist())) == 3 + 1


def test_regression_of_logits_is_refused_where_probabilities_are_kept(student: MakeStudent) -> None:
    with pytest.raises(UserError, match="cache_top_k"):
        student("first", kept={"cache_top_k": 3}, loss={"logits": {}})


# Live teachers ------------------------------------------------------------------------------------------------------


def test_cache_false_runs_the_teacher_on_every_image(student: MakeStudent) -> None:
    student("first")
    assert teacher_images(student("second", kept={"cache": False})) == {"asked": ASKED, "run": ASKED}


def test_cache_false_keeps_nothing(student: MakeStudent, teacher: Folder) -> None:
    student("first", kept={"cache": False})
    assert not teacher.cache.exists()


class MapMeans(DistillLoss):
    """A term that reads what is never kept."""

    needs = frozenset({"maps"})

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return (student.maps[-1].mean() - teacher.maps[-1].mean()).square()


class EmbeddingMeans(DistillLoss):
    """A term that reads embeddings."""

    needs = frozenset({"embedding"})

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return (student.embedding.mean(dim=1) - teacher.embedding.mean(dim=1)).square().mean()


@pytest.fixture
def more_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES._functions, "map_means", MapMeans)
    monkeypatch.setitem(LOSSES._functions, "embedding_means", EmbeddingMeans)


@pytest.mark.usefixtures("more_losses")
def test_loss_that_reads_maps_is_taught_live(student: MakeStudent, teacher: Folder) -> None:
    folder = student("first", loss={"kd": {}, "map_means": {}})
    assert teacher_images(folder) == {"asked": ASKED, "run": ASKED}
    assert not teacher.cache.exists()


@pytest.mark.usefixtures("more_losses")
def test_cache_that_was_asked_for_but_cannot_be_is_told(student: MakeStudent) -> None:
    folder = student("first", kept={"cache": True}, loss={"kd": {}, "map_means": {}})
    assert "cannot be cached" in folder.log.read_text()


@pytest.mark.usefixtures("more_losses")
def test_loss_that_reads_embeddings_is_taught_from_what_is_kept(student: MakeStudent) -> None:
    student("first", loss={"ce": {}, "embedding_means": {}})
    second = student("second", loss={"ce": {}, "embedding_means": {"weight": 2.0}})
    assert teacher_images(second) == {"asked": ASKED, "run": 0}


def test_teacher_whose_answers_cannot_be_kept_is_run_live(student: MakeStudent, teacher: Folder) -> None:
    teacher.cache.write_text("a file where the folder should be")
    folder = student("first")
    assert teacher_images(folder) == {"asked": ASKED, "run": ASKED}
    assert f"{teacher.name}: its outputs cannot be cached" in folder.log.read_text()


# Other weights ------------------------------------------------------------------------------------------------------


def test_restart_of_the_teacher_removes_its_answers(student: MakeStudent, teacher: Folder, call: Call) -> None:
    student("first")
    assert teacher.cache.exists()
    assert call(train.main, "--model_dir", teacher.path, "--device", "cpu", "--restart").status == 0
    assert not teacher.cache.exists()


def change_weights(checkpoint: Path) -> None:
    content = load_checkpoint(checkpoint)
    content["state_dict"]["fc2.bias"] += torch.linspace(0, 1, 10)
    save_checkpoint(checkpoint, content)


@pytest.fixture
def changed_teacher(student: MakeStudent, teacher: Folder) -> Folder:
    """A teacher whose weights were replaced after a student had asked it."""
    student("first")
    change_weights(teacher.checkpoint("best"))
    return teacher


def test_changed_teacher_is_run_again(changed_teacher: Folder, student: MakeStudent, runtime: Runtime) -> None:
    folder = student("second")
    assert teacher_images(folder)["run"] == len(views_of(folder, runtime) - views_of_the_timing(folder, runtime))


def test_answers_after_a_change_are_the_changed_teacher_s(
    changed_teacher: Folder, student: MakeStudent, runtime: Runtime
) -> None:
    assert_answers_are_the_network_s(student("second"), runtime)


@pytest.fixture
def changed_last_weights(teacher: Folder) -> None:
    """Beside the best ones, which may be the same in so short a run."""
    change_weights(teacher.checkpoint("last"))


@pytest.mark.usefixtures("changed_last_weights")
def test_last_weights_have_answers_of_their_own(student: MakeStudent, runtime: Runtime) -> None:
    student("best")
    assert_answers_are_the_network_s(student("last", kept={"weights": "last"}), runtime)


@pytest.mark.usefixtures("changed_last_weights")
def test_best_weights_answers_stay_when_the_last_ones_are_asked(student: MakeStudent) -> None:
    student("best")
    student("last", kept={"weights": "last"})
    assert teacher_images(student("best again"))["run"] == 0


# A folder of images -------------------------------------------------------------------------------------------------

NUM_PHOTOS, PHOTO_BATCH = 24, 8  # to train on, and those that the timing asks about


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a params.json has of a run on two classes of photos."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, number in (("train", 15), ("test", 3)):
        for brightness, name in ((60, "ant"), (160, "bee")):
            (root / split / name).mkdir(parents=True)
            for n in range(number):
                pixels = brightness + generator.integers(-40, 40, (14, 12, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{n}.png")
    dataset = {"name": "folder", "path": str(root), "image_size": 8, "num_workers": 0, "val_size": 6}
    return {"dataset": dataset, "batch_size": PHOTO_BATCH, "num_epochs": 2}


@pytest.fixture(scope="module")
def trained_on_photos(
    photos: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime
) -> Folder:
    folder = make_folder(tmp_path_factory.mktemp("cached") / "teacher", **photos)
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def photo_teacher(trained_on_photos: Folder, tmp_path: Path) -> Folder:
    return Folder(shutil.copytree(trained_on_photos.path, tmp_path / "photo_teacher"))


@pytest.fixture
def photo_student(photos: dict[str, Any], photo_teacher: Folder, student: MakeStudent) -> MakeStudent:
    def make(name: str, *, kept: dict[str, Any] | None = None, **changes: Any) -> Folder:
        return student(name, **photos | {"teacher": {"model_dir": str(photo_teacher.path)} | (kept or {})} | changes)

    return make


def test_answers_about_photos_are_not_kept_unless_asked_for(photo_student: MakeStudent, photo_teacher: Folder) -> None:
    assert teacher_images(photo_student("first")) == {"asked": 2 * NUM_PHOTOS, "run": 2 * NUM_PHOTOS}
    assert not photo_teacher.cache.exists()


def test_second_student_of_photos_finds_its_answers(photo_student: MakeStudent) -> None:
    photo_student("first", kept={"cache": True})
    assert teacher_images(photo_student("second", kept={"cache": True})) == {"asked": 2 * NUM_PHOTOS, "run": 0}


def test_student_of_photos_with_another_seed_finds_none(photo_student: MakeStudent) -> None:
    photo_student("first", kept={"cache": True})
    other = photo_student("other", kept={"cache": True}, seed=1)
    assert teacher_images(other)["run"] == 2 * NUM_PHOTOS - PHOTO_BATCH


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_about_photos_are_of_the_run_s_own_crops(
    seed: int, photo_student: MakeStudent, runtime: Runtime
) -> None:
    folders = [photo_student(f"seed {seed}", kept={"cache": True}, seed=seed) for seed in (0, 1)]
    assert_answers_are_the_network_s(folders[seed], runtime)


def test_longer_run_on_photos_has_its_teacher_run_on_the_further_epochs_only(photo_student: MakeStudent) -> None:
    photo_student("first", kept={"cache": True})
    longer = photo_student("longer", kept={"cache": True}, num_epochs=3)
    assert teacher_images(longer) == {"asked": 3 * NUM_PHOTOS, "run": NUM_PHOTOS}


def test_shorter_run_on_photos_leaves_the_answers_of_the_further_epochs(photo_student: MakeStudent) -> None:
    photo_student("first", kept={"cache": True})
    photo_student("shorter", kept={"cache": True}, num_epochs=1)
    assert teacher_images(photo_student("again", kept={"cache": True}))["run"] == 0


def test_photos_without_augmentation_are_asked_about_once(photos: dict[str, Any], photo_student: MakeStudent) -> None:
    folder = photo_student("first", dataset=photos["dataset"] | {"augment": False})
    assert teacher_images(folder) == {"asked": 2 * NUM_PHOTOS, "run": NUM_PHOTOS - PHOTO_BATCH}


# What answers are kept by -------------------------------------------------------------------------------------------


@pytest.fixture(params=["arrays", "photos", "photos, not augmented"])
def data(
    request: pytest.FixtureRequest, photos: dict[str, Any], make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> Pipeline:
    plain = photos | {"dataset": photos["dataset"] | {"augment": False}}
    changes = {"arrays": {}, "photos": photos, "photos, not augmented": plain}[request.param]
    return trainer_of(make_folder(tmp_path / "run", **changes), runtime).data


@pytest.mark.parametrize("epoch", [0, 1])
def test_drawn_views_are_those_that_the_epoch_shows(epoch: int, data: Pipeline) -> None:
    index, view = data.epoch_views(epoch)
    shown = [pair for batch in data.train_batches(epoch, 7) for pair in views_in(batch)]
    assert sorted(zip(index.tolist(), view.tolist(), strict=True)) == sorted(shown)


def test_training_batch_has_the_images_that_the_epoch_shows(data: Pipeline) -> None:
    shown = next(data.train_batches(1, 7))
    again = data.augmented_batch(shown.index.numpy(), shown.view.numpy())
    assert all(torch.equal(one, other) for one, other in zip(shown, again, strict=True))


def test_every_view_of_a_run_has_a_row_of_its_own(data: Pipeline) -> None:
    views, rows = data.views(num_epochs=2), dict[tuple[int, int], int]()
    for epoch in range(2):
        for batch in data.train_batches(epoch, 7):
            rows |= zip(views_in(batch), views.row(batch.index, batch.view).tolist(), strict=True)
    assert len(set(rows.values())) == len(rows)
    assert all(0 <= row < views.num_rows for row in rows.values())


def test_digest_of_arrays_tells_one_pixel(
    make_folder: MakeFolder, tiny_data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    arrays = dict(np.load(tiny_data))
    digests = []
    for name, change in (("one", 0), ("same", 0), ("other", 1)):
        arrays["train_images"][100, 3, 4, 1] ^= change
        np.savez(tmp_path / f"{name}.npz", **arrays)
        dataset = {"name": "arrays", "path": str(tmp_path / f"{name}.npz"), "val_size": 40, "pad": 1}
        digests.append(trainer_of(make_folder(tmp_path / "run", dataset=dataset), runtime).data.fingerprint())
    assert digests[0] == digests[1] != digests[2]


def test_digest_of_photos_tells_their_names(
    photos: dict[str, Any], make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    one, same, other = (
        Path(shutil.copytree(photos["dataset"]["path"], tmp_path / name)) for name in ("one", "same", "other")
    )
    (other / "train" / "ant" / "3.png").rename(other / "train" / "ant" / "three.png")
    digests = []
    for root in (one, same, other):
        folder = make_folder(tmp_path / "run", **photos | {"dataset": photos["dataset"] | {"path": str(root)}})
        digests.append(trainer_of(folder, runtime).data.fingerprint())
    assert digests[0] == digests[1] != digests[2]
