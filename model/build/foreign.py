"""A network that was trained elsewhere, in the place of a folder: published under its name, a weights file, or ONNX."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ..config.folder import Folder, Weights
from ..config.params import Component, Params
from ..config.references import ONNX_SUFFIX, RUNS_CODE, find_file, is_published
from ..errors import OptionError, preview
from ..logs import log
from ..nets.external import Published, published
from ..nets.onnx_file import OnnxNetwork
from ..registry import NETS
from ..types import DataSource, Normalisation, Output
from .experiment import Experiment
from .network import ImageShape, build_network
from .start import num_classes_in
from .weights import TrainedSource, WeightsFile


def open_foreign(name: str, student: Experiment) -> ForeignNetwork:
    """The network of this name, or in this file, as the teacher of an experiment.

    Raises:
        OptionError: There is no such network or file, or it is of a kind that is not read.
    """
    assert student.written_params.teacher is not None
    network = student.written_params.teacher.network
    if is_published(name):
        if network is not None:
            raise OptionError("teacher.network", f"is for a weights file, and {name} is a network itself")
        return PublishedNetwork(name, student)
    suffix = Path(name).suffix.lower()
    if suffix in RUNS_CODE:
        raise OptionError(
            "teacher.model_dir",
            f"{preview(name)} is {RUNS_CODE[suffix]}, which can run code of its own and is not read: save its weights "
            "with torch.save(net.state_dict(), ...), or export it to ONNX",
        )
    path = find_file(name, student.folder.path, key="teacher.model_dir")
    if suffix == ONNX_SUFFIX:
        if network is not None:
            raise OptionError("teacher.network", "is for a weights file, and an ONNX file is a network itself")
        return OnnxFileNetwork(path, student)
    if network is None:
        raise OptionError(
            "teacher.network", f'{preview(name)} has weights alone: name the network, as in {{"name": "resnet18"}}'
        )
    return NetworkWithWeights(path, network, student)


class ForeignNetwork(Experiment, ABC):
    """What an experiment is for the student that it teaches, without a folder of its own.

    Its outputs are cached in the data folder, below `teachers`.

    Args:
        label: How it is named in messages, and below `teachers`.
        network: The network, by name, with its options.
        student: The experiment that it teaches: what neither its params nor the file nor a publisher says of the
            teacher's images is taken from the student's.
    """

    def __init__(self, label: str, network: Component, student: Experiment) -> None:
        runtime = student.runtime
        folder = runtime.data_dir / "teachers" / label.strip("/").replace("/", "_")
        params = Params(dataset=Component(name="unknown"), student=network)
        super().__init__(folder, runtime, params=params, run_plugins=False, is_dependency=True)
        assert student.written_params.teacher is not None
        self.label, self.options, self.student_experiment = label, student.written_params.teacher, student
        self._file: WeightsFile | None = None

    @property
    def name(self) -> str:
        return self.label

    @cached_property
    def params(self) -> Params:
        """As in params.json; the network's options are filled in."""
        written = self.written_params.student
        student = Component(name=written.name, **NETS.resolve(written.name, written.options))
        return self.written_params.model_copy(update={"student": student})

    @property
    def is_trained(self) -> bool:
        return True

    @property
    def accuracies(self) -> str:
        return "trained elsewhere"

    def read_weights(self, which: Weights) -> WeightsFile:
        if self._file is None:
            self._file = self._read_file()
        return self._file

    @abstractmethod
    def _read_file(self) -> WeightsFile:
        """Its weights, with what the file says of its training data."""

    def close(self) -> None:
        """Drop its weights from memory."""
        self._file = None

    def trained_normalisation(self, file: WeightsFile) -> Normalisation:
        return self.source.normalisation

    # What it was trained for -----------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> DataSource:
        """Its training data as the options describe it, else its file, else its publisher, else as the student's."""
        with self.student_experiment.naming_params():
            return cast(DataSource, self._describe_source())

    def _describe_source(self) -> TrainedSource:
        options, known, file = self.options, self._published, self.read_weights("best")
        shape = self._image_shape(file, known)
        names = self._given_names() or file.class_names or (known.class_names if known else None)
        names = names or tuple(map(str, range(self._num_classes())))
        ours = self.student_experiment.source.normalisation
        default = known.normalisation if known else ours
        normalisation = file.normalisation(default)
        if (options.mean is None) != (options.std is None):
            given, missing = ("mean", "std") if options.std is None else ("std", "mean")
            raise OptionError(f"teacher.{missing}", f"is missing beside {given}")
        if options.mean is not None and options.std is not None:
            normalisation = Normalisation(mean=tuple(options.mean), std=tuple(options.std))
        elif known is None and normalisation is default:
            log.info("teacher %s: taken to be trained on images normalised as the student's", self.name)
        for key, values in (("mean", normalisation.mean), ("std", normalisation.std)):
            if len(values) != shape[0]:
                numbers = f"{shape[0]} numbers, one for each channel"
                raise OptionError(f"teacher.{key}", f"should be {numbers}, got {len(values)}")
        return TrainedSource(names, shape, normalisation, Path(self.label))

    @property
    def _published(self) -> Published | None:
        """What its publisher says of it; None for other networks."""
        return None

    def _image_shape(self, file: WeightsFile | None, known: Published | None) -> ImageShape:
        channels, height, width = self.student_experiment.source.image_shape
        shape = file.content.get("image_shape") if file else None
        if isinstance(shape, list) and len(shape) == 3:
            channels, height, width = shape
        elif known is not None:
            channels, height, width = 3, known.image_size, known.image_size
        if self.options.image_size is not None:
            height = width = self.options.image_size
        return channels, height, width

    def _given_names(self) -> tuple[str, ...] | None:
        """Those of the option `class_names`: a list, or a text file with one a line."""
        given = self.options.class_names
        if given is None or isinstance(given, list):
            return None if given is None else tuple(given)
        path = find_file(given, self.student_experiment.folder.path, key="teacher.class_names")
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError("teacher.class_names", f"{given} cannot be read ({error})") from None
        return tuple(line.strip() for line in lines if line.strip())

    @abstractmethod
    def _num_classes(self) -> int:
        """Of its output, where their names are unknown."""


