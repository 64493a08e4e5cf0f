"""One suite over every registered loss. A new loss needs a row in ROWS, or the suite fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

from model.losses.base import DistillLoss
from model.losses.objective import Objective
from model.registry import LOSSES
from model.teachers.live import LiveTeacher
from model.types import Batch, LossContext, Normalisation, Output, TermOptions
from tests.losses.reference import (
    Array,
    Labels,
    Said,
    attention_transfer,
    consecutive_products,
    correlation_congruence,
    cross_entropy,
    decoupled,
    entropy,
    hint,
    kl,
    linear,
    mean_squared_difference,
    multi_level,
    normalized_kd,
    one_for_all,
    probabilistic_transfer,
    refined,
    relational,
    similarity_preserving,
    soft_maximum,
    softmax_regression,
    standardized,
    stronger_teacher,
    transformed_teacher,
    weighted_by_confidence,
    weighted_soft_labels,
)

Reference = Callable[[Said, Said, Labels, Mapping[str, Array]], float]  # student, teacher, labels, loss's parameters
Rule = Literal["batch size", "gradient", "order", "shift", "single image", "widths"]


class Row(NamedTuple):
    loss: str
    options: dict[str, Any]
    reference: Reference
    least_at_teacher: bool = False  # no student does better than one that says what the teacher says
    unlike: Mapping[Rule, str] = MappingProxyType({})  # rules that do not hold for it, and why: it must break them


CURRICULUM_START = 1 + 20 / (1 + math.exp(-1))
RELATION: dict[Rule, str] = {"single image": "it compares images with one another"}
SHRINKS: dict[Rule, str] = RELATION | {"batch size": "a row's values share what is 1 in all between more images"}
ALL_LOGITS: dict[Rule, str] = {"shift": "mean and spread are of all logits, so probabilities are not asked for"}

ROWS = [
    Row("at", {}, lambda s, t, y, _: attention_transfer(s.maps, t.maps), least_at_teacher=True),
    Row(
        "cc",
        {},
        lambda s, t, y, _: correlation_congruence(s.embedding, t.embedding),
        least_at_teacher=True,
        unlike=RELATION,
    ),
    Row(
        "cc_linear",
        {},
        lambda s, t, y, p: consecutive_products(
            linear(s.embedding, p["project_student.weight"], p["project_student.bias"]),
            linear(t.embedding, p["project_teacher.weight"], p["project_teacher.bias"]),
        ),
        unlike=RELATION
        | {"order": "it compares consecutive images", "batch size": "a batch has one pair less than images"},
    ),
    Row("ce", {}, lambda s, t, y, _: cross_entropy(s.logits, y)),
    Row("ce", {"label_smoothing": 0.1}, lambda s, t, y, _: cross_entropy(s.logits, y, label_smoothing=0.1)),
    Row(
        "ctkd",
        {},  # whose temperature is 15.62 at first
        lambda s, t, y, _: (
            0.1 * cross_entropy(s.logits, y) + 0.9 * CURRICULUM_START**2 * kl(t.logits, s.logits, CURRICULUM_START)
        ),
    ),
    Row("cwtm", {}, lambda s, t, y, _: weighted_by_confidence(s.logits, t.logits, y)),
    Row(
        "dist",
        {},
        lambda s, t, y, _: stronger_teacher(s.logits, t.logits, beta=2, gamma=2, temperature=4),
        least_at_teacher=True,
    ),
    Row(
        "dist",
        {"beta": 3.0, "gamma": 0.5, "temperature": 1.0},
        lambda s, t, y, _: stronger_teacher(s.logits, t.logits, beta=3, gamma=0.5, temperature=1),
        least_at_teacher=True,
    ),
    Row("dkd", {}, lambda s, t, y, _: decoupled(s.logits, t.logits, y), least_at_teacher=True),
    Row(
        "dkd",
        {"alpha": 9.0, "beta": 72.0, "temperature": 2.0, "standardize": True},
        lambda s, t, y, _: decoupled(standardized(s.logits), standardized(t.logits), y, 9, 72, 2),
        least_at_teacher=True,
        unlike=ALL_LOGITS,
    ),
    Row("fitnet", {}, lambda s, t, y, p: hint(s.maps[1], t.maps[1], p["regressors.0.0.weight"], relu=True)),
    Row(
        "fitnet",
        {"layers": [1, 3], "relu": False},
        lambda s, t, y, p: (
            hint(s.maps[0], t.maps[0], p["regressors.0.0.weight"], relu=False)
            + hint(s.maps[2], t.maps[2], p["regressors.1.0.weight"], relu=False)
        ),
    ),
    Row(
        "kd",
        {},
        lambda s, t, y, _: 0.1 * cross_entropy(s.logits, y) + 0.9 * 16 * kl(t.logits, s.logits, 4),
    ),
    Row("kd", {"alpha": 0.0}, lambda s, t, y, _: cross_entropy(s.logits, y)),
    Row(
        "kd",
        {"alpha": 1.0, "temperature": 2.0},
        lambda s, t, y, _: 4 * kl(t.logits, s.logits, 2),
        least_at_teacher=True,
    ),
    Row(
        "kd",
        {"alpha": 1.0, "reduction": "mean"},
        lambda s, t, y, _: 16 * kl(t.logits, s.logits, 4) / s.logits.shape[1],
        least_at_teacher=True,
    ),
    Row(
        "kd",
        {"alpha": 1.0, "t_squared": False},
        lambda s, t, y, _: kl(t.logits, s.logits, 4),
        least_at_teacher=True,
    ),
    Row(
        "kd",
        {"alpha": 1.0, "soft_scale": 2.0},
        lambda s, t, y, _: 32 * kl(t.logits, s.logits, 4),
        least_at_teacher=True,
    ),
    Row(
        "kd",
        {"alpha": 1.0, "temperature": 3.0, "divergence": "cross_entropy"},
        lambda s, t, y, _: 9 * (kl(t.logits, s.logits, 3) + entropy(t.logits, 3)),
        least_at_teacher=True,
    ),
    Row(
        "kd",
        {"alpha": 0.5, "hard_weight": 1.0},
        lambda s, t, y, _: cross_entropy(s.logits, y) + 0.5 * 16 * kl(t.logits, s.logits, 4),
    ),
    Row(
        "kd",
        {"temperature": 2.0, "soft_scale": 10.0, "standardize": True},
        lambda s, t, y, _: (
            0.1 * cross_entropy(s.logits, y) + 9 * 4 * kl(standardized(t.logits), standardized(s.logits), 2)
        ),
        unlike=ALL_LOGITS,
    ),
    Row("logits", {}, lambda s, t, y, _: mean_squared_difference(s.logits, t.logits), least_at_teacher=True),
    Row(
        "mlkd",
        {},
        lambda s, t, y, _: multi_level(s.logits, t.logits, y, [2, 3, 4, 5, 6], unsure_half=True),
        unlike={"batch size": "each image relates to more of them"},
    ),
    Row(
        "mlkd",
        {"temperatures": [3.0], "unsure_half": False},
        lambda s, t, y, _: multi_level(s.logits, t.logits, y, [3], unsure_half=False),
        unlike={"batch size": "each image relates to more of them"},
    ),
    Row("nkd", {}, lambda s, t, y, _: normalized_kd(s.logits, t.logits, y)),
    Row("ofa", {"layers": []}, lambda s, t, y, _: one_for_all(s.logits, t.logits, y, gamma=1), least_at_teacher=True),
    Row("ofa", {"gamma": 1.5, "layers": []}, lambda s, t, y, _: one_for_all(s.logits, t.logits, y, gamma=1.5)),
    Row(
        "pkt",
        {},
        lambda s, t, y, _: probabilistic_transfer(s.embedding, t.embedding),
        least_at_teacher=True,
        unlike=SHRINKS,
    ),
    Row(
        "rkd",
        {},
        lambda s, t, y, _: relational(s.embedding, t.embedding),
        least_at_teacher=True,
        unlike=RELATION | {"batch size": "an image is as far from its double as can be told: not at all"},
    ),
    Row("rld", {}, lambda s, t, y, _: refined(s.logits, t.logits, y)),
    Row(
        "rld",
        {"alpha": 2.0, "beta": 3.0, "temperature": 2.0, "confidence_temperature": 1.5},
        lambda s, t, y, _: refined(s.logits, t.logits, y, 2, 3, 2, 1.5),
    ),
    Row(
        "sp",
        {},
        lambda s, t, y, _: similarity_preserving(s.maps[-1], t.maps[-1]),
        least_at_teacher=True,
        unlike=SHRINKS,
    ),
    Row(
        "srd",
        {},
        lambda s, t, y, p: soft_maximum(linear(s.embedding, p["projector.weight"], p["projector.bias"]), t.embedding),
        unlike=RELATION | {"batch size": "the logarithm of a sum over it"},
    ),
    Row(
        "srrl",
        {},
        lambda s, t, y, p: softmax_regression(s.maps[-1], t.embedding, t.logits, p, feature_weight=1, logit_weight=1),
    ),
    Row(
        "srrl",
        {"connects": "embedding", "feature_weight": 0.5, "logit_weight": 5.0},
        lambda s, t, y, p: softmax_regression(
            s.embedding[:, :, None, None], t.embedding, t.logits, p, feature_weight=0.5, logit_weight=5
        ),
        unlike=RELATION,
    ),
    Row("ttm", {}, lambda s, t, y, _: transformed_teacher(s.logits, t.logits, 0.1, weighted=False)),
    Row(
        "wsld",
        {},
        lambda s, t, y, _: weighted_soft_labels(s.logits, t.logits, y),
        unlike={"gradient": "the weights are constants to it"},
    ),
    Row("wttm", {}, lambda s, t, y, _: transformed_teacher(s.logits, t.logits, 0.2, weighted=True)),
]


# Random, of the student's exits, other at every call, or with an oracle too long for a row.
HAVE_A_FILE_OF_TESTS = {
    *(
        "ab",
        "crd",
        "dkpp",
        "embedding_mse",
        "fsp",
        "ft",
        "mutual",
        "nst",
        "ofd",
        "reviewkd",
        "self_distillation",
        "semckd",
        "simkd",
        "vid",
    ),
}


def row_name(row: Row) -> str:
    return " ".join([row.loss, *(f"{key}={value}" for key, value in row.options.items())])


every_row = pytest.mark.parametrize("row", ROWS, ids=row_name)

# What networks say ----------------------------------------------------------------------------------------------------

STUDENT, TEACHER = (5, 2, 2, 3, 4), (7, 3, 3, 5, 6)  # sizes of the embedding, the stem and the maps of three stages
SIDES = (4, 4, 4, 2)  # of the stem and the three maps
NUM_IMAGES = 30


def parts(output: Output) -> list[Tensor]:
    """All that a network says: logits, embedding, three maps, three preacts, the stem."""
    assert output.stem is not None
    return [output.logits, output.embedding, *output.maps, *output.preacts, output.stem]


def joined(tensors: Sequence[Tensor]) -> Output:
    """The inverse of `parts`."""
    return Output(tensors[0], tensors[1], tuple(tensors[2:5]), tuple(tensors[5:8]), stem=tensors[8])


def each(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    return joined([change(tensor) for tensor in parts(output)])


def drawn(num_samples: int, num_classes: int, widths: Sequence[int], seed: int, scale: float = 2.0) -> Output:
    """An output whose parts have nothing to do with one another."""
    generator = torch.Generator().manual_seed(seed)
    stem, *maps = [(channels, side, side) for channels, side in zip(widths[1:], SIDES, strict=True)]
    shapes: list[tuple[int, ...]] = [(num_classes,), (widths[0],), *maps, *maps, stem]
    return joined(
        [scale * torch.randn(num_samples, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    )


def two(
    row: Row, num_samples: int, num_classes: int, seed: int = 1, scale: float = 2.0
) -> tuple[Output, Output, Batch]:
    """A student and a teacher of other widths, where the loss can compare such, and the batch that they see."""
    widths = TEACHER if "widths" in row.unlike else STUDENT
    student = drawn(num_samples, num_classes, widths, seed, scale)
    return student, drawn(num_samples, num_classes, TEACHER, seed + 100, scale), batch(num_samples, num_classes)


def batch(num_samples: int, num_classes: int) -> Batch:
    index_N = torch.arange(num_samples)
    images = torch.randn(num_samples, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return Batch(images, labels_of(index_N, num_classes), index_N, torch.zeros_like(index_N))


def labels_of(index_N: Tensor, num_classes: int) -> Tensor:
    return (index_N * 3 + 1) % num_classes


def prepared(row: Row, student: Output, teacher: Output) -> DistillLoss:
    """The loss, with the same parameters at every call, in float32 or float64 as the student is."""
    labels_M = labels_of(torch.arange(NUM_IMAGES), student.logits.shape[1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Linear(teacher.embedding.shape[1], teacher.logits.shape[1])
        loss = cast(DistillLoss, LOSSES.build(row.loss, **row.options))
        loss.prepare(LossContext(student=student, teacher=teacher, labels=labels_M, seed=0, classifier=classifier))
    return loss.to(torch.promote_types(student.logits.dtype, torch.float32))


def value(row: Row, student: Output, teacher: Output, seen: Batch) -> Tensor:
    return cast(Tensor, prepared(row, student, teacher)(student, teacher, seen))


def expected(row: Row, student: Output, teacher: Output, seen: Batch) -> float:
    """The oracle's value, in float64."""
    loss = prepared(row, student, teacher)
    owned = [*loss.named_parameters(), *loss.named_buffers()]
    parameters = {name: tensor.detach().double().numpy() for name, tensor in owned}
    return row.reference(said(student), said(teacher), seen.labels.tolist(), parameters)


