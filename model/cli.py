"""The command line: the options of every command, for the scripts of the repository and for the installed `retort`.

torch is imported after the options are parsed, so that `--help` and a mistyped option need not wait for it.
"""

from __future__ import annotations

import errno
import io
import math
import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from .config.params import Params
from .cpus import prepare_threads
from .errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER, RunFailed, Stopped, UserError
from .home import CHECKOUT, ROOT
from .report.diff import diff
from .report.findings import findings_of_runs
from .report.pivot import pivot_table
from .report.runs import Runs
from .report.search_tables import tables_of_search
from .report.tables import Selection, render, results_table, write_results
from .search.driver import search
from .search.estimate import format_estimate, num_remaining_runs
from .search.executors import options as executors
from .search.executors.base import ExecutorFactory
from .search.pareto import pareto_table
from .search.plan import CheckParams, format_runs, format_summary, make_plan
from .search.run_queue import FailurePolicy
from .search.seeds import FinalSeeds, final_runs

if TYPE_CHECKING:  # torch is imported once the options have been parsed
    from .build.experiment import Experiment


class Command(NamedTuple):
    """A command: what it is for, its options, and the function that runs it and returns the exit status."""

    description: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def main() -> NoReturn:
    """The command `retort`."""
    package = __name__.partition(".")[0]
    parser = ArgumentParser(
        prog="retort" if package == "retort" else f"python -m {package}",
        description="Knowledge distillation, one folder per experiment.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.add_options(subparsers.add_parser(name, help=command.description, description=command.description))
    args = parser.parse_args()
    run_script(lambda: _run(COMMANDS[args.command], args))


def run_command(name: str) -> int:
    """Run a command with the options of the script that is its only one."""
    command = COMMANDS[name]
    parser = ArgumentParser(description=command.description)
    command.add_options(parser)
    return _run(command, parser.parse_args())


def _run(command: Command, args: Namespace) -> int:
    if not ROOT.is_dir():
        raise UserError(f"RETORT_HOME: no folder {ROOT}")
    return command.run(args)


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's main function and turn its exceptions into messages and exit statuses."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the names of files may be no text
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_USER
    except PermissionError as error:
        print(f"error: {error.filename}: permission denied", file=sys.stderr)
        status = EXIT_USER
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        status = EXIT_FAILED
    except (Stopped, KeyboardInterrupt) as error:
        print(f"stopped: {str(error) or 'run the same command to go on'}", file=sys.stderr)
        status = EXIT_STOPPED
    except BrokenPipeError:  # the reader of a table, such as `head`, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_DONE
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"error: {error.filename}: the path is too long", file=sys.stderr)
        status = EXIT_USER
    sys.exit(status)


# train ----------------------------------------------------------------------------------------------------------------


def train_options(parser: ArgumentParser) -> None:
    parser.add_argument("--model_dir", type=Path, required=True, help="folder with params.json")
    _runtime_options(parser)
    parser.add_argument("--restart", action="store_true", help="delete the folder's earlier run and begin anew")
    parser.add_argument("--no_train_teacher", action="store_true", help="an untrained teacher is an error")
    parser.add_argument("--dry_run", action="store_true", help="build everything, run one batch, write nothing")


def run_train(args: Namespace) -> int:
    prepare_threads(args.threads)
    from .build.experiment import Experiment
    from .build.runtime import Runtime, find_device
    from .commands.dry_run import dry_run
    from .commands.provenance import process_seconds
    from .commands.train import train
    from .training.distributed import init_distributed

    startup = process_seconds()
    with init_distributed() as world:
        device = world.on_all_ranks(find_device, args.device, world)
        if args.dry_run:
            experiment = Experiment(args.model_dir, Runtime(device=device, data_dir=args.data_dir))
            world.on_rank_zero(lambda: print(dry_run(experiment, startup=startup)))
        else:
            runtime = Runtime(device=device, data_dir=args.data_dir, world=world.for_device(device))
            experiment = Experiment(args.model_dir, runtime)
            train(experiment, restart=args.restart, train_teachers=not args.no_train_teacher)
    return EXIT_DONE


def _runtime_options(parser: ArgumentParser) -> None:
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data", help="folder of the data sets (default: data)")
    parser.add_argument("--device", default="auto", help="auto (default: cuda, else cpu), cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--threads",
        type=executors.positive_int,
        metavar="N",
        help="CPU threads that compute (default: OMP_NUM_THREADS, else one per CPU)",
    )


# evaluate -------------------------------------------------------------------------------------------------------------


def evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model_dir",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="folder with a trained run; several are compared on the same images",
    )
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")
    parser.add_argument("--restore_file", default="best", help="best (default), last, ema, or the path of a file")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="of the probabilities in the .npz file (default: 1)"
    )
    parser.add_argument(
        "--ensemble",
        choices=("probabilities", "logits"),
        default="probabilities",
        help="what an ensemble of generations averages (default: probabilities)",
    )
    parser.add_argument(
        "--why", action="store_true", help="instead, why a distilled student is as good as it is: likely causes on val"
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FOLDER",
        help="with --why: the student alone (default: baseline in params.json)",
    )
    _runtime_options(parser)


