"""evaluate.py --why: does a student learn from its teacher, and if not, why? A line for each cause that is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..build.experiment import Experiment
from ..build.restore import RestoredNetwork, restored_network
from ..build.teacher import build_live_teacher, read_teacher_weights
from ..build.trainer import build_trainer
from ..config.folder import Folder
from ..errors import UserError
from ..evaluation.diagnosis import (
    accuracy_by_class,
    agreement_with_labels,
    gradient_shares,
    label_smoothing_of,
    softness,
    worse_classes,
)
from ..evaluation.fidelity import agreement
from ..evaluation.metrics import Predictions, accuracy
from ..files import is_number, read_intact, write_json, write_text
from ..logs import logging_to
from ..training.malloc import keep_freed_memory
from ..training.threads import limit_threads
from ..types import Batch, Finding, Output, Teacher
from .evaluate import predict_split, predict_with, writing_evaluation
from .signals import one_line_errors

NUM_BATCHES = 8  # of training views
MIN_SHARE = 0.01  # of a term's gradient: with less it might as well not be there
MIN_LABEL_SMOOTHING = 0.03
MAX_CONTRADICTED = 0.05
MIN_MASS = 0.02  # with less outside of the top class, a teacher's outputs are labels
POINTS_BELOW_OWN = 0.2  # a teacher that is so much less accurate than it was has other labels or images before it
CAPACITY_GAP = 0.1
STILL_HIGH = 0.5  # of the largest learning rate


def why(experiment: Experiment, *, baseline: Experiment | None = None, more: Sequence[Finding] = ()) -> str:
    """Write a diagnosis of a distilled run under its evaluation/ and return it as Markdown.

    Nothing is read of test. All numbers are of val, or of the first batches of training views.

    Args:
        baseline: The same student trained alone.
        more: Findings on several runs, which stand at the end.

    Raises:
        UserError: The run is not trained, has no teacher that is, or holds no images out for val.
    """
    keep_freed_memory()
    limit_threads()
    with logging_to(None), one_line_errors(experiment.folder):
        if not experiment.teachers_in_use:
            raise UserError(f"{experiment.folder.params}: no loss term reads a teacher, so there is nothing to explain")
        if untrained := experiment.untrained_dependencies:
            raise UserError(f"{untrained[0].name}: the teacher has no weights here, without which nothing can be said")
        findings = [*_findings(experiment, baseline), *more]
    page = _page(experiment, findings)
    path = experiment.folder.evaluation / "why"
    with writing_evaluation(experiment.folder):
        write_json(path.with_suffix(".json"), [finding._asdict() for finding in findings])
        write_text(path.with_suffix(".md"), page)
    return f"{page}\nWritten to {path}.md and .json"


def _page(experiment: Experiment, findings: Sequence[Finding]) -> str:
    problems = [finding for finding in findings if finding.advice]
    head = f"{len(problems)} of {len(findings)} lines name a likely cause" if problems else "No known cause was found"
    ordered = [*problems, *(finding for finding in findings if not finding.advice)]
    lines = [f"- **{each.name}**: {each.text}" + (f" *Try: {each.advice}.*" if each.advice else "") for each in ordered]
    return f"# Why {experiment.name} is as good as it is\n\n{head}.\n\n" + "\n".join(lines) + "\n"


class Views(NamedTuple):
    """Training views with the outputs of both networks in eval mode."""

    batches: list[Batch]
    student: Tensor  # (N, K) logits
    teacher: Tensor  # likewise
    labels: Tensor  # (N,)


def _findings(experiment: Experiment, baseline: Experiment | None) -> list[Finding]:
    net = restored_network(experiment, experiment.read_weights("best"))
    teacher = build_live_teacher(experiment, read_teacher_weights(experiment), experiment.dtype)
    assert teacher is not None
    val = predict_with(experiment, net, "val")
    teacher_val = _teacher_predictions(experiment, teacher)
    views = _training_views(experiment, net, teacher)
    alone = None if baseline is None else predict_split(baseline, baseline.read_weights("best"), "val")
    findings = [
        _teacher_accuracy(experiment, val, teacher_val, alone),
        _labels(experiment, views),
        _label_smoothing(views),
        _temperature(experiment, views),
        _gradients(experiment, teacher, views),
        _agreement(experiment, val, teacher_val),
        _capacity(experiment, views),
        _learning_rate(experiment.folder),
        _inputs(experiment),
    ]
    return [finding for finding in findings if finding is not None]


@torch.no_grad()
def _teacher_predictions(experiment: Experiment, teacher: Teacher) -> Tensor:
    batches = experiment.data.eval_batches("val", experiment.eval_batch_size)
    return torch.cat([teacher(batch).logits.float() for batch in batches])


@torch.no_grad()
def _training_views(experiment: Experiment, net: RestoredNetwork, teacher: Teacher) -> Views:
    data = experiment.data
    batches = [*itertools.islice(data.train_batches(0, experiment.params.batch_size, 0), NUM_BATCHES)]
    if experiment.split_options.mixing:  # what is said of labels is said of images that have one
        batches = [data.augmented_batch(batch.index.cpu().numpy(), batch.view.cpu().numpy()) for batch in batches]
    outputs: list[Output] = [net(batch.images) for batch in batches]
    return Views(
        batches,
        torch.cat([output.logits.float() for output in outputs]),
        torch.cat([teacher(batch).logits.float() for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
    )


# Findings -----------------------------------------------------------------------------------------------------------


def _teacher_accuracy(
    experiment: Experiment, val: Predictions, teacher_NK: Tensor, alone: Predictions | None
) -> Finding:
    names = experiment.class_names
    own = accuracy(teacher_NK, val.labels)
    if alone is None:
        other, what, logits_NK, labels_N = accuracy(val.logits, val.labels), "the student", val.logits, val.labels
    else:
        other, what = accuracy(alone.logits, alone.labels), "the student alone"
        logits_NK, labels_N = alone.logits, alone.labels
    worse = worse_classes(
        accuracy_by_class(teacher_NK, val.labels, names), accuracy_by_class(logits_NK, labels_N, names)
    )
    text = f"{_percent(own)} on val, {what} has {_percent(other)}"
    text += f"; it is less accurate on {_list(worse)}." if worse else "; it is at least as accurate on every class."
    advice = "a better teacher, or one that is trained longer" if own <= other else None
    return Finding("teacher accuracy", text, advice)


def _labels(experiment: Experiment, views: Views) -> Finding:
    found = agreement_with_labels(views.teacher, views.labels)
    before = [_recorded_accuracy(teacher.folder) for teacher in experiment.teachers_in_use]
    best_before = max((value for value in before if value is not None), default=None)
    text = (
        f"the teacher predicts the label of {_percent(found.accuracy)} of the training views, and contradicts "
        f"{_percent(found.contradicted)} of those of which it is sure."
    )
    if best_before is not None and found.accuracy < best_before - POINTS_BELOW_OWN:
        text += f" In its own run it had {_percent(best_before)} on val."
        return Finding("labels", text, "to check labels and images: they are not those that the teacher was trained on")
    noisy = found.contradicted > MAX_CONTRADICTED
    return Finding("labels", text, "to look at these images: their labels may be wrong" if noisy else None)


def _recorded_accuracy(folder: Folder) -> float | None:
    """A trained folder's own accuracy on val; on test where it held none out."""
    for split in ("val", "test"):
        metrics = read_intact(folder.metrics(split, "best"))
        if is_number(metrics.get("accuracy")):
            return float(metrics["accuracy"])
    return None


