"""Train a folder: begin, resume, or report that it is finished; its teachers first where they are not trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import zip_longest
from typing import Literal

import torch
from torch import nn

from ..build.experiment import Experiment
from ..build.freeze import trained_share
from ..build.seen import describe_seen, held_out_seen, seen_by
from ..build.start import Source, load_start
from ..build.teacher import build_teacher, read_teacher_weights
from ..build.trainer import build_trainer
from ..build.weights import WeightsFile
from ..config.folder import Folder
from ..config.generations import prepare_generations
from ..errors import Stopped, UserError
from ..files import write_json
from ..home import TRAIN_COMMAND
from ..logs import format_duration, log, logging_to
from ..training.checkpoint import restore
from ..training.malloc import keep_freed_memory
from ..training.probe import compile_student, estimate_time, speed_up_of_one_thread
from ..training.threads import limit_threads, others_are_busy
from ..training.trainer import Trainer
from ..types import Batch
from .check_teacher import check_teachers
from .finish import finish
from .preflight import preflight
from .provenance import provenance
from .resume import read_last_checkpoint, refuse_changed_params, remove_run, remove_temporary_files
from .signals import StopSignals, one_line_errors, recording_end

MIN_SECONDS_TO_COMPILE = 300.0  # of training, as compiling takes about one minute
MIN_SPEED_UP_TO_ADVISE = 1.3

Task = Literal["nothing", "resume", "restart"]  # a run that has not begun is resumed at step 0


def train(
    experiment: Experiment,
    *,
    restart: bool = False,
    replace_results: bool = False,
    train_teachers: bool = True,
    wait: bool = False,
) -> None:
    """Bring a folder's run to its end, whatever state it is in.

    Args:
        restart: Throw the folder's earlier run away.
        replace_results: Also begin anew where there are results that no run can go on from, as `restart` does for the
            folders that have to be trained first.
        train_teachers: Whether a teacher without a finished run is trained first; else it is an error.
        wait: Whether to wait for another process that works in the folder, as for a teacher that two runs need.

    Raises:
        UserError: Something in the folder or its params.json is wrong; nothing was changed.
        Stopped: A signal came; all is saved.
        RunFailed: The run failed; run.json has the reason.
    """
    keep_freed_memory()
    limit_threads()
    replace_results |= restart
    restart |= replace_results and experiment.folder.has_results_to_lose()
    world = experiment.runtime.world
    experiment.written_params = world.on_rank_zero(lambda: preflight(experiment).written_params)
    if experiment.params.generations:
        train_generations(experiment, restart=restart, train_teachers=train_teachers, wait=wait)
        return
    if not train_teachers:
        world.on_rank_zero(require_trained, experiment)
    signals = StopSignals(torchrun=world.size > 1)
    with signals, locked(experiment, wait=wait), one_line_errors(experiment.folder):
        with logging_to(None):  # the folder's files stay as they are, the log too, until everything is checked
            task = world.on_rank_zero(find_task, experiment, restart=restart, replace_results=replace_results)
            if task == "nothing":
                return
            world.on_all_ranks(lambda: experiment.data)
            checkpoint = world.on_rank_zero(prepare, experiment, task)
        world.on_rank_zero(begin, experiment, task)
        with recording(experiment):
            world.on_rank_zero(record_plugins, experiment)
            train_dependencies(experiment, replace_results=replace_results)
            weights = world.on_all_ranks(read_teacher_weights, experiment)
            world.on_rank_zero(record_teachers, experiment, weights)
            world.on_rank_zero(check_teachers, experiment, weights)
            world.on_rank_zero(record_seen, experiment)
            trainer = world.on_all_ranks(build, experiment, weights, checkpoint, signals)
            run(experiment, trainer, signals)


# Rank zero prepares -------------------------------------------------------------------------------------------------


def require_trained(experiment: Experiment) -> None:
    for needed in experiment.untrained_dependencies:
        raise UserError(
            f"{experiment.folder.params}: {role(experiment, needed)}: {needed.name} is not trained "
            f"(its run is {needed.folder.state()}); {TRAIN_COMMAND} --model_dir {needed.name}"
        )


def find_task(experiment: Experiment, *, restart: bool, replace_results: bool) -> Task:
    """What is left to do in a folder.

    Raises:
        UserError: Its params.json has changed since the run began, or results of another run would be replaced.
    """
    if restart:
        return "restart"
    refuse_changed_params(experiment)
    folder = experiment.folder
    if folder.state() == "finished" and folder.is_trained():
        log.info("%s is finished: %s", folder.name, folder.accuracies())
        return "nothing"
    if not replace_results:
        for each in (experiment, *experiment.all_untrained_dependencies):
            each.folder.refuse_to_lose_results()
    return "resume"


def prepare(experiment: Experiment, task: Task) -> WeightsFile | None:
    """Check what needs the opened data; returns the checkpoint to resume from, None to begin at step 0."""
    refuse_small_shards(experiment)
    refuse_empty_val(experiment)
    return read_last_checkpoint(experiment) if task == "resume" else None


def refuse_empty_val(experiment: Experiment) -> None:
    """Raise UserError where a run that may end early has no image of val."""
    if experiment.params.early_stopping is not None and not experiment.data.size("val"):
        raise UserError(f"{experiment.folder.params}: early_stopping: needs val, which has no image")


def refuse_small_shards(experiment: Experiment) -> None:
    """Every process must get some images of every batch.

    Raises:
        UserError: A batch or a split has too few images.
    """
    data, batch_size, size = experiment.data, experiment.params.batch_size, experiment.runtime.world.size
    if size == 1:
        return
    for split in ("val", "test"):
        if 0 < data.size(split) < size:
            raise UserError(
                f"{experiment.folder.params}: dataset: {split} has {data.size(split)} images, "
                f"too few for {size} processes"
            )
    last = data.size("train") - (data.steps_per_epoch(batch_size) - 1) * batch_size
    layers = experiment.network_on_meta().modules()
    # One image has no variance; on a GPU, batch norm is over the images of all processes.
    needs_two = experiment.runtime.device.type == "cpu" and any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers
    )
    needed = 2 * size if needs_two else size
    if (smallest := min(last, batch_size)) < needed:
        which = "a batch" if smallest == batch_size else "the last batch of an epoch"
        raise UserError(
            f"{experiment.folder.params}: batch_size: {which} has {smallest} images, and {size} processes need {needed}"
        )


def begin(experiment: Experiment, task: Task) -> None:
    """Mark the folder as that of a running run; a restart removes the earlier run first."""
    folder, params, source = experiment.folder, experiment.params, experiment.source
    if task == "restart":
        remove_run(folder)
    remove_temporary_files(folder)
    write_json(folder.resolved, params.model_dump(mode="json"))
    info = provenance(experiment) | experiment.cost._asdict()
    info |= {
        "fingerprint": experiment.data.fingerprint.as_json(),
        "skipped": list(experiment.data.skipped),
        "class_names": list(experiment.class_names),
        "preprocessing": {"image_shape": list(source.image_shape), **asdict(source.normalisation)},
    }
    folder.update_run(**info, num_epochs=params.num_epochs, state="running", error=None)


@contextmanager
def locked(experiment: Experiment, *, wait: bool) -> Iterator[None]:
    """The folder's lock, held by rank zero for all; as `Folder.locked`."""
    with ExitStack() as stack:
        experiment.runtime.world.on_rank_zero(lambda: stack.enter_context(experiment.folder.locked(wait=wait)))
        yield


