"""The teacher that comes with the repository: its weights are those of its run.json, and as accurate as it says."""

from __future__ import annotations

import math

import pytest
import torch

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.weights import weights_digest
from model.commands.evaluate import predict_split
from model.data.cifar10_mini import unpack
from model.evaluation.metrics import metrics_of
from model.files import read_json
from model.home import ROOT

CPU = torch.device("cpu")
TEACHER = ROOT / "experiments" / "base_resnet18"


@pytest.fixture(scope="module")
def teacher() -> Experiment:
    return Experiment(TEACHER, Runtime(device=CPU))


@pytest.fixture
def weights(teacher: Experiment) -> dict[str, torch.Tensor]:
    state_dict: dict[str, torch.Tensor] = teacher.read_weights("best").state_dict
    return state_dict


def test_run_is_finished_and_its_weights_are_here(teacher: Experiment) -> None:
    assert teacher.is_trained
    assert teacher.folder.state() == "finished"
    assert teacher.folder.checkpoint("best").stat().st_size < 25e6


def test_weights_are_those_of_run_json_in_float16(teacher: Experiment, weights: dict[str, torch.Tensor]) -> None:
    assert weights_digest(weights) == teacher.folder.read_run()["weights_digest"]
    assert {tensor.dtype for tensor in weights.values() if tensor.ndim > 1} == {torch.float16}


def test_accuracy_on_the_embedded_test_images_is_that_of_the_metrics_file(teacher: Experiment) -> None:
    """Of 1,000 of the 10,000 images, within three standard errors."""
    arrays = unpack()
    net, expected = teacher.load(), read_json(teacher.folder.metrics("test", "best"))["accuracy"]
    images = torch.stack([net.preprocess(image) for image in arrays.test_images])  # type: ignore[operator]
    with torch.no_grad():
        predicted = net(images).logits.argmax(dim=1).numpy()
    assert net.class_names[0] == "airplane"  # type: ignore[index]
    error = math.sqrt(expected * (1 - expected) / len(images))
    assert (predicted == arrays.test_labels).mean() == pytest.approx(expected, abs=3 * error)


def test_it_has_seen_45000_images(teacher: Experiment) -> None:
    seen = teacher.read_weights("best").seen
    assert seen is not None
    assert len(seen) == pytest.approx(45_000, abs=20)  # a few are copies of one another


@pytest.mark.skipif(not (ROOT / "data" / "cifar10").exists(), reason="CIFAR-10 is not in data/")
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_gives_the_metrics_file_to_the_digit(split: str, teacher: Experiment) -> None:
    experiment = Experiment(TEACHER, Runtime(device=CPU, data_dir=ROOT / "data"))
    metrics = metrics_of(predict_split(experiment, experiment.read_weights("best"), split))  # type: ignore[arg-type]
    expected = read_json(teacher.folder.metrics(split, "best"))
    assert (metrics["accuracy"], metrics["num_samples"]) == (expected["accuracy"], expected["num_samples"])