class PublishedNetwork(ForeignNetwork):
    """A network of torchvision or timm with the weights that they publish."""

    def __init__(self, name: str, student: Experiment) -> None:
        super().__init__(name, Component(name=name), student)

    @cached_property
    def _published(self) -> Published:
        try:
            return published(self.label)
        except OptionError as error:
            raise OptionError("teacher", error.message) from None

    def _num_classes(self) -> int:
        return self._published.num_classes

    def _read_file(self) -> WeightsFile:
        known, student = self._published, self.params.student
        with_weights = Component(name=student.name, **student.options | {"pretrained": True})
        shape = self._image_shape(None, known)
        try:
            net = build_network(with_weights, known.num_classes, shape)
        except OptionError as error:
            raise OptionError("teacher", error.message) from None
        return WeightsFile(Path(self.label), {"state_dict": net.state_dict()})


class NetworkWithWeights(ForeignNetwork):
    """A network of the registry with the weights of a file."""

    def __init__(self, path: Path, network: Component, student: Experiment) -> None:
        super().__init__(Folder(path).name, network, student)
        self.path = path

    def _read_file(self) -> WeightsFile:
        return WeightsFile.read(self.path)

    @cached_property
    def _published(self) -> Published | None:
        name = self.written_params.student.name
        known = published(name) if is_published(name) else None
        # The classes of published weights are not those of a file of unknown origin.
        return known and known._replace(class_names=None)

    def _num_classes(self) -> int:
        """As the shapes of its weights tell; the student's classes where they do not."""
        file, own = self.read_weights("best"), len(self.student_experiment.source.class_names)
        shape = self._image_shape(file, self._published)

        def build(num_classes: int) -> nn.Module:
            with torch.device("meta"):
                return build_network(self.params.student, num_classes, shape)

        return num_classes_in(file.state_dict, build, own) or own


class OnnxFileNetwork(ForeignNetwork):
    """A network in an ONNX file."""

    def __init__(self, path: Path, student: Experiment) -> None:
        super().__init__(Folder(path).name, Component(name="onnx"), student)
        self.path = path

    @cached_property
    def params(self) -> Params:
        return self.written_params

    @cached_property
    def _net(self) -> OnnxNetwork:
        size = self.options.image_size
        net = OnnxNetwork(self.path, (size, size) if size else self.student_experiment.source.image_shape[1:])
        if net.has_probabilities:
            log.info("teacher %s: its outputs are probabilities: their logarithms are its logits", self.name)
        return net

    def _read_file(self) -> WeightsFile:
        return OnnxFile(self.path, self._net.metadata)

    def _image_shape(self, file: WeightsFile | None, known: Published | None) -> ImageShape:
        return self._net.image_shape

    def _num_classes(self) -> int:
        return self._net.num_classes

    def network(self) -> nn.Module:
        return self._net

    def network_on_meta(self) -> nn.Module:
        return self._net

    def output_shapes(self, num_images: int) -> Output:
        with torch.device("meta"):
            output: Output = self._net(torch.empty(num_images, *self._net.image_shape))
        return output


class OnnxFile(WeightsFile):
    """An ONNX file, whose weights are a part of the network."""

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def check(self, net: nn.Module) -> None:
        """Nothing can differ."""

    def load_into(self, net: nn.Module, *, as_built: nn.Module | None = None, without: Collection[str] = ()) -> None:
        """They are there."""
