"""Train a folder: begin, go on, or say that it is done; train its teachers first where they are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from model import build
from model.build import Place
from model.build_teacher import Trained, build_teacher, read_teachers
from model.check import check_folder
from model.earlier import checked_state, refuse_changed_params, remove_leftovers, remove_run
from model.ending import StopSignals, recording_the_end, trouble_in_one_line
from model.engine.memory import keep_freed_memory
from model.engine.precision import placed, resolve_precision
from model.engine.teachers import Teacher, digest
from model.engine.trainer import Trainer
from model.evaluation.cost import Cost, cost
from model.evaluation.metrics import metrics_of, predictions
from model.folder import Folder
from model.generations import prepare_generations
from model.params import Params
from model.provenance import peak_memory, provenance
from model.types import DataSource, Pipeline, Split
from utils import UserError, duration, load_checkpoint, log, logging_to, read_json, write_json

EVAL_BATCH_SIZE = 1000
COMPILING_PAYS_AFTER = 300.0  # seconds of training, as compiling takes about one minute


def train_folder(
    folder: Folder, place: Place, *, restart: bool = False, train_teachers: bool = True, wait: bool = False
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
    params = check_folder(folder, place)
    if params.generations:
        train_generations(folder, params, place, restart=restart, train_teachers=train_teachers, wait=wait)
        return
    if not train_teachers:
        require_trained(params, folder)
    with StopSignals() as signals, folder.locked(wait=wait), trouble_in_one_line(folder):
        with logging_to(None):  # the folder's files stay as they are, the log too, until all is found to be right
            if not restart:
                refuse_changed_params(folder, params)
                if folder.state() == "finished" and folder.is_trained():
                    log.info("%s is finished: %s", folder.name, summary(folder))
                    return
                if folder.state() == "finished":  # results that came without weights, as this project ships some
                    log.info("%s is finished, but its weights are not here: it is trained again", folder.name)
                    restart = True
            source = build.build_source(params, place)
            data = open_data(params, folder, source, place)
            state = None
            if folder.checkpoint("last").exists() and not restart:
                state = checked_state(folder, data.steps_per_epoch(params.batch_size), place)
        if restart:
            remove_run(folder)
        remove_leftovers(folder)
        write_json(folder.resolved, params.model_dump(mode="json"))
        dtype = resolve_precision(params.precision, place.device)
        told = provenance(place.device, dtype) | cost_of(params, source)._asdict()
        folder.update_run(**told, num_epochs=params.num_epochs, state="running", error=None)
        with logging_to(folder.log), recording_the_end(folder):
            train_missing(params, folder, place)
            teachers = read_teachers(params, folder.params)
            note_teachers(teachers, folder)
            teacher = build_teacher(teachers, params, source, data, place)
            trainer = build_trainer(folder, params, place, source, data, teacher, should_stop=lambda: signals.received)
            if state is None:
                start_from_init(trainer, params)
            run(trainer, place, state, signals, params.compile)


def train_generations(
    folder: Folder, params: Params, place: Place, *, restart: bool, train_teachers: bool, wait: bool
) -> None:
    """Bring all generations of a folder to their end, one after another."""
    with folder.locked(wait=wait), trouble_in_one_line(folder):
        children = prepare_generations(folder)
        if restart:
            for child in reversed(children):  # from the last, as a killed restart must not leave a child of no parent
                remove_run(child)
        if not restart and folder.state() == "finished" and all(child.is_trained() for child in children):
            with logging_to(None):
                log.info("%s is finished: %d generations", folder.name, len(children))
            return
        dtype = resolve_precision(params.precision, place.device)
        folder.update_run(**provenance(place.device, dtype), state="running", error=None)
        with logging_to(folder.log), recording_the_end(folder):
            for number, child in enumerate(children):
                folder.update_run(generation=number, progress=number / len(children))
                log.info("%s: generation %d of %d", folder.name, number, len(children))
                train_folder(child, place, train_teachers=train_teachers)
                log.info("%s: %s", child.name, summary(child))
            folder.update_run(state="finished", progress=1.0)


def run(
    trainer: Trainer,
    place: Place,
    state: dict[str, Any] | None,
    signals: StopSignals,
    compiling: bool | Literal["auto"],
) -> None:
    """Train from `state`, a last.pth.tar, or from the start, to the end."""
    folder = trainer.folder
    if state is not None:
        trainer.load(state)
        log.info("%s: going on at step %d of %d", folder.name, trainer.step, trainer.total_steps)
    batch = next(iter(trainer.data.train_batches(0, trainer.batch_size)))
    seconds = trainer.estimate_seconds(batch)
    log.info("%s: %s", folder.name, plan(trainer, seconds))
    if pays_to_compile(seconds, trainer.device) if compiling == "auto" else compiling:
        log.info("%s: compiling the student", folder.name)
        trainer.compile(batch)
    with signals.deferred(), counting_answers(trainer):
        trainer.fit()
        finish(folder, trainer, place)


def pays_to_compile(seconds: float, device: torch.device) -> bool:
    return device.type == "cuda" and seconds > COMPILING_PAYS_AFTER


@contextmanager
def counting_answers(trainer: Trainer) -> Iterator[None]:
    """Tell how often the teacher had to be run in the block."""
    folder, teacher = trainer.folder, trainer.teacher
    if teacher is None:
        yield
        return
    asked, run = teacher.num_asked, teacher.num_run
    before = folder.read_run().get("teacher_images", {}) if trainer.step else {}
    try:
        yield
    finally:
        images = {
            "asked": before.get("asked", 0) + teacher.num_asked - asked,
            "run": before.get("run", 0) + teacher.num_run - run,
        }
        told = "{run:,} of the {asked:,} images that it was asked about".format(**images)
        log.info("%s: the teacher was run on %s", folder.name, told)
        folder.update_run(teacher_images=images)


def build_trainer(
    folder: Folder,
    params: Params,
    place: Place,
    source: DataSource,
    data: Pipeline,
    teacher: Teacher | None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Everything that a run needs, at step 0."""
    device, dtype = place.device, resolve_precision(params.precision, place.device)
    torch.manual_seed(params.seed)
    student = placed(build.build_student(params, source), device)
    objective = build.build_objective(params)
    build.prepare_objective(objective, params, folder.params, data, place)
    build.begin(objective, student, folder.params)
    objective.to(device)
    parameters = [p for module in (student, objective) for p in module.parameters() if p.requires_grad]

    def evaluate(net: nn.Module, split: Split) -> dict[str, float]:
        batches = data.eval_batches(split, EVAL_BATCH_SIZE)
        return metrics_of(predictions(net, batches, dtype=dtype, device=device))

    return Trainer(
        student=student,
        teacher=teacher,
        objective=objective,
        optimizer=build.build_optimizer(params, parameters),
        schedule=build.build_schedule(params),
        data=data,
        evaluate=evaluate,
        folder=folder,
        describe=build.describe(params, source),
        batch_size=params.batch_size,
        num_epochs=params.num_epochs,
        seed=params.seed,
        device=device,
        dtype=dtype,
        gradient_clip=params.gradient_clip,
        checkpoint_minutes=params.checkpoint_minutes,
        should_stop=should_stop,
    )


