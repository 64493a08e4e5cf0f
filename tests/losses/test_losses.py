"""One suite over every registered loss. A new loss needs an oracle: a row in ROWS, or the suite fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
    ArrayOutput,
    Labels,
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

# Of the student's and the teacher's output, the labels, and the loss's parameters and buffers by name.
Reference = Callable[[ArrayOutput, ArrayOutput, Labels, Mapping[str, Array]], float]
Rule = Literal["batch size", "gradient", "order", "shift", "single image", "widths"]


class Row(NamedTuple):
    loss: str
    options: dict[str, Any]
    reference: Reference
    least_at_teacher: bool = False  # no student has a lower loss than one with the teacher's output
    unlike: Mapping[Rule, str] = MappingProxyType({})  # rules that do not hold for it, and why: it must break them


CURRICULUM_START = 1 + 20 / (1 + math.exp(-1))
RELATION: dict[Rule, str] = {"single image": "it compares images with one another"}
SHRINKS: dict[Rule, str] = RELATION | {"batch size": "a row's sum or length is 1, divided among more images"}
ALL_LOGITS: dict[Rule, str] = {"shift": "mean and deviation are of all logits, so it needs logits, not probabilities"}

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
        | {"order": "it compares consecutive images", "batch size": "a batch has one pair fewer than images"},
    ),
    Row("ce", {}, lambda s, t, y, _: cross_entropy(s.logits, y)),
    Row("ce", {"label_smoothing": 0.1}, lambda s, t, y, _: cross_entropy(s.logits, y, label_smoothing=0.1)),
    Row(
        "ctkd",
        {},  # the initial temperature is 15.62
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
        unlike={"batch size": "each image has more relations"},
    ),
    Row(
        "mlkd",
        {"temperatures": [3.0], "unsure_half": False},
        lambda s, t, y, _: multi_level(s.logits, t.logits, y, [3], unsure_half=False),
        unlike={"batch size": "each image has more relations"},
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
        unlike=RELATION | {"batch size": "the distance from an image to its double is 0"},
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
        unlike={"gradient": "its weights are detached"},
    ),
    Row("wttm", {}, lambda s, t, y, _: transformed_teacher(s.logits, t.logits, 0.2, weighted=True)),
]


# Losses whose oracle is in tests/losses/test_NAME.py: they are random, read exits, depend on earlier calls, or have an
# oracle that is too long for a row.
TESTED_IN_OWN_FILE = (
    *("ab", "crd", "dkpp", "embedding_mse", "fsp", "ft", "mutual", "nst"),
    *("ofd", "reviewkd", "self_distillation", "semckd", "simkd", "vid"),
)


def row_name(row: Row) -> str:
    return " ".join([row.loss, *(f"{key}={value}" for key, value in row.options.items())])


every_row = pytest.mark.parametrize("row", ROWS, ids=row_name)

# Outputs of networks --------------------------------------------------------------------------------------------------

STUDENT, TEACHER = (5, 2, 2, 3, 4), (7, 3, 3, 5, 6)  # sizes of the embedding, the stem and the maps of three stages
SIDES = (4, 4, 4, 2)  # of the stem and the three maps
NUM_IMAGES = 30


def parts(output: Output) -> list[Tensor]:
    """All tensors of an output: logits, embedding, three maps, three preacts, the stem."""
    assert output.stem is not None
    return [output.logits, output.embedding, *output.maps, *output.preacts, output.stem]


def from_parts(tensors: Sequence[Tensor]) -> Output:
    """The inverse of `parts`."""
    return Output(tensors[0], tensors[1], tuple(tensors[2:5]), tuple(tensors[5:8]), stem=tensors[8])


def map_parts(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    return from_parts([change(tensor) for tensor in parts(output)])


def random_output(num_samples: int, num_classes: int, widths: Sequence[int], seed: int, scale: float = 2.0) -> Output:
    """An output whose parts are independent of one another."""
    generator = torch.Generator().manual_seed(seed)
    stem, *maps = [(channels, side, side) for channels, side in zip(widths[1:], SIDES, strict=True)]
    shapes: list[tuple[int, ...]] = [(num_classes,), (widths[0],), *maps, *maps, stem]
    return from_parts(
        [scale * torch.randn(num_samples, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    )


def random_case(
    row: Row, num_samples: int, num_classes: int, seed: int = 1, scale: float = 2.0
) -> tuple[Output, Output, Batch]:
    """Outputs of a student and a teacher, of unequal widths where the loss can compare these, and the batch."""
    widths = TEACHER if "widths" in row.unlike else STUDENT
    student = random_output(num_samples, num_classes, widths, seed, scale)
    teacher = random_output(num_samples, num_classes, TEACHER, seed + 100, scale)
    return student, teacher, make_batch(num_samples, num_classes)


def make_batch(num_samples: int, num_classes: int) -> Batch:
    index_N = torch.arange(num_samples)
    images = torch.randn(num_samples, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return Batch(images, labels_of(index_N, num_classes), index_N, torch.zeros_like(index_N))


def labels_of(index_N: Tensor, num_classes: int) -> Tensor:
    return (index_N * 3 + 1) % num_classes


def prepared(row: Row, student: Output, teacher: Output) -> DistillLoss:
    """The loss, with the same parameters at every call, in the student's precision, float32 at least."""
    labels_M = labels_of(torch.arange(NUM_IMAGES), student.logits.shape[1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Linear(teacher.embedding.shape[1], teacher.logits.shape[1])
        loss = cast(DistillLoss, LOSSES.build(row.loss, **row.options))
        loss.prepare(LossContext(student=student, teacher=teacher, labels=labels_M, seed=0, classifier=classifier))
    return loss.to(torch.promote_types(student.logits.dtype, torch.float32))


def value(row: Row, student: Output, teacher: Output, batch: Batch) -> Tensor:
    return cast(Tensor, prepared(row, student, teacher)(student, teacher, batch))


def expected(row: Row, student: Output, teacher: Output, batch: Batch) -> float:
    """The oracle's value, in float64."""
    loss = prepared(row, student, teacher)
    tensors = [*loss.named_parameters(), *loss.named_buffers()]
    parameters = {name: tensor.detach().double().numpy() for name, tensor in tensors}
    return row.reference(as_arrays(student), as_arrays(teacher), batch.labels.tolist(), parameters)


def as_arrays(output: Output) -> ArrayOutput:
    logits, embedding, *maps_and_preacts, stem = (tensor.detach().double().numpy() for tensor in parts(output))
    return ArrayOutput(logits, embedding, maps_and_preacts[:3], maps_and_preacts[3:], stem)


def leaves(output: Output) -> Output:
    """The same values, in leaf tensors that require gradients."""
    return map_parts(output, lambda tensor: tensor.detach().clone().requires_grad_())


def gradients(loss: Tensor, student: Output) -> list[Tensor]:
    """The gradients with respect to the parts of the student's output that the loss reads."""
    of_parts = torch.autograd.grad(loss, parts(student), allow_unused=True)
    return [gradient for gradient in of_parts if gradient is not None]


# Rules ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_registered_loss_has_an_oracle(name: str) -> None:
    assert name in {*(row.loss for row in ROWS), *TESTED_IN_OWN_FILE}, (
        f'the loss {name} has no oracle: add Row("{name}", ...) to ROWS in tests/losses/test_losses.py, with its value '
        "as a slow loop from tests/losses/reference.py; if that is too long for a row, add the name to "
        f"TESTED_IN_OWN_FILE in tests/losses/test_losses.py, and the oracle to tests/losses/test_{name}.py"
    )


def test_every_oracle_is_that_of_a_registered_loss() -> None:
    assert {*(row.loss for row in ROWS), *TESTED_IN_OWN_FILE} <= set(LOSSES.names())


@pytest.mark.parametrize("name", TESTED_IN_OWN_FILE)
def test_a_loss_without_a_row_has_a_file_of_tests(name: str) -> None:
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


@every_row
@pytest.mark.parametrize("shape", [(8, 10), (8, 2), (5, 3)], ids=str)
def test_value_follows_the_formula(row: Row, shape: tuple[int, int]) -> None:
    case = random_case(row, *shape)
    assert value(row, *case).item() == pytest.approx(expected(row, *case), rel=1e-11)


@every_row
def test_single_image_is_like_any_other_batch_or_refused(row: Row) -> None:
    case = random_case(row, 1, 10)
    if "single image" in row.unlike:
        with pytest.raises(ValueError, match="2 images or more"):
            value(row, *case)
    else:
        assert value(row, *case).item() == pytest.approx(expected(row, *case), rel=1e-11, abs=1e-14)


@every_row
def test_gradient_is_the_derivative_of_the_value(row: Row) -> None:
    student, teacher, batch = random_case(row, 3, 4)
    loss, student = prepared(row, student, teacher), leaves(student)
    of_parts = torch.autograd.grad(loss(student, teacher, batch), parts(student), allow_unused=True)
    read = [number for number, gradient in enumerate(of_parts) if gradient is not None]
    assert read

    def function_of_read_parts(*tensors: Tensor) -> Tensor:
        all_parts = parts(student)
        for number, tensor in zip(read, tensors, strict=True):
            all_parts[number] = tensor
        return cast(Tensor, loss(from_parts(all_parts), teacher, batch))

    inputs = [parts(student)[number] for number in read]
    holds = torch.autograd.gradcheck(function_of_read_parts, inputs, raise_exception="gradient" not in row.unlike)
    assert holds is ("gradient" not in row.unlike)


class LinearNet(nn.Module):
    """A linear network that returns every part of an output."""

    def __init__(self, num_classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.shapes = [tensor.shape[1:] for tensor in parts(random_output(1, num_classes, widths, seed=0))]
        self.linear = nn.Linear(12, sum(shape.numel() for shape in self.shapes))

    def forward(self, images: Tensor) -> Output:
        pieces = self.linear(images.flatten(1)).split([shape.numel() for shape in self.shapes], dim=1)
        return from_parts([piece.unflatten(1, shape) for piece, shape in zip(pieces, self.shapes, strict=True)])


@every_row
def test_student_and_loss_get_a_gradient_and_the_teacher_none(row: Row) -> None:
    same = Normalisation(mean=(0.5,) * 3, std=(0.2,) * 3)
    net = LinearNet(5, TEACHER)
    teacher = LiveTeacher(
        net, normalisation=same, data_normalisation=same, dtype=torch.float32, device=torch.device("cpu")
    )
    student = LinearNet(5, TEACHER if "widths" in row.unlike else STUDENT)
    batch = make_batch(4, 5)
    loss = prepared(row, student(batch.images), teacher(batch))
    loss(student(batch.images), teacher(batch), batch).backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in [*student.parameters(), *loss.parameters()])


@pytest.mark.parametrize("row", [row for row in ROWS if row.least_at_teacher], ids=row_name)
def test_nothing_is_better_than_the_teacher_s_own_output(row: Row) -> None:
    teacher, batch = random_output(6, 10, TEACHER, seed=2), make_batch(6, 10)
    student = leaves(teacher)
    least = value(row, student, teacher, batch)
    steepest = max(gradient.abs().max().item() for gradient in gradients(least, student))
    for seed in range(5):
        noise = parts(random_output(6, 10, TEACHER, seed=10 + seed, scale=0.1))
        noisy = leaves(from_parts([tensor + delta for tensor, delta in zip(parts(teacher), noise, strict=True)]))
        higher = value(row, noisy, teacher, batch)
        assert higher > least
        assert steepest < 1e-4 * max(gradient.abs().max().item() for gradient in gradients(higher, noisy))


@every_row
def test_order_of_the_batch_does_not_matter(row: Row) -> None:
    student, teacher, batch = random_case(row, 7, 10)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    shuffled_student, shuffled_teacher = (map_parts(output, lambda t: t[order]) for output in (student, teacher))
    shuffled_batch = Batch(*(tensor[order] for tensor in batch))
    shuffled = value(row, shuffled_student, shuffled_teacher, shuffled_batch)
    same = shuffled.item() == pytest.approx(value(row, student, teacher, batch).item(), rel=1e-11)
    assert same is ("order" not in row.unlike)


@every_row
def test_value_does_not_grow_with_the_batch(row: Row) -> None:
    student, teacher, batch = random_case(row, 4, 10)
    double_student, double_teacher = (map_parts(output, lambda t: torch.cat([t, t])) for output in (student, teacher))
    double_batch = Batch(*(torch.cat([tensor, tensor]) for tensor in batch))
    twice = value(row, double_student, double_teacher, double_batch)
    same = twice.item() == pytest.approx(value(row, student, teacher, batch).item(), rel=1e-6)
    assert same is ("batch size" not in row.unlike)


@every_row
def test_last_small_batch_is_like_any_other(row: Row) -> None:
    large, small = random_case(row, 8, 10), random_case(row, 3, 10, seed=3)
    loss = prepared(row, large[0], large[1])
    loss(*large)
    assert loss(*small).item() == value(row, *small).item()


@every_row
def test_a_loss_that_was_saved_and_loaded_is_the_same(row: Row) -> None:
    first, second = random_case(row, 8, 10), random_case(row, 8, 10, seed=3)
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
    student, teacher, batch = random_case(row, 8, num_classes)
    student = leaves(map_parts(student, lambda tensor: (scale * tensor).float()))
    teacher = map_parts(teacher, lambda tensor: (max(scale, 1) * tensor).float())
    loss = value(row, student, teacher, batch)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, student))


