"""Evaluate what was trained: one run, or the generations of a born-again folder and their ensembles."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from ..build.data import build_source
from ..build.network import build_network
from ..build.resolve import params_of
from ..build.runtime import Runtime
from ..build.trainer import EVAL_BATCH_SIZE, cost_of, open_data
from ..build.weights import load_weights
from ..config.folder import Folder
from ..config.generations import generation_folders
from ..config.params import load_params
from ..errors import UserError
from ..evaluation.metrics import (
    Predictions,
    accuracy,
    confusion_matrix,
    metrics_of,
    predict,
)
from ..evaluation.summary import markdown, per_class
from ..files import atomic_write, write_json, write_text
from ..teachers.ensemble import COMBINE, CombineName
from ..training.checkpoint import load_checkpoint
from ..training.malloc import keep_freed_memory
from ..training.precision import resolve_precision, to_device
from ..types import Split


def evaluate_folder(
    folder: Folder, place: Runtime, *, split: Split, restore_file: str, temperature: float, ensemble: CombineName
) -> str:
    """Write a folder's evaluation under its evaluation/, and tell it: a page of Markdown.

    Args:
        restore_file: best, last, or the path of a weights file.
        temperature: Divides the logits of the probabilities that are written.
        ensemble: How generations speak together.

    Raises:
        UserError: There is nothing to evaluate, or no place to write to.
    """
    keep_freed_memory()
    if temperature <= 0:
        raise UserError(f"--temperature must be positive, got {temperature}")
    params = load_params(folder.path)
    if params.generations:
        return _generations(folder, generation_folders(folder, params), place, split, restore_file, ensemble)
    return _run(folder, place, split, restore_file, temperature)


def said_by(folder: Folder, place: Runtime, split: Split, weights: Path, content: dict[str, Any]) -> Predictions:
    """What a run's network says of a split with the content of a weights file.

    Raises:
        UserError: The weights are another network's, or the split is empty.
    """
    params = params_of(folder)
    source = build_source(params, place)
    net = to_device(build_network(params, source), place.device)
    load_weights(net, content, weights)
    data = open_data(params, folder, source, place)
    if not data.size(split):
        raise UserError(f"{folder.params}: the split {split} is empty (val_size 0)")
    dtype = resolve_precision(params.precision, place.device)
    return predict(net, data.eval_batches(split, EVAL_BATCH_SIZE), dtype=dtype, device=place.device)


def _run(folder: Folder, place: Runtime, split: Split, restore_file: str, temperature: float) -> str:
    own = restore_file in ("best", "last")
    weights = folder.checkpoint(restore_file) if own else Path(restore_file)  # type: ignore[arg-type]
    content = load_checkpoint(weights)
    said = said_by(folder, place, split, weights, content)
    params = params_of(folder)
    source = build_source(params, place)
    class_names, cost = source.class_names, cost_of(params, source)
    metrics, confusion_KK = metrics_of(said), confusion_matrix(said.logits, said.labels)
    rows = per_class(confusion_KK, class_names)
    page = markdown(f"{folder.name}, {split} split, {weights.name}", metrics, cost, rows)
    chosen = restore_file if own else f"{weights.parent.name}_{weights.name.partition('.')[0]}"
    path = folder.evaluation / f"{split}_{chosen}"
    try:
        folder.evaluation.mkdir(exist_ok=True)
        told = metrics | cost._asdict() | {"epoch": content.get("epoch"), "classes": rows}
        write_json(path.with_suffix(".json"), told)
        write_text(path.with_suffix(".md"), page)
        with (folder.evaluation / f"{path.name}_confusion.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["true", *class_names]])
            csv.writer(file).writerows(
                [name, *row] for name, row in zip(class_names, confusion_KK.tolist(), strict=True)
            )
        with atomic_write(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays(said, temperature))  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"{folder.evaluation}: cannot write here ({error.strerror})") from None
    return f"{page}\nWritten to {path}.md, .json, .npz and _confusion.csv"


def arrays(said: Predictions, temperature: float) -> dict[str, np.ndarray]:
    """A row a sample: `index` (its place in the data set), `labels`, `probabilities` (N, K), `correct`; `confusion`."""
    probabilities_NK = (said.logits / temperature).softmax(dim=1)
    return {
        "index": said.index.cpu().numpy(),
        "labels": said.labels.cpu().numpy(),
        "probabilities": probabilities_NK.cpu().numpy(),
        "correct": (said.logits.argmax(dim=1) == said.labels).cpu().numpy(),
        "confusion": confusion_matrix(said.logits, said.labels).cpu().numpy(),
        "temperature": np.array(temperature),
    }


def _generations(
    folder: Folder, children: list[Folder], place: Runtime, split: Split, restore_file: str, ensemble: CombineName
) -> str:
    if restore_file not in ("best", "last"):
        raise UserError(f"--restore_file of {folder.name}, which holds generations, must be best or last")
    files = [child.checkpoint(restore_file) for child in children]  # type: ignore[arg-type]
    said = [
        said_by(child, place, split, file, load_checkpoint(file)) for child, file in zip(children, files, strict=True)
    ]
    alone = [metrics_of(each) for each in said]
    together = [
        accuracy(COMBINE[ensemble]([each.logits.double() for each in said[: count + 1]]), said[0].labels)
        for count in range(len(said))
    ]
    rows = [
        (
            child.path.name,
            f"{100 * metrics['accuracy']:.2f}",
            f"{metrics['loss']:.4f}",
            " + ".join(str(number) for number in range(count + 1)) if count else "-",
            f"{100 * together[count]:.2f}" if count else "-",
        )
        for count, (child, metrics) in enumerate(zip(children, alone, strict=True))
    ]
    table = tabulate(
        rows,
        headers=("generation", "accuracy %", "loss", f"ensemble (mean of {ensemble})", "accuracy %"),
        tablefmt="pipe",
        colalign=("left", "right", "right", "left", "right"),
        disable_numparse=True,
    )
    page = f"# {folder.name}, {split} split, {restore_file} weights of {len(children)} generations\n\n{table}\n"
    path = folder.evaluation / f"{split}_{restore_file}_{ensemble}"
    try:
        folder.evaluation.mkdir(exist_ok=True)
        write_json(path.with_suffix(".json"), {"generations": alone, "ensemble_accuracy": together})
        write_text(path.with_suffix(".md"), page)
    except OSError as error:
        raise UserError(f"{folder.evaluation}: cannot write here ({error.strerror})") from None
    return f"{page}\nWritten to {path}.md and .json"
