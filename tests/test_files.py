"""Files that are never half written, checkpoints that run no code, logs that do not mix."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.cli import run_script
from model.errors import OptionError, RunFailed, Stopped, UserError, did_you_mean
from model.files import atomic_write, read_json, read_jsonl, write_json, write_jsonl
from model.logs import format_duration, log, logging_to
from model.training.checkpoint import load_checkpoint, save_checkpoint

# Files --------------------------------------------------------------------------------------------------------------


def test_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"accuracy": 0.5})

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text('{"accur')
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert read_json(path) == {"accuracy": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, 1)
    with atomic_write(path) as temporary:
        temporary.write_text("2")
        assert read_json(path) == 1
    assert read_json(path) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_a_file_goes_on_reading_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, "old")
    with path.open() as reader:
        write_json(path, "new")
        assert reader.read() == '"old"\n'


def test_files_are_as_readable_as_the_user_wants_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True]}, [], "text with ü", 0.1 + 0.2])
def test_json_comes_back_as_it_was(value: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"alpha": 0.1, "alpha": 0.9}', 'the key "alpha" stands twice'),
        ('{"loss": {"a": 1, "b": 2, "a": 3}}', 'the key "a" stands twice'),
        ('{"loss": NaN}', "NaN is not a number that JSON has"),
        ("[Infinity]", "Infinity is not a number that JSON has"),
        ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3"),
        ("", "line 1, column 1"),
    ],
)
def test_wrong_json_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_json(path)
    assert str(path) in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_json_file_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "params.json")


def test_row_that_is_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_jsonl(path, [{"epoch": 1}, {"epoch": 2}])
    with path.open("a") as file:
        file.write('{"epoch": 3, "train_lo')
    assert read_jsonl(path) == [{"epoch": 1}, {"epoch": 2}]


def test_no_rows_file_is_no_rows(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


# Checkpoints --------------------------------------------------------------------------------------------------------


def test_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    content = {"state_dict": {"w": torch.randn(3, 2)}, "step": 7, "best": None, "student": {"name": "cnn"}}
    save_checkpoint(tmp_path / "last.pth.tar", content)
    found = load_checkpoint(tmp_path / "last.pth.tar")
    assert torch.equal(found.pop("state_dict")["w"], content["state_dict"]["w"])  # type: ignore[index]
    assert found == {"step": 7, "best": None, "student": {"name": "cnn"}}


class Malicious:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Malicious(tmp_path / "it ran")}, tmp_path / "best.pth.tar")
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        load_checkpoint(tmp_path / "best.pth.tar")
    assert not (tmp_path / "it ran").exists()


def test_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "best.pth.tar")
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        load_checkpoint(tmp_path / "best.pth.tar")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_checkpoint_that_is_cut_short_is_refused_in_one_line(share: float, tmp_path: Path) -> None:
    path = tmp_path / "last.pth.tar"
    save_checkpoint(path, {"state_dict": {"w": torch.randn(1000)}, "step": 7})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError) as refused:
        load_checkpoint(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["not a checkpoint", '{"step": 1}', "\x80\x04garbage"])
def test_file_that_is_no_checkpoint_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "best.pth.tar").write_text(text)
    with pytest.raises(UserError, match=r"best\.pth\.tar"):
        load_checkpoint(tmp_path / "best.pth.tar")


def test_file_of_something_else_than_a_dictionary_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "best.pth.tar")
    with pytest.raises(UserError, match="holds a Tensor, not a checkpoint"):
        load_checkpoint(tmp_path / "best.pth.tar")


def test_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pth.tar"
    save_checkpoint(path, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"step": 2, "wrong": lambda: None})
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


# Logs ---------------------------------------------------------------------------------------------------------------


def test_logs_of_two_runs_do_not_mix(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with logging_to(tmp_path / name):
            log.info("this is the %s", name)
    assert [(tmp_path / name).read_text().count("this is the") for name in ("first", "second")] == [1, 1]
    assert "second" not in (tmp_path / "first").read_text()


def test_inner_log_does_not_fill_the_outer_one(tmp_path: Path) -> None:
    with logging_to(tmp_path / "student"):
        log.info("before")
        with logging_to(tmp_path / "teacher"):
            log.info("meanwhile")
        log.info("after")
    lines = (tmp_path / "student").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["before", "after"]
    assert (tmp_path / "teacher").read_text().endswith("meanwhile\n")


def test_no_handler_outlives_its_run(tmp_path: Path) -> None:
    before = list(log.handlers)
    with pytest.raises(RuntimeError), logging_to(tmp_path / "train.log"):
        raise RuntimeError
    assert log.handlers == before


def test_log_is_appended(tmp_path: Path) -> None:
    for _ in range(2):
        with logging_to(tmp_path / "train.log"):
            log.info("again")
    assert len((tmp_path / "train.log").read_text().splitlines()) == 2


def test_log_without_a_file_goes_to_the_terminal_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(None):
        log.info("only here")
    assert capsys.readouterr().err.endswith("only here\n")
    assert list(tmp_path.iterdir()) == []


# Words and exit statuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (45, "45 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5940, "99 min"),
        (5520, "92 min"),
        (6000, "1 h 40 min"),
        (7200, "2 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("params.json: x"), 2, "error: params.json: x\n"),
        (OptionError("alpha", "must be in [0, 1]").under("loss.kd"), 2, "error: loss.kd.alpha: must be in [0, 1]\n"),
        (RunFailed("the loss is not finite"), 1, "failed: the loss is not finite\n"),
        (Stopped("saved at step 3"), 75, "stopped: saved at step 3\n"),
        (KeyboardInterrupt(), 75, "stopped: run the same command to go on\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_scripts_end_in_one_line_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert (ended.value.code, capsys.readouterr().err) == (status, message)


def test_near_names_are_suggested_and_far_ones_are_not() -> None:
    assert did_you_mean("temprature", ["alpha", "temperature"]) == ', did you mean "temperature"?'
    assert did_you_mean("xyz", ["alpha", "temperature"]) == ""
