"""Find a user's mistakes before any data is read: everything in params.json is tried out, other folders included."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..build.experiment import Experiment
from ..build.freeze import freeze
from ..build.network import concat_embeddings, output_shapes
from ..build.start import Source, check_start
from ..build.teacher import teacher_output_shapes
from ..build.trainer import build_optimizer, build_schedule, groups_of
from ..config.folder import Folder
from ..config.generations import first_generation
from ..config.params import RATES
from ..errors import OptionError, UserError, did_you_mean, first_sentence, preview
from ..types import PER_IMAGE_NEEDS, Batch, LossContext, Output


def preflight(experiment: Experiment) -> Experiment:
    """Check an experiment together with its teachers and the folder that it starts from, trained or not.

    Returns:
        The experiment.

    Raises:
        UserError: Whatever is wrong with the folder or one that it needs, in one line.
    """
    check_experiment(experiment)
    if not experiment.params.generations:
        for needed, weights in experiment.dependencies.items():
            if needed.is_trained:
                needed.weights(weights)
            elif weights == "ema" and needed.params.ema is None:
                key = "init" if needed is experiment.init else "teacher"
                with experiment.naming_params():
                    raise OptionError(f"{key}.weights", f"{needed.name} averages no weights: it has no ema")
            else:
                preflight(needed)
    return experiment


def check_experiment(experiment: Experiment) -> None:
    """Try out everything that can be tried without data and weights, the params of other folders included.

    Raises:
        UserError: Whatever is wrong, in one line.
    """
    if experiment.params.generations:
        _check_generations(experiment)
        return
    output = _try_parts(experiment)
    _check_needs(experiment)
    _check_mixing(experiment)
    teacher_outputs = [
        _check_teacher(experiment, teacher, len(output.logits)) for teacher in experiment.teachers_in_use
    ]
    classifier = experiment.teachers[0].classifier(None) if "classifier" in experiment.objective.needs else None
    _try_losses(experiment, output, concat_embeddings(teacher_outputs), classifier)
    _check_early_stopping(experiment)
    _check_init(experiment)


def _try_parts(experiment: Experiment) -> Output:
    """Build what needs neither data nor teachers; returns the student's output for a few images, shapes only."""
    params, _, _ = experiment.params, experiment.split_options, experiment.baseline
    output = _try_student(experiment)
    with experiment.naming_params():
        build_optimizer(params.optimizer, [nn.Parameter(torch.zeros(1))])
        student = experiment.network_on_meta()
        freeze(student, params.freeze, experiment.source.image_shape)
        groups_of(experiment, student)
        build_schedule(params.schedule, params.num_epochs, steps_per_epoch=1)
    return output


def _try_student(experiment: Experiment) -> Output:
    """The forward pass of a training step, shapes only."""
    params, source = experiment.params, experiment.source
    num_images = min(params.batch_size, 2)
    with experiment.naming_params():
        try:
            student = params.student if experiment.pretrained_file is None else experiment.without_pretrained
            return output_shapes(student, len(source.class_names), source.image_shape, num_images, training=True)
        except (RuntimeError, ValueError, AssertionError) as error:  # networks of other libraries assert
            key, problem = ("batch_size", "1 is too few") if num_images == 1 else ("student", "cannot be used")
            shape = tuple(source.image_shape)
            message = f"{problem} for {params.student.name} and images of shape {shape}: {first_sentence(error)}"
            raise OptionError(key, message) from None


def _check_needs(experiment: Experiment) -> None:
    """Refuse a teacher that cannot give what the loss terms read of it."""
    params, objective = experiment.params, experiment.objective
    with experiment.naming_params():
        if objective.needs and params.teacher is None:
            terms = ", ".join(name for name, needs in objective.needs_of.items() if needs)
            raise OptionError("teacher", f"the loss {terms} needs one, and none is given")
        if params.teacher is not None and params.teacher.cache_top_k is not None and "logits" in objective.needs:
            terms = ", ".join(name for name, needs in objective.needs_of.items() if "logits" in needs)
            raise OptionError("teacher.cache_top_k", f"the loss {terms} reads all logits: leave this out")
        comparing = [name for name, needs in objective.needs_of.items() if needs - PER_IMAGE_NEEDS]
        if comparing and len(experiment.teachers) > 1:
            terms = ", ".join(comparing)
            raise OptionError("teacher", f"the loss {terms} compares with one network: name one folder")


def _check_mixing(experiment: Experiment) -> None:
    """Refuse what cannot be had of mixed images: a cache, and loss terms with one label for each of them."""
    teacher, mixing = experiment.params.teacher, " and ".join(experiment.split_options.mixing)
    if not mixing:
        return
    with experiment.naming_params():
        for name in experiment.objective.single_label_terms:
            raise OptionError(f"loss.{name}", f"needs one label for each image, and {mixing} mixes two: leave one out")
        if teacher is not None and teacher.cache:
            raise OptionError("teacher.cache", f"images that {mixing} mixes are never the same again: leave this out")


