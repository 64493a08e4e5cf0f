"""Train the experiment of a folder, go on with it, or say that it is done.

    python train.py --model_dir experiments/cnn_distill
    torchrun --nproc_per_node 4 train.py --model_dir experiments/cnn_distill    (docs/distributed.md)

Exit status: 0 done, 1 the run failed, 2 a mistake in what was asked, 75 stopped by a signal after saving.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli import run_script
from model.errors import EXIT_DONE
from model.home import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the experiment of a folder, or go on with it.")
    parser.add_argument("--model_dir", type=Path, required=True, help="folder with params.json")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data", help="where data sets lie (default: data)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.add_argument("--restart", action="store_true", help="throw the folder's earlier run away")
    parser.add_argument("--no_train_teacher", action="store_true", help="an untrained teacher is an error")
    parser.add_argument("--dry_run", action="store_true", help="build everything, run one batch, write nothing")
    args = parser.parse_args()

    from model.build.experiment import Experiment  # after the options: --help need not wait for torch
    from model.build.runtime import Runtime, find_device
    from model.commands.dry_run import dry_run
    from model.commands.train import train
    from model.training.distributed import init_distributed

    with init_distributed() as world:
        device = world.on_all_ranks(find_device, args.device, world)
        if args.dry_run:
            experiment = Experiment(args.model_dir, Runtime(device=device, data_dir=args.data_dir))
            world.on_rank_zero(lambda: print(dry_run(experiment)))
        else:
            runtime = Runtime(device=device, data_dir=args.data_dir, world=world.for_device(device))
            experiment = Experiment(args.model_dir, runtime)
            train(experiment, restart=args.restart, train_teachers=not args.no_train_teacher)
    return EXIT_DONE


if __name__ == "__main__":
    run_script(main)
