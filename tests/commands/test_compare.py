"""evaluate.py with several folders: a table, and McNemar's test against the first one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import evaluate
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.files import read_json
from tests.conftest import Call, MakeFolder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime
) -> tuple[Folder, Folder]:
    """A run of five epochs, and one of a single one."""
    parent = tmp_path_factory.mktemp("compare")
    optimizer = {"name": "sgd", "learning_rate": 0.2}
    long = make_folder(parent / "long", num_epochs=5, optimizer=optimizer, seed=1)
    short = make_folder(parent / "short", num_epochs=1, optimizer=optimizer, seed=1)
    for folder in (long, short):
        Experiment(folder.path, runtime).train()
    return long, short


@pytest.fixture
def folders(trained: tuple[Folder, Folder], tmp_path: Path) -> list[Folder]:
    return [Folder(Path(shutil.copytree(each.path, tmp_path / each.path.name))) for each in trained]


def right(folder: Folder) -> Any:
    with np.load(folder.evaluation / "test_best.npz") as arrays:
        return arrays["correct"]


def test_folders_are_compared_on_the_same_images(folders: list[Folder], call: Call) -> None:
    result = call(evaluate.main, "--model_dir", *(folder.path for folder in folders))
    assert (result.status, result.err) == (0, "")
    written = read_json(folders[0].evaluation / "compared_test_best.json")
    for folder in folders:
        call(evaluate.main, "--model_dir", folder.path)
        alone = read_json(folder.evaluation / "test_best.json")
        own = written[str(folder.path)]
        assert own["accuracy"] == alone["accuracy"]
        assert own["parameters"] == alone["parameters"]
        assert own["file_bytes"] == folder.checkpoint("best").stat().st_size
    long, short = map(right, folders)
    test = written[str(folders[1].path)]["against_first"]
    only_long, only_short = int((long & ~short).sum()), int((short & ~long).sum())
    assert (test["only_first"], test["only_second"]) == (only_long, only_short)
    assert test["p_value"] == pytest.approx(stats.binomtest(only_long, only_long + only_short).pvalue)
    assert test["adjusted_p_value"] == test["p_value"]


def test_page_has_a_row_a_folder_and_a_verdict(folders: list[Folder], call: Call) -> None:
    result = call(evaluate.main, "--model_dir", *(folder.path for folder in folders))
    page = (folders[0].evaluation / "compared_test_best.md").read_text()
    assert page.strip() in result.out
    rows = [line for line in page.splitlines() if line.startswith(f"| {folders[1].path}")]
    assert len(rows) == 2
    assert any(verdict in rows[1] for verdict in ("worse", "better", "not shown"))


def test_a_folder_compared_with_itself_is_not_shown_to_differ(
    folders: list[Folder], tmp_path: Path, call: Call
) -> None:
    twin = shutil.copytree(folders[0].path, tmp_path / "twin")
    call(evaluate.main, "--model_dir", folders[0].path, twin)
    page = (folders[0].evaluation / "compared_test_best.md").read_text()
    (row,) = [line for line in page.splitlines() if "not shown" in line]
    assert "+0.00" in row


def test_other_test_images_are_refused(
    folders: list[Folder], tiny_data: Path, tmp_path: Path, call: Call, runtime: Runtime, make_folder: MakeFolder
) -> None:
    with np.load(tiny_data) as data:
        arrays = dict(data)
    arrays["test_images"] = arrays["test_images"][::-1]
    np.savez(tmp_path / "other.npz", **arrays)
    dataset = {"name": "arrays", "path": str(tmp_path / "other.npz"), "val_size": 40}
    other = make_folder(tmp_path / "other", dataset=dataset, num_epochs=1)
    Experiment(other.path, runtime).train()
    result = call(evaluate.main, "--model_dir", folders[0].path, other.path)
    assert result.status == 2
    assert "are not evaluated on the same data: test images of other content" in result.err


def test_weights_of_a_path_are_refused_for_several_folders(folders: list[Folder], call: Call) -> None:
    path = folders[0].checkpoint("best")
    result = call(evaluate.main, "--model_dir", *(folder.path for folder in folders), "--restore_file", path)
    assert result.status == 2
    assert "must be best, last or ema" in result.err