def _check_early_stopping(experiment: Experiment) -> None:
    """Refuse a metric that no epoch has."""
    options = experiment.params.early_stopping
    if options is None:
        return
    known = [*(f"val_{name}" for name in RATES), "val_loss", "train_accuracy", "train_loss"]
    known += [f"loss_{name}" for name in experiment.objective.value_names]
    known += ["ema_val_accuracy", "ema_val_loss"] if experiment.params.ema else []
    known += ["agreement", "teacher_accuracy"] if experiment.teachers_in_use else []
    with experiment.naming_params():
        if options.metric not in known and not options.metric.startswith(("val_exit_", "val_ensemble_")):
            hint = did_you_mean(options.metric, known)
            listed = ", ".join(known)
            raise OptionError(
                "early_stopping.metric", f"no {preview(options.metric)} is measured{hint}; known: {listed}"
            )
        if experiment.split_options.val_size == 0:
            raise OptionError("early_stopping", "needs val, and dataset.val_size is 0")


def _check_generations(experiment: Experiment) -> None:
    """Check the first generation, and a later one, whose teacher is the same network and need not be there yet."""
    params, folder = experiment.written_params, experiment.folder
    with experiment.naming_params():
        if params.init is not None:
            raise OptionError("init", "every generation begins with fresh weights: leave this out")
        check_experiment(Experiment(folder.path, experiment.runtime, params=first_generation(params)))
        later = Experiment(folder.path, experiment.runtime, params=params.model_copy(update={"generations": None}))
        output = _try_parts(later)
        _check_mixing(later)
        _try_losses(later, output, output, later.classifier(None))
        if not later.objective.needs:
            raise OptionError("generations", "no loss term needs a teacher, so none learns from the one before")


def _try_losses(experiment: Experiment, student: Output, teacher: Output | None, classifier: nn.Linear | None) -> None:
    """Refuse a student and a teacher that a term cannot compare; outputs are zeros of these shapes."""
    num_images, num_classes = student.logits.shape
    index_N = torch.zeros(num_images, dtype=torch.long)
    batch = Batch(torch.zeros(num_images, 1, 1, 1), index_N, index_N, index_N)
    labels_M = torch.arange(2 * num_classes) % num_classes  # two images of each class, as none has been read yet
    context = LossContext(
        student=student,
        teacher=teacher,
        labels=labels_M,
        seed=experiment.params.seed,
        class_names=experiment.class_names,
        classifier=classifier,
    )
    objective = experiment.new_objective()
    with experiment.naming_params():
        objective.prepare(context)
        for name, loss in objective.losses.items():
            try:
                loss(_zeros(student), None if teacher is None else _zeros(teacher), batch)
            except (ValueError, RuntimeError) as error:
                raise OptionError(f"loss.{name}", first_sentence(error)) from None


def _zeros(output: Output) -> Output:
    """An output of the same shapes on the CPU."""

    def zeros(tensor: Tensor) -> Tensor:
        return torch.zeros(tensor.shape)

    return Output(
        logits=zeros(output.logits),
        embedding=zeros(output.embedding),
        maps=tuple(map(zeros, output.maps)),
        preacts=tuple(map(zeros, output.preacts)),
        exits=tuple(map(_zeros, output.exits)),
        stem=None if output.stem is None else zeros(output.stem),
    )


def _check_teacher(experiment: Experiment, teacher: Experiment, num_images: int) -> Output:
    """Compare a teacher's data set with the student's; returns the teacher's output, shapes only."""
    own, other = experiment.source, _single_run(experiment, teacher, "teacher").source
    channels, own_channels = other.image_shape[0], own.image_shape[0]
    if channels != own_channels:
        with experiment.naming_params():
            number = "1 channel" if channels == 1 else f"{channels} channels"
            raise OptionError("teacher", f"{teacher.name} takes images with {number}, the student with {own_channels}")
    _refuse_cycles(experiment, teacher, [experiment.folder.path.resolve()], "teacher")
    output = teacher_output_shapes(experiment, teacher, num_images)
    if "embedding" in experiment.objective.needs and not output.embedding.shape[1]:
        terms = [name for name, needs in experiment.objective.needs_of.items() if "embedding" in needs]
        with experiment.naming_params():
            raise OptionError("teacher", f"{teacher.name} has logits alone, and the loss {', '.join(terms)} needs more")
    return output


def _check_init(experiment: Experiment) -> None:
    """Check that the folder, or the file, that a run starts from has the same network."""
    if experiment.pretrained_file is not None:
        check_start(experiment, experiment.pretrained_source)
    if experiment.init is None:
        source = experiment.init_source()
        if source is not None:
            check_start(experiment, source)
            experiment.columns_of_init(source)
        return
    init = _single_run(experiment, experiment.init, "init")
    _refuse_cycles(experiment, init, [experiment.folder.path.resolve()], "init")
    is_mapped = bool(experiment.params.init and experiment.params.init.class_map)
    source = Source(init.name, None, init.class_names, is_mapped)
    experiment.columns_of_init(source)
    try:
        check_start(experiment, source, init.network_on_meta().state_dict())
    except UserError as error:
        with experiment.naming_params():
            raise OptionError("init", f"{init.folder.params}: {error}") from None


def _single_run(experiment: Experiment, other: Experiment, key: str) -> Experiment:
    if generations := other.params.generations:
        with experiment.naming_params():
            raise OptionError(key, f"{other.name} holds {generations} generations; name one: .../gen_1")
    return other


def _refuse_cycles(experiment: Experiment, other: Experiment, above: list[Path], key: str) -> None:
    path = other.folder.path.resolve()
    chain = [*above, path]
    if path in above:
        with experiment.naming_params():
            raise OptionError(key, f"a cycle: {' -> '.join(Folder(each).name for each in chain)}")
    for needed in [*other.teachers, *([] if other.init is None else [other.init])]:
        _refuse_cycles(experiment, needed, chain, key)
