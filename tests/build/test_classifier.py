"""The teacher's classifier, for losses that use it: found in any network, frozen, and not saved again."""

from __future__ import annotations

import shutil
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

CLASSIFIER_LAYERS = {  # network -> its last linear layer
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


def student(teacher_folder: Folder, make_folder: MakeFolder, **changes: Any) -> Folder:
    return make_folder(
        teacher_folder.path.parent / "student", **{"teacher": "../teacher", "loss": {"srrl": {}}} | changes
    )


def build_initial_trainer(folder: Folder, runtime: Runtime) -> Trainer:
    experiment = preflight(Experiment(folder.path, runtime))
    return build_trainer(experiment, build_teacher(experiment, read_teacher_weights(experiment)))


def best_weights(folder: Folder) -> dict[str, Tensor]:
    state_dict: dict[str, Tensor] = load_checkpoint(folder.checkpoint("best"))["state_dict"]
    return state_dict


@pytest.mark.parametrize(("network", "layer"), CLASSIFIER_LAYERS.items())
def test_classifier_is_the_linear_layer_that_returns_the_logits(
    network: str, layer: str, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", student={"name": network})
    experiment = Experiment(folder.path, runtime)
    net = experiment.student()
    classifier = classifier_of(experiment.network_on_meta(), experiment.source.image_shape, net.state_dict())
    layer_module = net.get_submodule(layer)
    assert classifier is not None
    assert isinstance(layer_module, nn.Linear)
    assert torch.equal(classifier.weight, layer_module.weight)
    assert torch.equal(classifier.bias, layer_module.bias)


def test_classifier_is_found_behind_a_prefix(teacher: Folder, runtime: Runtime, tmp_path: Path) -> None:
    shutil.copytree(teacher.path, tmp_path / "teacher")
    compiled = Folder(tmp_path / "teacher")
    state = {f"_orig_mod.{name}": tensor for name, tensor in best_weights(teacher).items()}
    torch.save({"state_dict": state}, compiled.checkpoint("best"))
    classifier = Experiment(compiled.path, runtime).classifier("best")
    assert classifier is not None
    assert torch.equal(classifier.weight, best_weights(teacher)["fc.weight"])


def test_loss_uses_the_trained_classifier_and_saves_no_copy(
    teacher: Folder, make_folder: MakeFolder, runtime: Runtime
) -> None:
    trainer = build_initial_trainer(student(teacher, make_folder), runtime)
    trainer.take_step(next(trainer.data.train_batches(0, 16)))
    objective = cast(nn.Module, trainer.objective)
    buffers = dict(objective.named_buffers())
    for part in ("weight", "bias"):
        assert torch.equal(buffers[f"losses.srrl.classifier_{part}"], best_weights(teacher)[f"fc.{part}"])
    assert {name.split(".")[2] for name in objective.state_dict()} == {"connector"}
    assert {name.split(".")[2] for name, _ in objective.named_parameters()} == {"connector"}


def test_other_teacher_outputs_are_still_cached(teacher: Folder, make_folder: MakeFolder, call: Call) -> None:
    folder = student(teacher, make_folder, num_epochs=1)
    assert call(train.main, "--model_dir", folder.path, "--restart").status == 0
    assert call(train.main, "--model_dir", folder.path, "--restart").status == 0
    images = folder.read_run()["teacher_images"]
    assert images["asked"] > 0
    assert images["run"] == 0


def test_a_dry_run_needs_no_trained_teacher(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    make_folder(tmp_path / "teacher", student={"name": "resnet8"})
    folder = make_folder(tmp_path / "student", teacher="../teacher", loss={"srrl": {}})
    output = call(train.main, "--model_dir", folder.path, "--dry_run").out
    # A 1x1 convolution from the CNN's 16 channels to the 64 of ResNet-8, and weight and bias of a batch norm.
    assert f"adapters  srrl: {16 * 64 + 2 * 64:,} parameters" in output


def test_an_ensemble_is_refused(teacher: Folder, make_folder: MakeFolder, call: Call) -> None:
    other = make_folder(teacher.path.parent / "other")
    result = call(
        train.main, "--model_dir", student(teacher, make_folder, teacher=["../teacher", f"../{other.path.name}"]).path
    )
    assert result.status == 2
    assert result.err.strip().endswith("teacher: the loss srrl compares with one network: name one folder")


def test_a_network_whose_logits_are_not_the_output_of_a_linear_layer_is_refused(
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
    result = call(train.main, "--model_dir", student(teacher, make_folder, teacher="../halved").path)
    assert result.status == 2
    assert "loss.srrl: the teacher's logits are not a linear function of its embedding" in result.err


def test_a_later_generation_is_checked_with_the_classifier_of_its_own_network(
    make_folder: MakeFolder, tmp_path: Path, runtime: Runtime
) -> None:
    folder = make_folder(tmp_path / "run", generations=2, loss={"ce": {}, "srrl": {}})
    check_experiment(Experiment(folder.path, runtime))


# Students that reuse the classifier ---------------------------------------------------------------------------------

SIMKD = {"student": {"name": "simkd", "network": {"name": "cnn", "num_channels": 4}}, "loss": {"simkd": {}}}


def test_a_student_that_reuses_the_classifier_trains_its_other_layers(
    teacher: Folder, make_folder: MakeFolder, runtime: Runtime, call: Call
) -> None:
    folder = make_folder(teacher.path.parent / "reusing", teacher="../teacher", num_epochs=2, **SIMKD)
    assert call(train.main, "--model_dir", folder.path).status == 0
    student_weights = best_weights(folder)
    for part in ("weight", "bias"):
        assert torch.equal(student_weights[f"classifier.{part}"], best_weights(teacher)[f"fc.{part}"])
    # The projector's 64 output channels are those of ResNet-8's last map; they are not in params.json.
    assert student_weights["projector.6.weight"].shape == (64, 32, 1, 1)
    fresh = build_initial_trainer(folder, runtime).student.state_dict()
    assert not torch.equal(student_weights["network.conv1.weight"], fresh["network.conv1.weight"])
    num_parameters = folder.read_run()["parameters"]
    assert num_parameters == sum(
        student_weights[name].numel() for name in fresh if "running" not in name and "num_b" not in name
    )
    result = call(evaluate.main, "--model_dir", folder.path)
    assert result.status == 0
    assert f"{100 * read_json(folder.metrics('test', 'best'))['accuracy']:.2f} %" in result.out


def test_a_student_that_reuses_the_classifier_can_be_a_teacher(
    teacher: Folder, make_folder: MakeFolder, call: Call
) -> None:
    make_folder(teacher.path.parent / "reusing", teacher="../teacher", num_epochs=2, **SIMKD)
    folder = make_folder(teacher.path.parent / "kd_student", teacher="../reusing", loss={"kd": {}}, num_epochs=1)
    assert call(train.main, "--model_dir", folder.path).status == 0


def test_a_student_that_cannot_reuse_the_classifier_is_refused(
    teacher: Folder, make_folder: MakeFolder, call: Call
) -> None:
    changes: dict[str, Any] = {"student": {"name": "resnet8"}, "loss": {"simkd": {}}}
    folder = make_folder(teacher.path.parent / "refused", teacher="../teacher", **changes)
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 2
    assert (
        result.err.strip()
        .splitlines()[-1]
        .endswith('loss.simkd: the student must be the network "simkd", whose classifier reads the teacher\'s map')
    )
