"""Cross-entropy with the labels, optionally smoothed; with two labels for each of a batch's mixed images.

Label smoothing: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, sec. 7.
https://arxiv.org/abs/1512.00567
Class weights are those of torch's cross_entropy: the mean over the batch is weighted by the weight of each image's
class. It is over the batch of all processes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import did_you_mean, preview
from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss

ClassWeights = Literal["balanced"] | dict[str, float]


@LOSSES.register("ce", example={"loss": {"ce": {}}})
class CrossEntropy(DistillLoss):
    """Mean cross-entropy over the batch.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        class_weights: "balanced" weighs each image by n / (K n_k), for n training images, n_k of them of its class, and
            K classes (as scikit-learn does); or an object of weights by class name, `{"cat": 2.0}`, 1 for the others.
    """

    needs = frozenset()
    labels = "mixed"
    class_weight: Tensor | None

    def __init__(self, *, label_smoothing: float = 0.0, class_weights: ClassWeights | None = None) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.register_buffer("class_weight", None, persistent=False)  # follows from the data
        if class_weights is not None:
            check_class_weights(class_weights)
            self.global_batch = frozenset({"logits"})  # the mean's weights are those of all images

    def prepare(self, context: LossContext) -> None:
        self.class_weight = class_weight_tensor(self.class_weights, context)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return cross_entropy(student.logits, batch, weight_K=self.class_weight, label_smoothing=self.label_smoothing)


def cross_entropy(
    logits_NK: Tensor, batch: Batch, *, weight_K: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The mean over the batch of each image's cross-entropy with its label, or with both labels by their shares.

    Args:
        weight_K: Weights of the classes; the mean is then weighted by those of the labels.
    """
    if weight_K is not None:
        weight_K = weight_K.to(logits_NK.dtype)
    if batch.partner_labels is None or batch.label_share is None:
        return F.cross_entropy(logits_NK, batch.labels, weight_K, label_smoothing=label_smoothing)
    losses_N = cross_entropies(logits_NK, batch, weight_K=weight_K, label_smoothing=label_smoothing)
    if weight_K is None:
        return losses_N.mean()
    weight_N = batch.label_share * weight_K[batch.labels] + (1 - batch.label_share) * weight_K[batch.partner_labels]
    return losses_N.sum() / weight_N.sum()


def cross_entropies(
    logits_NK: Tensor, batch: Batch, *, weight_K: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The cross-entropy of each image, times the weight of its class: (N, K) to (N,)."""

    def with_labels(label_N: Tensor) -> Tensor:
        return F.cross_entropy(logits_NK, label_N, weight_K, reduction="none", label_smoothing=label_smoothing)

    if batch.partner_labels is None or batch.label_share is None:
        return with_labels(batch.labels)
    own_N, partner_N = with_labels(batch.labels), with_labels(batch.partner_labels)
    return batch.label_share * own_N + (1 - batch.label_share) * partner_N


def check_class_weights(class_weights: ClassWeights) -> None:
    """Refuse weights that are no weights; names are checked when they are known.

    Raises:
        ValueError: A weight is negative, or none is given.
    """
    if class_weights == {} or (isinstance(class_weights, dict) and min(class_weights.values()) < 0):
        raise ValueError(f'class_weights must be "balanced" or an object of weights of 0 or more, got {class_weights}')


def class_weight_tensor(class_weights: ClassWeights | None, context: LossContext) -> Tensor | None:
    """The weight of each class, (K,); None without weights.

    Raises:
        ValueError: A class has another name.
    """
    if class_weights is None:
        return None
    num_classes = context.student.logits.shape[1]
    if class_weights == "balanced":
        count_K = context.labels[context.labels >= 0].bincount(minlength=num_classes)
        balanced_K = count_K.sum() / (count_K.count_nonzero() * count_K.double())
        return balanced_K.where(count_K > 0, 1.0).float()  # 1 for a class without training images
    weight_K = torch.ones(num_classes)
    for name, weight in class_weights.items():
        if name not in context.class_names:
            hint = did_you_mean(name, context.class_names)
            raise ValueError(f"class_weights: the data has no class {preview(name)}{hint}")
        weight_K[context.class_names.index(name)] = weight
    return weight_K
