"""An experiment folder as an object: its params, and everything that follows from them, each computed once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ..config.folder import Folder, Weights
from ..config.params import Component, Params, TeacherParams, load_params
from ..config.references import find_folder, find_weights_file, is_foreign
from ..errors import OptionError, UserError, option_scope, preview
from ..evaluation.cost import Cost, cost
from ..files import FileStamp, file_stamp
from ..losses.objective import Objective
from ..nets.construct import without_pretrained
from ..registry import DATASETS
from ..training.precision import resolve_precision, to_device
from ..types import COMPARE_CLASSES, DataSource, LossContext, Normalisation, Output, Pipeline, SplitOptions
from .classes import group_classes, match_classes
from .network import build_network, classifier_of, output_shapes
from .objective import build_loss_context, build_objective
from .plugins import load_plugins
from .resolve import resolve_params
from .runtime import Runtime
from .start import Source, load_start, other_classes
from .weights import TrainedSource, WeightsFile

# Options of a teacher that its folder answers where it has one.
DESCRIBES_FOREIGN = ("network", "image_size", "mean", "std", "class_names")
EVAL_BATCH_SIZE = 1000  # images of CIFAR's size or smaller
EVAL_BATCH_VALUES = EVAL_BATCH_SIZE * 3 * 32 * 32


class Experiment:
    """One folder with a params.json.

    Attributes are computed when they are first read, and raise UserError, naming the file and the key, where
    params.json is wrong.

    Args:
        path: The folder.
        runtime: Where it is trained or evaluated; by default on a GPU where there is one.
        params: Replaces the content of params.json, as for the trials of a search before they have folders. Other
            folders are named relative to `path`.
        run_plugins: Whether the plug-ins that params.json names are imported.
        is_dependency: Whether another experiment uses its weights: what they were trained on is then read from the
            weights file where the file says it, as the data set may have changed since, or be elsewhere.
    """

    def __init__(
        self,
        path: str | Path,
        runtime: Runtime | None = None,
        *,
        params: Params | None = None,
        run_plugins: bool = True,
        is_dependency: bool = False,
    ) -> None:
        self.folder = Folder(Path(path))
        self.runtime = runtime or Runtime()
        self._params, self._run_plugins, self._is_dependency = params, run_plugins, is_dependency
        self._read: dict[Weights, tuple[FileStamp, WeightsFile]] = {}

    @property
    def name(self) -> str:
        return self.folder.name

    # Params ---------------------------------------------------------------------------------------------------------

    @cached_property
    def written_params(self) -> Params:
        """The content of params.json, without the defaults of components."""
        return self._params or load_params(self.folder.path)

    @cached_property
    def params(self) -> Params:
        """The content of params.json, with every default filled in."""
        _ = self.plugins  # may register what params.json names
        with self.naming_params():
            try:
                resolved = resolve_params(self.written_params)
            except OptionError as error:
                raise self._with_plugins_not_run(error) from None
            return resolved.model_copy(update={"student": self._with_teacher_network(resolved.student)})

    def _with_teacher_network(self, student: Component) -> Component:
        """A network whose option `teacher` is left open gets the network of the first teacher."""
        if student.options.get("teacher", "no such option") is not None or not self.teachers:
            return student
        return Component(
            name=student.name, **student.options | {"teacher": self.teachers[0].written_params.student.model_dump()}
        )

    @cached_property
    def plugins(self) -> dict[str, str]:
        """The plug-ins that params.json names, imported, with the digests of their files; none of another folder's."""
        if not self._run_plugins:
            return {}
        with self.naming_params():
            return load_plugins(self.written_params.plugins, self.folder.path)

    def _with_plugins_not_run(self, error: OptionError) -> OptionError:
        """The error, and what to do where its cause may be that a plug-in was not run."""
        if self._run_plugins or not self.written_params.plugins:
            return error
        names = ", ".join(self.written_params.plugins)
        hint = f'the plug-ins of this folder are not run for another one: name {names} in its "plugins", too'
        return OptionError(error.key, f"{error.message}; {hint}")

    @property
    def teacher_options(self) -> TeacherParams:
        """The options of `teacher` in params.json; only for an experiment that has one."""
        assert self.params.teacher is not None
        return self.params.teacher

    @contextmanager
    def naming_params(self) -> Iterator[None]:
        """A block whose OptionErrors are about this params.json."""
        try:
            yield
        except OptionError as error:
            raise UserError(f"{self.folder.params}: {error}") from None

    # Other folders --------------------------------------------------------------------------------------------------

    @cached_property
    def teachers(self) -> list[Experiment]:
        """The folders that teach, whether a loss term uses them or not, and networks that were trained elsewhere."""
        from .foreign import open_foreign  # builds on this class

        teacher = self.written_params.teacher
        if teacher is None:
            return []
        with self.naming_params():
            found = [
                open_foreign(name, self) if is_foreign(name) else self._other(name, "teacher")
                for name in teacher.model_dir
            ]
            given = [key for key in DESCRIBES_FOREIGN if getattr(teacher, key) is not None]
            if given and (not is_foreign(teacher.model_dir[0]) or len(found) > 1):
                raise OptionError(f"teacher.{given[0]}", "is for a single teacher without a folder: leave this out")
            return found

    @cached_property
    def init(self) -> Experiment | None:
        """The folder whose weights the run starts from; None for fresh weights."""
        init = self.written_params.init
        with self.naming_params():
            return None if init is None or self.init_file else self._other(init.model_dir, "init")

    @cached_property
    def init_file(self) -> Path | None:
        """The weights file that the run starts from; None for a folder, or for fresh weights."""
        init = self.written_params.init
        with self.naming_params():
            return None if init is None else find_weights_file(init.model_dir, self.folder.path, key="init")

    @cached_property
    def pretrained_file(self) -> Path | None:
        """The weights file that the student's option `pretrained` names."""
        name = self.params.student.options.get("pretrained")
        if not isinstance(name, str):
            return None
        with self.naming_params():
            path = find_weights_file(name, self.folder.path, key="student.pretrained")
            if path is None:
                raise OptionError("student.pretrained", f"{preview(name)} is no weights file: true, false, or a file")
            return path

    @cached_property
    def baseline(self) -> Path | None:
        """The folder that this run is compared with; None where params.json names none."""
        name = self.written_params.baseline
        with self.naming_params():
            return None if name is None else find_folder(name, self.folder.path, key="baseline")

    def _other(self, name: str, key: str) -> Experiment:
        path = find_folder(name, self.folder.path, key=key)
        return Experiment(path, self.runtime, run_plugins=False, is_dependency=True)

    @property
    def teachers_in_use(self) -> list[Experiment]:
        """The folders that teach; none where no loss term reads a teacher's output."""
        return self.teachers if self.objective.needs else []

    @property
    def dependencies(self) -> dict[Experiment, Weights]:
        """The folders that must be trained before this one, and which of their weights are used."""
        needed: dict[Experiment, Weights] = {}
        if self.teachers_in_use:
            needed |= dict.fromkeys(self.teachers, self.teacher_options.weights)
        if self.init is not None and self.params.init is not None:
            needed[self.init] = self.params.init.weights
        return needed

    @property
    def untrained_dependencies(self) -> list[Experiment]:
        return [needed for needed in self.dependencies if not needed.is_trained]

    @property
    def all_untrained_dependencies(self) -> list[Experiment]:
        """Untrained folders that it needs, those first that others of them need."""
        found: dict[str, Experiment] = {}
        for needed in self.untrained_dependencies:
            for each in (*needed.all_untrained_dependencies, needed):
                found.setdefault(each.name, each)
        return list(found.values())

    @property
    def is_trained(self) -> bool:
        return self.folder.is_trained()

    @property
    def accuracies(self) -> str:
        """One line: the accuracies of the best weights."""
        return self.folder.accuracies()

    # Data -----------------------------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> DataSource:
        """The data set as it declares itself; no image has been read."""
        if self._is_dependency and self.is_trained:
            file = self.read_weights("best")
            if file.source is not None:
                return cast(DataSource, file.source)
        dataset = self.params.dataset
        with self.naming_params(), option_scope("dataset"):
            return cast(DataSource, DATASETS.build(dataset.name, self.runtime.data_dir, **dataset.options))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by which they are compared with those of other folders."""
        if isinstance(self.source, TrainedSource):
            return self.source.class_names
        class_map = self.split_options.class_map
        names = tuple(class_map.get(name, name) for name in self.source.class_names)
        with self.naming_params():
            for name in class_map:
                if name not in self.source.class_names:
                    raise OptionError("dataset.class_map", f"the data has no class {preview(name)}")
            if len(set(names)) < len(names):
                raise OptionError("dataset.class_map", "gives two classes one name")
        return names

    @cached_property
    def split_options(self) -> SplitOptions:
        dataset = self.params.dataset
        with self.naming_params(), option_scope("dataset"):
            return DATASETS.common_options(dataset.name, dataset.options)

    @cached_property
    def data(self) -> Pipeline:
        """The data set, opened on the runtime's device; fetched first where it is missing.

        Raises:
            UserError: It cannot be read, or leaves a single training image, while batches of more have been checked.
        """
        source, batch_size = self.source, self.params.batch_size
        with self.naming_params(), option_scope("dataset"):
            try:
                data = source.open(self.split_options, seed=self.params.seed, device=self.runtime.device)
            except ValueError as error:
                raise OptionError("", str(error)) from None
            if data.size("train") == 1 < batch_size:
                raise OptionError("", f"train has 1 image, too few for batches of {batch_size}")
        if not data.in_memory:
            data.draw_at(self._sizes_of_teachers())
        return data

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer."""
        return math.ceil(self.data.steps_per_epoch(self.params.batch_size) / self.params.accumulate)

    def _sizes_of_teachers(self) -> tuple[int, ...]:
        """Sides of the square images that teachers see, beside the student's."""
        sides = {teacher.source.image_shape[1] for teacher in self.teachers_in_use}
        return tuple(sorted(sides - {self.source.image_shape[1]}))

    @property
    def eval_batch_size(self) -> int:
        """Images of a batch in evaluation: the larger they are, the fewer, but no fewer than in a training batch.

        An image takes less memory when it is evaluated than when it is trained on.
        """
        batch_size = self.params.batch_size // self.runtime.world.size
        return min(EVAL_BATCH_SIZE, max(batch_size, EVAL_BATCH_VALUES // math.prod(self.source.image_shape), 1))

    # Networks -------------------------------------------------------------------------------------------------------

    def student(self) -> nn.Module:
        """A network to be trained: fresh weights, drawn by torch's generator, or published ones with `pretrained`."""
        if self.pretrained_file is None:
            return self._build_network(self.params.student)
        net = self.network()
        load_start(self, net, self.pretrained_source, None)
        return net

    @property
    def pretrained_source(self) -> Source:
        """The weights of the file that `pretrained` names."""
        assert self.pretrained_file is not None
        file = WeightsFile.read(self.pretrained_file)
        return Source(str(self.params.student.options["pretrained"]), file, file.class_names)

    def init_source(self) -> Source | None:
        """The weights that the run starts from; None for fresh ones.

        Raises:
            UserError: The file is missing or broken.
        """
        options = self.params.init
        if options is None:
            return None
        if self.init_file is not None:
            file = WeightsFile.read(self.init_file)
            return Source(options.model_dir, file, file.class_names, bool(options.class_map))
        assert self.init is not None
        own = self.init.read_weights(options.weights) if self.init.is_trained else None
        return Source(self.init.name, own, self.init.class_names, bool(options.class_map))

    def network(self) -> nn.Module:
        """The same network to load weights into, or for its shapes alone: no published weights are fetched."""
        return self._build_network(self.without_pretrained)

    @cached_property
    def without_pretrained(self) -> Component:
        student = self.params.student
        return Component(name=student.name, **without_pretrained(student.options))

    def _build_network(self, student: Component) -> nn.Module:
        with self.naming_params():
            return build_network(student, len(self.source.class_names), self.source.image_shape)

    def network_on_meta(self) -> nn.Module:
        """The network without memory for its weights."""
        with torch.device("meta"):
            return self.network()

    def output_shapes(self, num_images: int) -> Output:
        """The network's output for a number of images in eval mode, on the meta device.

        Raises:
            UserError: The network cannot be used for such images.
        """
        source = self.source
        try:
            return output_shapes(self.without_pretrained, len(source.class_names), source.image_shape, num_images)
        except (OptionError, RuntimeError, AssertionError) as error:  # networks of other libraries assert
            raise UserError(f"{self.folder.params}: {error}") from None

    @cached_property
    def cost(self) -> Cost:
        """Parameters and multiply-accumulates of the network."""
        return cost(self.network_on_meta(), self.source.image_shape)

    def weights(self, which: Weights) -> WeightsFile:
        """A weights file of the folder, checked against the network.

        Raises:
            UserError: It is missing, cut short, or another network's.
        """
        file = self.read_weights(which)
        file.check(self.network_on_meta())
        return file

    def read_weights(self, which: Weights) -> WeightsFile:
        """A weights file of the folder, which stays in memory until `close`; read again where the file has changed.

        Raises:
            UserError: It is missing, cut short, or holds more than tensors and plain values.
        """
        path = self.folder.checkpoint(which)
        stamp = file_stamp(path)
        stamp_then, file = self._read.get(which, (None, None))
        if file is None or stamp != stamp_then:
            file = WeightsFile.read(path)
            self._read[which] = stamp, file
        return file

    def trained_normalisation(self, file: WeightsFile) -> Normalisation:
        """The normalisation of the images that weights of this folder were trained on."""
        return file.normalisation(self.source.normalisation)

    def columns_of(self, weights: WeightsFile) -> list[int] | None:
        """For each class of the data, the column of a network's output; None where they are in order already.

        Raises:
            UserError: The network's classes have other names.
        """
        try:
            return match_classes(weights.class_names or self.class_names, self.class_names, {})
        except ValueError as error:
            raise UserError(f"{weights.path}: {error} (dataset.class_map in params.json)") from None

    def classes_of_teacher(self, teacher: Experiment) -> list[list[int]] | None:
        """For each class of the data, the columns of a teacher's output; None where they are in order already.

        There are none where no loss term compares classes, and one more for all classes that only the teacher has
        with the option `classes` of "rest".

        Raises:
            UserError: The teacher's classes have other names.
        """
        options, objective = self.teacher_options, self.objective
        try:
            return group_classes(teacher.class_names, self.class_names, options.class_map, options.classes)
        except ValueError as error:
            if not objective.needs & COMPARE_CLASSES:
                return []
            with self.naming_params():
                raise OptionError("teacher", f"{teacher.name}: {error}") from None

    def columns_of_init(self, source: Source) -> list[int] | None:
        """The same for the weights that the run starts from; None also where the classifier is not loaded."""
        options = self.params.init
        if options is None or source.class_names is None or other_classes(self, source) is not None:
            return None
        try:
            return match_classes(source.class_names, self.class_names, options.class_map)
        except ValueError as error:
            with self.naming_params():
                raise OptionError("init", f"{source.name}: {error}") from None

    def classifier(self, which: Weights | None) -> nn.Linear | None:
        """The layer that computes the network's logits, frozen; random without weights; None where it has none."""
        net = self.network_on_meta()
        state = None if which is None else self.read_weights(which).state_dict_for(net)
        return classifier_of(net, self.source.image_shape, state)

    def load(self, which: Weights = "best") -> nn.Module:
        """The trained network in eval mode on the runtime's device, with `class_names` and `preprocess` as attributes.

        Raises:
            UserError: The weights file is missing, cut short, or another network's.
        """
        net, file = self.network(), self.read_weights(which)
        file.load_into(net)
        class_names = file.class_names or self.class_names
        vars(net).update(class_names=class_names, preprocess=file.preprocess(self.source))
        return to_device(net, self.runtime.device).eval()

    # Training -------------------------------------------------------------------------------------------------------

    @cached_property
    def objective(self) -> Objective:
        """The objective before it is prepared: what its terms need of the teacher."""
        return self.new_objective()

    def new_objective(self) -> Objective:
        """The objective of a run, to be prepared for it and trained with it."""
        with self.naming_params():
            return build_objective(self.params.loss)

    @cached_property
    def loss_context(self) -> LossContext:
        """What loss terms are given before the first step."""
        return build_loss_context(self)

    def close(self) -> None:
        """Drop the opened data set and weights from memory; they are read again when they are needed next."""
        for name in ("data", "loss_context"):
            self.__dict__.pop(name, None)
        self._read.clear()

    @cached_property
    def dtype(self) -> torch.dtype:
        return resolve_precision(self.params.precision, self.runtime.device)

    # What a notebook calls ------------------------------------------------------------------------------------------

    def train(self, *, restart: bool = False, train_teachers: bool = True) -> None:
        """Train, resume, or leave a finished run alone, as train.py does.

        Raises:
            UserError: Something in the folder or its params.json is wrong; nothing was changed.
            Stopped: A signal came; all is saved.
            RunFailed: The run failed; run.json has the reason.
        """
        from ..commands.train import train  # the only call upwards: commands build on this class

        train(self, restart=restart, train_teachers=train_teachers)
