"""Runs on image files: equal images, labels and splits give equal weights in every form; resumed, they are exact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.errors import Stopped, UserError
from model.fingerprint import content_hash
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.commands.test_distributed_runs import torchrun
from tests.conftest import MakeFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
COLOURS = {"ant": (200, 60, 40), "bee": (60, 180, 50), "cow": (50, 70, 190)}
PER_CLASS = 12
VAL_SIZE = 6


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of coloured noise."""
    root, rng = tmp_path_factory.mktemp("data") / "unsplit", np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = rng.normal(colour, 60, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


def options(name: str, path: Path, **own: Any) -> dict[str, Any]:
    return {"name": name, "path": str(path), "image_size": 16, "num_workers": 0, **own}


def unsplit_folders(root: Path) -> dict[str, Any]:
    return options("folder", root, test_fraction=0.25, val_size=VAL_SIZE)


def splits_of(experiment: Experiment) -> dict[str, str]:
    """The split of each file, by its path below the folder of all images."""
    files = sorted(Path(experiment.params.dataset.options["path"]).rglob("*.png"))
    by_hash = {int(image): split for split in ("train", "val", "test") for image in experiment.data.image_hashes(split)}
    return {f"{file.parent.name}/{file.name}": by_hash[content_hash(file.read_bytes())] for file in files}


def split_folders(unsplit: Path, root: Path, splits: dict[str, str], **names: str) -> Path:
    for file, split in splits.items():
        target = root / names.get(split, split) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(unsplit / file, target)
    return root


def as_split_folders(unsplit: Path, root: Path, splits: dict[str, str]) -> dict[str, Any]:
    return options("folder", split_folders(unsplit, root, splits, val="train"), val_size=VAL_SIZE)


def as_csv(unsplit: Path, root: Path, splits: dict[str, str]) -> dict[str, Any]:
    rows = [f"{file};{Path(file).parent.name};{split}" for file, split in splits.items()]
    root.mkdir()
    (root / "photos.csv").write_text("\n".join(["path;label;split", *reversed(rows)]), encoding="utf-8")
    return options("table", root / "photos.csv", root=str(unsplit))


def as_csv_without_splits(unsplit: Path, root: Path, splits: dict[str, str]) -> dict[str, Any]:
    rows = [f"{file},{Path(file).parent.name}" for file in splits]
    root.mkdir()
    (root / "photos.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return options("table", root / "photos.csv", root=str(unsplit), test_fraction=0.25, val_size=VAL_SIZE)


def as_parquet(unsplit: Path, root: Path, splits: dict[str, str]) -> dict[str, Any]:
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    from pyarrow import parquet

    rows = [{"image": file, "kind": Path(file).parent.name, "part": split} for file, split in splits.items()]
    root.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "photos.parquet")
    columns = {"path_column": "image", "label_column": "kind", "split_column": "part"}
    return options("table", root / "photos.parquet", root=str(unsplit), **columns)


def as_huggingface(unsplit: Path, root: Path, splits: dict[str, str]) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    folders = split_folders(unsplit, root / "folders", splits, val="validation")
    data = datasets.load_dataset(str(folders), cache_dir=str(root / "cache"))
    data.save_to_disk(str(root / "saved"))
    return options("huggingface", root / "saved")


FORMS: list[Callable[[Path, Path, dict[str, str]], dict[str, Any]]] = [
    *(as_split_folders, as_csv, as_csv_without_splits, as_parquet, as_huggingface)
]


@pytest.fixture(scope="module")
def run(unsplit: Path, make_folder: MakeFolder, runtime: Runtime) -> Experiment:
    folder = make_folder(unsplit.parent / "run", dataset=unsplit_folders(unsplit), batch_size=8)
    experiment = Experiment(folder.path, runtime)
    experiment.train()
    return experiment


def weights(folder: Folder) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(folder.checkpoint("last"))["state_dict"]
    return state


def assert_equal_weights(one: Folder, other: Folder) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_equal_images_give_equal_weights(
    form: Callable[[Path, Path, dict[str, str]], dict[str, Any]],
    unsplit: Path,
    run: Experiment,
    make_folder: MakeFolder,
    runtime: Runtime,
    tmp_path: Path,
) -> None:
    dataset = form(unsplit, tmp_path / "data", splits_of(run))
    folder = make_folder(tmp_path / "run", dataset=dataset, batch_size=8)
    Experiment(folder.path, runtime).train()
    assert_equal_weights(folder, run.folder)
    assert folder.metrics("test", "last").read_bytes() == run.folder.metrics("test", "last").read_bytes()


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let runs stop after a step, as by a signal."""
    take_step = Trainer.take_step

    def stop_after(step: int) -> None:
        def take_and_stop(trainer: Trainer, batch: Any) -> None:
            take_step(trainer, batch)
            trainer.should_stop = lambda: trainer.step == step

        monkeypatch.setattr(Trainer, "take_step", take_and_stop)

    return stop_after


def grouped_table(unsplit: Path, root: Path) -> dict[str, Any]:
    rows = [f"{file.relative_to(unsplit)},{file.parent.name},{int(file.stem) // 2}" for file in unsplit.rglob("*.png")]
    root.mkdir(exist_ok=True)
    (root / "photos.csv").write_text("\n".join(["path,label,group", *rows]), encoding="utf-8")
    return options("table", root / "photos.csv", root=str(unsplit), test_fraction=0.25, val_size=VAL_SIZE)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_on_a_table_of_groups_resumes_bit_for_bit(
    num_workers: int,
    unsplit: Path,
    make_folder: MakeFolder,
    runtime: Runtime,
    tmp_path: Path,
    stop_after: Callable[[int], None],
) -> None:
    dataset = grouped_table(unsplit, tmp_path / "data") | {"num_workers": num_workers, "cache_size": 18}
    whole, resumed = (make_folder(tmp_path / name, dataset=dataset, batch_size=8) for name in ("whole", "resumed"))
    Experiment(whole.path, runtime).train()
    stop_after(4)
    with pytest.raises(Stopped):
        Experiment(resumed.path, runtime).train()
    Experiment(resumed.path, runtime).train()
    assert_equal_weights(resumed, whole)


def test_two_processes_reach_the_weights_of_one(
    unsplit: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    dataset = grouped_table(unsplit, tmp_path / "data") | {"cache_size": 18}
    parts = {"dataset": dataset, "student": {"name": "lenet"}, "optimizer": {"name": "sgd"}, "batch_size": 8}
    single, distributed = (make_folder(tmp_path / name, **parts) for name in ("single", "distributed"))
    result = torchrun("train.py", "--model_dir", distributed.path, "--device", "cpu", "--data_dir", runtime.data_dir)
    assert result.statuses == [0], result.out
    Experiment(single.path, runtime).train()
    expected, trained = weights(single), weights(distributed)
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=2e-6)


def test_a_run_is_not_resumed_with_other_groups(
    unsplit: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    dataset = grouped_table(unsplit, tmp_path / "data")
    folder = make_folder(tmp_path / "run", dataset=dataset, batch_size=8)
    stop_after(2)
    with pytest.raises(Stopped):
        Experiment(folder.path, runtime).train()
    table = tmp_path / "data" / "photos.csv"
    table.write_text(table.read_text().replace("group", "video"), encoding="utf-8")
    with pytest.raises(UserError, match=r"its data changed since the run began: .*; --restart begins anew"):
        Experiment(folder.path, runtime).train()
