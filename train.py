"""Train the experiment of a folder, go on with it, or say that it is done.

    python train.py --model_dir experiments/cnn_distill

Exit status: 0 done, 1 the run failed, 2 a mistake in what was asked, 75 stopped by a signal after saving.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.params import ROOT
from utils import EXIT_DONE, run_script


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the experiment of a folder, or go on with it.")
    parser.add_argument("--model_dir", type=Path, required=True, help="folder with params.json")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data", help="where data sets lie (default: data)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.add_argument("--restart", action="store_true", help="throw the folder's earlier run away")
    parser.add_argument("--no_train_teacher", action="store_true", help="an untrained teacher is an error")
    parser.add_argument("--dry_run", action="store_true", help="build everything, run one batch, write nothing")
    args = parser.parse_args()

    from model.build import Place, find_device  # after the options: --help need not wait for torch
    from model.dry_run import dry_run
    from model.folder import Folder
    from model.run import train_folder

    folder, place = Folder(args.model_dir), Place(device=find_device(args.device), data_dir=args.data_dir)
    if args.dry_run:
        print(dry_run(folder, place))
    else:
        train_folder(folder, place, restart=args.restart, train_teachers=not args.no_train_teacher)
    return EXIT_DONE


if __name__ == "__main__":
    run_script(main)