def _label_smoothing(views: Views) -> Finding:
    found = label_smoothing_of(views.teacher)
    text = f"the teacher's least likely class has a probability as after label smoothing of at least {found:.2g}."
    advice = "a teacher without label smoothing, which makes all wrong classes alike; or temperature 1"
    return Finding("label smoothing", text, advice if found >= MIN_LABEL_SMOOTHING else None)


def _temperature(experiment: Experiment, views: Views) -> Finding | None:
    temperature = _temperature_of(experiment)
    if temperature is None:
        return None
    found = softness(views.teacher, temperature)
    low, high = found.sensible_temperatures
    text = (
        f"at temperature {temperature:g} the teacher gives {_percent(found.mass_at_temperature)} to other classes than "
        f"the first (at 1: {_percent(found.mass_at_1)}, entropy {found.entropy:.3f} nats). Temperatures between "
        f"{low:.2g} and {high:.2g} make sense."
    )
    is_hard = temperature < 1 or found.mass_at_temperature < MIN_MASS
    advice = (
        f"a temperature between {low:.2g} and {high:.2g}: these outputs are closer to labels than the teacher's own"
    )
    return Finding("temperature", text, advice if is_hard else None)


def _temperature_of(experiment: Experiment) -> float | None:
    """That of the first loss term that has one."""
    for loss, _ in experiment.objective.terms.values():
        temperature: Any = getattr(loss, "temperature", None)
        if is_number(temperature):
            return float(temperature)
    return None


