"""The end of a run: test is evaluated, and what there is to look at is written."""

from __future__ import annotations

from ..build.experiment import Experiment
from ..build.weights import weights_digest
from ..config.dotted import flatten
from ..config.folder import Folder
from ..evaluation.latency import latency
from ..evaluation.significance import accuracy_interval
from ..files import is_number, read_intact
from ..logs import log
from ..training.checkpoint import load_checkpoint
from ..training.tensorboard import log_results
from ..training.trainer import Trainer
from ..types import Batch
from .provenance import peak_memory
from .samples import draw_samples


def finish(experiment: Experiment, trainer: Trainer, batch: Batch) -> None:
    """Evaluate the last and the best weights on the test split, once.

    Args:
        batch: Training views, to show what the networks predict for them.
    """
    folder, world = experiment.folder, experiment.runtime.world
    if trainer.stops_early and trainer.early_stopping is not None:
        reason = f"epoch {trainer.epoch}: {trainer.early_stopping.reason()}"
        log.info("%s: stopped early after %s", folder.name, reason)
        trainer.write(lambda: folder.update_run(stopped_early=reason, progress=1.0))
    last = trainer.evaluate(trainer.student, "test") | {"epoch": trainer.epoch}
    trainer.check_finite({"test_loss": last["loss"]})
    trainer.write_metrics(folder.metrics("test", "last"), last)
    if trainer.ema is not None:
        average = world.on_rank_zero(load_checkpoint, folder.checkpoint("ema"))
        trainer.ema.net.load_state_dict(average["state_dict"])
        averaged = trainer.evaluate(trainer.ema.net, "test") | {"epoch": average["epoch"]}
        trainer.write_metrics(folder.metrics("test", "ema"), averaged)
    best = world.on_rank_zero(load_checkpoint, folder.checkpoint("best"))
    metrics = last
    if best["epoch"] != trainer.epoch:
        trainer.student.load_state_dict(best["state_dict"])
        metrics = trainer.evaluate(trainer.student, "test") | {"epoch": best["epoch"]}
    trainer.write_metrics(folder.metrics("test", "best"), metrics)
    device, shape = experiment.runtime.device, experiment.source.image_shape
    info = {
        "weights_digest": weights_digest(best["state_dict"]),
        "peak_memory_bytes": peak_memory(device),
        "latency_ms": round(latency(trainer.student, shape, dtype=experiment.dtype, device=device).milliseconds, 4),
    }
    trainer.write(lambda: write_tensorboard(experiment, trainer, batch, {"best": metrics, "last": last}))
    trainer.write(lambda: folder.update_run(state="finished", **info))
    for line in last_lines(experiment, metrics):
        log.info("%s", line)


def write_tensorboard(
    experiment: Experiment, trainer: Trainer, batch: Batch, metrics: dict[str, dict[str, float]]
) -> None:
    """Add the results on test, the parameters and a picture of training views to the event files.

    Args:
        metrics: "best" and "last" weights -> their metrics on test.
    """
    samples = draw_samples(
        batch,
        trainer.student,
        trainer.teacher,
        class_names=experiment.class_names,
        normalisation=experiment.source.normalisation,
        dtype=experiment.dtype,
    )
    values = {f"test/{weights}_{key}": each[key] for weights, each in metrics.items() for key in ("accuracy", "loss")}
    if trainer.best is not None:
        values["val/best_accuracy"] = trainer.best["accuracy"]
    log_results(
        experiment.folder.tensorboard,
        params=flatten(experiment.params.model_dump(mode="json")),
        metrics=values,
        epoch=trainer.epoch,
        samples=samples,
    )


def last_lines(experiment: Experiment, metrics: dict[str, float]) -> list[str]:
    """What a run ends with: its accuracy, the gain over a baseline where one is named, and where to look.

    Args:
        metrics: Of the best weights on test.
    """
    folder, count = experiment.folder, int(metrics["num_samples"])
    low, high = accuracy_interval(round(metrics["accuracy"] * count), count)
    lines = [
        f"{folder.name} is finished: {folder.accuracies()}; "
        f"95 % interval on test, for the choice of its images: {100 * low:.2f} to {100 * high:.2f} %"
    ]
    if experiment.params.ema is not None:
        lines.append(f"averaged weights: {folder.accuracies('ema')}")
    if experiment.baseline is not None:
        baseline = Folder(experiment.baseline)
        other = read_intact(baseline.metrics("test", "best"))
        if is_number(other.get("accuracy")):
            gain = 100 * (metrics["accuracy"] - other["accuracy"])
            lines.append(f"{gain:+.2f} points on test to {baseline.name}, one run each: several seeds make a verdict")
    lines.append(f"look at it: python evaluate.py --model_dir {folder.name}; tensorboard --logdir {folder.name}")
    return lines
