"""Factor transfer: the outputs of paraphraser, decoder and translator, and which of them a stage trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from model.losses.ft import FactorTransfer
from model.types import Output
from tests.losses.features import (
    gradient_is_the_derivative,
    in_precision,
    leaves,
    prepared,
    random_output,
    trains_and_saves_all,
    value,
)
from tests.losses.layers import average_pool, batch_norm, conv2d, conv_transpose2d, leaky_relu

Map = NDArray[np.float64]


def forward(module: nn.Module, map_NCHW: Map) -> Map:
    """Layer by layer."""
    assert isinstance(module, nn.Sequential)
    for layer in module:
        if isinstance(layer, nn.LeakyReLU):
            map_NCHW = leaky_relu(map_NCHW, 0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            map_NCHW = batch_norm(map_NCHW, layer)
        elif isinstance(layer, nn.Conv2d):
            map_NCHW = conv2d(map_NCHW, layer)
        else:
            map_NCHW = conv_transpose2d(map_NCHW, layer)
    return map_NCHW


def reference_parts(loss: FactorTransfer, student: Map, teacher: Map, *, flat: bool = False) -> tuple[float, float]:
    """The reconstruction error of the paraphraser, and the distance of the factors."""
    factors = forward(loss.paraphrasers[0], teacher)
    reconstructed = forward(loss.decoders[0], factors)
    student_factors = forward(loss.translators[0], student)
    side = min(student_factors.shape[2], factors.shape[2])
    distances = []
    for pair in zip(average_pool(student_factors, side, side), average_pool(factors, side, side), strict=True):
        a, b = ((image_FHW if flat else (image_FHW**2).mean(axis=0)).ravel() for image_FHW in pair)
        distances += list(np.abs(a / np.linalg.norm(a) - b / np.linalg.norm(b)))
    return float(((reconstructed - teacher) ** 2).mean()), sum(distances) / len(distances)


def last_maps(student: Output, teacher: Output) -> tuple[Map, Map]:
    return student.maps[-1].double().numpy(), teacher.maps[-1].double().numpy()


def example(*, num_images: int = 3) -> tuple[Output, Output]:
    """Unequal widths, numbers of stages and sizes."""
    student = random_output((2, 4, 4), (3, 4, 4), seed=1, num_images=num_images)
    return student, random_output((5, 8, 8), (5, 4, 4), (6, 2, 2), seed=2, num_images=num_images)


@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, (1, 200)),
        ({"factor_weight": 3.0}, (1, 3)),
        ({"trains": "paraphraser"}, (1, 0)),
        ({"trains": "translator"}, (0, 200)),
    ],
)
def test_value_follows_the_formula(options: dict[str, Any], weights: tuple[float, float], num_images: int) -> None:
    student, teacher = example(num_images=num_images)
    loss = prepared(FactorTransfer(**options), student, teacher)
    parts = reference_parts(loss, *last_maps(student, teacher))
    expected = weights[0] * parts[0] + weights[1] * parts[1]
    assert value(loss, student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_the_factors_themselves_can_be_normalised() -> None:
    student, teacher = example()
    loss = prepared(FactorTransfer(normalised="factors"), student, teacher)
    reconstruction, distance = reference_parts(loss, *last_maps(student, teacher), flat=True)
    assert value(loss, student, teacher).item() == pytest.approx(reconstruction + 200 * distance, rel=1e-10)


def test_stages_can_be_chosen() -> None:
    student, teacher = example()
    loss = prepared(FactorTransfer(layers=[(1, 2)]), student, teacher)
    reconstruction, distance = reference_parts(loss, student.maps[0].numpy(), teacher.maps[1].numpy())
    assert value(loss, student, teacher).item() == pytest.approx(reconstruction + 200 * distance, rel=1e-10)


def test_neither_part_has_a_gradient_to_what_the_other_one_trains() -> None:
    student, teacher = example()
    gradients, weights = {}, prepared(FactorTransfer(), student, teacher).state_dict()
    for trains in ("both", "paraphraser", "translator"):
        loss = prepared(FactorTransfer(trains=trains), student, teacher)
        loss.load_state_dict(weights)
        student_output = leaves(student)
        value(loss, student_output, teacher).backward()  # type: ignore[no-untyped-call]
        gradients[trains] = {name: parameter.grad for name, parameter in loss.named_parameters()}
        gradients[trains]["student"] = student_output.maps[-1].grad
    for name, gradient in gradients["both"].items():
        stage = "paraphraser" if name.startswith(("paraphrasers", "decoders")) else "translator"
        other = "translator" if stage == "paraphraser" else "paraphraser"
        assert gradient is not None
        assert torch.equal(gradient, torch.as_tensor(gradients[stage][name])), name
        assert gradients[other][name] is None, name


def test_the_translator_s_stage_freezes_the_paraphraser() -> None:
    student, teacher = example()
    loss = prepared(FactorTransfer(trains="translator"), student, teacher)
    trained = {name.partition(".")[0] for name, parameter in loss.named_parameters() if parameter.requires_grad}
    assert trained == {"translators"}


def test_both_stages_have_the_same_state_dict_keys() -> None:
    student, teacher = example()
    first = prepared(FactorTransfer(trains="paraphraser"), student, teacher)
    second = prepared(FactorTransfer(trains="translator"), student, teacher)
    second.load_state_dict(first.state_dict())
    expected = reference_parts(first, *last_maps(student, teacher))[1]
    assert value(second, student, teacher).item() == pytest.approx(200 * expected, rel=1e-10)


@pytest.mark.parametrize(("rate", "factors"), [(0.5, 3), (1.0, 6), (0.75, 4)])
def test_the_rate_gives_the_number_of_factors(rate: float, factors: int) -> None:
    student, teacher = example()
    loss = prepared(FactorTransfer(paraphrase_rate=rate), student, teacher)
    _, teacher_NCHW = map(torch.from_numpy, last_maps(student, teacher))
    assert loss.paraphrasers[0](teacher_NCHW).shape[1] == factors


def test_adapters_have_the_published_sizes() -> None:
    # 3x3 convolutions with bias, 6 channels and 3 factors; batch norm in the translator alone, from 3 channels.
    loss = prepared(FactorTransfer(), *example())
    parts = (loss.paraphrasers, loss.decoders, loss.translators)
    sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    encoder = 9 * (6 * 6 + 6 * 3 + 3 * 3) + 6 + 3 + 3
    decoder = 9 * (3 * 3 + 3 * 6 + 6 * 6) + 3 + 6 + 6
    assert sizes == [encoder, decoder, 9 * (3 * 3 + 3 * 3 + 3 * 3) + 3 * (3 + 2 * 3)]


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = random_output((3, 4, 4), seed=1), random_output((4, 2, 2), seed=2)
    assert gradient_is_the_derivative(prepared(FactorTransfer(), student, teacher), student, teacher)


def test_all_parameters_are_trained_and_saved() -> None:
    student, teacher = example()
    assert trains_and_saves_all(prepared(FactorTransfer(), student, teacher), student, teacher)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    loss = prepared(FactorTransfer(), student, teacher).float()
    reconstruction, distance = reference_parts(loss, *last_maps(student, teacher))
    actual = value(loss, student, teacher)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(reconstruction + 200 * distance, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor_weight": 0.0}, "factor_weight must be positive, got 0.0"),
        ({"paraphrase_rate": -1.0}, "paraphrase_rate must be positive, got -1.0"),
        ({"paraphrase_rate": 0.1}, "paraphrase_rate must leave at least one factor of 6 channels, got 0.1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    student, teacher = example()
    with pytest.raises(ValueError, match=message):
        prepared(FactorTransfer(**options), student, teacher)  # type: ignore[arg-type]


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="the student returns no maps to compare"):
        prepared(FactorTransfer(), random_output(seed=1), random_output((2, 4, 4), seed=2))
