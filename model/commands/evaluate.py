"""Evaluate what was trained: one run, or the generations of a born-again folder and their ensembles."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..build.experiment import Experiment
from ..build.seen import describe_seen, held_out_seen
from ..build.teacher import build_live_teacher, read_teacher_weights
from ..build.weights import WeightsFile
from ..config.folder import Folder
from ..config.generations import generation_folders
from ..errors import UserError
from ..evaluation.details import details_of
from ..evaluation.fidelity import fidelity_of
from ..evaluation.metrics import Predictions, accuracy, confusion_matrix, metrics_of, predict
from ..evaluation.summary import markdown, per_class
from ..files import atomic_write, write_json, write_text
from ..logs import log, logging_to
from ..markdown import markdown_table
from ..teachers.ensemble import COMBINE, CombineName
from ..training.malloc import keep_freed_memory
from ..training.precision import to_device, widest_float
from ..training.threads import limit_threads
from ..types import Split
from .signals import one_line_errors


def evaluate(
    experiment: Experiment,
    *,
    split: Split = "test",
    restore_file: str = "best",
    temperature: float = 1.0,
    ensemble: CombineName = "probabilities",
) -> str:
    """Write a folder's evaluation under its evaluation/ and return it as a page of Markdown.

    Args:
        restore_file: best, last, or the path of a weights file.
        temperature: Divides the logits of the probabilities that are written.
        ensemble: How the outputs of generations are averaged.

    Raises:
        UserError: There is nothing to evaluate, or the folder cannot be written to.
    """
    keep_freed_memory()
    limit_threads()
    if temperature <= 0:
        raise UserError(f"--temperature must be positive, got {temperature}")
    with logging_to(None), one_line_errors(experiment.folder):
        if experiment.written_params.generations:
            return _evaluate_generations(experiment, split, restore_file, ensemble)
        return _evaluate_run(experiment, split, restore_file, temperature)


def predict_split(experiment: Experiment, weights: WeightsFile, split: Split) -> Predictions:
    """The network's predictions for a split, in float32 and in the normalisation of its weights file.

    Raises:
        UserError: The weights are another network's, or the split is empty.
    """
    device, data = experiment.runtime.device, experiment.data
    columns = experiment.columns_of(weights)
    _log_differences(experiment, weights)
    net = to_device(experiment.network(), device)
    weights.load_into(net)
    if not data.size(split):
        raise UserError(f"{experiment.folder.params}: the split {split} is empty (val_size 0)")
    renormalise = weights.renormalisation(experiment.source, device)
    batches = (
        batch._replace(images=renormalise(batch.images))
        for batch in data.eval_batches(split, experiment.eval_batch_size)
    )
    result = predict(net, batches, dtype=torch.float32, device=device)
    if columns is None:
        return result
    log.info("%s: the classes of %s are put in the order of the data's", experiment.name, weights.path)
    exits = tuple(logits_NK[:, columns] for logits_NK in result.exits)
    return result._replace(logits=result.logits[:, columns], exits=exits)


@torch.no_grad()
def compare_with_teacher(experiment: Experiment, result: Predictions, split: Split) -> dict[str, float]:
    """How closely a student follows its teacher on a split; empty where it has no trained one.

    Args:
        result: The student's predictions for the split.
    """
    if not experiment.teachers_in_use or experiment.untrained_dependencies:
        return {}
    teacher = build_live_teacher(experiment, read_teacher_weights(experiment))
    assert teacher is not None
    batches = experiment.data.eval_batches(split, experiment.eval_batch_size)
    return fidelity_of(result.logits, torch.cat([teacher(batch).logits for batch in batches]), result.labels)


def _log_differences(experiment: Experiment, weights: WeightsFile) -> None:
    """Tell where the data is not that of the weights' own run: the accuracy may not be what it seems."""
    data, source = experiment.data, experiment.source
    if changes := data.fingerprint.changes_since(weights.content.get("fingerprint", {})):
        log.warning("%s: the data is not that which the weights were trained with: %s", weights.path, changes)
    if weights.source is not None and weights.source.image_shape != source.image_shape:
        shapes = weights.source.image_shape, source.image_shape
        log.warning("%s: was trained on images of shape %s, these are %s", weights.path, *shapes)
    counts = held_out_seen(experiment, weights.seen)
    if counts is not None and (text := describe_seen(experiment, counts)):
        log.warning("%s: %s", weights.path, text)


