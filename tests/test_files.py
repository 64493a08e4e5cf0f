"""Files are never half written, and a file that cannot be read is an error of one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.files import atomic_write, read_json, read_jsonl, write_json, write_jsonl


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


def test_file_is_the_old_one_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, 1)
    with atomic_write(path) as temporary:
        temporary.write_text("2")
        assert read_json(path) == 1
    assert read_json(path) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_an_open_file_stays_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, "old")
    with path.open() as reader:
        write_json(path, "new")
        assert reader.read() == '"old"\n'


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True]}, [], "text with ü", 0.1 + 0.2])
def test_json_round_trip(value: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"alpha": 0.1, "alpha": 0.9}', 'the key "alpha" occurs twice'),
        ('{"loss": {"a": 1, "b": 2, "a": 3}}', 'the key "a" occurs twice'),
        ('{"loss": NaN}', "NaN is not a JSON number"),
        ("[Infinity]", "Infinity is not a JSON number"),
        ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3"),
        ("", "line 1, column 1"),
    ],
)
def test_invalid_json_is_an_error_of_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_json_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "params.json")


def test_truncated_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_jsonl(path, [{"epoch": 1}, {"epoch": 2}])
    with path.open("a") as file:
        file.write('{"epoch": 3, "train_lo')
    assert read_jsonl(path) == [{"epoch": 1}, {"epoch": 2}]


def test_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "metrics.jsonl") == []
