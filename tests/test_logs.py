"""Logs of runs do not mix; durations and sizes are short."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from model.home import ROOT
from model.logs import ProgressBar, format_bytes, format_duration, hidden_bars, log, logging_to


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_bars_are_shown_on_terminals_alone(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], is_shown: bool
) -> None:
    monkeypatch.setattr("sys.stderr", stream())
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert list(ProgressBar(range(3))) == [0, 1, 2]
    assert (sys.stderr.getvalue() != "") is is_shown  # type: ignore[union-attr]


@pytest.mark.parametrize(("stream", "is_shown"), [(Terminal, True), (io.StringIO, False)])
def test_bars_of_other_libraries_stay_out_of_files_and_their_messages_do_not(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], is_shown: bool
) -> None:
    monkeypatch.setattr("sys.stderr", written := stream())
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with hidden_bars():
        print("before", file=sys.stderr)
        list(tqdm(range(3)))
        print("after", file=sys.stderr)
    assert (written.getvalue() != "before\nafter\n") is is_shown


def test_every_progress_bar_is_the_one_that_stays_out_of_files() -> None:
    files = [file for file in (ROOT / "model").rglob("*.py") if file.name != "logs.py"]
    assert [str(file) for file in files if "import tqdm" in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    ("seconds", "text"),
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
def test_durations_have_the_unit_of_their_size(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_620_000_000, "1.62 GB"),
        (5_040_000, "5.04 MB"),
        (2 * 10**12, "2 TB"),
    ],
)
def test_sizes_are_decimal_with_three_digits(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text
