"""Evaluate several folders on the same images: a table with a row a network, and tests of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from ..build.experiment import Experiment
from ..build.restore import restored_network
from ..config.folder import Weights
from ..errors import UserError
from ..evaluation.cost import Cost
from ..evaluation.details import all_metrics_of
from ..evaluation.latency import Latency
from ..evaluation.metrics import Predictions
from ..evaluation.significance import McNemar, compare_on_same_images, holm_adjusted
from ..evaluation.summary import metrics_table
from ..files import write_json, write_text
from ..logs import format_bytes, logging_to
from ..markdown import markdown_table
from ..training.malloc import keep_freed_memory
from ..training.threads import limit_threads
from ..types import Split
from .evaluate import latencies_of, predict_with, weights_named, writing_evaluation
from .signals import one_line_errors

LEVEL = 0.05


def compare(experiments: Sequence[Experiment], *, split: Split = "test", restore_file: str = "best") -> str:
    """Write a comparison of several trained folders under the first one's evaluation/ and return it as Markdown.

    Each is tested against the first by McNemar's test on the images that only one of the two gets right.

    Args:
        restore_file: best, last or ema.

    Raises:
        UserError: A folder has nothing to evaluate, or other images or classes than the first.
    """
    keep_freed_memory()
    limit_threads()
    if restore_file not in get_args(Weights):
        raise UserError("--restore_file must be best, last or ema where several folders are compared")
    first = experiments[0]
    predictions: dict[str, Predictions] = {}
    costs: dict[str, tuple[Cost, int, list[Latency]]] = {}
    with logging_to(None):
        for experiment in experiments:
            with one_line_errors(experiment.folder):
                _refuse_other_images(experiment, first, split)
                weights = weights_named(experiment, restore_file)
                net = restored_network(experiment, weights)
                predictions[experiment.name] = predict_with(experiment, net, split)
                costs[experiment.name] = experiment.cost, weights.path.stat().st_size, latencies_of(experiment, net)
                if experiment is not first:
                    experiment.close()
    metrics = {name: all_metrics_of(result) for name, result in predictions.items()}
    tests = _tests_against_first(list(predictions.values()))
    page = "\n\n".join(
        [
            f"# {len(experiments)} folders, {split} split, {restore_file} weights",
            metrics_table("folder", metrics, _cost_columns(list(costs.values()))),
            _describe_latency(first, costs[first.name][2]),
            f"On the same {len(predictions[first.name].labels):,} images as {first.name}:",
            _tests_table(list(predictions)[1:], tests, len(predictions[first.name].labels)),
            "McNemar's test, exact, corrected by Holm's method. It asks whether these networks differ on such images, "
            "not whether others trained in the same way would: for that, compare several seeds "
            "(`synthesize_results.py --baseline`).",
        ]
    )
    path = first.folder.evaluation / f"compared_{split}_{restore_file}"
    content: dict[str, Any] = {
        name: values | costs[name][0]._asdict() | {"file_bytes": costs[name][1]} for name, values in metrics.items()
    }
    for name, (test, p_value) in zip(list(predictions)[1:], tests, strict=True):
        content[name]["against_first"] = test._asdict() | {"adjusted_p_value": p_value}
    with writing_evaluation(first.folder):
        write_json(path.with_suffix(".json"), content)
        write_text(path.with_suffix(".md"), f"{page}\n")
    return f"{page}\n\nWritten to {path}.md and .json"


def _refuse_other_images(experiment: Experiment, first: Experiment, split: Split) -> None:
    if experiment.written_params.generations:
        raise UserError(f"{experiment.name}: holds generations: name those that are to be compared")
    if experiment.class_names != first.class_names:
        raise UserError(f"{experiment.name} and {first.name} have other classes")
    if changes := experiment.data.fingerprint.changes_since(first.data.fingerprint.as_json()):
        raise UserError(f"{experiment.name} and {first.name} are not evaluated on the same data: {changes}")
    if split != "test" and experiment.split_options != first.split_options:
        raise UserError(
            f"{experiment.name} and {first.name} do not have the same options of the data set, so not the same {split}"
        )


def _tests_against_first(predictions: Sequence[Predictions]) -> list[tuple[McNemar, float]]:
    """McNemar's test of each network but the first, with its corrected p-value."""
    correct = [result.logits.argmax(dim=1) == result.labels for result in predictions]
    tests = [compare_on_same_images(correct[0], each) for each in correct[1:]]
    return list(zip(tests, holm_adjusted([test.p_value for test in tests]), strict=True))


def _tests_table(names: Sequence[str], tests: Sequence[tuple[McNemar, float]], num_images: int) -> str:
    rows = []
    for name, (test, p_value) in zip(names, tests, strict=True):
        difference = (test.only_second - test.only_first) / num_images
        verdict = "not shown" if p_value >= LEVEL else "better" if difference > 0 else "worse"
        counts = (f"{test.only_second:,}", f"{test.only_first:,}")
        rows.append((name, *counts, f"{100 * difference:+.2f}", f"{p_value:.2g}", verdict))
    headers = ("folder", "only it is right", "only the first is right", "difference", "p", "verdict")
    return markdown_table(headers, rows, align=("left", "right", "right", "right", "right", "left"))


def _cost_columns(costs: Sequence[tuple[Cost, int, list[Latency]]]) -> dict[str, list[str]]:
    columns = {
        "parameters": [f"{cost.parameters:,}" for cost, _, _ in costs],
        "MACs": [f"{cost.macs / 1e6:,.1f} M" for cost, _, _ in costs],
        "file": [format_bytes(size) for _, size, _ in costs],
    }
    for number, each in enumerate(costs[0][2]):
        columns[f"ms for {each.batch_size}"] = [f"{times[number].milliseconds:.2f}" for _, _, times in costs]
    return columns


def _describe_latency(experiment: Experiment, latencies: Sequence[Latency]) -> str:
    device = experiment.runtime.device.type
    threads = f", {latencies[0].threads} threads" if device == "cpu" else ""
    sizes = " and of ".join(str(each.batch_size) for each in latencies)
    return f"ms: median time of a forward pass of {sizes} images, on {device}{threads}, in the precision of each run."
