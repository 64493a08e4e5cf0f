"""Table of every run below a folder: printed, and written there as results.md and results.csv.

python synthesize_results.py --parent_dir experiments [--group_by_seed] [--pivot DOWN ACROSS]
"""

from __future__ import annotations

from model.cli import run_command, run_script


def main() -> int:
    return run_command("results")


if __name__ == "__main__":
    run_script(main)
