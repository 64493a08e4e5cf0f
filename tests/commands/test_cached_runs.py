"""Cached teacher outputs: a second student computes none anew, and results equal those with a live teacher."""

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
from model.commands.dry_run import dry_run
from model.config.folder import Folder
from model.errors import UserError
from model.losses.base import DistillLoss
from model.registry import LOSSES
from model.teachers.cached import CachedTeacher
from model.training.checkpoint import load_checkpoint, save_checkpoint
from model.types import Batch, Output, Pipeline
from tests.commands.test_resume import start_process, wait_for
from tests.commands.test_train import trainer_of, weights
from tests.conftest import Call, MakeFolder, ScriptResult

NUM_TRAIN, NUM_EPOCHS, BATCH_SIZE = 200, 2, 16
NUM_QUERIES = NUM_TRAIN * NUM_EPOCHS
SGD = {"name": "sgd", "learning_rate": 0.05}  # leaves small differences small, which Adam does not
LINEAR = {"name": "mlp", "widths": []}  # likewise: where a ReLU or a maximum switches, a gradient jumps


class MakeStudent(Protocol):
    """Make a folder with a teacher; `teacher_options` go into "teacher" of params.json, `changes` to its top level."""

    def __call__(self, name: str, *, teacher_options: dict[str, Any] | None = None, **changes: Any) -> Folder: ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A finished run without cached outputs; tests use a copy of it."""
    folder = make_folder(tmp_path_factory.mktemp("cached") / "teacher", student={"name": "cnn", "num_channels": 6})
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def teacher(trained: Folder, tmp_path: Path) -> Folder:
    return Folder(shutil.copytree(trained.path, tmp_path / "teacher"))


@pytest.fixture
def make_student(teacher: Folder, make_folder: MakeFolder) -> MakeStudent:
    def make(name: str, *, teacher_options: dict[str, Any] | None = None, **changes: Any) -> Folder:
        params = {
            "teacher": {"model_dir": str(teacher.path)} | (teacher_options or {}),
            "loss": {"kd": {}},
            "optimizer": SGD,
        }
        return make_folder(teacher.path.parent / name, **params | changes)

    return make


@pytest.fixture
def student(make_student: MakeStudent, runtime: Runtime) -> MakeStudent:
    """Make a folder with a teacher and train it."""

    def make(name: str, *, teacher_options: dict[str, Any] | None = None, **changes: Any) -> Folder:
        folder = make_student(name, teacher_options=teacher_options, **changes)
        Experiment(folder.path, runtime).train()
        return folder

    return make


def teacher_images(folder: Folder) -> dict[str, int]:
    """The number of images that training queried teacher outputs for, and of those that a network was run on."""
    counts: dict[str, int] = folder.read_run()["teacher_images"]
    return counts


def cached_teacher(folder: Folder, runtime: Runtime) -> CachedTeacher:
    teacher = trainer_of(folder, runtime).teacher
    assert isinstance(teacher, CachedTeacher)
    return teacher


def run_views(folder: Folder, runtime: Runtime) -> set[tuple[int, int]]:
    """Every (index, view) of the epochs of a run."""
    trainer = trainer_of(folder, runtime)
    epochs = [trainer.data.train_batches(epoch, BATCH_SIZE) for epoch in range(trainer.num_epochs)]
    return {view for batches in epochs for batch in batches for view in batch_views(batch)}


def estimate_views(folder: Folder, runtime: Runtime) -> set[tuple[int, int]]:
    """The views of the batch that a run estimates its duration with before it begins."""
    return set(batch_views(next(trainer_of(folder, runtime).data.train_batches(0, BATCH_SIZE))))


def batch_views(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.index.tolist(), batch.view.tolist(), strict=True))


def max_weight_difference(one: Folder, other: Folder) -> float:
    """The largest absolute difference of any weight of the last checkpoints."""
    other_weights = weights(other)
    return max(float((tensor - other_weights[name]).abs().max()) for name, tensor in weights(one).items())


def assert_cached_outputs_equal_live_outputs(folder: Folder, runtime: Runtime) -> None:
    """Cached outputs equal the outputs of the live teacher on the images of the same batches."""
    trainer, teacher = trainer_of(folder, runtime), cached_teacher(folder, runtime)
    for epoch in range(trainer.num_epochs):
        for batch in trainer.data.train_batches(epoch, BATCH_SIZE):
            cached, live = teacher(batch).logits, teacher.live(batch).logits
            # A logit near 0 is a sum of larger values and rounded as they are.
            torch.testing.assert_close(cached, live, rtol=2**-10, atol=1e-6 * float(live.abs().max()))


# Number of forward passes of the teacher ----------------------------------------------------------------------------


def test_teacher_of_the_first_student_is_run_once_on_each_view(student: MakeStudent, runtime: Runtime) -> None:
    first = student("first")
    new = run_views(first, runtime) - estimate_views(first, runtime)
    assert teacher_images(first) == {"asked": NUM_QUERIES, "run": len(new)}


def test_teacher_of_the_second_student_is_not_run(student: MakeStudent) -> None:
    student("first")
    assert teacher_images(student("second")) == {"asked": NUM_QUERIES, "run": 0}


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
def test_second_student_may_have_other_params(changes: dict[str, Any], student: MakeStudent) -> None:
    student("first", num_epochs=1)
    assert teacher_images(student("second", num_epochs=1, **changes))["run"] == 0


@pytest.mark.parametrize("changes", [{"seed": 1}, {"dataset": {"split_seed": 1}}], ids=["seed", "split"])
def test_teacher_is_run_on_the_views_that_are_not_cached(
    changes: dict[str, Any], student: MakeStudent, tiny_data: Path, runtime: Runtime
) -> None:
    dataset = {"name": "arrays", "path": str(tiny_data), "val_size": 40, "pad": 1}
    first = student("first")
    other = student("other", **changes | {"dataset": dataset | changes.get("dataset", {})})
    new = run_views(other, runtime) - run_views(first, runtime) - estimate_views(other, runtime)
    assert 0 < teacher_images(other)["run"] == len(new) < NUM_QUERIES


def test_dry_run_caches_no_teacher_outputs(make_student: MakeStudent, teacher: Folder, call: Call) -> None:
    folder = make_student("dry")
    assert call(train.main, "--model_dir", folder.path, "--device", "cpu", "--dry_run").status == 0
    assert not teacher.cache.exists()


def test_ensemble_of_the_second_student_is_not_run(
    student: MakeStudent, trained: Folder, teacher: Folder, tmp_path: Path
) -> None:
    another = shutil.copytree(trained.path, tmp_path / "another")
    both = [str(teacher.path), str(another)]
    student("first", teacher=both)
    assert teacher_images(student("second", teacher=both)) == {"asked": 2 * NUM_QUERIES, "run": 0}


def test_students_trained_at_the_same_time_share_the_cache(make_student: MakeStudent, student: MakeStudent) -> None:
    folders = [make_student("one"), make_student("two", loss={"logits": {}})]
    with (
        start_process("train.py", "--model_dir", folders[0].path) as one,
        start_process("train.py", "--model_dir", folders[1].path) as two,
    ):
        for process in (one, two):
            status, out = wait_for(process)
            assert status == 0, out
    assert teacher_images(student("third")) == {"asked": NUM_QUERIES, "run": 0}


# Results ------------------------------------------------------------------------------------------------------------


def test_cached_outputs_change_the_weights_by_rounding_only(student: MakeStudent) -> None:
    student("first")
    cached, live = student("cached", student=LINEAR), student("live", student=LINEAR, teacher_options={"cache": False})
    assert 0 < max_weight_difference(cached, live) < 1e-4


def test_student_with_cached_outputs_equals_the_student_that_computed_them(student: MakeStudent) -> None:
    computed, cached = student("computed"), student("cached")
    assert weights_digest(weights(computed)) == weights_digest(weights(cached))
    assert computed.metrics("test", "last").read_bytes() == cached.metrics("test", "last").read_bytes()


def test_cached_outputs_equal_live_outputs(student: MakeStudent, runtime: Runtime) -> None:
    assert_cached_outputs_equal_live_outputs(student("first"), runtime)


@pytest.fixture
def misplaced_cache(
    student: MakeStudent, make_student: MakeStudent, runtime: Runtime, call: Call
) -> tuple[Folder, ScriptResult]:
    """A run whose cached teacher outputs were shifted by one row by hand, and its result."""
    teacher = cached_teacher(student("first"), runtime)
    file, rows = teacher.parts["logits"].file, teacher.needed_rows
    file.write(rows, np.roll(file.read(rows)[0], 1, axis=0))
    folder = make_student("second")
    return folder, call(train.main, "--model_dir", folder.path, "--device", "cpu")


def test_cached_outputs_of_other_images_are_an_error_of_one_line(
    misplaced_cache: tuple[Folder, ScriptResult], teacher: Folder
) -> None:
    _, result = misplaced_cache
    assert result.status == 2
    assert f"error: {teacher.cache}" in result.err.splitlines()[-1]


def test_run_succeeds_after_the_wrong_cache_is_removed_as_the_error_says(
    misplaced_cache: tuple[Folder, ScriptResult], call: Call
) -> None:
    folder, result = misplaced_cache
    shutil.rmtree(result.err.rstrip().rpartition("; remove ")[2].removesuffix(" to compute the cache again"))
    assert call(train.main, "--model_dir", folder.path, "--device", "cpu").status == 0


def test_student_learns_from_the_top_k_probabilities(student: MakeStudent, runtime: Runtime) -> None:
    folder = student("first", teacher_options={"cache_top_k": 3})
    trainer = trainer_of(folder, runtime)
    assert trainer.teacher is not None
    logits = trainer.teacher(next(trainer.data.train_batches(0, BATCH_SIZE))).logits[0]
    assert len(set(logits.tolist())) == 3 + 1


def test_regression_of_logits_is_refused_if_only_top_k_probabilities_are_cached(student: MakeStudent) -> None:
    with pytest.raises(UserError, match="cache_top_k"):
        student("first", teacher_options={"cache_top_k": 3}, loss={"logits": {}})


# Live teachers ------------------------------------------------------------------------------------------------------


def test_cache_false_runs_the_teacher_on_every_image(student: MakeStudent) -> None:
    student("first")
    assert teacher_images(student("second", teacher_options={"cache": False})) == {
        "asked": NUM_QUERIES,
        "run": NUM_QUERIES,
    }


def test_cache_false_writes_no_cache(student: MakeStudent, teacher: Folder) -> None:
    student("first", teacher_options={"cache": False})
    assert not teacher.cache.exists()


class MapMeans(DistillLoss):
    """A term that reads maps, which are never cached."""

    needs = frozenset({"maps"})

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return (student.maps[-1].mean() - teacher.maps[-1].mean()).square()


class EmbeddingMeans(DistillLoss):
    """A term that reads embeddings."""

    needs = frozenset({"embedding"})

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return (student.embedding.mean(dim=1) - teacher.embedding.mean(dim=1)).square().mean()


@pytest.fixture
def losses_on_maps_and_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES._functions, "map_means", MapMeans)
    monkeypatch.setitem(LOSSES._functions, "embedding_means", EmbeddingMeans)


@pytest.mark.usefixtures("losses_on_maps_and_embeddings")
def test_loss_that_reads_maps_has_a_live_teacher(student: MakeStudent, teacher: Folder) -> None:
    folder = student("first", loss={"kd": {}, "map_means": {}})
    assert teacher_images(folder) == {"asked": NUM_QUERIES, "run": NUM_QUERIES}
    assert not teacher.cache.exists()


@pytest.mark.usefixtures("losses_on_maps_and_embeddings")
def test_cache_true_with_outputs_that_cannot_be_cached_is_logged(student: MakeStudent) -> None:
    folder = student("first", teacher_options={"cache": True}, loss={"kd": {}, "map_means": {}})
    assert "cannot be cached" in folder.log.read_text()


@pytest.mark.usefixtures("losses_on_maps_and_embeddings")
def test_loss_that_reads_embeddings_uses_cached_ones(student: MakeStudent) -> None:
    student("first", loss={"ce": {}, "embedding_means": {}})
    second = student("second", loss={"ce": {}, "embedding_means": {"weight": 2.0}})
    assert teacher_images(second) == {"asked": NUM_QUERIES, "run": 0}


def test_teacher_whose_outputs_cannot_be_cached_is_run_live(student: MakeStudent, teacher: Folder) -> None:
    teacher.cache.write_text("a file where the folder should be")
    folder = student("first")
    assert teacher_images(folder) == {"asked": NUM_QUERIES, "run": NUM_QUERIES}
    assert f"{teacher.name}: its outputs cannot be cached" in folder.log.read_text()


# Changed weights ----------------------------------------------------------------------------------------------------


def test_restart_of_the_teacher_removes_its_cache(student: MakeStudent, teacher: Folder, call: Call) -> None:
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
    """A teacher whose weights were replaced after a student had cached its outputs."""
    student("first")
    change_weights(teacher.checkpoint("best"))
    return teacher


def test_changed_teacher_is_run_again(changed_teacher: Folder, student: MakeStudent, runtime: Runtime) -> None:
    folder = student("second")
    assert teacher_images(folder)["run"] == len(run_views(folder, runtime) - estimate_views(folder, runtime))


def test_outputs_after_a_change_are_those_of_the_changed_teacher(
    changed_teacher: Folder, student: MakeStudent, runtime: Runtime
) -> None:
    assert_cached_outputs_equal_live_outputs(student("second"), runtime)


@pytest.fixture
def changed_last_weights(teacher: Folder) -> None:
    """Make the last weights differ from the best ones, which may be the same after so short a run."""
    change_weights(teacher.checkpoint("last"))


@pytest.mark.usefixtures("changed_last_weights")
def test_last_weights_have_a_cache_of_their_own(student: MakeStudent, runtime: Runtime) -> None:
    student("best")
    assert_cached_outputs_equal_live_outputs(student("last", teacher_options={"weights": "last"}), runtime)


@pytest.mark.usefixtures("changed_last_weights")
def test_cache_of_the_best_weights_stays_when_the_last_ones_are_used(student: MakeStudent) -> None:
    student("best")
    student("last", teacher_options={"weights": "last"})
    assert teacher_images(student("best again"))["run"] == 0


# A fixed number of views ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fixed_views(trained: Folder) -> dict[str, Any]:
    """The data set of `trained` with two views of each image."""
    return Experiment(trained.path).written_params.dataset.model_dump() | {"views_per_image": 2}


def test_teacher_is_run_once_on_each_fixed_view_for_all_seeds(
    student: MakeStudent, fixed_views: dict[str, Any]
) -> None:
    first = student("first", dataset=fixed_views, num_epochs=4)
    assert teacher_images(first) == {"asked": 4 * NUM_TRAIN, "run": 2 * NUM_TRAIN - BATCH_SIZE}
    other = student("other", dataset=fixed_views, num_epochs=4, seed=1)
    assert teacher_images(other) == {"asked": 4 * NUM_TRAIN, "run": 0}


def test_dry_run_counts_fixed_views_once(
    make_student: MakeStudent, fixed_views: dict[str, Any], runtime: Runtime
) -> None:
    experiment = Experiment(make_student("run", dataset=fixed_views, num_epochs=4).path, runtime)
    assert f"the teacher is run once on each view, {2 * NUM_TRAIN} at most" in dry_run(experiment)


def test_more_fixed_views_run_the_teacher_on_the_additional_ones(
    student: MakeStudent, fixed_views: dict[str, Any]
) -> None:
    student("two", dataset=fixed_views, num_epochs=3)
    three = student("three", dataset=fixed_views | {"views_per_image": 3}, num_epochs=3)
    assert teacher_images(three)["run"] in range(NUM_TRAIN - BATCH_SIZE, NUM_TRAIN + 1)


def test_cached_outputs_of_fixed_views_equal_live_outputs(
    student: MakeStudent, fixed_views: dict[str, Any], runtime: Runtime
) -> None:
    assert_cached_outputs_equal_live_outputs(student("first", dataset=fixed_views | {"cutout": 4}), runtime)


# A folder of images -------------------------------------------------------------------------------------------------

NUM_PHOTOS, PHOTO_BATCH_SIZE = 24, 8  # training images, and those of the estimate's batch


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The keys of params.json for a run on photos of two classes."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, number in (("train", 15), ("test", 3)):
        for brightness, name in ((60, "ant"), (160, "bee")):
            (root / split / name).mkdir(parents=True)
            for n in range(number):
                pixels = brightness + generator.integers(-40, 40, (14, 12, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{n}.png")
    dataset = {"name": "folder", "path": str(root), "image_size": 8, "num_workers": 0, "val_size": 6}
    return {"dataset": dataset, "batch_size": PHOTO_BATCH_SIZE, "num_epochs": 2}


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
    def make(name: str, *, teacher_options: dict[str, Any] | None = None, **changes: Any) -> Folder:
        return student(
            name, **photos | {"teacher": {"model_dir": str(photo_teacher.path)} | (teacher_options or {})} | changes
        )

    return make


def test_outputs_for_photos_are_cached_only_on_request(photo_student: MakeStudent, photo_teacher: Folder) -> None:
    assert teacher_images(photo_student("first")) == {"asked": 2 * NUM_PHOTOS, "run": 2 * NUM_PHOTOS}
    assert not photo_teacher.cache.exists()


def test_second_student_on_photos_uses_the_cache(photo_student: MakeStudent) -> None:
    photo_student("first", teacher_options={"cache": True})
    assert teacher_images(photo_student("second", teacher_options={"cache": True})) == {
        "asked": 2 * NUM_PHOTOS,
        "run": 0,
    }


def test_student_on_photos_with_another_seed_has_no_cached_outputs(photo_student: MakeStudent) -> None:
    photo_student("first", teacher_options={"cache": True})
    other = photo_student("other", teacher_options={"cache": True}, seed=1)
    assert teacher_images(other)["run"] == 2 * NUM_PHOTOS - PHOTO_BATCH_SIZE


@pytest.mark.parametrize("seed", [0, 1])
def test_cached_outputs_for_photos_are_those_of_the_run_s_own_crops(
    seed: int, photo_student: MakeStudent, runtime: Runtime
) -> None:
    folders = [photo_student(f"seed {seed}", teacher_options={"cache": True}, seed=seed) for seed in (0, 1)]
    assert_cached_outputs_equal_live_outputs(folders[seed], runtime)


def test_longer_run_on_photos_runs_the_teacher_on_the_additional_epochs_only(photo_student: MakeStudent) -> None:
    photo_student("first", teacher_options={"cache": True})
    longer = photo_student("longer", teacher_options={"cache": True}, num_epochs=3)
    assert teacher_images(longer) == {"asked": 3 * NUM_PHOTOS, "run": NUM_PHOTOS}


def test_shorter_run_on_photos_keeps_the_cache_of_the_later_epochs(photo_student: MakeStudent) -> None:
    photo_student("first", teacher_options={"cache": True})
    photo_student("shorter", teacher_options={"cache": True}, num_epochs=1)
    assert teacher_images(photo_student("again", teacher_options={"cache": True}))["run"] == 0


def test_fixed_views_of_photos_are_cached_by_default(photos: dict[str, Any], photo_student: MakeStudent) -> None:
    fixed = photos["dataset"] | {"views_per_image": 2}
    first = photo_student("first", dataset=fixed, num_epochs=3)
    assert teacher_images(first) == {"asked": 3 * NUM_PHOTOS, "run": 2 * NUM_PHOTOS - PHOTO_BATCH_SIZE}
    assert teacher_images(photo_student("other", dataset=fixed, num_epochs=3, seed=1))["run"] == 0


def test_fixed_views_whose_outputs_take_too_much_space_are_not_cached_unasked(
    photos: dict[str, Any], photo_student: MakeStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = photos["dataset"] | {"views_per_image": 2}
    size = 2 * 2 * NUM_PHOTOS * 2  # values of two bytes, for two classes, in two views
    monkeypatch.setattr("model.build.teacher.MAX_CACHE_BYTES", size - 1)
    assert teacher_images(photo_student("live", dataset=fixed))["run"] == 2 * NUM_PHOTOS
    monkeypatch.setattr("model.build.teacher.MAX_CACHE_BYTES", size)
    assert teacher_images(photo_student("cached", dataset=fixed))["run"] == 2 * NUM_PHOTOS - PHOTO_BATCH_SIZE
    assert teacher_images(photo_student("again", dataset=fixed))["run"] == 0


def test_teacher_is_run_once_on_photos_without_augmentation(photos: dict[str, Any], photo_student: MakeStudent) -> None:
    folder = photo_student("first", dataset=photos["dataset"] | {"augment": False})
    assert teacher_images(folder) == {"asked": 2 * NUM_PHOTOS, "run": NUM_PHOTOS - PHOTO_BATCH_SIZE}


# Views and fingerprints, the keys of the cache ----------------------------------------------------------------------


@pytest.fixture(params=["arrays", "photos", "photos, not augmented"])
def data(
    request: pytest.FixtureRequest, photos: dict[str, Any], make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> Pipeline:
    plain = photos | {"dataset": photos["dataset"] | {"augment": False}}
    changes = {"arrays": {}, "photos": photos, "photos, not augmented": plain}[request.param]
    return trainer_of(make_folder(tmp_path / "run", **changes), runtime).data


@pytest.mark.parametrize("epoch", [0, 1])
def test_epoch_views_are_those_of_the_training_batches(epoch: int, data: Pipeline) -> None:
    index, view = data.epoch_views(epoch)
    expected = [pair for batch in data.train_batches(epoch, 7) for pair in batch_views(batch)]
    assert sorted(zip(index.tolist(), view.tolist(), strict=True)) == sorted(expected)


def test_augmented_batch_has_the_images_of_the_training_batch(data: Pipeline) -> None:
    expected = next(data.train_batches(1, 7))
    actual = data.augmented_batch(expected.index.numpy(), expected.view.numpy())
    assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))


def test_every_view_of_a_run_has_a_row_of_its_own(data: Pipeline) -> None:
    views, rows = data.views(num_epochs=2), dict[tuple[int, int], int]()
    for epoch in range(2):
        for batch in data.train_batches(epoch, 7):
            rows |= zip(batch_views(batch), views.row(batch.index, batch.view).tolist(), strict=True)
    assert len(set(rows.values())) == len(rows)
    assert all(0 <= row < views.num_rows for row in rows.values())


def test_fingerprint_of_arrays_depends_on_every_pixel(
    make_folder: MakeFolder, tiny_data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    arrays = dict(np.load(tiny_data))
    digests = []
    for name, change in (("one", 0), ("same", 0), ("other", 1)):
        arrays["train_images"][100, 3, 4, 1] ^= change
        np.savez(tmp_path / f"{name}.npz", **arrays)
        dataset = {"name": "arrays", "path": str(tmp_path / f"{name}.npz"), "val_size": 40, "pad": 1}
        digests.append(trainer_of(make_folder(tmp_path / "run", dataset=dataset), runtime).data.fingerprint)
    assert digests[0] == digests[1] != digests[2]


def test_fingerprint_of_photos_depends_on_their_names(
    photos: dict[str, Any], make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    one, same, other = (
        Path(shutil.copytree(photos["dataset"]["path"], tmp_path / name)) for name in ("one", "same", "other")
    )
    (other / "train" / "ant" / "3.png").rename(other / "train" / "ant" / "three.png")
    digests = []
    for root in (one, same, other):
        folder = make_folder(tmp_path / "run", **photos | {"dataset": photos["dataset"] | {"path": str(root)}})
        digests.append(trainer_of(folder, runtime).data.fingerprint)
    assert digests[0] == digests[1] != digests[2]
