"""From params.json to objects: the one place that knows both the file's form and the parts it names."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import model.data
import model.engine
import model.losses
import model.nets  # noqa: F401  importing the packages fills the registries
from model.engine.distributed import ALONE, World
from model.engine.schedules import Schedule, warmed_up
from model.folder import Folder
from model.losses.objective import Objective
from model.nets.named import name_of_classifier, named, without_fetching
from model.params import Component, Params, find_folder, load_params
from model.registry import DATASETS, LOSSES, NETS, OPTIMIZERS, SCHEDULES, Registry
from model.types import DataSource, Normalisation, Output, Pipeline, Setting, SplitOptions
from utils import OptionError, UserError, first_sentence, load_checkpoint, nearest, shown, under

WEIGHTS_KEYS = ("state_dict", "model")  # of a checkpoint, with the state dict below


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run computes, in how many processes, and where its data lie; not part of the experiment."""

    device: torch.device
    data_dir: Path
    world: World = ALONE


def find_device(name: str, world: World = ALONE) -> torch.device:
    """The device of `--device`: auto, cpu, cuda or cuda:1; each of several processes on a machine has a GPU of its own.

    Raises:
        UserError: There is no such device here.
    """
    if world.size > 1 and name != "cpu" and torch.cuda.is_available():
        if name not in ("auto", "cuda"):
            raise UserError(f"--device {name}: every process has a GPU of its own: leave this out")
        if world.local_rank >= (count := torch.cuda.device_count()):
            raise UserError(
                f"--device {name}: more processes than GPUs here: --nproc_per_node {count}, or --device cpu"
            )
        return torch.device("cuda", world.local_rank)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # torch.device() alone also takes what does not compute here
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'--device {name}: {first_sentence(error)}; "auto" takes what is there') from None
    return device


def resolve_params(params: Params, path: Path) -> Params:
    """The same experiment with every default filled in.

    Raises:
        UserError: An option of a data set, network, loss, optimizer or schedule is wrong; names file and key.
    """
    try:
        return params.model_copy(
            update={
                "dataset": _resolved("dataset", DATASETS, params.dataset),
                "student": _with_teacher(_resolved("student", NETS, params.student), params, path),
                "loss": {name: _resolve_term(name, options) for name, options in params.loss.items()},
                "optimizer": _resolved("optimizer", OPTIMIZERS, params.optimizer),
                "schedule": _resolved("schedule", SCHEDULES, params.schedule),
            }
        )
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


def params_of(folder: Folder) -> Params:
    """The resolved params of a folder.

    Raises:
        UserError: Something in its params.json is wrong.
    """
    return resolve_params(load_params(folder.path), folder.params)


def _resolved(key: str, registry: Registry[Any], component: Component) -> Component:
    with under(key):
        return Component(name=component.name, **registry.resolve(component.name, component.options))


def _with_teacher(student: Component, params: Params, path: Path) -> Component:
    """A network with an option `teacher` that is left open is told the network of the first folder that teaches."""
    if params.teacher is None or student.options.get("teacher", "no such option") is not None:
        return student
    theirs = load_params(teacher_folders(params, path)[0].path).student
    return Component(name=student.name, **student.options | {"teacher": theirs.model_dump()})


def _resolve_term(name: str, options: dict[str, Any]) -> dict[str, Any]:
    if name not in LOSSES.names():
        known = ", ".join(LOSSES.names())
        raise OptionError("loss", f"no loss is named {shown(name)}{nearest(name, LOSSES.names())}; known: {known}")
    with under(f"loss.{name}"):
        return LOSSES.resolve(name, options)


# Building -----------------------------------------------------------------------------------------------------------


def teacher_folders(params: Params, path: Path) -> list[Folder]:
    """The folders that teach, found; none where the params name none."""
    if params.teacher is None:
        return []
    return [Folder(find_folder(name, path.parent)) for name in params.teacher.model_dir]


def init_folder(params: Params, path: Path) -> Folder | None:
    """The folder whose weights the run starts from, found; None where it starts from fresh ones."""
    return None if params.init is None else Folder(find_folder(params.init.model_dir, path.parent, key="init"))


def needed_folders(params: Params, path: Path) -> list[Folder]:
    """The folders that must be trained before this one: its teachers, where a term asks them, and where it starts."""
    teachers = teacher_folders(params, path) if build_objective(params).needs else []
    init = init_folder(params, path)
    return teachers if init is None else [*teachers, init]


def build_source(params: Params, place: Place) -> DataSource:
    with under("dataset"):
        source: DataSource = DATASETS.build(params.dataset.name, place.data_dir, **params.dataset.options)
    return source


