"""Live, cached and ensemble teachers on a fake GPU: their outputs on the device, and the host waits for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.build.experiment import Experiment
from model.teachers.cached import CachedPart, CachedTeacher, unique_rows
from model.teachers.encoding import Encoding, Float16Encoding, TopKEncoding
from model.teachers.ensemble import EnsembleTeacher
from model.teachers.row_file import RowFile
from model.teachers.row_store import DeviceRowStore
from model.types import Batch, Normalisation, Part, Teacher
from tests.fake_device.fake_device import FakeDevice, Synchronisation
from tests.untrained import NUM_CLASSES, UntrainedExperiments, first_batch, live_teacher, trainer_of

WIDTH = 24  # of the teacher's embedding
ENCODINGS: dict[str, dict[Part, Encoding]] = {
    "logits": {"logits": Float16Encoding(NUM_CLASSES)},
    "largest probabilities": {"logits": TopKEncoding(3, NUM_CLASSES)},
    "embedding": {"embedding": Float16Encoding(WIDTH)},
    "both": {"logits": Float16Encoding(NUM_CLASSES), "embedding": Float16Encoding(WIDTH)},
}
LOSSES: dict[str, Any] = {"kd": {}, "pkt": {}}  # these read logits and embedding


@pytest.fixture
def experiment(gpu: FakeDevice, untrained: UntrainedExperiments) -> Experiment:
    return untrained.make(gpu.device, loss=LOSSES, teacher=untrained.teacher())


def cached_teacher(
    experiment: Experiment, path: Path, encodings: Mapping[Part, Encoding], monkeypatch: pytest.MonkeyPatch
) -> CachedTeacher:
    """A teacher with all outputs of a run in its cache, as zeros, and in its copy on the device."""
    monkeypatch.setattr(DeviceRowStore, "refresh", lambda store, rows: True)  # reads which rows of the file are valid
    data = experiment.data
    views = data.views(experiment.params.num_epochs)
    rows = unique_rows(views, [data.epoch_views(epoch) for epoch in range(experiment.params.num_epochs)])
    parts = {}
    for name, encoding in encodings.items():
        file = RowFile(path / name, num_rows=views.num_rows, width=encoding.width)
        file.write(rows, np.zeros((len(rows), encoding.width), np.uint16))
        store = DeviceRowStore(file, rows, experiment.runtime.device)
        parts[name] = CachedPart(encoding, file, store)
    return CachedTeacher(live_teacher(experiment, experiment.teachers[0]), parts, views, rows, tolerance=0.1)


def is_read_without_waiting(teacher: Teacher, batch: Batch, gpu: FakeDevice) -> bool:
    with gpu.step():
        output = teacher(batch)
    return {output.logits.device, output.embedding.device} == {gpu.device}


@pytest.mark.parametrize("trained_on", [None, Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))], ids=str)
def test_live_teacher(trained_on: Normalisation | None, experiment: Experiment, gpu: FakeDevice) -> None:
    teacher = live_teacher(experiment, experiment.teachers[0], trained_on)
    batch = next(iter(experiment.data.train_batches(0, 8)))
    assert is_read_without_waiting(teacher, batch, gpu)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_ensemble(combine: str, gpu: FakeDevice, untrained: UntrainedExperiments) -> None:
    folders = {"model_dir": [untrained.teacher("first"), untrained.teacher("second")], "combine": combine}
    experiment = untrained.make(gpu.device, loss=LOSSES, teacher=folders)
    members = [live_teacher(experiment, folder) for folder in experiment.teachers]
    teacher = EnsembleTeacher(members, experiment.teacher_options.combine)
    trainer = trainer_of(experiment, teacher)
    batch = first_batch(trainer)
    with gpu.step():
        trainer.take_step(batch)
    assert is_read_without_waiting(teacher, batch, gpu)


@pytest.mark.parametrize("name", ENCODINGS)
def test_cached_teacher(
    name: str, experiment: Experiment, gpu: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = cached_teacher(experiment, tmp_path, ENCODINGS[name], monkeypatch)
    list(teacher.precompute(experiment.data, epoch=0))
    batch = next(iter(experiment.data.train_batches(0, 8)))
    assert is_read_without_waiting(teacher, batch, gpu)


def test_step_with_a_cached_teacher(
    experiment: Experiment, gpu: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = cached_teacher(experiment, tmp_path, ENCODINGS["both"], monkeypatch)
    list(teacher.precompute(experiment.data, epoch=0))
    trainer = trainer_of(experiment, teacher)
    batch = first_batch(trainer)
    with gpu.step():
        trainer.take_step(batch)
    assert gpu.holds(trainer.student)


def test_cached_teacher_waits_while_rows_may_be_missing(
    experiment: Experiment, gpu: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has to know on which images the network is run."""
    teacher = cached_teacher(experiment, tmp_path, ENCODINGS["logits"], monkeypatch)
    batch = next(iter(experiment.data.train_batches(0, 8)))
    with gpu.step(), pytest.raises(Synchronisation, match="reads a value"):
        teacher(batch)
