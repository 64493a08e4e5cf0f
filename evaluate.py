"""Look closely at what was trained: accuracy, top-5, loss, what the network costs, and a row for every class.

    python evaluate.py --model_dir experiments/cnn_distill

Prints the tables and writes them under the folder's evaluation/, with what the network says of each image as arrays.
A folder of generations gives a row for each, and for the growing ensemble of the first ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli import run_script
from model.errors import EXIT_DONE
from model.home import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate the trained network of a folder.")
    parser.add_argument("--model_dir", type=Path, required=True, help="folder with a trained run")
    parser.add_argument("--split", choices=("test", "val", "train"), default="test")
    parser.add_argument("--restore_file", default="best", help="best (default), last, or the path of a weights file")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the .npz file's probabilities (default: 1)")
    parser.add_argument(
        "--ensemble",
        choices=("probabilities", "logits"),
        default="probabilities",
        help="what generations are averaged by (default: probabilities)",
    )
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data", help="where data sets lie (default: data)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    args = parser.parse_args()

    from model.build.experiment import Experiment  # after the options: --help need not wait for torch
    from model.build.runtime import Runtime, find_device
    from model.commands.evaluate import evaluate

    experiment = Experiment(args.model_dir, Runtime(device=find_device(args.device), data_dir=args.data_dir))
    page = evaluate(
        experiment,
        split=args.split,
        restore_file=args.restore_file,
        temperature=args.temperature,
        ensemble=args.ensemble,
    )
    print(page)
    return EXIT_DONE


if __name__ == "__main__":
    run_script(main)
