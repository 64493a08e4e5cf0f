"""Runs with augmentation that mixes images, and with classes of unequal size: teachers, resume, several processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.weights import weights_digest
from model.commands.dry_run import dry_run
from model.config.folder import Folder
from model.errors import Stopped
from model.teachers.live import LiveTeacher
from model.training.trainer import Trainer
from tests.commands.test_distributed_runs import signal_at_step, torchrun
from tests.commands.test_train import trainer_of, weights
from tests.conftest import Call, MakeFolder

NUM_QUERIES = 2 * 200  # epochs, images
MIXED = {"mixup": 0.4, "cutmix": 1.0}
CHANGED = {"auto_augment": "trivial_augment", "color_jitter": 0.3, "random_erasing": 0.5}


class MakeStudent(Protocol):
    """Make a folder with a teacher; `dataset` are options beside the tiny data set's own."""

    def __call__(self, name: str, dataset: dict[str, Any], **changes: Any) -> Folder: ...


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    folder = make_folder(
        tmp_path_factory.mktemp("augmented") / "teacher", student={"name": "mlp", "widths": [16]}, num_epochs=1
    )
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def make_student(teacher: Folder, make_folder: MakeFolder, tiny_data: Path, tmp_path: Path) -> MakeStudent:
    own = Folder(shutil.copytree(teacher.path, tmp_path / "teacher"))

    def make(name: str, dataset: dict[str, Any], **changes: Any) -> Folder:
        parts = {
            "teacher": str(own.path),
            "dataset": {"name": "arrays", "path": str(tiny_data), "val_size": 40, "pad": 1, **dataset},
            "student": {"name": "mlp", "widths": [16]},  # without batch norm, whose statistics differ between processes
            "loss": {"kd": {"alpha": 0.5}},
            "optimizer": {"name": "sgd", "learning_rate": 0.05},
        }
        return make_folder(tmp_path / name, **parts | changes)

    return make