@contextmanager
def recording(experiment: Experiment) -> Iterator[None]:
    """The folder's log, and in run.json how the block ended: both by rank zero."""
    if not experiment.runtime.world.is_rank_zero:
        yield
        return
    with logging_to(experiment.folder.log), recording_end(experiment.folder):
        yield


def record_plugins(experiment: Experiment) -> None:
    """Write the digests of plug-ins into run.json, and log which of them changed since the run began."""
    folder = experiment.folder
    before = folder.read_run().get("plugins", {})
    if changed := [name for name in before if experiment.plugins.get(name) != before[name]]:
        log.warning("%s: the plug-in %s changed since the run began", folder.name, ", ".join(changed))
    if experiment.plugins:
        folder.update_run(plugins=experiment.plugins)


# Dependencies -------------------------------------------------------------------------------------------------------


def train_dependencies(experiment: Experiment, *, replace_results: bool) -> None:
    """Train the teachers, and the folder that the run starts from, where they are not trained.

    Args:
        replace_results: Whether results in them that no run can go on from are replaced.
    """
    world = experiment.runtime.world
    missing = world.on_rank_zero(lambda: [needed.name for needed in experiment.untrained_dependencies])
    for needed in experiment.dependencies:
        what = f"its {role(experiment, needed)} {needed.name}"
        if needed.name in missing:
            log.info("%s: %s is not trained: it is trained first", experiment.name, what)
            train(needed, replace_results=replace_results, wait=True)
            needed.close()
        log.info("%s: %s is trained: %s", experiment.name, what, needed.accuracies)