@every_row
def test_bfloat16_is_compared_in_float32(row: Row) -> None:
    student, teacher, batch = random_case(row, 8, 10)
    student, teacher = map_parts(student, Tensor.bfloat16), map_parts(teacher, Tensor.bfloat16)
    objective = Objective({row.loss: (prepared(row, student, teacher), TermOptions())})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = objective(student, teacher, batch, epoch=0.0)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected(row, student, teacher, batch), rel=1e-5)


@every_row
def test_loss_reads_of_the_teacher_only_what_it_needs(row: Row) -> None:
    student, teacher, batch = random_case(row, 8, 10)
    loss = prepared(row, student, teacher)
    needs = {"logits" if need == "probabilities" else need for need in loss.needs if need != "classifier"}
    needed = cast(Output, SimpleNamespace(**{part: getattr(teacher, part) for part in needs}))
    assert torch.equal(loss(student, needed, batch), value(row, student, teacher, batch))


@every_row
def test_loss_that_needs_probabilities_does_not_depend_on_a_shift_of_the_logits(row: Row) -> None:
    student, teacher, batch = random_case(row, 8, 10)
    shifted = teacher._replace(logits=teacher.logits + torch.arange(8.0)[:, None])
    same = torch.allclose(value(row, student, shifted, batch), value(row, student, teacher, batch))
    assert same is not ("logits" in prepared(row, student, teacher).needs and "shift" not in row.unlike)


