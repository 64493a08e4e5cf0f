"""Evaluate what was trained: one run, or the generations of a born-again folder and their ensembles."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch

from ..build.experiment import Experiment
from ..build.restore import RestoredNetwork, restored_network
from ..build.teacher import build_live_teacher, read_teacher_weights
from ..build.weights import WeightsFile
from ..config.folder import Folder, Weights
from ..config.generations import generation_folders
from ..errors import UserError
from ..evaluation.calibration import reliability
from ..evaluation.details import all_metrics_of, metrics_of_exits
from ..evaluation.fidelity import fidelity_of
from ..evaluation.latency import BATCH_SIZES, Latency, latency
from ..evaluation.metrics import Predictions, accuracy, confusion_matrix, metrics_of, predict
from ..evaluation.summary import markdown, per_class
from ..files import atomic_write, write_json, write_text
from ..logs import format_bytes, logging_to
from ..markdown import markdown_table
from ..teachers.ensemble import COMBINE, CombineName
from ..training.malloc import keep_freed_memory
from ..training.precision import widest_float
from ..training.threads import limit_threads
from ..types import Output, Split
from .signals import one_line_errors

SECONDS_OF_LATENCY = 0.5  # of each batch size


class Evaluation(NamedTuple):
    """A page of Markdown, and the JSON file beside it with all that it says."""

    page: str
    path: Path


def evaluate(
    experiment: Experiment,
    *,
    split: Split = "test",
    restore_file: str = "best",
    temperature: float = 1.0,
    ensemble: CombineName = "probabilities",
) -> Evaluation:
    """Write a folder's evaluation under its evaluation/.

    Args:
        restore_file: best, last, ema, or the path of a weights file.
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
    return predict_with(experiment, restored_network(experiment, weights), split)


def predict_with(experiment: Experiment, net: RestoredNetwork, split: Split) -> Predictions:
    """The same of a network that has been restored already."""
    data = experiment.data
    if not data.size(split):
        raise UserError(f"{experiment.folder.params}: the split {split} is empty (val_size 0)")
    batches = data.eval_batches(split, experiment.eval_batch_size)
    return predict(net, batches, dtype=torch.float32, device=experiment.runtime.device)


@torch.no_grad()
def compare_with_teacher(experiment: Experiment, student: RestoredNetwork, split: Split) -> dict[str, float]:
    """How closely a student follows its teacher on a split; empty where it has no trained one."""
    if not experiment.teachers_in_use or experiment.untrained_dependencies:
        return {}
    teacher = build_live_teacher(experiment, read_teacher_weights(experiment))
    assert teacher is not None
    outputs: tuple[list[Output], list[Output]] = ([], [])
    labels = []
    for batch in experiment.data.eval_batches(split, experiment.eval_batch_size):
        for parts, output in zip(outputs, (student(batch.images), teacher(batch)), strict=True):
            parts.append(Output(logits=output.logits.float(), embedding=output.embedding.float()))
        labels.append(batch.labels)
    return fidelity_of(_concatenated(outputs[0]), _concatenated(outputs[1]), torch.cat(labels))


def _concatenated(outputs: Sequence[Output]) -> Output:
    logits, embeddings = zip(*((output.logits, output.embedding) for output in outputs), strict=True)
    return Output(logits=torch.cat(logits), embedding=torch.cat(embeddings))


def weights_named(experiment: Experiment, restore_file: str) -> WeightsFile:
    """The weights file that --restore_file names: best, last, ema, or the path of a file.

    Raises:
        UserError: It is missing, cut short, or holds more than tensors and plain values.
    """
    if restore_file in get_args(Weights):
        return WeightsFile.read(experiment.folder.checkpoint(restore_file))  # type: ignore[arg-type]
    return WeightsFile.read(Path(restore_file))


def latencies_of(experiment: Experiment, net: RestoredNetwork) -> list[Latency]:
    """The network's latency on single images and on a batch, in the precision that it was trained in."""
    shape, runtime = experiment.source.image_shape, experiment.runtime
    return [
        latency(net, shape, batch_size=size, dtype=experiment.dtype, device=runtime.device, seconds=SECONDS_OF_LATENCY)
        for size in BATCH_SIZES
    ]


def _evaluate_run(experiment: Experiment, split: Split, restore_file: str, temperature: float) -> Evaluation:
    folder, class_names = experiment.folder, experiment.class_names
    weights = weights_named(experiment, restore_file)
    net = restored_network(experiment, weights)
    result = predict_with(experiment, net, split)
    metrics = all_metrics_of(result) | compare_with_teacher(experiment, net, split)
    exits = metrics_of_exits(result)
    confusion_KK = confusion_matrix(result.logits, result.labels)
    classes = per_class(confusion_KK, class_names)
    size, latencies = weights.path.stat().st_size, latencies_of(experiment, net)
    title = f"{folder.name}, {split} split, {weights.path.name}"
    page = markdown(title, metrics, exits, describe_cost(experiment, size, latencies), classes)
    content = {
        **metrics,
        **experiment.cost._asdict(),
        "file_bytes": size,
        "latency": [each._asdict() for each in latencies],
        "precision": str(experiment.dtype).removeprefix("torch."),
        "epoch": weights.epoch,
        "fingerprint": experiment.data.fingerprint.as_json(),
        "exits": exits,
        "classes": classes,
        "confusion": confusion_KK.tolist(),
        "reliability": {
            name: values.tolist() for name, values in reliability(result.logits, result.labels)._asdict().items()
        },
    }
    is_own, used = restore_file in get_args(Weights), weights.path
    suffix = restore_file if is_own else f"{used.parent.name}_{used.name.partition('.')[0]}"
    path = folder.evaluation / f"{split}_{suffix}"
    with writing_evaluation(folder):
        write_json(path.with_suffix(".json"), content)
        write_text(path.with_suffix(".md"), page)
        write_text(folder.evaluation / f"{path.name}_confusion.csv", _csv(class_names, confusion_KK.tolist()))
        with atomic_write(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays(result, temperature))  # type: ignore[arg-type]
    return Evaluation(f"{page}\nWritten to {path}.md, .json, .npz and _confusion.csv", path.with_suffix(".json"))


def describe_cost(experiment: Experiment, file_bytes: int, latencies: Sequence[Latency]) -> str:
    """Size and speed of a network in a line."""
    precision, device = str(experiment.dtype).removeprefix("torch."), experiment.runtime.device.type
    threads = f", {latencies[0].threads} threads" if device == "cpu" else ""
    times = ", ".join(map(str, latencies))
    return f"{experiment.cost}, file of {format_bytes(file_bytes)}; {times}, {precision} on {device}{threads}"


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


def _evaluate_generations(experiment: Experiment, split: Split, restore_file: str, ensemble: CombineName) -> Evaluation:
    folder = experiment.folder
    if restore_file not in get_args(Weights):
        raise UserError(f"--restore_file of {folder.name}, which holds generations, must be best, last or ema")
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
    with writing_evaluation(folder):
        write_json(path.with_suffix(".json"), {"generations": metrics, "ensemble_accuracy": ensemble_accuracies})
        write_text(path.with_suffix(".md"), page)
    return Evaluation(f"{page}\nWritten to {path}.md and .json", path.with_suffix(".json"))


@contextmanager
def writing_evaluation(folder: Folder) -> Iterator[None]:
    """A block that writes into evaluation/."""
    try:
        folder.evaluation.mkdir(exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{folder.evaluation}: cannot write here ({error.strerror})") from None