def said(output: Output) -> Said:
    logits, embedding, *maps_and_preacts, stem = (tensor.detach().double().numpy() for tensor in parts(output))
    return Said(logits, embedding, maps_and_preacts[:3], maps_and_preacts[3:], stem)


def leaves(output: Output) -> Output:
    """The same values, in tensors that gradients are collected in."""
    return each(output, lambda tensor: tensor.detach().clone().requires_grad_())


def gradients(loss: Tensor, student: Output) -> list[Tensor]:
    """Those with respect to what the loss reads of the student."""
    found = torch.autograd.grad(loss, parts(student), allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


# Rules ----------------------------------------------------------------------------------------------------------------


def test_every_registered_loss_has_a_row() -> None:
    assert {row.loss for row in ROWS} | HAVE_A_FILE_OF_TESTS == set(LOSSES.names())


@every_row
@pytest.mark.parametrize("shape", [(8, 10), (8, 2), (5, 3)], ids=str)
def test_value_follows_the_formula(row: Row, shape: tuple[int, int]) -> None:
    case = two(row, *shape)
    assert value(row, *case).item() == pytest.approx(expected(row, *case), rel=1e-11)


@every_row
def test_single_image_is_like_any_other_batch_or_refused(row: Row) -> None:
    case = two(row, 1, 10)
    if "single image" in row.unlike:
        with pytest.raises(ValueError, match="2 images or more"):
            value(row, *case)
    else:
        assert value(row, *case).item() == pytest.approx(expected(row, *case), rel=1e-11, abs=1e-14)


@every_row
def test_gradient_is_the_derivative_of_the_value(row: Row) -> None:
    student, teacher, seen = two(row, 3, 4)
    loss, student = prepared(row, student, teacher), leaves(student)
    found = torch.autograd.grad(loss(student, teacher, seen), parts(student), allow_unused=True)
    read = [number for number, gradient in enumerate(found) if gradient is not None]
    assert read

    def of_what_it_reads(*tensors: Tensor) -> Tensor:
        all_parts = parts(student)
        for number, tensor in zip(read, tensors, strict=True):
            all_parts[number] = tensor
        return cast(Tensor, loss(joined(all_parts), teacher, seen))

    follows = torch.autograd.gradcheck(
        of_what_it_reads, [parts(student)[number] for number in read], raise_exception="gradient" not in row.unlike
    )
    assert follows is ("gradient" not in row.unlike)


class Linear(nn.Module):
    """A linear network that says all that a network can say."""

    def __init__(self, num_classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.shapes = [tensor.shape[1:] for tensor in parts(drawn(1, num_classes, widths, seed=0))]
        self.linear = nn.Linear(12, sum(shape.numel() for shape in self.shapes))

    def forward(self, images: Tensor) -> Output:
        pieces = self.linear(images.flatten(1)).split([shape.numel() for shape in self.shapes], dim=1)
        return joined([piece.unflatten(1, shape) for piece, shape in zip(pieces, self.shapes, strict=True)])


@every_row
def test_student_and_loss_get_a_gradient_and_the_teacher_none(row: Row) -> None:
    same = Normalisation(mean=(0.5,) * 3, std=(0.2,) * 3)
    net = Linear(5, TEACHER)
    teacher = LiveTeacher(
        net, normalisation=same, data_normalisation=same, dtype=torch.float32, device=torch.device("cpu")
    )
    student = Linear(5, TEACHER if "widths" in row.unlike else STUDENT)
    seen = batch(4, 5)
    loss = prepared(row, student(seen.images), teacher(seen))
    loss(student(seen.images), teacher(seen), seen).backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in [*student.parameters(), *loss.parameters()])


@pytest.mark.parametrize("row", [row for row in ROWS if row.least_at_teacher], ids=row_name)
def test_nothing_is_better_than_the_teacher_s_own_answer(row: Row) -> None:
    teacher, seen = drawn(6, 10, TEACHER, seed=2), batch(6, 10)
    student = leaves(teacher)
    least = value(row, student, teacher, seen)
    steepest = max(gradient.abs().max().item() for gradient in gradients(least, student))
    for seed in range(5):
        noise = parts(drawn(6, 10, TEACHER, seed=10 + seed, scale=0.1))
        elsewhere = leaves(joined([tensor + more for tensor, more in zip(parts(teacher), noise, strict=True)]))
        higher = value(row, elsewhere, teacher, seen)
        assert higher > least
        assert steepest < 1e-4 * max(gradient.abs().max().item() for gradient in gradients(higher, elsewhere))


@every_row
def test_order_of_the_batch_does_not_matter(row: Row) -> None:
    student, teacher, seen = two(row, 7, 10)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    other = Batch(*(tensor[order] for tensor in seen))
    shuffled = value(row, each(student, lambda t: t[order]), each(teacher, lambda t: t[order]), other)
    same = shuffled.item() == pytest.approx(value(row, student, teacher, seen).item(), rel=1e-11)
    assert same is ("order" not in row.unlike)


@every_row
def test_value_does_not_grow_with_the_batch(row: Row) -> None:
    student, teacher, seen = two(row, 4, 10)
    double = Batch(*(torch.cat([tensor, tensor]) for tensor in seen))
    twice = value(row, each(student, lambda t: torch.cat([t, t])), each(teacher, lambda t: torch.cat([t, t])), double)
    same = twice.item() == pytest.approx(value(row, student, teacher, seen).item(), rel=1e-6)
    assert same is ("batch size" not in row.unlike)


@every_row
def test_last_small_batch_is_like_any_other(row: Row) -> None:
    large, small = two(row, 8, 10), two(row, 3, 10, seed=3)
    loss = prepared(row, large[0], large[1])
    loss(*large)
    assert loss(*small).item() == value(row, *small).item()


@every_row
def test_a_loss_that_was_saved_and_loaded_is_the_same(row: Row) -> None:
    first, second = two(row, 8, 10), two(row, 8, 10, seed=3)
    loss, resumed = prepared(row, *first[:2]), prepared(row, *first[:2])
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.1)
    loss(*first)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(loss(*second), resumed(*second))


