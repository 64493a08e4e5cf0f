"""A GPU computes what the CPU computes: batches, networks, losses, metrics, a few steps of training."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from model.evaluation.metrics import Predictions, confusion_matrix, metrics_of
from model.losses.objective import Objective
from model.registry import DATASETS, NETS
from model.training.precision import to_device
from model.types import Batch, Output, Pipeline, SplitOptions
from tests.nets.test_nets import all_tensors, build_net, smallest_of_each_kind
from tests.untrained import METHODS, UntrainedExperiments, first_batch, trainer_of

CPU = torch.device("cpu")
FILES = sorted({NETS[name].__module__ for name in NETS.names()})
KINDS = [name for file in FILES for name in smallest_of_each_kind(file)]
RANDOM_LOSSES = {"dkpp"}  # a generator of the CPU and one of a GPU draw other numbers

pytestmark = pytest.mark.usefixtures("full_float32")


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))


# Data -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-6), ({"augment": False}, 1e-6), ({"cutout": 8}, 1e-6), ({"strong_view": True}, 1.0)],
    ids=str,
)
def test_batches_are_those_of_the_cpu(
    options: dict[str, Any], tolerance: float, gpu: torch.device, untrained: UntrainedExperiments
) -> None:
    """Pixels of rotated and sheared images may be rounded otherwise; most of them are equal all the same."""

    def open_on(device: torch.device) -> Pipeline:
        source = DATASETS.build("arrays", untrained.root, path=str(untrained.images))
        pipeline: Pipeline = source.open(SplitOptions(val_size=10, **options), seed=0, device=device)
        return pipeline

    for ours, theirs in zip(open_on(gpu).train_batches(0, 8), open_on(CPU).train_batches(0, 8), strict=True):
        assert ours.images.is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(a.cpu(), b) for a, b in zip([*ours][1:], [*theirs][1:], strict=True))
        assert difference(ours.images, theirs.images) <= tolerance
        assert (ours.images.cpu() - theirs.images).abs().median() < 1e-6


# Networks and losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_outputs_of_networks_are_those_of_the_cpu(name: str, gpu: torch.device) -> None:
    torch.manual_seed(0)
    net = build_net(name).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        theirs: Output = net(images)
        ours: Output = to_device(net, gpu)(images.to(gpu))
    for one, other in zip(all_tensors(ours), all_tensors(theirs), strict=True):
        assert difference(one, other) < 1e-3


@pytest.mark.parametrize("method", sorted(METHODS.keys() - RANDOM_LOSSES))
def test_value_and_gradients_of_losses_are_those_of_the_cpu(
    method: str, gpu: torch.device, untrained: UntrainedExperiments
) -> None:
    trainer = trainer_of(untrained.of_method(method, CPU, precision="float32"))
    batch = first_batch(trainer)
    torch.manual_seed(0)
    student: Output = trainer.student(batch.images)
    teacher = None if trainer.teacher is None else trainer.teacher(batch)
    objective = cast(Objective, trainer.objective)
    theirs, their_gradients = loss_and_gradients(copy.deepcopy(objective), student, teacher, batch)
    ours, our_gradients = loss_and_gradients(
        copy.deepcopy(objective).to(gpu), moved(student, gpu), moved(teacher, gpu), Batch(*(t.to(gpu) for t in batch))
    )
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-3, abs=1e-6)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        assert difference(one, other) < 1e-2


def loss_and_gradients(
    objective: Objective, student: Output, teacher: Output | None, batch: Batch
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradients with respect to the parts of the student's output and the loss's parameters."""
    leaves = map_tensors(student, lambda tensor: tensor.detach().clone().requires_grad_())
    loss, _ = objective(leaves, teacher, batch, 1.0)
    inputs = [*all_tensors(leaves), *(p for p in objective.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return loss, [gradient for gradient in gradients if gradient is not None]


def moved(output: Output | None, device: torch.device) -> Any:
    return None if output is None else map_tensors(output, lambda tensor: tensor.detach().to(device))


def map_tensors(output: Output, change: Any) -> Output:
    stem = None if output.stem is None else change(output.stem)
    exits = tuple(map_tensors(early, change) for early in output.exits)
    maps, preacts = (tuple(map(change, part)) for part in (output.maps, output.preacts))
    return Output(change(output.logits), change(output.embedding), maps, preacts, exits, stem)


# Training and evaluation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "learning_rate": 0.01}, {"name": "adamw"}], ids=str)
def test_weights_after_a_few_steps_are_those_of_the_cpu(
    optimizer: dict[str, Any], gpu: torch.device, untrained: UntrainedExperiments
) -> None:
    values = {"optimizer": optimizer, "precision": "float32", "gradient_clip": 1.0, "student": {"name": "resnet8"}}
    weights = []
    for device in (CPU, gpu):
        trainer = trainer_of(untrained.make(device, loss={"kd": {}}, teacher=untrained.teacher(), **values))
        for batch in trainer.train_batches(0, 0):
            trainer.take_step(batch)
        weights.append(torch.cat([parameter.detach().cpu().flatten() for parameter in trainer.student.parameters()]))
    assert difference(weights[1], weights[0]) < 1e-2


def test_metrics_of_predictions_are_those_of_the_cpu(gpu: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    first_NK, last_NK = (torch.randn(500, 10, generator=generator) for _ in range(2))
    labels_N = torch.arange(500) % 10
    theirs = Predictions(last_NK, labels_N, torch.arange(500), (first_NK,))
    ours = Predictions(last_NK.to(gpu), labels_N.to(gpu), torch.arange(500).to(gpu), (first_NK.to(gpu),))
    assert metrics_of(ours) == pytest.approx(metrics_of(theirs), rel=1e-12)
    assert torch.equal(confusion_matrix(ours.logits, ours.labels).cpu(), confusion_matrix(last_NK, labels_N))


def test_bfloat16_is_near_float32(gpu: torch.device) -> None:
    torch.manual_seed(0)
    net: nn.Module = to_device(build_net("resnet8"), gpu).eval()
    images = torch.randn(16, 3, 32, 32, device=gpu)
    with torch.no_grad():
        exact: Output = net(images)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            rounded: Output = net(images)
    assert rounded.logits.dtype == torch.bfloat16
    assert difference(rounded.logits, exact.logits) < 0.05
