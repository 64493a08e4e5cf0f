"""Random network outputs for the losses that compare features, and checks on them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from model.losses.base import DistillLoss
from model.types import Batch, LossContext, Output

LossT = TypeVar("LossT", bound=DistillLoss)
Shape = tuple[int, int, int]  # channels, height, width


def random_output(
    *maps: Shape, seed: int, num_images: int = 3, stem: Shape | None = None, width: int = 4, preacts: bool = True
) -> Output:
    """Random preacts of these shapes, maps that are their ReLU, an embedding of `width`; all in float64."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(num_images, *shape, generator=generator, dtype=torch.float64)

    preact_maps = tuple(random(*shape) for shape in maps)
    return Output(
        logits=random(2),
        embedding=random(width),
        maps=tuple(map_NCHW.relu() for map_NCHW in preact_maps),
        preacts=preact_maps if preacts else (),
        stem=None if stem is None else random(*stem),
    )


def batch_of(output: Output) -> Batch:
    """A batch of as many images as the output has."""
    index_N = torch.arange(len(output.logits))
    return Batch(torch.zeros(len(index_N), 1, 1, 1), index_N % 2, index_N, torch.zeros_like(index_N))


def prepared(loss: LossT, student: Output, teacher: Output) -> LossT:
    """The loss after `prepare` with the networks' shapes, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss.prepare(LossContext(student=on_meta(student), teacher=on_meta(teacher), labels=torch.zeros(3), seed=0))
    return loss.double()


def value(loss: DistillLoss, student: Output, teacher: Output) -> Tensor:
    loss_value: Tensor = loss(student, teacher, batch_of(student))
    return loss_value


def gradient_is_the_derivative(loss: DistillLoss, student: Output, teacher: Output) -> bool:
    """By finite differences, with respect to the student's maps, before their ReLU and after it, and its embedding."""
    count = len(student.maps)

    def of_features(*features: Tensor) -> Tensor:
        maps, preacts, embedding = features[:count], features[count:-1], features[-1]
        return value(loss, student._replace(maps=maps, preacts=preacts, embedding=embedding), teacher)

    features = [*student.maps, *student.preacts, student.embedding]
    return torch.autograd.gradcheck(of_features, [feature.detach().clone().requires_grad_() for feature in features])


def leaves(output: Output) -> Output:
    """The same values, with features as leaf tensors that require gradients."""
    maps, preacts = (
        tuple(map_NCHW.clone().requires_grad_() for map_NCHW in part) for part in (output.maps, output.preacts)
    )
    return output._replace(maps=maps, preacts=preacts, embedding=output.embedding.clone().requires_grad_())


def in_precision(output: Output, dtype: torch.dtype) -> Output:
    """The output of a network in this precision, as a loss gets it: logits and embedding in float32 at least."""
    maps, preacts = (tuple(map_NCHW.to(dtype) for map_NCHW in part) for part in (output.maps, output.preacts))
    at_least = torch.promote_types(dtype, torch.float32)
    stem = None if output.stem is None else output.stem.to(dtype)
    return Output(output.logits.to(at_least), output.embedding.to(at_least), maps, preacts, stem=stem)


def on_meta(output: Output) -> Output:
    maps, preacts = (tuple(map_NCHW.to("meta") for map_NCHW in part) for part in (output.maps, output.preacts))
    stem = None if output.stem is None else output.stem.to("meta")
    return Output(output.logits.to("meta"), output.embedding.to("meta"), maps, preacts, stem=stem)


def trains_and_saves_all(loss: DistillLoss, student: Output, teacher: Output) -> bool:
    """Whether every parameter of the loss gets a gradient and is in its state dict."""
    loss.zero_grad()
    value(loss, student, teacher).backward()  # type: ignore[no-untyped-call]
    saved = loss.state_dict()
    return all(parameter.grad is not None and name in saved for name, parameter in loss.named_parameters())
