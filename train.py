"""Train the experiment of a folder, resume it, or report that it is finished.

    python train.py --model_dir experiments/cnn_distill
    torchrun --nproc_per_node 4 train.py --model_dir experiments/cnn_distill    (docs/distributed.md)

Exit status: 0 done, 1 the run failed, 2 a user's mistake, 75 stopped by a signal after saving.
"""

from __future__ import annotations

from model.cli import run_command, run_script


def main() -> int:
    return run_command("train")


if __name__ == "__main__":
    run_script(main)
