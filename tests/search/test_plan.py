"""The params.json of each run, which runs are pending, and which folders are trained before them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.config.params import Params
from model.errors import UserError
from model.home import ROOT
from model.search.plan import format_summary, make_plan
from tests.search.fake_search import BASE, FakeSearch, tree, write

ALPHAS = {"alpha": [0.1, 0.5]}

FLAT = {
    "model_version": "cnn_distill",
    "subset_percent": 1.0,
    "augmentation": "yes",
    "teacher": "resnet18",
    "alpha": 0.9,
    "temperature": 4.0,
    "learning_rate": 1e-3,
    "batch_size": 128,
    "dropout_rate": 0.5,
    "num_channels": 32,
    "save_summary_steps": 100,
    "num_workers": 4,
    "num_epochs": 2,
}


def begin(fake: FakeSearch, run: str, state: str, **changed: Any) -> None:
    """Write a run as an earlier search would have left it."""
    params = next(planned for planned in make_plan(fake.folder).runs if planned.name == run).params
    assert params is not None
    write(fake.folder / run / "params.json", params | changed)
    write(fake.folder / run / "run.json", {"state": state})


def test_a_run_is_the_base_with_its_values(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS | {"num_epochs": {"value": 1}})
    assert fake.run() == 0
    assert fake.read("alpha_0.1", "params.json") == BASE | {
        "loss": {"kd": {"alpha": 0.1, "temperature": 4.0}},
        "num_epochs": 1,
    }


DAMAGED = [b"", b"{", b"\0\0\0\0"]


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("file", ["params.json", "params_resolved.json", "run.json", "metrics.jsonl"])
@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_damaged_file_of_a_run_does_not_stop_a_grid(tmp_path: Path, state: str, file: str, content: bytes) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    begin(fake, "alpha_0.1", state)
    (fake.folder / "alpha_0.1" / file).write_bytes(content)
    assert fake.run() == 0
    assert fake.state("alpha_0.1") == fake.state("alpha_0.5") == "finished"


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("file", ["params.json", "run.json", "metrics.jsonl", "trial.json"])
def test_a_damaged_file_of_a_run_does_not_stop_a_sequential_search(tmp_path: Path, file: str, content: bytes) -> None:
    fake = FakeSearch(tmp_path, {"alpha": {"min": 0.1, "max": 0.9}}, search={"method": "random", "run_cap": 2})
    assert fake.run() == 0
    (fake.folder / fake.runs()[0] / file).write_bytes(content)
    fake.change(run_cap=3)
    assert fake.run() == 0
    assert len(fake.begun()) >= 3


def test_the_point_of_a_damaged_params_json_is_that_of_params_resolved_json(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": {"min": 0.1, "max": 0.9}}, search={"method": "random", "run_cap": 2})
    assert fake.run() == 0
    before = [run.name for run in make_plan(fake.folder).runs]
    folder = fake.folder / before[0]
    (folder / "params.json").rename(folder / "params_resolved.json")
    (folder / "params.json").touch()
    assert [run.name for run in make_plan(fake.folder).runs] == before


def test_a_damaged_params_json_is_written_again_before_its_run_goes_on(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    begin(fake, "alpha_0.1", "stopped")
    (fake.folder / "alpha_0.1" / "params.json").write_bytes(b"")
    fake.run()
    assert fake.read("alpha_0.1", "params.json")["loss"]["kd"]["alpha"] == 0.1


def test_an_equal_params_json_is_not_written_again(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS, student={"outcome": "fail"})
    fake.run()
    path = fake.folder / "alpha_0.1" / "params.json"
    before = path.stat()
    fake.run()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_params_json_whose_run_has_not_begun_is_replaced(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    write(fake.folder / "alpha_0.1" / "params.json", {"old": 1})
    assert fake.run() == 0
    assert fake.read("alpha_0.1", "params.json")["num_epochs"] == 2


@pytest.mark.parametrize("state", ["stopped", "failed", "finished"])
def test_a_run_begun_with_other_parameters_is_an_error_that_shows_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    begin(fake, "alpha_0.5", state, num_epochs=1, gradient_clip=2.0)
    assert fake.run() == 2
    error = capsys.readouterr().err
    assert f"{fake.folder}/alpha_0.5/params.json: the parameters of this run have changed since it began: " in error
    assert "gradient_clip was 2.0, is null; num_epochs was 1, is 2;" in error
    assert "--restart" in error
    assert fake.events() == []


def test_results_without_a_run_json_count_as_begun(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    write(fake.folder / "alpha_0.1" / "params.json", BASE)
    write(fake.folder / "alpha_0.1" / "metrics_val_best_weights.json", {"accuracy": 0.8})
    with pytest.raises(UserError, match=r"loss\.kd\.alpha was 0\.9, is 0\.1"):
        make_plan(fake.folder)


def test_an_equal_number_and_a_key_that_does_not_change_results_are_no_difference(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    begin(fake, "alpha_0.1", "finished", description="another text", loss={"kd": {"alpha": 0.1, "temperature": 4}})
    assert [run.name for run in make_plan(fake.folder).pending] == ["alpha_0.5"]


def test_finished_runs_are_counted_and_the_others_are_pending(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3, 0.4, 0.5]})
    for run, state in (("alpha_0.1", "finished"), ("alpha_0.2", "stopped"), ("alpha_0.3", "failed")):
        begin(fake, run, state)
    plan = make_plan(fake.folder)
    assert [run.name for run in plan.pending] == ["alpha_0.2", "alpha_0.3", "alpha_0.4", "alpha_0.5"]
    assert format_summary(plan) == (
        f"{fake.folder}: 5 runs: 1 finished, 1 to be resumed, 1 failed, to be retried, 2 new"
    )


# Teachers -----------------------------------------------------------------------------------------------------------


def with_teacher(tmp_path: Path, teacher: Any, parameters: Any = ALPHAS, **base: Any) -> FakeSearch:
    fake = FakeSearch(tmp_path, parameters, teacher=teacher, **base)
    for name in ("one", "two", "a search/inside"):
        write(tmp_path / "experiments" / name / "params.json", BASE | {"loss": {"ce": {}}})
    return fake


def teacher_of_first_run(fake: FakeSearch) -> Any:
    params = make_plan(fake.folder).runs[0].params
    assert params is not None
    return params["teacher"]


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("../one", "../../one"),
        ("inside", "../inside"),
        (["../one", "../two"], ["../../one", "../../two"]),
        ({"model_dir": "../one", "weights": "last"}, {"model_dir": "../../one", "weights": "last"}),
        ({"model_dir": ["../one"]}, {"model_dir": ["../../one"]}),
        ("experiments/base_resnet18", "experiments/base_resnet18"),
    ],
)
def test_a_relative_teacher_keeps_its_meaning_one_level_deeper(tmp_path: Path, teacher: Any, expected: Any) -> None:
    assert teacher_of_first_run(with_teacher(tmp_path, teacher)) == expected


def test_an_absolute_teacher_stays(tmp_path: Path) -> None:
    teacher = str(tmp_path / "experiments" / "one")
    assert teacher_of_first_run(with_teacher(tmp_path, teacher)) == teacher


def test_a_teacher_in_the_space_is_relative_to_the_search_too(tmp_path: Path) -> None:
    plan = make_plan(with_teacher(tmp_path, None, {"teacher": ["../one", "../two"]}).folder)
    assert [run.name for run in plan.runs] == ["teacher_one", "teacher_two"]
    assert [run.params["teacher"] for run in plan.runs if run.params] == ["../../one", "../../two"]
    assert [teacher.folder.path.name for teacher in plan.prerequisites] == ["one", "two"]


def test_a_teacher_of_many_runs_is_trained_once(tmp_path: Path) -> None:
    plan = make_plan(with_teacher(tmp_path, ["../one", "../two", "../one"]).folder)
    assert [teacher.folder.path.name for teacher in plan.prerequisites] == ["one", "two"]
    assert format_summary(plan).splitlines()[1:] == [
        f"to be trained first: {tmp_path}/experiments/one",
        f"to be trained first: {tmp_path}/experiments/two",
    ]


def test_no_teacher_is_trained_for_runs_that_are_finished(tmp_path: Path) -> None:
    fake = with_teacher(tmp_path, "../one")
    for run in ("alpha_0.1", "alpha_0.5"):
        begin(fake, run, "finished")
    assert make_plan(fake.folder).prerequisites == ()


@pytest.mark.parametrize("made_by", ["a run", "hand"])
def test_a_trained_teacher_is_left_alone(tmp_path: Path, made_by: str) -> None:
    fake = with_teacher(tmp_path, "../one")
    (tmp_path / "experiments" / "one" / "best.pth.tar").touch()
    if made_by == "a run":
        write(tmp_path / "experiments" / "one" / "run.json", {"state": "finished"})
    assert make_plan(fake.folder).prerequisites == ()


def test_a_teacher_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, ALPHAS, teacher="../on")
    assert fake.run() == 2
    assert 'teacher: no folder "../on" under' in capsys.readouterr().err


# Mistakes -----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    fake.folder = fake.folder.with_name("a serch")
    assert fake.run() == 2
    assert 'a serch: no such folder, did you mean "a search"?' in capsys.readouterr().err


def test_a_folder_without_params_json_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    (fake.folder / "params.json").unlink()
    before = tree(fake.folder)
    assert fake.run() == 2
    assert "a search: the folder holds no params.json" in capsys.readouterr().err
    assert tree(fake.folder) == before


def test_a_value_of_the_wrong_type_is_reported_with_the_values_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.5], "batch_size": [64, "many"]})
    assert fake.run() == 2
    error = capsys.readouterr().err
    assert "batch_size: should be a valid integer, got" in error
    assert '(the run with alpha 0.5, batch_size "many")' in error


def test_every_run_is_checked_before_the_first_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check(params: Params, path: Path) -> None:
        if params.loss["kd"]["alpha"] > 1:
            raise UserError(f"{path}: loss.kd.alpha: must be at most 1")

    fake = FakeSearch(tmp_path, {"alpha": [0.5, 1.5]})
    assert fake.run(check=check) == 2
    assert "a search/params.json: loss.kd.alpha: must be at most 1 (the run with alpha 1.5)" in capsys.readouterr().err
    assert fake.events() == []


# Legacy params.json, the script -------------------------------------------------------------------------------------


def test_a_flat_base_is_searched_in_our_form(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1], "temperature": [2]})
    write(fake.folder / "params.json", FLAT)
    params = make_plan(fake.folder).runs[0].params
    assert params is not None
    assert params["student"]["name"] == "cnn"
    assert params["num_epochs"] == 2
    assert (params["loss"]["kd"]["alpha"], params["loss"]["kd"]["temperature"]) == (0.1, 2)


def dry_run(fake: FakeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    import search_hyperparams

    options = ["--jobs", "1", "--dry_run", "--data_dir", str(fake.folder / "no data")]
    monkeypatch.setattr("sys.argv", ["search_hyperparams.py", "--parent_dir", str(fake.folder), *options])
    assert search_hyperparams.main() == 0


def test_a_dry_run_prints_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = with_teacher(tmp_path, "../one")
    begin(fake, "alpha_0.1", "finished")
    write(fake.folder / "alpha_0.1" / "run.json", {"state": "finished", "seconds": 45.2})
    monkeypatch.setattr("model.commands.provenance.process_seconds", lambda: 3.0)
    dry_run(fake, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"{fake.folder}: 2 runs: 1 finished, 1 new",
        f"to be trained first: {tmp_path}/experiments/one",
    ]
    assert re.fullmatch(
        r"1 at a time, \d+ threads? each: .*python.* .*/train\.py --device auto --data_dir .* --model_dir RUN", lines[2]
    )
    assert lines[3] == "time: about 48 s, 1 x 48 s, 1 at a time (mean of 1 finished; without what is trained first)"
    assert lines[4:] == ["  alpha_0.1  finished", "  alpha_0.5  new"]


def test_a_dry_run_prints_what_will_be_proposed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {
        "temperature": {"min": 1, "max": 20},
        "optimizer.learning_rate": {"min": 1e-4, "max": 0.1, "distribution": "log_uniform_values"},
        "batch_size": [32, 64],
    }
    search = {"method": "tpe", "run_cap": 7}
    fake = FakeSearch(tmp_path, parameters, search=search, optimizer={"name": "sgd"}, teacher="../one")
    write(tmp_path / "experiments" / "one" / "params.json", BASE | {"loss": {"ce": {}}})
    dry_run(fake, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{fake.folder}: 7 runs: 7 to be proposed by tpe"
    assert lines[4:] == [
        "tpe proposes",
        "  temperature: uniform from 1 to 20",
        "  optimizer.learning_rate: log_uniform_values from 0.0001 to 0.1",
        "  batch_size: 32, 64",
    ]


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = with_teacher(tmp_path, "../one")
    before = tree(tmp_path)
    dry_run(fake, monkeypatch)
    assert tree(tmp_path) == before


def test_a_dry_run_checks_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSearch(
        tmp_path, {"temperature": [1, -1]}, loss={"kd": {"alpha": 1.0, "temperature": 1.0}}, teacher="../t"
    )
    write(tmp_path / "experiments" / "t" / "params.json", BASE | {"loss": {"ce": {}}})
    with pytest.raises(UserError, match=r"loss\.kd: temperature .*\(the run with temperature -1\)"):
        dry_run(fake, monkeypatch)


def test_searching_does_not_import_torch() -> None:
    program = (
        "import sys, model.search.driver, model.search.executors.local, model.search.executors.die_with_parent;"
        "import model.search.sampling, model.report.search_tables;"
        "loaded = {name.partition('.')[0] for name in sys.modules};"
        "assert not loaded & {'torch', 'torchvision', 'numpy', 'optuna'}"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
