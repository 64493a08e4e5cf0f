"""The teacher's classifier, which a loss may read: found in any network, frozen, and nowhere saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import evaluate
import train
from model.build.experiment import Experiment
from model.build.network import classifier_of
from model.build.runtime import Runtime
from model.build.teacher import build_teacher, read_teacher_weights
from model.build.trainer import build_trainer
from model.commands.preflight import check_experiment, preflight
from model.config.folder import Folder
from model.files import read_json
from model.registry import NETS
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from model.types import Output
from tests.conftest import Call, MakeFolder

LAYERS = {  # network -> its last linear layer
    "cnn": "fc2",
    "multi_exit_resnet18": "linear",
    "preresnet20": "fc",
    "resnet8": "fc",
    "wrn_16_1": "fc",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    folder = make_folder(tmp_path_factory.mktemp("classifier") / "teacher", student={"name": "resnet8"}, num_epochs=1)
    Experiment(folder.path, runtime).train()
    return folder


def student(trained: Folder, make_folder: MakeFolder, **changes: Any) -> Folder:
    return make_folder(trained.path.parent / "student", **{"teacher": "../teacher", "loss": {"srrl": {}}} | changes)


def at_the_start(folder: Folder, runtime: Runtime) -> Trainer:
    experiment = preflight(Experiment(folder.path, runtime))
    return build_trainer(experiment, build_teacher(experiment, read_teacher_weights(experiment)))


def state(folder: Folder) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_checkpoint(folder.checkpoint("best"))["state_dict"]
    return found


@pytest.mark.parametrize(("network", "layer"), LAYERS.items())
def test_it_is_the_layer_whose_result_the_logits_are(
    network: str, layer: str, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "of_any", student={"name": network})
    experiment = Experiment(folder.path, runtime)
    net = experiment.student()
    found = classifier_of(experiment.network_on_meta(), experiment.source.image_shape, net.state_dict())
    own = net.get_submodule(layer)
    assert found is not None
    assert isinstance(own, nn.Linear)
    assert torch.equal(found.weight, own.weight)
    assert torch.equal(found.bias, own.bias)


def test_a_run_reads_the_trained_one_and_keeps_no_copy(
    teacher: Folder, make_folder: MakeFolder, runtime: Runtime
) -> None:
    trainer = at_the_start(student(teacher, make_folder), runtime)
    trainer.take_step(next(trainer.data.train_batches(0, 16)))
    objective = cast(nn.Module, trainer.objective)
    buffers = dict(objective.named_buffers())
    for part in ("weight", "bias"):
        assert torch.equal(buffers[f"losses.srrl.classifier_{part}"], state(teacher)[f"fc.{part}"])
    assert {name.split(".")[2] for name in objective.state_dict()} == {"connector"}
    assert {name.split(".")[2] for name, _ in objective.named_parameters()} == {"connector"}


def test_what_else_the_loss_reads_is_still_kept(teacher: Folder, make_folder: MakeFolder, call: Call) -> None:
    folder = student(teacher, make_folder, num_epochs=1)
    assert call(train.main, "--model_dir", folder.path, "--restart").status == 0
    assert call(train.main, "--model_dir", folder.path, "--restart").status == 0
    images = folder.read_run()["teacher_images"]
    assert images["asked"] > 0
    assert images["run"] == 0


def test_a_dry_run_needs_no_trained_teacher(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    make_folder(tmp_path / "teacher", student={"name": "resnet8"})
    folder = make_folder(tmp_path / "student", teacher="../teacher", loss={"srrl": {}})
    told = call(train.main, "--model_dir", folder.path, "--dry_run").out
    # A convolution of the CNN's 16 channels to the 64 of ResNet-8, and batch norm's two.
    assert f"adapters  srrl: {16 * 64 + 2 * 64:,} parameters" in told


def test_an_ensemble_is_refused(teacher: Folder, make_folder: MakeFolder, call: Call) -> None:
    other = make_folder(teacher.path.parent / "other")
    ended = call(
        train.main, "--model_dir", student(teacher, make_folder, teacher=["../teacher", f"../{other.path.name}"]).path
    )
    assert ended.status == 2
    assert ended.err.strip().endswith("teacher: the loss srrl compares with one network: name one folder")


def test_a_network_whose_logits_are_of_no_linear_layer_is_refused(
    teacher: Folder, make_folder: MakeFolder, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Halved(nn.Module):
        def __init__(self, num_classes: int, in_channels: int) -> None:
            super().__init__()
            self.linear = nn.Linear(in_channels, num_classes)

        def forward(self, images_NCHW: Tensor) -> Output:
            embedding_ND = images_NCHW.mean(dim=(2, 3))
            return Output(self.linear(embedding_ND) / 2, embedding_ND)

    monkeypatch.setitem(NETS._functions, "halved", Halved)
    make_folder(teacher.path.parent / "halved", student={"name": "halved"})
    ended = call(train.main, "--model_dir", student(teacher, make_folder, teacher="../halved").path)
    assert ended.status == 2
    assert "loss.srrl: the teacher's logits are not a linear function of its embedding" in ended.err


def test_a_later_generation_is_checked_with_its_own(make_folder: MakeFolder, tmp_path: Path, runtime: Runtime) -> None:
    folder = make_folder(tmp_path / "family", generations=2, loss={"ce": {}, "srrl": {}})
    check_experiment(Experiment(folder.path, runtime))


# Reused by the student -----------------------------------------------------------------------------------------------

REUSED = {"student": {"name": "simkd", "network": {"name": "cnn", "num_channels": 4}}, "loss": {"simkd": {}}}


def test_a_student_that_reuses_it_learns_around_it(
    teacher: Folder, make_folder: MakeFolder, runtime: Runtime, call: Call
) -> None:
    folder = make_folder(teacher.path.parent / "reusing", teacher="../teacher", num_epochs=2, **REUSED)
    assert call(train.main, "--model_dir", folder.path).status == 0
    weights = state(folder)
    for part in ("weight", "bias"):
        assert torch.equal(weights[f"classifier.{part}"], state(teacher)[f"fc.{part}"])
    assert weights["projector.6.weight"].shape == (64, 32, 1, 1)  # to ResNet-8's 64 channels, which nobody typed
    fresh = at_the_start(folder, runtime).student.state_dict()
    assert not torch.equal(weights["network.conv1.weight"], fresh["network.conv1.weight"])
    counted = folder.read_run()["parameters"]
    assert counted == sum(weights[name].numel() for name in fresh if "running" not in name and "num_b" not in name)
    told = call(evaluate.main, "--model_dir", folder.path)
    assert told.status == 0
    assert f"{100 * read_json(folder.metrics('test', 'best'))['accuracy']:.2f} %" in told.out


def test_a_student_that_reuses_it_can_teach(teacher: Folder, make_folder: MakeFolder, call: Call) -> None:
    make_folder(teacher.path.parent / "reusing", teacher="../teacher", num_epochs=2, **REUSED)
    folder = make_folder(teacher.path.parent / "taught", teacher="../reusing", loss={"kd": {}}, num_epochs=1)
    assert call(train.main, "--model_dir", folder.path).status == 0


def test_a_student_that_has_no_room_for_it_is_refused(teacher: Folder, make_folder: MakeFolder, call: Call) -> None:
    changes: dict[str, Any] = {"student": {"name": "resnet8"}, "loss": {"simkd": {}}}
    folder = make_folder(teacher.path.parent / "no_room", teacher="../teacher", **changes)
    ended = call(train.main, "--model_dir", folder.path)
    assert ended.status == 2
    assert (
        ended.err.strip()
        .splitlines()[-1]
        .endswith('loss.simkd: the student must be the network "simkd", whose classifier reads the teacher\'s map')
    )
