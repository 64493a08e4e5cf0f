"""Train one run per combination of values, or per proposal of a sampler, and print the table of their results.

    python search_hyperparams.py --parent_dir experiments/cnn_distill_alpha_temp

The folder holds params.json, the base of all runs, and search.json, what is searched (docs/search.md). The same command
continues a search however it ended. Exit status: 0 all runs are finished, 1 some failed, 2 a user's mistake, 75 stopped
after saving.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

from model.cli import run_script
from model.config.params import Params
from model.errors import EXIT_DONE, EXIT_STOPPED, UserError
from model.home import ROOT
from model.search.driver import search
from model.search.estimate import format_estimate, num_remaining_runs
from model.search.executors.options import add_options, executor_factory
from model.search.pareto import pareto_table
from model.search.plan import format_runs, format_summary, make_plan
from model.search.run_queue import FailurePolicy
from model.search.seeds import FinalSeeds, final_runs


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the runs that a folder's search.json defines.")
    parser.add_argument("--parent_dir", type=Path, required=True, help="folder with params.json and search.json")
    parser.add_argument("--data_dir", type=Path, help="folder of the data sets (default: data)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--top", type=int, metavar="K", help="when all runs are finished, train the best K trials ...")
    parser.add_argument("--final_seeds", type=int, metavar="N", help="... with N seeds that the search did not use")
    parser.add_argument("--retries", type=int, default=0, help="how often a failed run is retried (default: 0)")
    parser.add_argument("--max_failures", type=int, metavar="N", help="give up after N failed runs in a row")
    parser.add_argument("--restart", action="store_true", help="begin every run anew, finished ones too")
    parser.add_argument("--dry_run", action="store_true", help="print the plan and write nothing")
    add_options(parser)
    args = parser.parse_args()
    if (args.top is None) != (args.final_seeds is None):
        raise UserError("--top K and --final_seeds N go together")
    failure_policy = FailurePolicy(args.retries, args.max_failures, args.time_limit)
    final = FinalSeeds(args.top, args.final_seeds) if args.top is not None else None
    make_executor = executor_factory(args)

    from model.build.experiment import Experiment  # after the options: --help need not wait for torch
    from model.build.runtime import Runtime, find_device
    from model.commands.dry_run import estimate_run_seconds
    from model.commands.preflight import check_experiment
    from model.report.search_tables import tables_of_search
    from model.report.tables import results_table

    command = [sys.executable, str(ROOT / "train.py"), "--device", args.device]
    command += ["--data_dir", str(args.data_dir.absolute())] if args.data_dir else []
    data_dir = args.data_dir or ROOT / "data"
    cpu = Runtime(device=find_device("cpu"), data_dir=data_dir)

    def check(params: Params, path: Path) -> None:
        check_experiment(Experiment(path.parent, cpu, params=params))

    if args.dry_run:
        plan = make_plan(args.parent_dir, check=check, restart=args.restart)
        print(format_summary(plan))
        executor = make_executor(math.ceil(num_remaining_runs(plan)))
        print(f"{executor.describe()}: {shlex.join(command)} --model_dir RUN")
        runtime = Runtime(device=find_device(args.device), data_dir=data_dir)

        def measure(params: Params, path: Path) -> float | None:
            experiment = Experiment(path.parent, runtime, params=params)
            return estimate_run_seconds(experiment, threads=executor.threads_per_job)

        print(format_estimate(plan, executor.max_jobs, measure, num_final=final.num_runs if final else 0))
        print(format_runs(plan))
        return EXIT_DONE
    status = search(
        args.parent_dir,
        command=command,
        make_executor=make_executor,
        check=check,
        restart=args.restart,
        failure_policy=failure_policy,
        final=final,
    )
    if status == EXIT_STOPPED:
        return status
    print(tables_of_search(args.parent_dir))
    plan = make_plan(args.parent_dir)
    if len(plan.space.metric) > 1:
        print(f"\nThe Pareto front:\n\n{pareto_table(plan)}")
    if final:
        names = [run.name for run in final_runs(plan, final)]
        print(f"\nThe best {final.top} on val, with {final.num_seeds} seeds that were not used in the search:\n")
        print(results_table(args.parent_dir, group_by_seed=True, only=names))
    return status


if __name__ == "__main__":
    run_script(main)
