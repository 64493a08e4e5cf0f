"""What every teacher promises: eval mode, no gradient, never changed, images as it knows them."""

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
def seen() -> Batch:
    return next(open_data().train_batches(0, 16))


def test_teacher_is_in_eval_mode_whatever_it_was(seen: Batch) -> None:
    net = seeded(SmallNet, 1).train()
    teacher = live_teacher(net)
    assert not any(module.training for module in net.modules())
    assert torch.equal(teacher(seen).logits, teacher(seen).logits)


def test_teacher_s_answer_carries_no_gradient(seen: Batch) -> None:
    net = seeded(SmallNet, 1)
    output = live_teacher(net)(seen)
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


def test_teacher_sees_images_as_it_was_trained_with_them(seen: Batch) -> None:
    trained_on = Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    net = seeded(LinearNet, 1)
    teacher = LiveTeacher(net, trained_on=trained_on, fed_with=NORMALISATION, dtype=torch.float32, device=CPU)

    def per_channel(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values).view(3, 1, 1)

    pixels = seen.images * per_channel(NORMALISATION.std) + per_channel(NORMALISATION.mean)
    as_trained = (pixels - per_channel(trained_on.mean)) / per_channel(trained_on.std)
    torch.testing.assert_close(teacher(seen).logits, net(as_trained).logits, rtol=1e-5, atol=1e-5)


def test_teacher_of_the_same_normalisation_sees_the_very_images(seen: Batch) -> None:
    net = seeded(LinearNet, 1)
    assert torch.equal(live_teacher(net)(seen).logits, net(seen.images).logits)


class Says(nn.Module):
    """A teacher that gives the same logits to every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Output:
        return Output(self.logits.expand(len(images), -1), images.flatten(1))


def test_ensemble_s_answer_is_the_mean_of_the_probabilities(seen: Batch) -> None:
    scores = [[2.0, 0.0, -1.0], [0.0, 5.0, 0.0], [1.0, 1.0, 1.0]]
    ensemble = EnsembleTeacher([live_teacher(Says(each)) for each in scores])
    probabilities = np.mean([np.exp(each) / np.exp(each).sum() for each in np.array(scores)], axis=0)
    np.testing.assert_allclose(ensemble(seen).logits[3].softmax(dim=0), probabilities, rtol=1e-6)


def test_ensemble_softens_like_the_mean_of_the_probabilities(seen: Batch) -> None:
    ensemble = EnsembleTeacher([live_teacher(Says([3.0, 0.0])), live_teacher(Says([0.0, 1.0]))])
    p = (1 / (1 + np.exp(-3.0)) + 1 / (1 + np.exp(1.0))) / 2
    softened = p**0.25 / (p**0.25 + (1 - p) ** 0.25)
    assert (ensemble(seen).logits[0] / 4).softmax(dim=0)[0].item() == pytest.approx(softened, rel=1e-6)


def test_ensemble_s_answer_by_logits_is_their_mean(seen: Batch) -> None:
    scores = [[2.0, 0.0, -1.0], [0.0, 5.0, 0.0], [1.0, 1.0, 1.0]]
    ensemble = EnsembleTeacher([live_teacher(Says(each)) for each in scores], mean_of_logits)
    torch.testing.assert_close(ensemble(seen).logits[3], torch.tensor([1.0, 2.0, 0.0]))


def test_the_means_of_probabilities_and_of_logits_are_two_things() -> None:
    sure, unsure = torch.tensor([[6.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    # Probabilities of the first class: 0.99753 and 0.11920, mean 0.55836; logits 3 and 1, so e^2 / (1 + e^2) = 0.88080.
    assert mean_of_probabilities([sure, unsure]).softmax(dim=1)[0, 0].item() == pytest.approx(0.55836, abs=1e-5)
    assert mean_of_logits([sure, unsure]).softmax(dim=1)[0, 0].item() == pytest.approx(0.88080, abs=1e-5)


def test_ensemble_of_one_teacher_says_what_it_says(seen: Batch) -> None:
    alone = live_teacher(seeded(SmallNet, 1))
    torch.testing.assert_close(EnsembleTeacher([alone])(seen).logits, alone(seen).logits.log_softmax(dim=1))


def test_digest_does_not_depend_on_order_or_memory_layout() -> None:
    state = seeded(SmallNet, 1).state_dict()
    turned = OrderedDict((name, state[name].clone()) for name in reversed(state))
    turned["conv.weight"] = turned["conv.weight"].to(memory_format=torch.channels_last)
    assert weights_digest(turned) == weights_digest(state)


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
def test_digest_tells_states_apart(changed: dict[str, Tensor]) -> None:
    assert weights_digest(changed) != weights_digest({"w": torch.tensor([1.0, 2.0])})