def run_evaluate(args: Namespace) -> int:
    prepare_threads(args.threads)
    from .build.experiment import Experiment
    from .build.runtime import Runtime, find_device
    from .commands.evaluate import evaluate

    runtime = Runtime(device=find_device(args.device), data_dir=args.data_dir)
    experiments = [Experiment(folder, runtime) for folder in args.model_dir]
    if args.why:
        if len(experiments) > 1:
            raise UserError("--why is about one folder")
        print(explain(experiments[0], args.baseline))
        return EXIT_DONE
    if len(experiments) > 1:
        from .commands.compare import compare

        print(compare(experiments, split=args.split, restore_file=args.restore_file))
        return EXIT_DONE
    evaluation = evaluate(
        experiments[0],
        split=args.split,
        restore_file=args.restore_file,
        temperature=args.temperature,
        ensemble=args.ensemble,
    )
    from .report.figures.evaluation import write_evaluation_figures  # matplotlib takes a second to import

    figures = write_evaluation_figures(evaluation.path)
    print(evaluation.page + "".join(f"\nFigure: {path}.png and .svg" for path in figures))
    return EXIT_DONE


def explain(experiment: Experiment, baseline_dir: Path | None) -> str:
    """A diagnosis of a distilled run: of its networks, and of the runs beside it."""
    from .build.experiment import Experiment
    from .commands.why import why

    baseline_dir = baseline_dir or experiment.baseline
    baseline = None if baseline_dir is None else Experiment(baseline_dir, experiment.runtime)
    return why(experiment, baseline=baseline, more=findings_of_runs(experiment.folder.path, baseline_dir))


# search ---------------------------------------------------------------------------------------------------------------


def search_options(parser: ArgumentParser) -> None:
    parser.add_argument("--parent_dir", type=Path, required=True, help="folder with params.json and search.json")
    parser.add_argument("--data_dir", type=Path, help="folder of the data sets (default: data)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--top", type=int, metavar="K", help="when all runs are finished, train the best K trials ...")
    parser.add_argument("--final_seeds", type=int, metavar="N", help="... with N seeds that the search did not use")
    parser.add_argument("--retries", type=int, default=0, help="how often a failed run is retried (default: 0)")
    parser.add_argument("--max_failures", type=int, metavar="N", help="give up after N failed runs in a row")
    parser.add_argument("--restart", action="store_true", help="begin every run anew, finished ones too")
    parser.add_argument("--dry_run", action="store_true", help="print the plan and write nothing")
    executors.add_options(parser)


def run_search(args: Namespace) -> int:
    if (args.top is None) != (args.final_seeds is None):
        raise UserError("--top K and --final_seeds N go together")
    failure_policy = FailurePolicy(args.retries, args.max_failures, args.time_limit)
    final = FinalSeeds(args.top, args.final_seeds) if args.top is not None else None
    make_executor = executors.executor_factory(args)
    prepare_threads()

    from .build.experiment import Experiment
    from .build.runtime import Runtime, find_device
    from .commands.preflight import check_experiment

    command = [*train_argv(CHECKOUT, ROOT), "--device", args.device]
    command += ["--data_dir", str(args.data_dir.absolute())] if args.data_dir else []
    cpu = Runtime(device=find_device("cpu"), data_dir=args.data_dir or ROOT / "data")

    def check(params: Params, path: Path) -> None:
        check_experiment(Experiment(path.parent, cpu, params=params))

    if args.dry_run:
        print_plan(args, command, make_executor, check, final)
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
    if status != EXIT_STOPPED:
        print_tables(args.parent_dir, final)
    return status


def print_plan(
    args: Namespace, command: list[str], make_executor: ExecutorFactory, check: CheckParams, final: FinalSeeds | None
) -> None:
    """Print what a search would do, and how long that takes."""
    from .build.experiment import Experiment
    from .build.runtime import Runtime, find_device
    from .commands.dry_run import estimate_run_seconds
    from .commands.provenance import process_seconds

    startup = process_seconds()
    plan = make_plan(args.parent_dir, check=check, restart=args.restart)
    print(format_summary(plan))
    executor = make_executor(math.ceil(num_remaining_runs(plan)))
    print(f"{executor.describe()}: {shlex.join(command)} --model_dir RUN")
    runtime = Runtime(device=find_device(args.device), data_dir=args.data_dir or ROOT / "data")
    threads = {run.folder.params: make_executor(len(plan.prerequisites)).threads_per_job for run in plan.prerequisites}

    def measure(params: Params, path: Path) -> float | None:
        experiment = Experiment(path.parent, runtime, params=params)
        return estimate_run_seconds(experiment, threads=threads.get(path, executor.threads_per_job))

    num_final = final.num_runs if final else 0
    print(format_estimate(plan, executor.max_jobs, measure, startup=startup, num_final=num_final))
    print(format_runs(plan))