@pytest.fixture
def unequal(tiny_data: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a data set with 24 images of five classes each, and 6 of five others, shown equally often."""
    with np.load(tiny_data) as arrays:
        content = dict(arrays)
    kept = np.flatnonzero((content["train_labels"] < 5) | (np.arange(240) // 10 % 4 == 0))
    part = {name: content[name][kept] for name in ("train_images", "train_labels")}
    np.savez(tmp_path / "unequal.npz", **content | part)
    return {"path": str(tmp_path / "unequal.npz"), "val_size": 20, "sampler": "balanced"}


def trained(folder: Folder, runtime: Runtime) -> Folder:
    Experiment(folder.path, runtime).train()
    return folder


# Teachers -----------------------------------------------------------------------------------------------------------


def test_the_teacher_of_mixed_images_is_run_on_every_batch(make_student: MakeStudent, runtime: Runtime) -> None:
    folder = trained(make_student("mixed", MIXED), runtime)
    assert folder.read_run()["teacher_images"] == {"asked": NUM_QUERIES, "run": NUM_QUERIES}
    assert "mixed images cannot be cached, so it is run on every batch" in folder.log.read_text()
    assert not (folder.path.parent / "teacher" / "cache").exists()


def test_the_teacher_gets_the_mixed_images(make_student: MakeStudent, runtime: Runtime) -> None:
    trainer = trainer_of(make_student("mixed", MIXED), runtime)
    batch = next(trainer.train_batches(0, 0))
    assert isinstance(trainer.teacher, LiveTeacher)
    result = trainer.train_step.forward(trainer.student, batch, step=0)
    assert result.teacher is not None
    assert result.teacher.logits.equal(trainer.teacher.net(batch.images).logits)


def test_the_dry_run_says_that_mixed_images_are_not_cached(make_student: MakeStudent, runtime: Runtime) -> None:
    lines = dry_run(Experiment(make_student("mixed", MIXED).path, runtime)).splitlines()
    assert "cache     none: the teacher is run on every batch, as mixup and cutmix mixes images anew" in lines


def test_changed_images_of_a_fixed_number_of_views_are_cached_for_all_seeds(
    make_student: MakeStudent, runtime: Runtime
) -> None:
    options = CHANGED | {"views_per_image": 2}
    trained(make_student("first", options), runtime)
    second = trained(make_student("second", options, seed=1), runtime)
    assert second.read_run()["teacher_images"] == {"asked": NUM_QUERIES, "run": 0}
    other = trained(make_student("other", options | {"color_jitter": 0.2}), runtime)
    assert other.read_run()["teacher_images"]["run"] > 0


def test_outputs_for_changed_images_are_cached_if_asked_for(make_student: MakeStudent, runtime: Runtime) -> None:
    teacher = {"model_dir": "../teacher", "cache": True, "cache_top_k": 10}
    cold, warm = (trained(make_student(name, CHANGED, teacher=teacher), runtime) for name in ("cold", "warm"))
    assert warm.read_run()["teacher_images"] == {"asked": NUM_QUERIES, "run": 0}
    assert weights_digest(weights(cold)) == weights_digest(weights(warm))


# Resume, and several processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [MIXED | CHANGED, CHANGED], ids=["mixed", "changed"])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    options: dict[str, Any], make_student: MakeStudent, runtime: Runtime
) -> None:
    whole = trained(make_student("whole", options), runtime)
    resumed = make_student("resumed", options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", signal_at_step(17))
        with pytest.raises(Stopped):
            Experiment(resumed.path, runtime).train()
    trained(resumed, runtime)
    assert weights_digest(weights(whole)) == weights_digest(weights(resumed))
    assert whole.metrics("test", "last").read_bytes() == resumed.metrics("test", "last").read_bytes()


def test_two_processes_reach_the_weights_of_one(make_student: MakeStudent, runtime: Runtime) -> None:
    options = MIXED | CHANGED
    single, distributed = (make_student(name, options, batch_size=15) for name in ("single", "distributed"))
    result = torchrun("train.py", "--model_dir", distributed.path, "--device", "cpu")
    assert result.statuses == [0], result.out
    one, two = weights(trained(single, runtime)), weights(distributed)
    for name, tensor in one.items():
        assert two[name].sub(tensor).abs().max() < 1e-5, name


@pytest.mark.parametrize("views", [{}, {"views_per_image": 3}], ids=["crops", "fixed views"])
def test_the_outputs_for_balanced_epochs_are_cached(
    views: dict[str, Any], unequal: dict[str, Any], make_student: MakeStudent, runtime: Runtime
) -> None:
    options = unequal | views
    cold, warm = (trained(make_student(name, options, num_epochs=5), runtime) for name in ("cold", "warm"))
    assert cold.read_run()["teacher_images"]["run"] > 0
    assert warm.read_run()["teacher_images"]["run"] == 0
    assert weights_digest(weights(cold)) == weights_digest(weights(warm))
    rows = [row["train_loss"] for row in warm.read_history()]
    assert rows == [row["train_loss"] for row in cold.read_history()]


def test_balanced_and_weighted_runs_resume_in_two_processes(
    unequal: dict[str, Any], make_student: MakeStudent, runtime: Runtime
) -> None:
    parts = {"loss": {"kd": {"alpha": 0.5, "class_weights": "balanced"}}, "batch_size": 15}
    single, distributed = (make_student(name, unequal | MIXED, **parts) for name in ("single", "distributed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", signal_at_step(5))
        with pytest.raises(Stopped):
            Experiment(distributed.path, runtime).train()
    result = torchrun("train.py", "--model_dir", distributed.path, "--device", "cpu")
    assert result.statuses == [0], result.out
    one, two = weights(trained(single, runtime)), weights(distributed)
    for name, tensor in one.items():
        assert two[name].sub(tensor).abs().max() < 1e-5, name


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (
            {"mixup": 0.2},
            {"loss": {"ce": {}, "dkd": {}}},
            "loss.dkd: needs one label for each image, and mixup mixes two: leave one out",
        ),
        ({"cutmix": 1.0}, {"loss": {"crd": {}}}, "loss.crd: needs one label for each image, and cutmix mixes two"),
        (
            {"mixup": 0.2},
            {"teacher": {"model_dir": "../teacher", "cache": True}},
            "teacher.cache: images that mixup mixes are never the same again: leave this out",
        ),
        (
            {},
            {"loss": {"ce": {"class_weights": {"33": 2.0}}}},
            'loss.ce: class_weights: the data has no class "33", did you mean "3"?',
        ),
        ({"mixup": -1}, {}, "dataset: mixup must be 0 or more, got -1.0"),
        ({"mixup": 1, "strong_view": True}, {}, "dataset: mixup must be 0 with strong_view"),
        ({"auto_augment": "autoaugment"}, {}, "dataset.auto_augment: should be 'trivial_augment' or 'rand_augment'"),
        ({"color_jitter": "strong"}, {}, "dataset.color_jitter: should be a valid number or a valid "),
        ({"crop_scale": [0.5, 1.0]}, {}, "dataset: crop_scale is for image files"),
    ],
)
def test_a_wrong_combination_is_one_line(
    options: dict[str, Any], changes: dict[str, Any], message: str, make_student: MakeStudent, call: Call
) -> None:
    folder = make_student("wrong", options, **changes)
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 2
    assert result.err.splitlines()[-1].startswith(f"error: {folder.params}: {message}")
    assert [path.name for path in folder.path.iterdir() if path.name != ".lock"] == ["params.json"]


def test_terms_of_weight_zero_may_need_single_labels(make_student: MakeStudent, runtime: Runtime) -> None:
    folder = make_student("zero", {"mixup": 0.2}, loss={"ce": {}, "dkd": {"weight": 0.0}})
    dry_run(Experiment(folder.path, runtime))
