"""Train a folder: begin, go on, or say that it is done; train its teachers first where they are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from ..build.data import build_source
from ..build.network import build_student
from ..build.objective import needed_folders
from ..build.resolve import init_folder
from ..build.runtime import Runtime
from ..build.teacher import TrainedTeacher, build_teacher, read_teachers
from ..build.trainer import build_trainer, cost_of, open_data
from ..build.weights import load_term_states, load_weights, state_dict_of, weights_digest
from ..config.folder import Folder
from ..config.generations import prepare_generations
from ..config.params import Params
from ..errors import Stopped, UserError
from ..evaluation.latency import latency
from ..files import read_json, write_json
from ..logs import format_duration, log, logging_to
from ..training.checkpoint import load_checkpoint
from ..training.distributed import World
from ..training.malloc import keep_freed_memory
from ..training.precision import resolve_precision
from ..training.trainer import Trainer
from ..types import DataSource, Pipeline
from .preflight import check_folder
from .provenance import peak_memory, provenance
from .resume import earlier_state, refuse_changed_params, remove_leftovers, remove_run
from .signals import StopSignals, recording_the_end, trouble_in_one_line

COMPILING_PAYS_AFTER = 300.0  # seconds of training, as compiling takes about one minute


def train_folder(
    folder: Folder, place: Runtime, *, restart: bool = False, train_teachers: bool = True, wait: bool = False
) -> None:
    """Bring a folder's run to its end, whatever state it is in.

    Args:
        restart: Throw the folder's earlier run away.
        train_teachers: Whether a teacher without a finished run is trained first; else it is an error.
        wait: Whether to wait for another process that works in the folder, as for a teacher that two runs need.

    Raises:
        UserError: Something in the folder or its params.json is wrong; nothing was changed.
        Stopped: A signal came; all is saved.
        RunFailed: The run broke; run.json says why.
    """
    keep_freed_memory()
    world = place.world
    params = world.on_rank_zero(lambda: check_folder(folder, place))
    if params.generations:
        train_generations(folder, params, place, restart=restart, train_teachers=train_teachers, wait=wait)
        return
    if not train_teachers:
        world.on_rank_zero(lambda: require_trained(params, folder))
    stopping, lock = StopSignals(together=world.size > 1), held(folder, world, wait=wait)
    with stopping as signals, lock, trouble_in_one_line(folder):
        with logging_to(None):  # the folder's files stay as they are, the log too, until all is found to be right
            task = "train anew" if restart else world.on_rank_zero(lambda: task_in(folder, params))
            if task == "nothing":
                return
            source = world.on_all_ranks(lambda: build_source(params, place))
            data = world.on_all_ranks(lambda: open_data(params, folder, source, place))
            refuse_small_shares(params, folder, source, data, place)
            state = None
            if task == "train":
                state = world.on_rank_zero(
                    lambda: earlier_state(folder, data.steps_per_epoch(params.batch_size), place)
                )
        world.on_rank_zero(lambda: begin(folder, params, source, place, anew=task == "train anew"))
        with recording(folder, world):
            train_missing(params, folder, place)
            teachers = world.on_all_ranks(lambda: read_teachers(params, folder.params))
            world.on_rank_zero(lambda: note_teachers(teachers, folder))
            teacher = world.on_all_ranks(lambda: build_teacher(teachers, params, source, data, place))
            trainer = build_trainer(folder, params, place, source, data, teacher, should_stop=lambda: signals.received)
            if state is None:
                world.on_all_ranks(lambda: start_from_init(trainer, params))
            run(trainer, place, state, signals, params.compile)


def task_in(folder: Folder, params: Params) -> Literal["nothing", "train", "train anew"]:
    """What is left to do in a folder.

    Raises:
        UserError: Its params.json has changed since the run began.
    """
    refuse_changed_params(folder, params)
    if folder.state() != "finished":
        return "train"
    if folder.is_trained():
        log.info("%s is finished: %s", folder.name, summary(folder))
        return "nothing"
    # Results that came without weights, as this project ships some.
    log.info("%s is finished, but its weights are not here: it is trained again", folder.name)
    return "train anew"


def begin(folder: Folder, params: Params, source: DataSource, place: Runtime, *, anew: bool) -> None:
    """Make a folder that of a run that is under way, `anew` without what an earlier one has left."""
    if anew:
        remove_run(folder)
    remove_leftovers(folder)
    write_json(folder.resolved, params.model_dump(mode="json"))
    dtype = resolve_precision(params.precision, place.device)
    told = provenance(place.device, dtype, place.world.size) | cost_of(params, source)._asdict()
    folder.update_run(**told, num_epochs=params.num_epochs, state="running", error=None)


@contextmanager
def held(folder: Folder, world: World, *, wait: bool) -> Iterator[None]:
    """The folder's lock, which the first process holds for all; as `Folder.locked`."""
    with ExitStack() as stack:
        world.on_rank_zero(lambda: stack.enter_context(folder.locked(wait=wait)))
        yield