@every_row
@pytest.mark.parametrize("num_classes", [10, 2])
@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_huge_values_and_none_give_a_finite_loss_and_gradient(row: Row, num_classes: int, scale: float) -> None:
    student, teacher, seen = two(row, 8, num_classes)
    student = leaves(each(student, lambda tensor: (scale * tensor).float()))
    teacher = each(teacher, lambda tensor: (max(scale, 1) * tensor).float())
    loss = value(row, student, teacher, seen)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, student))


@every_row
def test_bfloat16_is_compared_in_float32(row: Row) -> None:
    student, teacher, seen = two(row, 8, 10)
    student, teacher = each(student, Tensor.bfloat16), each(teacher, Tensor.bfloat16)
    objective = Objective({row.loss: (prepared(row, student, teacher), TermOptions())})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = objective(student, teacher, seen, epoch=0.0)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected(row, student, teacher, seen), rel=1e-5)


@every_row
def test_loss_reads_of_the_teacher_only_what_it_needs(row: Row) -> None:
    student, teacher, seen = two(row, 8, 10)
    loss = prepared(row, student, teacher)
    needs = {"logits" if need == "probabilities" else need for need in loss.needs if need != "classifier"}
    needed = cast(Output, SimpleNamespace(**{part: getattr(teacher, part) for part in needs}))
    whole = value(row, student, teacher, seen)
    assert torch.equal(loss(student, needed, seen), whole)


