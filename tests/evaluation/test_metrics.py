"""Metrics, compared with slow loops, do not depend on how the samples are batched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

from model.evaluation.cost import Cost
from model.evaluation.metrics import Predictions, confusion_matrix, metrics_of, predict
from model.evaluation.summary import markdown, per_class
from model.types import Batch, Output

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
LOGITS_NK = torch.randn(1000, 10, generator=GENERATOR)
LABELS_N = torch.where(torch.rand(1000, generator=GENERATOR) < 0.4, LOGITS_NK.argmax(dim=1), torch.arange(1000) % 10)


class PixelsAsLogits(nn.Module):
    """Its logits are the image's pixels."""

    def forward(self, images: Tensor) -> Output:
        return Output(images.flatten(1), images.flatten(1))


def batches(batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(LABELS_N), batch_size):
        images = LOGITS_NK[start : start + batch_size, :, None, None]
        labels = LABELS_N[start : start + batch_size]
        yield Batch(images, labels, labels, labels)


def metrics_in_batches_of(batch_size: int) -> dict[str, float]:
    return metrics_of(predict(PixelsAsLogits(), batches(batch_size), dtype=torch.float32, device=CPU))


def test_metrics_are_counts_and_sums_over_samples() -> None:
    correct, among_five, loss = 0, 0, 0.0
    for scores, label in zip(LOGITS_NK.double().numpy(), LABELS_N.tolist(), strict=True):
        higher = sum(score > scores[label] for score in scores)
        correct += higher == 0
        among_five += higher < 5
        loss += np.log(np.exp(scores).sum()) - scores[label]
    metrics = metrics_in_batches_of(100)
    assert metrics == {
        "accuracy": correct / 1000,
        "top5_accuracy": among_five / 1000,
        "loss": pytest.approx(loss / 1000, rel=1e-12),
        "num_samples": 1000,
        "macro_recall": pytest.approx(by_torchmetrics(multiclass_recall), rel=1e-6),
        "macro_f1": pytest.approx(by_torchmetrics(multiclass_f1_score), rel=1e-6),
    }


def by_torchmetrics(metric: Callable[..., Tensor]) -> float:
    return metric(LOGITS_NK.argmax(dim=1), LABELS_N, num_classes=10, average="macro").item()


