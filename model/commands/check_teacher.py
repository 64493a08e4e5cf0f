"""Before a step is spent on a teacher: its accuracy on val, and where that is too low, what is probably the matter."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..build.classes import describe_groups
from ..build.experiment import Experiment
from ..build.teacher import build_live_member
from ..build.weights import WeightsFile
from ..errors import OptionError
from ..files import is_number, read_intact
from ..logs import log
from ..teachers.live import LiveTeacher
from ..types import COMPARE_CLASSES, Batch, Normalisation, Shard, Split

NUM_IMAGES = 500  # of val, spread evenly over it
NUM_AT_ONCE = 50
MAX_SECONDS = 10.0  # after which a slow teacher is run on no more images
TOLERANCE = 0.05  # an accuracy that is lower than expected by this, beyond chance, is too low
GAIN = 0.1  # a cause is named where its accuracy is higher by this, beyond chance
NUM_DEVIATIONS = 3.0  # what is beyond chance, in standard errors
OTHER_NORMALISATIONS = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean 0.5 and std 0.5": ((0.5,), (0.5,)),
    "pixels in 0..1 (mean 0, std 1)": ((0.0,), (1.0,)),
    "pixels in 0..255 (mean 0, std 1/255)": ((0.0,), (1 / 255,)),
}
BATCH_NORM = nn.modules.batchnorm._BatchNorm


class Measured(NamedTuple):
    """A teacher's answers to some images."""

    logits: Tensor  # (N, K)
    labels: Tensor  # (N,)

    @property
    def accuracy(self) -> float:
        return (self.logits.argmax(dim=1) == self.labels).double().mean().item()


def check_teachers(experiment: Experiment, weights: Sequence[WeightsFile]) -> None:
    """Measure, log and write into run.json the accuracy of each teacher, unless it is there already.

    Teachers whose classes no loss term compares are left out.

    Raises:
        UserError: One is much worse than it should be; the message says what it probably is.
    """
    folder = experiment.folder
    known = folder.read_run().get("teacher_accuracy", {}) if folder.checkpoint("last").exists() else {}
    found = {}
    for teacher, file in zip(experiment.teachers_in_use, weights, strict=True):
        groups = experiment.classes_of_teacher(teacher)
        if groups is not None:
            what = describe_groups(groups, experiment.class_names, teacher.class_names)
            log.info("teacher %s: %s", teacher.name, what)
        if not experiment.objective.needs & COMPARE_CLASSES:
            continue
        found[teacher.name] = known.get(teacher.name) or _check(experiment, teacher, file)
    if found:
        folder.update_run(teacher_accuracy=found)


def _check(experiment: Experiment, teacher: Experiment, file: WeightsFile) -> dict[str, float]:
    """Accuracy and number of images, for run.json."""
    live = build_live_member(experiment, teacher, file)
    split: Split = "val" if experiment.data.size("val") else "train"
    batches, measured = _sample(experiment, live, split)
    accuracy, num_images = measured.accuracy, len(measured.labels)
    expected = _expected_accuracy(experiment, teacher)
    log.info("teacher %s: accuracy %.1f %% on %d images of %s", teacher.name, 100 * accuracy, num_images, split)
    chance = 1 / len(experiment.class_names)
    if expected is None:
        is_low = accuracy <= chance + _deviation(chance, num_images)
    else:
        is_low = accuracy < expected - TOLERANCE - _deviation(expected, num_images)
    if is_low:
        text = f"its accuracy is {100 * accuracy:.1f} % on {num_images} images of {split}"
        cause = _probable_cause(experiment, live, batches, measured)
        if expected is None and not cause:
            log.warning("teacher %s: %s, no better than chance", teacher.name, text)
        else:
            should = "" if expected is None else f", {100 * expected:.1f} % are expected"
            with experiment.naming_params():
                raise OptionError(
                    "teacher",
                    f"{teacher.name}: {text}{should}: {cause or 'it may have been trained on other images'}; "
                    "expected_accuracy accepts less",
                )
    return {"accuracy": accuracy, "num_images": num_images}


def _expected_accuracy(experiment: Experiment, teacher: Experiment) -> float | None:
    """What params.json expects, else what the teacher's own run has had on val; None where neither is known."""
    if experiment.teacher_options.expected_accuracy is not None:
        return experiment.teacher_options.expected_accuracy
    own = read_intact(teacher.folder.metrics("val", experiment.teacher_options.weights))
    return float(own["accuracy"]) if is_number(own.get("accuracy")) else None


