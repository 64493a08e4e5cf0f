"""Make the weights of a finished run small enough for a repository, and its metrics those of what is left.

    python -m model.commands.publish experiments/base_resnet18

Matrices and kernels are rounded to float16, which halves the file; vectors (biases, batch norm) stay as they are. The
rounded weights are loaded into float32 wherever they are used. Metrics of the best weights are computed anew, as the
rounding may change them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor

from ..build.experiment import Experiment
from ..build.weights import WeightsFile, weights_digest
from ..errors import UserError
from ..evaluation.metrics import metrics_of
from ..files import write_json
from ..training.checkpoint import save_checkpoint
from ..types import Split
from .evaluate import predict_split


def main() -> None:
    parser = argparse.ArgumentParser(description="Round the best weights of a finished run to float16.")
    parser.add_argument("model_dir", type=Path)
    try:
        print(publish(Experiment(parser.parse_args().model_dir)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def publish(experiment: Experiment) -> str:
    """Round the best weights of a finished run, and write their metrics on val and on test; returns a summary.

    Raises:
        UserError: The run is not finished, or its data has changed.
    """
    folder = experiment.folder
    if folder.state() != "finished":
        raise UserError(f"{folder.name}: its run is not finished ({folder.state()})")
    path = folder.checkpoint("best")
    content = WeightsFile.read(path).content
    content["state_dict"] = {name: rounded(tensor) for name, tensor in content["state_dict"].items()}
    weights = WeightsFile(path, content)
    splits: list[Split] = [split for split in ("val", "test") if experiment.data.size(split)]
    metrics = {split: metrics_of(predict_split(experiment, weights, split)) for split in splits}
    save_checkpoint(path, content)
    for split, values in metrics.items():
        write_json(folder.metrics(split, "best"), values | {"epoch": content["epoch"]})
    folder.update_run(weights_digest=weights_digest(content["state_dict"]))
    accuracies = ", ".join(f"{split} {100 * values['accuracy']:.2f} %" for split, values in metrics.items())
    return f"{path}: {path.stat().st_size / 1e6:.1f} MB, {accuracies}"


def rounded(tensor: Tensor) -> Tensor:
    """A matrix or a kernel in float16, anything else as it is."""
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


if __name__ == "__main__":
    main()
