"""What a run ends with: its last lines, and what TensorBoard is given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.evaluation.significance import accuracy_interval
from model.files import read_json
from tests.conftest import MakeFolder
from tests.training.test_run_logger import events, scalars


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A distilled run that names its baseline, which is its teacher."""
    parent = tmp_path_factory.mktemp("finish")
    teacher = make_folder(parent / "teacher", num_epochs=1)
    student = make_folder(
        parent / "student", num_epochs=1, teacher="../teacher", loss={"kd": {"alpha": 0.7}}, baseline="../teacher"
    )
    for folder in (teacher, student):
        Experiment(folder.path, runtime).train()
    return student


def test_last_lines_are_the_accuracy_with_its_interval_the_gain_and_where_to_look(trained: Folder) -> None:
    finished, gain, look = (
        line.partition(" ")[2].partition(" ")[2] for line in trained.log.read_text().splitlines()[-3:]
    )
    accuracy = read_json(trained.metrics("test", "best"))["accuracy"]
    low, high = accuracy_interval(round(60 * accuracy), 60)
    assert f"test accuracy {100 * accuracy:.2f} %" in finished
    assert finished.endswith(f"{100 * low:.2f} to {100 * high:.2f} %")
    other = read_json(Folder(trained.path.parent / "teacher").metrics("test", "best"))["accuracy"]
    assert gain.startswith(f"{100 * (accuracy - other):+.2f} points on test to ")
    assert f"evaluate.py --model_dir {trained.path}" in look


def test_run_without_a_baseline_has_no_gain(trained: Folder) -> None:
    log = Folder(trained.path.parent / "teacher").log.read_text()
    assert "is finished: " in log
    assert "points on test" not in log


def test_baseline_that_does_not_exist_is_refused_before_training(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", baseline="nowhere")
    with pytest.raises(Exception, match='baseline: no folder "nowhere"'):
        Experiment(folder.path, runtime).train()
    assert not folder.run.exists()


def test_a_changed_baseline_is_no_other_run(
    trained: Folder, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained.path.parent, tmp_path / "copy")
    folder = Folder(tmp_path / "copy" / "student")
    params = read_json(folder.params)
    folder.params.write_text(json.dumps(params | {"baseline": None}))
    Experiment(folder.path, runtime).train()  # finished, and left alone


def test_tensorboard_has_the_results_on_test(trained: Folder) -> None:
    found = scalars(trained)
    for weights in ("best", "last"):
        metrics = read_json(trained.metrics("test", weights))
        for key in ("accuracy", "loss"):
            ((epoch, value),) = found[f"test/{weights}_{key}"]
            assert epoch == 1
            assert value == pytest.approx(metrics[key])


def test_tensorboard_can_compare_runs_by_their_parameters(trained: Folder) -> None:
    sessions = [
        value.metadata.plugin_data.content
        for event in events(trained)
        for value in event.summary.value
        if value.tag == "_hparams_/session_start_info"
    ]
    assert len(sessions) == 1
    assert b"loss.kd.alpha" in sessions[0]


def test_tensorboard_has_a_picture_of_samples(trained: Folder) -> None:
    images = [value.image for event in events(trained) for value in event.summary.value if value.tag == "samples"]
    assert [(image.width, image.colorspace) for image in images] == [(6 * 134, 3)]
    assert images[0].encoded_image_string.startswith(b"\x89PNG")