def _sample(experiment: Experiment, live: LiveTeacher, split: Split) -> tuple[list[Batch], Measured]:
    """Images as they are evaluated, spread evenly over a split, and the teacher's outputs for them."""
    num_parts = max(1, experiment.data.size(split) // NUM_AT_ONCE)
    batches: list[Batch] = []
    start, measured = time.monotonic(), []
    for part in range(min(num_parts, NUM_IMAGES // NUM_AT_ONCE)):
        if time.monotonic() - start > MAX_SECONDS:
            break
        for batch in experiment.data.eval_batches(split, NUM_AT_ONCE, Shard(part, num_parts)):
            batches.append(batch)
            measured.append(_measure(experiment, live, [batch]))
    return batches, Measured(*map(torch.cat, zip(*measured, strict=True)))


def _measure(experiment: Experiment, live: LiveTeacher, batches: Sequence[Batch]) -> Measured:
    num_classes = len(experiment.class_names)  # the rest may be one more
    logits_NK = torch.cat([live(batch).logits[:, :num_classes].float().cpu() for batch in batches])
    return Measured(logits_NK, torch.cat([batch.labels.cpu() for batch in batches]))


def _deviation(accuracy: float, num_images: int) -> float:
    return NUM_DEVIATIONS * math.sqrt(accuracy * (1 - accuracy) / num_images)


# What is probably the matter -----------------------------------------------------------------------------------------


def _probable_cause(experiment: Experiment, live: LiveTeacher, batches: Sequence[Batch], measured: Measured) -> str:
    """What would make the teacher most accurate; empty where nothing helps much."""
    own = experiment.source.normalisation
    reverse = Normalisation(mean=own.mean[::-1], std=own.std[::-1])
    reversed_batches = [replace(batch, images=batch.images.flip(1)) for batch in batches]

    def accuracy_of(normalisation: Normalisation, *, reversed_channels: bool = False, training: bool = False) -> float:
        if training and not any(isinstance(module, BATCH_NORM) for module in live.net.modules()):
            return 0.0
        other = LiveTeacher(
            copy.deepcopy(live.net) if training else live.net,  # in training mode it changes
            normalisation=normalisation,
            data_normalisation=reverse if reversed_channels else own,
            dtype=live.dtype,
            device=live.device,
            image_size=live.image_size,
        )
        other.net.train(training)
        return _measure(experiment, other, reversed_batches if reversed_channels else batches).accuracy

    causes = {}
    normalisations = {"the mean and std of the student's data": own} | {
        name: Normalisation(mean=_per_channel(mean, own), std=_per_channel(std, own))
        for name, (mean, std) in OTHER_NORMALISATIONS.items()
    }
    for name, normalisation in normalisations.items():
        text = f"it was trained on images of another normalisation, and has {{}} with {name}"
        causes[text] = accuracy_of(normalisation)
    causes["it was trained on images whose channels are in reverse order, and has {} on such"] = accuracy_of(
        live.normalisation, reversed_channels=True
    )
    causes["the running statistics of its batch norm do not fit its weights, and it has {} in training mode"] = (
        accuracy_of(live.normalisation, training=True)
    )
    # Last: an order of classes that is chosen by the labels may also make up for something else.
    causes["its classes are in another order, and it has {} with the best one: class_names or class_map can tell"] = (
        _permuted_accuracy(measured)
    )
    text, accuracy = max(causes.items(), key=lambda item: item[1])
    margin = GAIN + _deviation(accuracy, len(measured.labels))
    return text.format(f"{100 * accuracy:.1f} %") if accuracy > measured.accuracy + margin else ""


def _per_channel(values: tuple[float, ...], own: Normalisation) -> tuple[float, ...]:
    num_channels = len(own.mean)
    return values if len(values) == num_channels else (sum(values) / len(values),) * num_channels


def _permuted_accuracy(measured: Measured) -> float:
    """The accuracy with the best order of classes, which is found on one half of the images and tried on the other."""
    from scipy.optimize import linear_sum_assignment  # takes a moment, and is seldom needed

    predicted_N, labels_N = measured.logits.argmax(dim=1).numpy(), measured.labels.numpy()
    num_classes = measured.logits.shape[1]
    correct = 0
    for found_on in (0, 1):
        confusion_KK = np.zeros((num_classes, num_classes))
        np.add.at(confusion_KK, (predicted_N[found_on::2], labels_N[found_on::2]), 1)
        _, label_K = linear_sum_assignment(confusion_KK, maximize=True)
        tried = slice(1 - found_on, None, 2)
        correct += int((label_K[predicted_N[tried]] == labels_N[tried]).sum())
    return correct / len(labels_N)