def cost_of(params: Params, source: DataSource) -> Cost:
    """What the folder's network costs."""
    with torch.device("meta"):  # nothing is allocated, and no random number drawn
        return cost(build.build_network(params, source), source.image_shape)


def open_data(params: Params, folder: Folder, source: DataSource, place: Place) -> Pipeline:
    options = build.split_options(params)
    try:
        return source.open(options, seed=params.seed, device=place.device)
    except ValueError as error:
        raise UserError(f"{folder.params}: dataset: {error}") from None


def finish(folder: Folder, trainer: Trainer, place: Place) -> None:
    """Read the test split, once, with the best and the last weights."""
    last = trainer.evaluate(trainer.student, "test") | {"epoch": trainer.num_epochs}
    trainer.check_finite({"test_loss": last["loss"]})
    write_json(folder.metrics("test", "last"), last)
    best = load_checkpoint(folder.checkpoint("best"))
    trainer.student.load_state_dict(best["state_dict"])
    write_json(folder.metrics("test", "best"), trainer.evaluate(trainer.student, "test") | {"epoch": best["epoch"]})
    folder.update_run(
        state="finished", weights_digest=digest(best["state_dict"]), peak_memory_bytes=peak_memory(place.device)
    )
    log.info("%s is finished: %s", folder.name, summary(folder))


# The folders that it needs ------------------------------------------------------------------------------------------


def missing_folders(params: Params, folder: Folder) -> list[Folder]:
    return [needed for needed in build.needed_folders(params, folder.params) if not needed.is_trained()]


def require_trained(params: Params, folder: Folder) -> None:
    for needed in missing_folders(params, folder):
        raise UserError(
            f"{folder.params}: {role(needed, params, folder)}: {needed.name} is not trained "
            f"(its run is {needed.state()}); python train.py --model_dir {needed.name}"
        )


def train_missing(params: Params, folder: Folder, place: Place) -> None:
    for needed in missing_folders(params, folder):
        what = f"its {role(needed, params, folder)} {needed.name}"
        log.info("%s: %s is not trained, it is trained first", folder.name, what)
        train_folder(needed, place, wait=True)
        log.info("%s: %s is trained: %s", folder.name, what, summary(needed))


def role(needed: Folder, params: Params, folder: Folder) -> str:
    """The key of params.json that names a folder."""
    return "init" if needed == build.init_folder(params, folder.params) else "teacher"


def start_from_init(trainer: Trainer, params: Params) -> None:
    """Take over the weights of the folder that the run starts from, if it names one.

    Raises:
        UserError: The file is missing, or of another network.
    """
    folder = trainer.folder
    init = build.init_folder(params, folder.params)
    if init is None or params.init is None:
        return
    path = init.checkpoint(params.init.weights)
    content = load_checkpoint(path)
    build.load_weights(trainer.student, content, path)
    build.load_terms(trainer.objective, content, path)
    folder.update_run(init={init.name: digest(build.weights_of(content, path))})
    log.info("%s: starts from the %s weights of %s", folder.name, params.init.weights, init.name)


def note_teachers(teachers: Sequence[Trained], folder: Folder) -> None:
    """Keep in run.json which weights teach; a run that goes on must have those that it began with.

    Raises:
        UserError: A teacher has been trained anew since the run began.
    """
    if not teachers:
        return
    now = {teacher.folder.name: teacher.digest for teacher in teachers}
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
    return (
        f"{trainer.num_epochs} {epochs} of {trainer.steps_per_epoch} steps, batch size {trainer.batch_size}, "
        f"{str(trainer.dtype).removeprefix('torch.')} on {trainer.device.type}: about {duration(seconds)} left"
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
