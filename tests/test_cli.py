"""The command line: exit statuses, and the same options for the scripts and for the command `retort`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import search_hyperparams
import synthesize_results
import train
from model import cli
from model.cli import run_script, train_argv
from model.errors import OptionError, RunFailed, Stopped, UserError
from model.home import ROOT
from tests.conftest import Call, MakeFolder

SCRIPTS = {
    "train": train.main,
    "evaluate": evaluate.main,
    "search": search_hyperparams.main,
    "results": synthesize_results.main,
}


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("params.json: x"), 2, "error: params.json: x\n"),
        (OptionError("alpha", "must be below 1").with_parent("loss.kd"), 2, "error: loss.kd.alpha: must be below 1\n"),
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


@pytest.mark.parametrize(
    ("command", "option"),
    [("train", "model_dir"), ("evaluate", "model_dir"), ("search", "parent_dir"), ("results", "parent_dir")],
)
@pytest.mark.parametrize("path", ["a" * 300, "~nosuchuser/run", "/" + "a/" * 3000])
def test_a_path_that_cannot_be_is_one_line(command: str, option: str, path: str, call: Call) -> None:
    result = call(SCRIPTS[command], f"--{option}", path)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "no such folder" in result.err


def test_a_path_that_is_too_long_is_the_users_mistake_wherever_it_is_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / ("a" * 300)
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: len(path.read_bytes()))
    assert (ended.value.code, capsys.readouterr().err) == (2, f"error: {path}: the path is too long\n")


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_script_and_the_command_have_the_same_options(command: str, call: Call) -> None:
    of_script, of_command = call(SCRIPTS[command], "--help").out, call(cli.main, command, "--help").out
    assert "_dir" in of_script
    assert of_script.partition("\n\n")[2] == of_command.partition("\n\n")[2]  # what follows the usage


def test_the_command_lists_its_commands(call: Call) -> None:
    listed = call(cli.main, "--help")
    assert listed.status == 0
    assert re.findall(r"^    (\w+)  ", listed.out, flags=re.MULTILINE) == list(SCRIPTS)


@pytest.mark.parametrize("arguments", [(), ("trian",), ("train",)], ids=["no command", "unknown", "option missing"])
def test_a_mistyped_command_has_exit_status_2(arguments: tuple[str, ...], call: Call) -> None:
    assert call(cli.main, *arguments).status == 2


def test_the_command_runs_a_command(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    make_folder(tmp_path / "run")
    ended = call(cli.main, "results", "--parent_dir", tmp_path)
    assert ended.status == 0
    assert "| run" in ended.out


def test_the_command_reports_a_mistake_in_one_line(tmp_path: Path, call: Call) -> None:
    ended = call(cli.main, "results", "--parent_dir", tmp_path / "nowhere")
    assert ended.status == 2
    assert re.fullmatch("error: .*\n", ended.err)


def test_retort_home_must_exist(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.cli.ROOT", tmp_path / "nowhere")
    ended = call(synthesize_results.main, "--parent_dir", tmp_path)
    assert (ended.status, ended.err) == (2, f"error: RETORT_HOME: no folder {tmp_path / 'nowhere'}\n")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "search_hyperparams.py", "synthesize_results.py"])
def test_help_does_not_import_torch(script: str) -> None:
    command = [sys.executable, "-X", "importtime", script, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert "torch" not in imported


@pytest.mark.parametrize(
    ("checkout", "root", "expected"),
    [
        ("/checkout", "/checkout", [sys.executable, "/checkout/train.py"]),
        ("/checkout", "/home", ["env", "RETORT_HOME=/home", sys.executable, "/checkout/train.py"]),
    ],
    ids=["root", "another root"],
)
def test_a_search_in_a_checkout_starts_train_py_with_the_same_root(
    checkout: str, root: str, expected: list[str]
) -> None:
    assert train_argv(Path(checkout), Path(root)) == expected


def test_a_search_of_the_installed_package_starts_its_train_command_with_the_same_root() -> None:
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []
    expected = ["env", "RETORT_HOME=/home", sys.executable, *safe_path, "-m", "model", "train"]
    assert train_argv(None, Path("/home")) == expected
