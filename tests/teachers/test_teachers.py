"""What holds for every teacher: eval mode, no gradient, no change by training, its own normalisation."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.build.weights import weights_digest
from model.losses.kd import KnowledgeDistillation
from model.losses.objective import Objective
from model.teachers.ensemble import EnsembleTeacher, mean_of_logits, mean_of_probabilities
from model.teachers.live import LiveTeacher
from model.types import Batch, Normalisation, Output, TermOptions
from tests.training.toy import CPU, NORMALISATION, LinearNet, SmallNet, live_teacher, open_data, seeded, toy_trainer


@pytest.fixture
def batch() -> Batch:
    return next(open_data().train_batches(0, 16))


def test_teacher_is_in_eval_mode_whatever_mode_the_network_was_in(batch: Batch) -> None:
    net = seeded(SmallNet, 1).train()
    teacher = live_teacher(net)
    assert not any(module.training for module in net.modules())
    assert torch.equal(teacher(batch).logits, teacher(batch).logits)


def test_teacher_s_output_has_no_gradient(batch: Batch) -> None:
    net = seeded(SmallNet, 1)
    output = live_teacher(net)(batch)
    assert not any(tensor.requires_grad for tensor in (output.logits, output.embedding, *output.maps))
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_training_changes_no_weight_and_no_statistic_of_the_teacher(tmp_path: Path) -> None:
    net = seeded(SmallNet, 1)
    before = weights_digest(net.state_dict())
    toy_trainer(
        tmp_path,
        teacher=live_teacher(net),
        objective=Objective({"kd": (KnowledgeDistillation(alpha=0.5), TermOptions())}),
    ).fit()
    assert weights_digest(net.state_dict()) == before
    assert not net.training


def test_images_are_normalised_as_the_teacher_was_trained(batch: Batch) -> None:
    normalisation = Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    net = seeded(LinearNet, 1)
    teacher = LiveTeacher(
        net, normalisation=normalisation, data_normalisation=NORMALISATION, dtype=torch.float32, device=CPU
    )

    def per_channel(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values).view(3, 1, 1)

    pixels = batch.images * per_channel(NORMALISATION.std) + per_channel(NORMALISATION.mean)
    renormalised = (pixels - per_channel(normalisation.mean)) / per_channel(normalisation.std)
    torch.testing.assert_close(teacher(batch).logits, net(renormalised).logits, rtol=1e-5, atol=1e-5)


def test_images_of_the_same_normalisation_are_left_as_they_are(batch: Batch) -> None:
    net = seeded(LinearNet, 1)
    assert torch.equal(live_teacher(net)(batch).logits, net(batch.images).logits)


class ConstantLogits(nn.Module):
    """A network that returns the same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Output:
        return Output(self.logits.expand(len(images), -1), images.flatten(1))


def test_ensemble_s_probabilities_are_the_mean_of_its_members_s(batch: Batch) -> None:
    logits = [[2.0, 0.0, -1.0], [0.0, 5.0, 0.0], [1.0, 1.0, 1.0]]
    ensemble = EnsembleTeacher([live_teacher(ConstantLogits(member)) for member in logits])
    probabilities = np.mean([np.exp(each) / np.exp(each).sum() for each in np.array(logits)], axis=0)
    np.testing.assert_allclose(ensemble(batch).logits[3].softmax(dim=0), probabilities, rtol=1e-6)


def test_ensemble_is_softened_like_the_mean_of_the_probabilities(batch: Batch) -> None:
    ensemble = EnsembleTeacher([live_teacher(ConstantLogits([3.0, 0.0])), live_teacher(ConstantLogits([0.0, 1.0]))])
    p = (1 / (1 + np.exp(-3.0)) + 1 / (1 + np.exp(1.0))) / 2
    softened = p**0.25 / (p**0.25 + (1 - p) ** 0.25)
    assert (ensemble(batch).logits[0] / 4).softmax(dim=0)[0].item() == pytest.approx(softened, rel=1e-6)


def test_ensemble_by_logits_returns_their_mean(batch: Batch) -> None:
    logits = [[2.0, 0.0, -1.0], [0.0, 5.0, 0.0], [1.0, 1.0, 1.0]]
    ensemble = EnsembleTeacher([live_teacher(ConstantLogits(member)) for member in logits], "logits")
    torch.testing.assert_close(ensemble(batch).logits[3], torch.tensor([1.0, 2.0, 0.0]))


def test_mean_of_probabilities_differs_from_mean_of_logits() -> None:
    confident, unsure = torch.tensor([[6.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    # Probabilities of the first class: 0.99753 and 0.11920, mean 0.55836; logits 3 and 1, so e^2 / (1 + e^2) = 0.88080.
    assert mean_of_probabilities([confident, unsure]).softmax(dim=1)[0, 0].item() == pytest.approx(0.55836, abs=1e-5)
    assert mean_of_logits([confident, unsure]).softmax(dim=1)[0, 0].item() == pytest.approx(0.88080, abs=1e-5)


def test_ensemble_of_one_teacher_returns_its_output(batch: Batch) -> None:
    alone = live_teacher(seeded(SmallNet, 1))
    torch.testing.assert_close(EnsembleTeacher([alone])(batch).logits, alone(batch).logits.log_softmax(dim=1))


def test_digest_does_not_depend_on_order_or_memory_layout() -> None:
    state = seeded(SmallNet, 1).state_dict()
    reordered = OrderedDict((name, state[name].clone()) for name in reversed(state))
    reordered["conv.weight"] = reordered["conv.weight"].to(memory_format=torch.channels_last)
    assert weights_digest(reordered) == weights_digest(state)


@pytest.mark.parametrize(
    "changed",
    [
        {"w": torch.tensor([1.0, 2.0000002])},
        {"w": torch.tensor([[1.0, 2.0]])},
        {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"v": torch.tensor([1.0, 2.0])},
        {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(0)},
    ],
    ids=["value", "shape", "type", "name", "one more"],
)
def test_digests_of_different_states_differ(changed: dict[str, Tensor]) -> None:
    assert weights_digest(changed) != weights_digest({"w": torch.tensor([1.0, 2.0])})