def _evaluate_run(experiment: Experiment, split: Split, restore_file: str, temperature: float) -> str:
    folder, class_names = experiment.folder, experiment.class_names
    is_own = restore_file in ("best", "last")
    path = folder.checkpoint(restore_file) if is_own else Path(restore_file)  # type: ignore[arg-type]
    weights = WeightsFile.read(path)
    result = predict_split(experiment, weights, split)
    metrics = metrics_of(result) | details_of(result) | compare_with_teacher(experiment, result, split)
    confusion_KK = confusion_matrix(result.logits, result.labels)
    classes = per_class(confusion_KK, class_names)
    page = markdown(f"{folder.name}, {split} split, {path.name}", metrics, experiment.cost, classes)
    suffix = restore_file if is_own else f"{path.parent.name}_{path.name.partition('.')[0]}"
    path = folder.evaluation / f"{split}_{suffix}"
    with _writing(folder):
        content = (
            metrics
            | experiment.cost._asdict()
            | {
                "epoch": weights.epoch,
                "fingerprint": experiment.data.fingerprint.as_json(),
                "classes": classes,
            }
        )
        write_json(path.with_suffix(".json"), content)
        write_text(path.with_suffix(".md"), page)
        write_text(folder.evaluation / f"{path.name}_confusion.csv", _csv(class_names, confusion_KK.tolist()))
        with atomic_write(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays(result, temperature))  # type: ignore[arg-type]
    return f"{page}\nWritten to {path}.md, .json, .npz and _confusion.csv"


def _csv(class_names: Sequence[str], confusion: list[list[int]]) -> str:
    """The confusion matrix: a row for each true class, a column for each predicted one."""
    text = io.StringIO()
    csv.writer(text).writerows([["true", *class_names]])
    csv.writer(text).writerows([name, *row] for name, row in zip(class_names, confusion, strict=True))
    return text.getvalue()


def arrays(result: Predictions, temperature: float) -> dict[str, np.ndarray]:
    """A row a sample: `index` in the data set, `labels`, `probabilities` (N, K), `correct`; and `confusion` (K, K)."""
    probabilities_NK = (result.logits / temperature).softmax(dim=1)
    return {
        "index": result.index.cpu().numpy(),
        "labels": result.labels.cpu().numpy(),
        "probabilities": probabilities_NK.cpu().numpy(),
        "correct": (result.logits.argmax(dim=1) == result.labels).cpu().numpy(),
        "confusion": confusion_matrix(result.logits, result.labels).cpu().numpy(),
        "temperature": np.array(temperature),
    }


def _evaluate_generations(experiment: Experiment, split: Split, restore_file: str, ensemble: CombineName) -> str:
    folder = experiment.folder
    if restore_file not in ("best", "last"):
        raise UserError(f"--restore_file of {folder.name}, which holds generations, must be best or last")
    children = generation_folders(folder, experiment.written_params)
    results = []
    for child in children:
        weights = WeightsFile.read(child.checkpoint(restore_file))  # type: ignore[arg-type]
        results.append(predict_split(Experiment(child.path, experiment.runtime), weights, split))
    metrics = [metrics_of(result) for result in results]
    dtype = widest_float(experiment.runtime.device)
    ensemble_accuracies = [
        accuracy(COMBINE[ensemble]([result.logits.to(dtype) for result in results[:count]]), results[0].labels)
        for count in range(1, len(results) + 1)
    ]
    rows = [
        (
            child.path.name,
            f"{100 * metrics[number]['accuracy']:.2f}",
            f"{metrics[number]['loss']:.4f}",
            " + ".join(map(str, range(number + 1))) if number else "-",
            f"{100 * ensemble_accuracies[number]:.2f}" if number else "-",
        )
        for number, child in enumerate(children)
    ]
    table = markdown_table(
        ("generation", "accuracy %", "loss", f"ensemble (mean of {ensemble})", "accuracy %"),
        rows,
        align=("left", "right", "right", "left", "right"),
    )
    page = f"# {folder.name}, {split} split, {restore_file} weights of {len(children)} generations\n\n{table}\n"
    path = folder.evaluation / f"{split}_{restore_file}_{ensemble}"
    with _writing(folder):
        write_json(path.with_suffix(".json"), {"generations": metrics, "ensemble_accuracy": ensemble_accuracies})
        write_text(path.with_suffix(".md"), page)
    return f"{page}\nWritten to {path}.md and .json"


@contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    """A block that writes into evaluation/."""
    try:
        folder.evaluation.mkdir(exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{folder.evaluation}: cannot write here ({error.strerror})") from None