def role(experiment: Experiment, needed: Experiment) -> str:
    """The key of params.json that names a folder."""
    return "init" if needed is experiment.init else "teacher"


def record_teachers(experiment: Experiment, weights: Sequence[WeightsFile]) -> None:
    """Write into run.json which weights teach; a run is resumed only with those that it began with.

    Raises:
        UserError: A teacher was trained anew since the run began.
    """
    if not weights:
        return
    folder = experiment.folder
    digests = {teacher.name: file.digest for teacher, file in zip(experiment.teachers, weights, strict=True)}
    before = list(folder.read_run().get("teacher", {}).values())  # the folders may have been renamed since
    if before and folder.checkpoint("last").exists():
        for digest, (name, now) in zip_longest(before, digests.items(), fillvalue=("", "")):
            if digest != now:
                raise UserError(
                    f"{folder.name}: the weights of its teacher {name} changed since the run began; "
                    "put them back, or throw the run away with --restart"
                )
    folder.update_run(teacher=digests)


def record_seen(experiment: Experiment) -> None:
    """Log and write into run.json how many held-out images the teachers, and the weights to start from, have seen."""
    counts = {other.name: held_out_seen(experiment, seen_by(other)) for other in experiment.dependencies}
    for other in experiment.dependencies:
        if text := describe_seen(experiment, counts[other.name]):
            log.warning("%s %s %s", role(experiment, other), other.name, text)
    if counts:
        experiment.folder.update_run(seen=counts)


# All ranks build, then train ----------------------------------------------------------------------------------------


def build(
    experiment: Experiment, weights: Sequence[WeightsFile], checkpoint: WeightsFile | None, signals: StopSignals
) -> Trainer:
    """The trainer where the run stands: at a checkpoint, at the weights of another folder, or at fresh ones."""
    teacher = build_teacher(experiment, weights)
    start = None if checkpoint else experiment.init_source()
    begins_with = checkpoint or (start.file if start else None)
    sources = [*weights, *([begins_with] if begins_with else [])]
    trainer = build_trainer(experiment, teacher, sources=sources, should_stop=lambda: signals.received)
    if checkpoint is None:
        start_from_init(experiment, trainer, start)
    else:
        restore(trainer, checkpoint.content)
        log.info("%s: resuming at step %d of %d", experiment.name, trainer.step, trainer.total_steps)
    if experiment.params.freeze:
        log.info("%s: %s are trained", experiment.name, trained_share(trainer.student))
    for other in experiment.dependencies:
        other.close()
    return trainer


def start_from_init(experiment: Experiment, trainer: Trainer, source: Source | None) -> None:
    """Load the weights that the run starts from, if params.json names some.

    Raises:
        UserError: They are another network's, or their classes others.
    """
    options = experiment.params.init
    if source is None or source.file is None or options is None:
        return
    load_start(experiment, trainer.student, source, experiment.columns_of_init(source))
    source.file.load_terms_into(trainer.objective)
    if experiment.runtime.world.is_rank_zero:
        experiment.folder.update_run(init={source.name: source.file.digest})
    which = "" if experiment.init_file else f"{options.weights} "
    log.info("%s: starts from the %sweights of %s", experiment.name, which, source.name)


def run(experiment: Experiment, trainer: Trainer, signals: StopSignals) -> None:
    """Train from where the trainer stands to the end."""
    world, compiling = experiment.runtime.world, experiment.params.compile
    batch = next(trainer.train_batches(0, 0))
    with experiment.naming_params():
        estimate = estimate_time(trainer, batch, num_processes=world.size)
    trainer.estimate = world.on_rank_zero(lambda: estimate)
    log.info("%s: %s", experiment.name, plan(experiment, trainer, trainer.estimate.total))
    if world.size == 1:
        advise_one_thread(experiment, trainer, batch)
    if compiling == "auto":
        compiling = world.size == 1 and pays_to_compile(trainer.estimate.total, experiment.runtime.device)
    if compiling:
        log.info("%s: compiling the student", experiment.name)
        compile_student(trainer.train_step, batch)
    trainer.train_step.start(batch)
    with signals.deferred():
        with counting_teacher_images(experiment, trainer):
            trainer.fit()
        finish(experiment, trainer, batch)


