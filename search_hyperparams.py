"""Train one run per combination of values, or per proposal of a sampler, and print the table of their results.

    python search_hyperparams.py --parent_dir experiments/cnn_distill_alpha_temp

The folder holds params.json, the base of all runs, and search.json, what is searched (docs/search.md). The same command
continues a search however it ended. Exit status: 0 all runs are finished, 1 some failed, 2 a user's mistake, 75 stopped
after saving.
"""

from __future__ import annotations

from model.cli import run_command, run_script


def main() -> int:
    return run_command("search")


if __name__ == "__main__":
    run_script(main)