@every_row
def test_loss_that_needs_probabilities_does_not_see_a_shift_of_the_logits(row: Row) -> None:
    student, teacher, seen = two(row, 8, 10)
    shifted = teacher._replace(logits=teacher.logits + torch.arange(8.0)[:, None])
    same = torch.allclose(value(row, student, shifted, seen), value(row, student, teacher, seen))
    assert same is not ("logits" in prepared(row, student, teacher).needs and "shift" not in row.unlike)


# Several processes ----------------------------------------------------------------------------------------------------

OPTIONS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in LOSSES.names()]
OPTIONS.append(("self_distillation", {"feature_reduction": "sum"}))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_loss_asks_for_the_whole_batch_where_it_is_no_mean_over_images(name: str, options: dict[str, Any]) -> None:
    num_classes = 2 if name == "dkpp" else 10  # of which there is but one permutation
    student, teacher = (drawn(8, num_classes, TEACHER, seed) for seed in (1, 2))
    if name == "simkd":  # for teachers that classify the mean of their last map
        teacher = teacher._replace(embedding=teacher.maps[-1].mean(dim=(2, 3)))
    exits = (drawn(8, num_classes, TEACHER, seed=3),)
    seen = batch(8, num_classes)
    row = Row(name, options, lambda s, t, y, _: 0.0)

    def of(images: slice) -> float:
        early = tuple(each(exit_, lambda t: t[images]) for exit_ in exits)
        here = each(student, lambda t: t[images])._replace(exits=early)
        loss = prepared(row, student, teacher).eval()  # batch norm is another matter: it can be synchronised
        there, shown = each(teacher, lambda t: t[images]), Batch(*(tensor[images] for tensor in seen))
        return cast(float, loss(here, there, shown).item())

    whole, halves = of(slice(8)), (of(slice(4)), of(slice(4, 8)))
    is_mean = whole == pytest.approx(sum(halves) / 2, rel=1e-9)
    assert is_mean is not bool(prepared(row, student, teacher).global_batch)
