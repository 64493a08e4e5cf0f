"""Train a folder: begin, go on, or say that it is done; train its teachers first where they are missing."""

from __future__ import annotations

import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Literal

import torch
from torch import nn

from model import build
from model.build import Place
from model.build_teacher import Trained, build_teacher, read_teachers
from model.check import check_folder, check_weights
from model.engine.memory import keep_freed_memory
from model.engine.precision import placed, resolve_precision
from model.engine.teachers import Teacher, digest
from model.engine.trainer import Trainer
from model.evaluation.cost import Cost, cost
from model.evaluation.metrics import metrics_of, predictions
from model.folder import Folder
from model.generations import prepare_generations
from model.params import Params, differences, parse_params
from model.provenance import peak_memory, provenance
from model.types import DataSource, Pipeline, Split
from utils import RunFailed, Stopped, UserError, duration, load_checkpoint, log, logging_to, read_json, write_json

EVAL_BATCH_SIZE = 1000
COMPILING_PAYS_AFTER = 300.0  # seconds of training, as compiling takes about one minute
WRITTEN_BY_A_RUN = (
    "params_resolved.json",
    "run.json",
    "metrics.jsonl",
    "train.log",
    "tensorboard",
    "evaluation",
    "cache",
    *(f"metrics_{split}_{weights}_weights.json" for split in ("val", "test") for weights in ("best", "last")),
    "best.pth.tar",
    "last.pth.tar",
)


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
        require_trained_teachers(params, folder)
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
            train_missing_teachers(params, folder, place)
            teachers = read_teachers(params, folder.params)
            note_teachers(teachers, folder)
            teacher = build_teacher(teachers, params, source, data, place)
            trainer = build_trainer(folder, params, place, source, data, teacher, should_stop=lambda: signals.received)
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
    objective = build.build_objective(params).to(device)
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


# Teachers -----------------------------------------------------------------------------------------------------------


def missing_teachers(params: Params, folder: Folder) -> list[Folder]:
    if not build.build_objective(params).needs:
        return []
    return [teacher for teacher in build.teacher_folders(params, folder.params) if not teacher.is_trained()]


def require_trained_teachers(params: Params, folder: Folder) -> None:
    for teacher in missing_teachers(params, folder):
        raise UserError(
            f"{folder.params}: teacher: {teacher.name} is not trained (its run is {teacher.state()}); "
            f"python train.py --model_dir {teacher.name}"
        )


def train_missing_teachers(params: Params, folder: Folder, place: Place) -> None:
    for teacher in missing_teachers(params, folder):
        log.info("%s: its teacher %s is not trained, it is trained first", folder.name, teacher.name)
        train_folder(teacher, place, wait=True)
        log.info("%s: its teacher %s is trained: %s", folder.name, teacher.name, summary(teacher))


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


# The folder's state -------------------------------------------------------------------------------------------------


def refuse_changed_params(folder: Folder, params: Params) -> None:
    """A run goes on only with the parameters that it began with.

    Raises:
        UserError: Some differ; they are listed with both values.
    """
    if not folder.resolved.exists():
        return
    before = read_json(folder.resolved)
    with suppress(UserError):  # of a version with other options; then they are compared as they stand
        before = build.resolve_params(parse_params(before, folder.resolved), folder.resolved).model_dump(mode="json")
    if changed := differences(before, params.model_dump(mode="json")):
        raise UserError(
            f"{folder.params}: changed since the run began: {'; '.join(changed)}; "
            "put it back, use another folder, or throw the run away with --restart"
        )


def remove_run(folder: Folder) -> None:
    for name in WRITTEN_BY_A_RUN:
        path = folder.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Folder) -> None:
    """Half-written files of a process that was killed while it wrote them."""
    for name in WRITTEN_BY_A_RUN:
        for path in folder.path.glob(f".{name}.*.tmp"):
            path.unlink()


def checked_state(folder: Folder, steps_per_epoch: int, place: Place) -> dict[str, Any]:
    """last.pth.tar, if it is this run's.

    Raises:
        UserError: The file is cut short or of another run.
    """
    try:
        content = check_weights(folder, "last", place)
    except UserError as error:
        raise UserError(f"{error}; --restart begins anew") from None
    if "step" not in content or content.get("steps_per_epoch") != steps_per_epoch:
        raise UserError(
            f"{folder.checkpoint('last')}: is not this run's checkpoint (steps per epoch: "
            f"{content.get('steps_per_epoch')} there, {steps_per_epoch} here); --restart begins anew"
        )
    return content


@contextmanager
def recording_the_end(folder: Folder) -> Iterator[None]:
    """Write into run.json how the block ended."""
    try:
        with trouble_in_one_line(folder):
            yield
    except Stopped:
        folder.update_run(state="stopped")
        log.info("%s: stopped and saved; run the same command to go on", folder.name)
        raise
    except (UserError, RunFailed) as error:
        record_failure(folder, str(error))
        raise
    except Exception as error:
        log.error("%s", traceback.format_exc())
        record_failure(folder, f"{type(error).__name__}: {error}".splitlines()[0])
        raise


@contextmanager
def trouble_in_one_line(folder: Folder) -> Iterator[None]:
    """Turn what the machine does to us into one line: no permission, a full disk, no memory."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{folder.name}: cannot write to this folder ({error.filename}: {error.strerror})") from error
    except (OSError, torch.OutOfMemoryError) as error:
        raise RunFailed(f"{folder.name}: {str(error).splitlines()[0]}") from error


def record_failure(folder: Folder, reason: str) -> None:
    log.error("%s: failed: %s", folder.name, reason)
    folder.update_run(state="failed", error=reason)


class StopSignals:
    """What SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 do while a folder is worked on.

    While the run is being made ready they end it at once, as nothing is lost. In the training loop, which asks
    `received` after every step, they let the step end and be saved; a second one ends the run at once.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received = False
        self._deferred = False

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that asks for itself whether a signal came."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received or not self._deferred:
            raise Stopped("nothing is lost; run the same command to go on")
        self.received = True
        log.info("%s: saving, then stopping", signal.Signals(number).name)


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
