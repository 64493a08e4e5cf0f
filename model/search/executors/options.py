"""Which engine does the runs: the options of the command line, and the engine that they ask for."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from functools import partial

from ...errors import UserError
from .base import Executor
from .local import LocalExecutor

MakeEngine = Callable[[int], Executor]  # of the number of runs


def add_options(parser: ArgumentParser) -> None:
    """The options that say where runs are done, and with what."""
    add = parser.add_argument_group("where runs are done").add_argument
    add("--engine", choices=ENGINES, default="local", help="this machine (default), or a cluster")
    add("--jobs", type=int, help="runs at once (default: one a GPU, else one a core; ray: what fits; slurm: 32)")
    add("--time_limit", type=seconds, metavar="TIME", help="a run that takes longer has failed: minutes, or H:MM:SS")
    add("--runs_per_gpu", type=int, metavar="N", help="local: how many runs share a GPU")
    add("--cpus", type=int, metavar="N", help="ray, slurm: cores of a run (default: 1)")
    add("--gpus", metavar="N", help="ray, slurm: GPUs of a run, such as 1, with ray also 0.5, with slurm also a100:1")
    add("--address", help="ray: the cluster's (default: RAY_ADDRESS, or the one that this machine is part of)")
    add("--partition", help="slurm: where jobs go")
    add("--time", type=seconds, help="slurm: of a job, in minutes, or as D-HH:MM:SS; what takes longer is requeued")
    add("--sbatch", action="append", metavar="KEY[=VALUE]", help="slurm: one more option of sbatch, such as mem=16G")


def engine_maker(args: Namespace) -> MakeEngine:
    """What makes the engine that a command line asks for.

    Raises:
        UserError: An option that this engine does not have, or a wrong value.
    """
    for engines, names in OPTIONS.items():
        for name in names:
            if getattr(args, name) is not None and args.engine not in engines:
                raise UserError(f"--{name} belongs to --engine {' and '.join(engines)}, not to {args.engine}")
    for name in ("jobs", "cpus", "runs_per_gpu"):
        if (number := getattr(args, name)) is not None and number < 1:
            raise UserError(f"--{name} must be 1 or more, got {number}")
    return ENGINES[args.engine](args)


def local(args: Namespace) -> MakeEngine:
    return partial(LocalExecutor.for_runs, jobs=args.jobs, device=args.device, runs_per_gpu=args.runs_per_gpu)


def ray(args: Namespace) -> MakeEngine:
    from .ray import RayExecutor

    try:
        gpus = None if args.gpus is None else float(args.gpus)
    except ValueError:
        raise UserError(f"--gpus of --engine ray must be a number, got {args.gpus}") from None
    return partial(
        RayExecutor.for_runs,
        folder=args.parent_dir,
        address=args.address,
        jobs=args.jobs,
        cpus=args.cpus or 1,
        gpus=gpus,
        device=args.device,
    )


def slurm(args: Namespace) -> MakeEngine:
    from .slurm import SlurmExecutor
    from .slurm_commands import SlurmOptions

    if args.time is None:
        raise UserError("--engine slurm needs --time, of one job; a run that takes longer is requeued and goes on")
    gpus = args.gpus or ("0" if args.device == "cpu" else "1")
    if not re.fullmatch(r"([\w.-]+:)?\d+", gpus):
        raise UserError(f"--gpus of --engine slurm must be a whole number, or as in a100:1, got {gpus}")
    flags = [flag.lstrip("-").partition("=") for flag in args.sbatch or ()]
    asked = SlurmOptions(
        minutes=int(args.time // 60),
        cpus=args.cpus or 1,
        gpus=gpus,
        partition=args.partition,
        flags={name: value if equals else True for name, equals, value in flags},
    )
    return partial(SlurmExecutor.for_runs, folder=args.parent_dir / ".slurm", asked=asked, jobs=args.jobs)


ENGINES: dict[str, Callable[[Namespace], MakeEngine]] = {"local": local, "ray": ray, "slurm": slurm}
OPTIONS = {  # which engines have an option; all others belong to every engine
    ("local",): ("runs_per_gpu",),
    ("ray", "slurm"): ("cpus", "gpus"),
    ("ray",): ("address",),
    ("slurm",): ("partition", "time", "sbatch"),
}


def seconds(text: str) -> float:
    """A time as SLURM writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None or not re.search("[1-9]", text):
        raise ArgumentTypeError(f"must be minutes, or H:MM:SS, or D-HH:MM:SS, got {text}")
    days, first, second, third = (int(each or 0) for each in match.groups())
    counts_hours = match[1] is not None or match[4] is not None
    return 86400.0 * days + (3600 * first + 60 * second + third if counts_hours else 60 * first + second)