@contextmanager
def recording(folder: Folder, world: World) -> Iterator[None]:
    """The folder's log, and in run.json how the block ended: both by the first process."""
    if not world.is_rank_zero:
        yield
        return
    with logging_to(folder.log), recording_the_end(folder):
        yield


def train_generations(
    folder: Folder, params: Params, place: Runtime, *, restart: bool, train_teachers: bool, wait: bool
) -> None:
    """Bring all generations of a folder to their end, one after another."""
    world = place.world
    with held(folder, world, wait=wait), trouble_in_one_line(folder):
        children = world.on_rank_zero(lambda: begin_generations(folder, params, place, restart=restart))
        if not children:
            return
        with recording(folder, world):
            for number, child in enumerate(children):
                world.on_rank_zero(partial(folder.update_run, generation=number, progress=number / len(children)))
                log.info("%s: generation %d of %d", folder.name, number, len(children))
                train_folder(child, place, train_teachers=train_teachers)
                log.info("%s: %s", child.name, summary(child))
            world.on_rank_zero(lambda: folder.update_run(state="finished", progress=1.0))


def begin_generations(folder: Folder, params: Params, place: Runtime, *, restart: bool) -> list[Folder]:
    """The folders of all generations, made ready; none where they are finished."""
    children = prepare_generations(folder)
    if restart:
        for child in reversed(children):  # from the last, as a killed restart must not leave a child of no parent
            remove_run(child)
    if not restart and folder.state() == "finished" and all(child.is_trained() for child in children):
        with logging_to(None):
            log.info("%s is finished: %d generations", folder.name, len(children))
        return []
    told = provenance(place.device, resolve_precision(params.precision, place.device), place.world.size)
    folder.update_run(**told, state="running", error=None)
    return children


def run(
    trainer: Trainer,
    place: Runtime,
    state: dict[str, Any] | None,
    signals: StopSignals,
    compiling: bool | Literal["auto"],
) -> None:
    """Train from `state`, a last.pth.tar, or from the start, to the end."""
    folder, world = trainer.folder, trainer.world
    if state is not None:
        trainer.load(state)
        log.info("%s: going on at step %d of %d", folder.name, trainer.step, trainer.total_steps)
    batch = next(iter(trainer.data.train_batches(0, trainer.batch_size, shard=world.shard)))
    estimate = trainer.estimate_seconds(batch)
    seconds = world.on_rank_zero(lambda: estimate)
    log.info("%s: %s", folder.name, plan(trainer, seconds))
    pays = world.size == 1 and pays_to_compile(seconds, trainer.device)  # nobody has tried it in several processes
    if pays if compiling == "auto" else compiling:
        log.info("%s: compiling the student", folder.name)
        trainer.compile(batch)
    trainer.distribute(batch)
    with signals.deferred(), counting_answers(trainer):
        trainer.fit()
        finish(folder, trainer, place)


def pays_to_compile(seconds: float, device: torch.device) -> bool:
    return device.type == "cuda" and seconds > COMPILING_PAYS_AFTER


@contextmanager
def counting_answers(trainer: Trainer) -> Iterator[None]:
    """Tell how often the teacher had to be run in the block."""
    folder, teacher, world = trainer.folder, trainer.teacher, trainer.world
    if teacher is None:
        yield
        return
    asked, run, began = teacher.num_queries, teacher.num_forwards, trainer.step

    def tell() -> None:
        here = torch.tensor([teacher.num_queries - asked, teacher.num_forwards - run])
        asked_here, run_here = world.all_reduce_sum(here).tolist()
        world.on_rank_zero(lambda: add_answers(folder, asked_here, run_here, going_on=began > 0))

    try:
        yield
    except Exception as error:
        # Of several processes, one may have failed alone: the others would not count with it.
        if world.size == 1 or isinstance(error, Stopped):
            tell()
        raise
    tell()


def add_answers(folder: Folder, asked: int, run: int, *, going_on: bool) -> None:
    """Write into run.json, and tell, how often a teacher was asked and run, those before the run went on included."""
    before = folder.read_run().get("teacher_images", {}) if going_on else {}
    images = {"asked": before.get("asked", 0) + asked, "run": before.get("run", 0) + run}
    told = "{run:,} of the {asked:,} images that it was asked about".format(**images)
    log.info("%s: the teacher was run on %s", folder.name, told)
    folder.update_run(teacher_images=images)


def refuse_small_shares(params: Params, folder: Folder, source: DataSource, data: Pipeline, place: Runtime) -> None:
    """Every process must have something of every batch.

    Raises:
        UserError: A batch or a split has too few images.
    """
    size = place.world.size
    if size == 1:
        return
    for split in ("val", "test"):
        if 0 < data.size(split) < size:
            raise UserError(
                f"{folder.params}: dataset: {split} has {data.size(split)} images, too few for {size} processes"
            )
    last = data.size("train") - (data.steps_per_epoch(params.batch_size) - 1) * params.batch_size
    with torch.device("meta"):
        layers = build_student(params, source).modules()
    # One image has no variance; where the statistics are those of all processes, it is not alone.
    alone = place.device.type == "cpu" and any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers)
    needed = 2 * size if alone else size
    if (smallest := min(last, params.batch_size)) < needed:
        which = "a batch" if smallest == params.batch_size else "the last batch of an epoch"
        raise UserError(
            f"{folder.params}: batch_size: {which} has {smallest} images, and {size} processes need {needed}"
        )