def _gradients(experiment: Experiment, teacher: Teacher, views: Views) -> Finding | None:
    trainer = build_trainer(experiment, teacher)
    weights = experiment.read_weights("last" if experiment.folder.checkpoint("last").exists() else "best")
    weights.load_into(trainer.student)
    weights.load_terms_into(trainer.objective)
    step, objective = trainer.train_step, experiment.objective
    parts = {name for name, (loss, _) in objective.terms.items() if loss.part_names}

    def norms_of(number: int) -> dict[str, Tensor]:
        last_step = trainer.total_steps - 1
        step.set_train_mode()
        result = step.forward(trainer.student, views.batches[number], last_step)
        return {name: norm for name, norm in step.gradient_norms(result.terms, last_step).items() if name not in parts}

    shares = gradient_shares(norms_of, len(views.batches))
    if len(shares) < 2:
        return None
    text = "of the gradients' norms at the end of the run, " + ", ".join(
        f"{name} has {share:.2%}" for name, share in shares.items()
    )
    small = [name for name, share in shares.items() if share < MIN_SHARE]
    advice = f"more weight for {_list(small)}, which changes next to nothing" if small else None
    return Finding("gradients", f"{text}.", advice)


def _agreement(experiment: Experiment, val: Predictions, teacher_NK: Tensor) -> Finding:
    history = [row["agreement"] for row in experiment.folder.read_history() if is_number(row.get("agreement"))]
    text = f"the student predicts the teacher's class for {_percent(agreement(val.logits, teacher_NK))} of val"
    if len(history) > 1:
        text += f"; on training views {_percent(history[0])} after the first epoch, {_percent(history[-1])} at the end"
    return Finding("agreement", f"{text}.", None)


def _capacity(experiment: Experiment, views: Views) -> Finding:
    student, teacher = (accuracy(logits_NK, views.labels) for logits_NK in (views.student, views.teacher))
    followed = agreement(views.student, views.teacher)
    own, others = experiment.cost.parameters, sum(each.cost.parameters for each in experiment.teachers_in_use)
    text = (
        f"the student has {own:,} parameters, the teacher {format(others, ',') if others else 'an unknown number'}. "
        f"On training views it predicts the teacher's class for {_percent(followed)}, and the label for "
        f"{_percent(student)}; the teacher for {_percent(teacher)}."
    )
    advice = "a larger student, more epochs, less dropout, or a teacher between the two"
    return Finding("capacity", text, advice if teacher - student > CAPACITY_GAP else None)


def _learning_rate(folder: Folder) -> Finding | None:
    rates = [row["learning_rate"] for row in folder.read_history() if is_number(row.get("learning_rate"))]
    if not rates:
        return None
    share = rates[-1] / max(rates) if max(rates) else 1.0
    text = f"{rates[-1]:.3g} at the end, {share:.0%} of its largest value."
    advice = "a schedule that ends near 0 (cosine, onecycle)" if share >= STILL_HIGH else None
    return Finding("learning rate", text, advice)


def _inputs(experiment: Experiment) -> Finding:
    source = experiment.source
    parts = [f"the student sees images of {_shape(source.image_shape)} and {len(experiment.class_names)} classes"]
    for teacher in experiment.teachers_in_use:
        other = teacher.source
        same = "the same normalisation" if other.normalisation == source.normalisation else "its own normalisation"
        order = "in the same order" if experiment.classes_of_teacher(teacher) is None else "matched by name"
        parts.append(f"{teacher.name} was trained on {_shape(other.image_shape)} with {same}, its classes are {order}")
    return Finding("images and classes", f"{'; '.join(parts)}.", None)


def _shape(image_shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, image_shape))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