def print_tables(parent_dir: Path, final: FinalSeeds | None) -> None:
    """Print the results of a search that has ended."""
    print(tables_of_search(parent_dir))
    plan = make_plan(parent_dir)
    if len(plan.space.metric) > 1:
        print(f"\nThe Pareto front:\n\n{pareto_table(plan)}")
    if final:
        names = [run.name for run in final_runs(plan, final)]
        print(f"\nThe best {final.top} on val, with {final.num_seeds} seeds that were not used in the search:\n")
        print(results_table(parent_dir, group_by_seed=True, only=names))


def train_argv(checkout: Path | None, root: Path) -> list[str]:
    """The command that trains a run in a process of its own, without options.

    Args:
        checkout: The repository; None where this package is installed.
        root: The run's, too; it is passed on, as another node may lack the environment and the working directory.
    """
    home = [] if root == checkout else ["env", f"RETORT_HOME={root}"]
    if checkout is not None:
        return [*home, sys.executable, str(checkout / "train.py")]
    # As for a script, the working directory is not in sys.path: its files could hide modules.
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []
    return [*home, sys.executable, *safe_path, "-m", __name__.partition(".")[0], "train"]


# results --------------------------------------------------------------------------------------------------------------


def results_options(parser: ArgumentParser) -> None:
    parser.add_argument("--parent_dir", type=Path, default=Path("experiments"), help="default: experiments")
    parser.add_argument(
        "--group_by_seed", action="store_true", help="one row for runs that differ in their seed only: mean ± std"
    )
    parser.add_argument(
        "--pivot", nargs=2, metavar=("DOWN", "ACROSS"), help="also a table of test accuracies over two parameters"
    )
    parser.add_argument("--filter", metavar="EXPRESSION", help='only runs for which it is true: "temperature >= 4"')
    parser.add_argument("--sort_by", metavar="COLUMN", help="default: val_best_accuracy; -COLUMN turns the order round")
    parser.add_argument("--top", type=executors.positive_int, metavar="N", help="the first N rows")
    parser.add_argument("--columns", metavar="NAMES", help="the columns to show, separated by commas")
    parser.add_argument(
        "--format",
        default="markdown",
        metavar="NAME",
        help="markdown (default), csv, json or latex (booktabs)",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FOLDER",
        help="compare each row with the runs of this folder on test: difference with its interval, verdict, and the "
        "number of seeds that would show it; groups rows by seed",
    )
    parser.add_argument(
        "--published", action="store_true", help="also published accuracies, their protocol, and the deviation"
    )
    parser.add_argument(
        "--diff", nargs=2, type=Path, metavar=("A", "B"), help="only what differs between the runs of two folders"
    )
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also draw what there is to draw into figures/, as PNG and SVG",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write report.html: one page with a sortable table, curves, heat map and figures",
    )


def run_results(args: Namespace) -> int:
    if args.diff:
        print(render(diff(*args.diff), args.format))
        return EXIT_DONE
    runs = Runs.read(args.parent_dir)
    if args.filter:
        runs = runs.where(args.filter)
    if args.baseline:
        runs = runs.compared_with(args.baseline)
    # First: if it is refused, nothing is written.
    pivot = pivot_table(runs, *args.pivot) if args.pivot else ""
    columns = tuple(name.strip() for name in args.columns.split(",")) if args.columns else ()
    table = write_results(
        runs,
        group_by_seed=args.group_by_seed,
        selection=Selection(sort_by=args.sort_by, top=args.top, columns=columns, published=args.published),
        format_name=args.format,
    )
    figures: list[Path] = []
    if args.figures:
        from .report.figures.style import write_figures  # matplotlib takes a second to import

        figures = write_figures(runs)
    if args.report:
        from .report.page.page import write_page

        page = write_page(runs, shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    if args.format != "markdown":  # for a program that reads it, or a paper
        print(table, end="")
        return EXIT_DONE
    print(table)
    print(f"\nwritten to {args.parent_dir / 'results.md'} and {args.parent_dir / 'results.csv'}")
    if pivot:
        print(f"\n{pivot}")
    if args.figures:
        names = ", ".join(path.name for path in figures) or "nothing to draw"
        print(f"\nfigures in {args.parent_dir / 'figures'}: {names}")
    if args.report:
        print(f"\nthe page: {page}")
    return EXIT_DONE


COMMANDS = {
    "train": Command("Train the experiment of a folder, or resume it.", train_options, run_train),
    "evaluate": Command("Evaluate the trained network of a folder.", evaluate_options, run_evaluate),
    "search": Command("Train the runs that a folder's search.json defines.", search_options, run_search),
    "results": Command("Table of every run below a folder, by validation accuracy.", results_options, run_results),
}