def test_means_over_classes_of_a_worked_case() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    metrics = metrics_of(Predictions(torch.eye(2)[predicted], labels, torch.arange(6)))
    assert metrics["macro_recall"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # Class 0: precision 3/4, recall 3/4. Class 1: precision 1/2, recall 1/2.
    assert metrics["macro_f1"] == pytest.approx((0.75 + 0.5) / 2)


def test_classes_without_images_have_no_part_in_the_means() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 2, 1])
    metrics = metrics_of(Predictions(torch.eye(4)[predicted], labels, torch.arange(4)))
    assert metrics["macro_recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["macro_f1"] == pytest.approx((2 * 2 / (2 + 3) + 1) / 2)


@pytest.mark.parametrize("batch_size", [1, 128, 999])
def test_metrics_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    assert metrics_in_batches_of(batch_size) == metrics_in_batches_of(1000)


@pytest.mark.parametrize(("num_classes", "expected"), [(5, False), (6, True)])
def test_top_5_accuracy_needs_six_classes(num_classes: int, expected: bool) -> None:
    metrics = metrics_of(Predictions(LOGITS_NK[:, :num_classes], LABELS_N % num_classes, torch.arange(len(LABELS_N))))
    assert ("top5_accuracy" in metrics) is expected


def test_every_exit_has_an_accuracy_and_all_together_that_of_their_mean_probabilities() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    early = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # right, right, no, no
    last = torch.tensor([[0.0, 1.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]])  # no, no, right, right
    metrics = metrics_of(Predictions(last, labels, labels, (early, early)))
    assert (metrics["exit_1_accuracy"], metrics["exit_2_accuracy"], metrics["accuracy"]) == (0.5, 0.5, 0.5)
    # Sums of probabilities: 1.79 of 3 for class 0, 1.82 for class 1, 2.05 for class 0, 1.39 for class 0. By the mean of
    # logits the second would be wrong: 9 outweighs 3 + 3.
    assert metrics["ensemble_accuracy"] == 0.75


class BatchNormAndDropout(nn.Module):
    """Batch norm and dropout: layers that train mode would change, or that would change the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.dropout, self.linear = nn.BatchNorm1d(10), nn.Dropout(0.5), nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Output:
        embedding = self.dropout(self.bn(images.flatten(1)))
        return Output(self.linear(embedding), embedding)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_network_as_it_was(training: bool) -> None:
    net = BatchNormAndDropout().train(training)
    before = copy.deepcopy(net.state_dict())
    predict(net, batches(100), dtype=torch.float32, device=CPU)
    assert net.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_evaluation_applies_no_dropout_and_builds_no_graph() -> None:
    net = BatchNormAndDropout()
    first, labels, *_ = predict(net, batches(100), dtype=torch.float32, device=CPU)
    second, *_ = predict(net, batches(7), dtype=torch.float32, device=CPU)
    torch.testing.assert_close(first, second)
    assert not first.requires_grad
    assert torch.equal(labels, LABELS_N)


def test_predictions_are_float32_whatever_the_precision() -> None:
    logits, *_ = predict(BatchNormAndDropout(), batches(100), dtype=torch.bfloat16, device=CPU)
    assert logits.dtype == torch.float32


def test_confusion_matrix_counts_pairs_of_true_and_predicted_class() -> None:
    expected = np.zeros((10, 10), int)
    for scores, label in zip(LOGITS_NK.numpy(), LABELS_N.tolist(), strict=True):
        expected[label, scores.argmax()] += 1
    assert confusion_matrix(LOGITS_NK, LABELS_N).tolist() == expected.tolist()


def test_class_rows_have_the_most_frequent_mistake() -> None:
    rows = per_class(torch.tensor([[5, 3, 2], [0, 4, 0], [1, 0, 9]]), ["cat", "dog", "ship"])
    assert rows == [
        {"class": "cat", "images": 10, "accuracy": 0.5, "precision": 5 / 6, "taken_for": "dog", "times": 3},
        {"class": "dog", "images": 4, "accuracy": 1.0, "precision": 4 / 7, "taken_for": None, "times": 0},
        {"class": "ship", "images": 10, "accuracy": 0.9, "precision": 9 / 11, "taken_for": "cat", "times": 1},
    ]


def test_class_without_a_sample_has_no_accuracy_and_one_never_predicted_no_precision() -> None:
    rows = per_class(torch.tensor([[0, 0], [3, 0]]), ["cat", "dog"])
    assert rows[0] == {"class": "cat", "images": 0, "accuracy": None, "precision": 0.0, "taken_for": None, "times": 0}
    assert rows[1] == {"class": "dog", "images": 3, "accuracy": 0.0, "precision": None, "taken_for": "cat", "times": 3}


DETAILS = {
    "accuracy_low": 0.6912,
    "accuracy_high": 0.8,
    "macro_recall": 0.75,
    "macro_f1": 0.74,
    "calibration_error": 0.031,
    "brier_score": 0.25,
}


def test_summary_has_a_row_for_every_exit_and_their_ensemble() -> None:
    metrics = {"accuracy": 0.78, "loss": 0.5, "num_samples": 100} | DETAILS
    exits = {"exit 1": metrics | {"accuracy": 0.6657}, "exit 2": metrics, "ensemble": metrics | {"accuracy": 0.79}}
    page = markdown("title", metrics, exits, "1,234 parameters", per_class(torch.eye(2), ["cat", "dog"]))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert [row[:2] for row in cells[:1] + cells[2:5]] == [
        ["exit", "accuracy %"],
        ["exit 1", "66.57"],
        ["exit 2", "78.00"],
        ["ensemble", "79.00"],
    ]


def test_summary_of_a_network_without_early_exits_has_no_line_for_them() -> None:
    metrics = {"accuracy": 0.78, "loss": 0.5, "num_samples": 100} | DETAILS
    page = markdown("title", metrics, {}, str(Cost(1234, 5_600_000)), per_class(torch.eye(2), ["cat", "dog"]))
    assert (
        "accuracy 78.00 % (95 %: 69.12 to 80.00), loss 0.5000, 100 images\n\n"
        "macro recall 75.00 %, macro F1 74.00 %, calibration error 3.10 %, Brier score 0.2500\n\n"
        "1,234 parameters"
    ) in page


def test_summary_has_dashes_for_missing_values() -> None:
    rows = per_class(torch.tensor([[0, 0], [1, 2]]), ["cat", "dog"])
    metrics = {"accuracy": 2 / 3, "loss": 0.5, "num_samples": 12345} | DETAILS
    page = markdown("title", metrics, {}, str(Cost(1234, 5_600_000)), rows)
    assert "loss 0.5000, 12,345 images" in page
    assert "1,234 parameters, 5,600,000 multiply-accumulates an image" in page
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert cells[2:] == [["cat", "0", "-", "0.00", "-"], ["dog", "3", "66.67", "100.00", "cat (1)"]]