def split_options(params: Params) -> SplitOptions:
    with under("dataset"):
        return DATASETS.common_options(params.dataset.name, params.dataset.options)


def build_student(params: Params, source: DataSource) -> nn.Module:
    """A network to be trained, with the data set's number of classes and channels.

    Weights are as drawn by torch's generator, or published ones where the options ask for them.

    Raises:
        OptionError: An option is wrong, or published weights cannot be fetched.
    """
    return _network(params, source, params.student.options)


def build_network(params: Params, source: DataSource) -> nn.Module:
    """The same network for its shapes alone, or for weights that are loaded into it: none are fetched."""
    return _network(params, source, without_fetching(params.student.options))


def _network(params: Params, source: DataSource, options: dict[str, Any]) -> nn.Module:
    return _student(params.student.name, options, len(source.class_names), source.image_shape)


def _student(name: str, options: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    channels, height, _ = image_shape
    with under("student"):
        return named(name, num_classes=num_classes, in_channels=channels, image_size=height, options=options)


def build_objective(params: Params) -> Objective:
    terms = {}
    for name, options in params.loss.items():
        with under(f"loss.{name}"):
            terms[name] = (LOSSES.build(name, **options), LOSSES.common_options(name, options))
    try:
        return Objective(terms)
    except ValueError as error:
        raise OptionError("loss", str(error)) from None


def prepare_objective(objective: Objective, params: Params, path: Path, data: Pipeline, place: Place) -> Setting:
    """Let the terms make what depends on the networks and the data; gives what they were told.

    Raises:
        UserError: A term cannot compare the student with its teacher.
    """
    asked, images = teacher_folders(params, path) if objective.needs else [], params.batch_size * data.views_shown
    try:
        setting = Setting(
            student=shapes_of(params, place, images),
            teacher=joined([shapes_of(params_of(folder), place, images) for folder in asked]),
            labels=torch.from_numpy(data.training_labels()),
            seed=params.seed,
            views_shown=data.views_shown,
            classifier=_trained_classifier(asked[0], params, place) if "classifier" in objective.needs else None,
        )
        objective.prepare(setting)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None
    return setting


def begin(objective: Objective, student: nn.Module, path: Path) -> None:
    """Let the terms change what the student begins with.

    Raises:
        UserError: A term cannot be used for this network.
    """
    try:
        objective.begin(student)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


def shapes_of(params: Params, place: Place, num_images: int) -> Output:
    """What a folder's network says of so many images: shapes only, nothing is allocated and nothing drawn."""
    return _shapes_of(params, build_source(params, place), without_fetching(params.student.options), num_images, False)


def shapes_in_training(params: Params, source: DataSource, num_images: int) -> Output:
    """What a student says in a training step, shapes only.

    Raises:
        OptionError: An option is wrong, or published weights cannot be fetched.
        RuntimeError, ValueError, AssertionError: The network cannot be used for such images.
    """
    return _shapes_of(params, source, params.student.options, num_images, True)


def _shapes_of(params: Params, source: DataSource, options: dict[str, Any], num_images: int, training: bool) -> Output:
    written, shape = json.dumps(options, sort_keys=True), tuple(source.image_shape)
    return _shapes_said(params.student.name, written, len(source.class_names), shape, num_images, training)


@functools.lru_cache(maxsize=256)  # hundreds of runs of a search ask for the same few
@torch.no_grad()
def _shapes_said(
    name: str, options: str, num_classes: int, image_shape: tuple[int, int, int], num_images: int, training: bool
) -> Output:
    with torch.device("meta"):
        net = _student(name, json.loads(options), num_classes, image_shape)
        said: Output = net.train(training)(torch.empty(num_images, *image_shape))
    return said


def classifier_of(params: Params, place: Place, state: dict[str, Any] | None = None) -> nn.Linear | None:
    """The layer that makes the logits of a folder's network, frozen; None where no linear layer makes them.

    Args:
        state: The network's weights; without these, the layer's are random.
    """
    source = build_source(params, place)
    with torch.device("meta"):
        net = build_network(params, source).eval()
        name = name_of_classifier(net, torch.empty(2, *source.image_shape))
    if name is None:
        return None
    classifier = cast(nn.Linear, net.get_submodule(name)).to_empty(device="cpu")
    if state is None:
        classifier.reset_parameters()
    else:
        classifier.load_state_dict({key: state[f"{name}.{key}"] for key in classifier.state_dict()})
    return classifier.requires_grad_(False)


def _trained_classifier(folder: Folder, params: Params, place: Place) -> nn.Linear | None:
    """A teacher's; with random weights before it is trained, for a dry run."""
    assert params.teacher is not None
    path = folder.checkpoint(params.teacher.weights)
    state = weights_of(load_checkpoint(path), path) if folder.is_trained() else None
    return classifier_of(params_of(folder), place, state)


def joined(taught: Sequence[Output]) -> Output | None:
    """What several teachers say together: the embeddings side by side; None where there is none."""
    if len(taught) < 2:
        return taught[0] if taught else None
    return Output(logits=taught[0].logits, embedding=torch.cat([each.embedding for each in taught], dim=1))


def build_optimizer(params: Params, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    with under("optimizer"):
        return cast(
            torch.optim.Optimizer, OPTIMIZERS.build(params.optimizer.name, parameters, **params.optimizer.options)
        )


def build_schedule(params: Params) -> Schedule:
    name, options = params.schedule.name, params.schedule.options
    with under("schedule"):
        schedule: Schedule = SCHEDULES.build(name, params.num_epochs, **options)
        return warmed_up(schedule, SCHEDULES.common_options(name, options))


def describe(params: Params, source: DataSource) -> dict[str, Any]:
    """What goes into a weights file beside the weights, so that it can be used without its folder."""
    return {
        "student": params.student.model_dump(),
        "dataset": params.dataset.name,
        "num_classes": len(source.class_names),
        "image_shape": list(source.image_shape),
        "mean": list(source.normalisation.mean),
        "std": list(source.normalisation.std),
    }


def normalisation_of(content: dict[str, Any], otherwise: Normalisation) -> Normalisation:
    """The normalisation that a weights file says it was trained with, in `mean` and `std` beside the weights."""
    if _weights_key(content) is None or "mean" not in content:
        return otherwise
    return Normalisation(mean=tuple(content["mean"]), std=tuple(content["std"]))


def load_weights(net: nn.Module, content: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights into a network, strictly.

    Raises:
        UserError: They are of another network.
    """
    net.load_state_dict(fitting_weights(net, content, path))


def weights_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint's state dict, without the prefix that DataParallel puts before every name.

    It stands under `state_dict`, or under `model` as in RepDistiller's files, or is the whole file.

    Raises:
        UserError: It holds none.
    """
    key = _weights_key(content)
    state = content if key is None else content[key]
    if key is None and not (state and all(isinstance(value, torch.Tensor) for value in state.values())):
        held = ", ".join(map(str, content)) or "nothing"
        raise UserError(f"{path}: holds neither {' nor '.join(WEIGHTS_KEYS)} nor tensors alone, but {held}")
    if state and all(str(name).startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


def load_terms(objective: nn.Module, content: dict[str, Any], path: Path) -> None:
    """Let terms go on from what terms of the same name had learned, where a checkpoint holds that.

    Raises:
        UserError: Such a term has other parameters there.
    """
    for name, loss in objective.get_submodule("losses").named_children():
        prefix = f"losses.{name}."
        state = {
            key.removeprefix(prefix): value
            for key, value in content.get("objective", {}).items()
            if key.startswith(prefix)
        }
        if not state:
            continue
        if problem := misfit(loss.state_dict(), state):
            raise UserError(f"{path}: the loss {name} has other parameters there: {problem}")
        loss.load_state_dict(state)


def _weights_key(content: dict[str, Any]) -> str | None:
    """Under which key a checkpoint's state dict stands; None where it has none of the known ones."""
    return next((key for key in WEIGHTS_KEYS if isinstance(content.get(key), dict)), None)


def fitting_weights(net: nn.Module, content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint's state dict, compared with a network, which may be on the meta device.

    Batch norms' counters of batches may be missing, as files of PyTorch before 0.4.1 have none; nothing reads them.

    Raises:
        UserError: A name is missing or too many, or a shape differs; the first of them is named.
    """
    state, own = weights_of(content, path), net.state_dict()
    state |= {name: own[name] for name in own if name not in state and name.endswith(".num_batches_tracked")}
    if problem := misfit(own, state):
        raise UserError(f"{path}: {problem}")
    return state


def misfit(own: dict[str, Any], state: dict[str, Any]) -> str | None:
    """Why a state dict is not of this module: the first name that is missing or too many, or the first wrong shape."""
    missing, unknown = [name for name in own if name not in state], [name for name in state if name not in own]
    for problem, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return f"{problem} {names[0]}{more}: not this network's weights"
    for name, tensor in own.items():
        came = state[name]
        if not isinstance(came, torch.Tensor):
            return f"{name} is a {type(came).__name__}, not a tensor"
        if came.shape != tensor.shape:
            return f"{name} has shape {tuple(came.shape)}, the network {tuple(tensor.shape)}"
    return None