def finish(folder: Folder, trainer: Trainer, place: Runtime) -> None:
    """Read the test split, once, with the best and the last weights."""
    world = trainer.world
    last = trainer.evaluate(trainer.student, "test") | {"epoch": trainer.num_epochs}
    trainer.check_finite({"test_loss": last["loss"]})
    trainer.write(folder.metrics("test", "last"), last)
    best = world.on_rank_zero(lambda: load_checkpoint(folder.checkpoint("best")))
    trainer.student.load_state_dict(best["state_dict"])
    trainer.write(folder.metrics("test", "best"), trainer.evaluate(trainer.student, "test") | {"epoch": best["epoch"]})
    shape = trainer.describe["image_shape"]
    told = {
        "weights_digest": weights_digest(best["state_dict"]),
        "peak_memory_bytes": peak_memory(place.device),
        "latency_ms": round(latency(trainer.student, shape, dtype=trainer.dtype, device=place.device), 4),
    }
    world.on_rank_zero(lambda: folder.update_run(state="finished", **told))
    log.info("%s is finished: %s", folder.name, summary(folder))


# The folders that it needs ------------------------------------------------------------------------------------------


def missing_folders(params: Params, folder: Folder) -> list[Folder]:
    return [needed for needed in needed_folders(params, folder.params) if not needed.is_trained()]


def require_trained(params: Params, folder: Folder) -> None:
    for needed in missing_folders(params, folder):
        raise UserError(
            f"{folder.params}: {role(needed, params, folder)}: {needed.name} is not trained "
            f"(its run is {needed.state()}); python train.py --model_dir {needed.name}"
        )


def train_missing(params: Params, folder: Folder, place: Runtime) -> None:
    for needed in place.world.on_rank_zero(lambda: missing_folders(params, folder)):
        what = f"its {role(needed, params, folder)} {needed.name}"
        log.info("%s: %s is not trained, it is trained first", folder.name, what)
        train_folder(needed, place, wait=True)
        log.info("%s: %s is trained: %s", folder.name, what, summary(needed))


def role(needed: Folder, params: Params, folder: Folder) -> str:
    """The key of params.json that names a folder."""
    return "init" if needed == init_folder(params, folder.params) else "teacher"


def start_from_init(trainer: Trainer, params: Params) -> None:
    """Take over the weights of the folder that the run starts from, if it names one.

    Raises:
        UserError: The file is missing, or of another network.
    """
    folder = trainer.folder
    init = init_folder(params, folder.params)
    if init is None or params.init is None:
        return
    path = init.checkpoint(params.init.weights)
    content = load_checkpoint(path)
    load_weights(trainer.student, content, path)
    load_term_states(trainer.objective, content, path)
    if trainer.world.is_rank_zero:
        folder.update_run(init={init.name: weights_digest(state_dict_of(content, path))})
    log.info("%s: starts from the %s weights of %s", folder.name, params.init.weights, init.name)


def note_teachers(teachers: Sequence[TrainedTeacher], folder: Folder) -> None:
    """Keep in run.json which weights teach; a run that goes on must have those that it began with.

    Raises:
        UserError: A teacher has been trained anew since the run began.
    """
    if not teachers:
        return
    now = {teacher.folder.name: teacher.weights_digest for teacher in teachers}
    before = folder.read_run().get("teacher", {})
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if changed and folder.checkpoint("last").exists():
        raise UserError(
            f"{folder.name}: the weights of its teacher {changed[0]} changed since the run began; "
            "put them back, or throw the run away with --restart"
        )
    folder.update_run(teacher=now)


# What is told of a run ----------------------------------------------------------------------------------------------


def plan(trainer: Trainer, seconds: float) -> str:
    """One line: what will be done and how long that takes about."""
    epochs = "epoch" if trainer.num_epochs == 1 else "epochs"
    processes = f" in {trainer.world.size} processes" if trainer.world.size > 1 else ""
    return (
        f"{trainer.num_epochs} {epochs} of {trainer.steps_per_epoch} steps, batch size {trainer.batch_size}, "
        f"{str(trainer.dtype).removeprefix('torch.')} on {trainer.device.type}{processes}: "
        f"about {format_duration(seconds)} left"
    )


def summary(folder: Folder) -> str:
    """One line: accuracies of the best weights."""
    parts = []
    for split in ("val", "test"):
        path = folder.metrics(split, "best")
        if path.exists():
            metrics = read_json(path)
            parts.append(f"{split} accuracy {100 * metrics['accuracy']:.2f} % (epoch {metrics.get('epoch', '-')})")
    return ", ".join(parts) or "no metrics"