# Several processes ----------------------------------------------------------------------------------------------------

OPTIONS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in LOSSES.names()]
OPTIONS.append(("self_distillation", {"feature_reduction": "sum"}))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_loss_needs_the_global_batch_where_it_is_not_a_mean_over_images(name: str, options: dict[str, Any]) -> None:
    num_classes = 2 if name == "dkpp" else 10  # with two classes there is one permutation alone
    student, teacher = (random_output(8, num_classes, TEACHER, seed) for seed in (1, 2))
    if name == "simkd":  # for teachers that classify the mean of their last map
        teacher = teacher._replace(embedding=teacher.maps[-1].mean(dim=(2, 3)))
    early = random_output(8, num_classes, TEACHER, seed=3)
    batch = make_batch(8, num_classes)
    row = Row(name, options, lambda s, t, y, _: 0.0)

    def value_of(images: slice) -> float:
        student_part, teacher_part, exit_part = (
            map_parts(output, lambda t: t[images]) for output in (student, teacher, early)
        )
        loss = prepared(row, student, teacher).eval()  # batch norm is another matter: it can be synchronised
        inputs = student_part._replace(exits=(exit_part,)), teacher_part, Batch(*(tensor[images] for tensor in batch))
        return cast(float, loss(*inputs).item())

    global_value, halves = value_of(slice(8)), (value_of(slice(4)), value_of(slice(4, 8)))
    is_mean = global_value == pytest.approx(sum(halves) / 2, rel=1e-9)
    assert is_mean is not bool(prepared(row, student, teacher).global_batch)
