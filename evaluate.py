"""Evaluate a trained network: accuracy, top-5, loss, what the network costs, and a row for every class.

    python evaluate.py --model_dir experiments/cnn_distill

Prints the tables and writes them under the folder's evaluation/, with the network's output for each image as arrays.
A folder of generations gives a row for each, and for the growing ensemble of the first ones.
"""

from __future__ import annotations

from model.cli import run_command, run_script


def main() -> int:
    return run_command("evaluate")


if __name__ == "__main__":
    run_script(main)
