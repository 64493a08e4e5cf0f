"""Table of every run below a folder: printed, and written there as results.md and results.csv.

python synthesize_results.py --parent_dir experiments [--group_by_seed] [--pivot DOWN ACROSS]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli import run_script
from model.errors import EXIT_DONE
from model.report.pivot import pivot_table
from model.report.tables import write_results


def main() -> int:
    parser = argparse.ArgumentParser(description="Table of every run below a folder, sorted by validation accuracy.")
    parser.add_argument("--parent_dir", type=Path, default=Path("experiments"), help="where to look for runs")
    parser.add_argument(
        "--group_by_seed", action="store_true", help="one row for runs that differ in their seed only: mean ± std"
    )
    parser.add_argument(
        "--pivot",
        nargs=2,
        metavar=("DOWN", "ACROSS"),
        help="also a table of test accuracies over two parameters",
    )
    arguments = parser.parse_args()
    print(write_results(arguments.parent_dir, group_by_seed=arguments.group_by_seed))
    print(f"\nwritten to {arguments.parent_dir / 'results.md'} and {arguments.parent_dir / 'results.csv'}")
    if arguments.pivot:
        print(f"\n{pivot_table(arguments.parent_dir, *arguments.pivot)}")
    return EXIT_DONE


if __name__ == "__main__":
    run_script(main)