def advise_one_thread(experiment: Experiment, trainer: Trainer, batch: Batch) -> None:
    """Log where one thread would be faster, as other processes keep the CPUs busy."""
    threads = torch.get_num_threads()
    if experiment.runtime.device.type != "cpu" or threads == 1 or not others_are_busy(own=threads):
        return
    factor = speed_up_of_one_thread(trainer.train_step, batch)
    if factor > MIN_SPEED_UP_TO_ADVISE:
        log.warning(
            "%s: other processes keep the CPUs busy, so a step is %.1f times faster with one thread than with %d: "
            "stop this run and go on with --threads 1 (or OMP_NUM_THREADS=1)",
            experiment.name,
            factor,
            threads,
        )


def pays_to_compile(seconds: float, device: torch.device) -> bool:
    return device.type == "cuda" and seconds > MIN_SECONDS_TO_COMPILE


@contextmanager
def counting_teacher_images(experiment: Experiment, trainer: Trainer) -> Iterator[None]:
    """Record how many images the teacher was run on in the block, and how many outputs it gave."""
    teacher, world = trainer.teacher, experiment.runtime.world
    if teacher is None:
        yield
        return
    queries, forwards, resumed = teacher.num_queries, teacher.num_forwards, trainer.step > 0

    def record() -> None:
        own = torch.tensor([teacher.num_queries - queries, teacher.num_forwards - forwards])
        num_queries, num_forwards = world.all_reduce_sum(own).tolist()
        world.on_rank_zero(add_teacher_images, experiment.folder, num_queries, num_forwards, resumed=resumed)

    try:
        yield
    except Exception as error:
        # Of several processes, one may have failed alone: the others would not take part in the sum.
        if world.size == 1 or isinstance(error, Stopped):
            record()
        raise
    record()


def add_teacher_images(folder: Folder, num_queries: int, num_forwards: int, *, resumed: bool) -> None:
    """Add to the counts in run.json, and log them, those before the run was resumed included."""
    before = folder.read_run().get("teacher_images", {}) if resumed else {}
    images = {"asked": before.get("asked", 0) + num_queries, "run": before.get("run", 0) + num_forwards}
    log.info("%s: the teacher was run on {run:,} images for {asked:,} outputs".format(**images), folder.name)
    folder.update_run(teacher_images=images)


# Generations --------------------------------------------------------------------------------------------------------


def train_generations(experiment: Experiment, *, restart: bool, train_teachers: bool, wait: bool) -> None:
    """Bring all generations of a born-again folder to their end, one after another."""
    folder, world = experiment.folder, experiment.runtime.world
    with locked(experiment, wait=wait), one_line_errors(folder):
        children = world.on_rank_zero(begin_generations, experiment, restart=restart)
        if not children:
            return
        with recording(experiment):
            for number, child in enumerate(children):
                progress = number / len(children)
                world.on_rank_zero(folder.update_run, generation=number, progress=progress)
                log.info("%s: generation %d of %d", folder.name, number, len(children))
                train(Experiment(child.path, experiment.runtime), train_teachers=train_teachers)
                log.info("%s: %s", child.name, child.accuracies())
            world.on_rank_zero(folder.update_run, state="finished", progress=1.0)


def begin_generations(experiment: Experiment, *, restart: bool) -> list[Folder]:
    """The folders of all generations with their params.json; none where they are finished."""
    folder, children = experiment.folder, prepare_generations(experiment.folder)
    if not restart:
        for child in children:
            child.refuse_to_lose_results()
    else:
        for child in reversed(children):  # from the last, as a killed restart must not leave a child of no parent
            remove_run(child)
    if not restart and folder.state() == "finished" and all(child.is_trained() for child in children):
        with logging_to(None):
            log.info("%s is finished: %d generations", folder.name, len(children))
        return []
    folder.update_run(**provenance(experiment), state="running", error=None)
    return children


# What is logged -----------------------------------------------------------------------------------------------------


def plan(experiment: Experiment, trainer: Trainer, seconds: float) -> str:
    """One line: what will be done and about how long it takes."""
    size = experiment.runtime.world.size
    epochs = "epoch" if trainer.num_epochs == 1 else "epochs"
    batches = f"{trainer.accumulate} x " if trainer.accumulate > 1 else ""
    processes = f" in {size} processes" if size > 1 else ""
    return (
        f"{trainer.num_epochs} {epochs} of {trainer.steps_per_epoch} steps, batch size {batches}{trainer.batch_size}, "
        f"{str(experiment.dtype).removeprefix('torch.')} on {experiment.runtime.device.type}{processes}: "
        f"about {format_duration(seconds)} left"
    )
