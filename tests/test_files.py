"""Files are never half written, and a file that cannot be read is an error of one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.files import (
    atomic_write,
    first_existing,
    is_number,
    is_there,
    read_intact,
    read_json,
    read_jsonl,
    siblings,
    write_json,
    write_jsonl,
    write_text,
)


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
        ("[" * 101 + "]" * 101, "is nested too deeply"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a": ' * 101 + "1" + "}" * 101, "is nested too deeply"),
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


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_bytes(b"\xef\xbb\xbf" + b'{"seed": 1}')
    assert read_json(tmp_path / "params.json") == {"seed": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_an_error_of_one_line(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"seed": 1}', encoding=encoding)
    with pytest.raises(UserError, match=r"params\.json: (is not UTF-8 text|line 1)"):
        read_json(tmp_path / "params.json")


def test_a_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "results.md", name)
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == "caf\\udce9"


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


@pytest.mark.parametrize("damaged", [b"\0\0\0", b"\xff\xfe", b"[" * 100_000, b"5", b'{"epoch": 2'])
def test_rows_end_before_a_damaged_one_with_a_warning(
    damaged: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n' + damaged + b'\n{"epoch": 3}\n')
    assert read_jsonl(path) == [{"epoch": 1}]
    assert caplog.messages == [f"{path} is damaged: line 2 and those after it are left out"]


@pytest.mark.parametrize("content", [b"", b'{"state": "fin', b"\0\0\0\0", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_of_ours_is_left_out_with_one_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    assert (read_intact(path), read_intact(path)) == ({}, {})
    (message,) = caplog.messages
    assert message.startswith(f"{path} is damaged and left out: ")


def test_a_file_of_ours_that_is_not_there_is_empty_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (read_intact(tmp_path / "run.json"), caplog.messages) == ({}, [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((1, True), (0.5, True), (True, False), ("1", False), (None, False)),
        *((float("nan"), False), (float("-inf"), False), (10**400, False)),
    ],
)
def test_only_finite_numbers_are_numbers(value: Any, expected: bool) -> None:
    assert is_number(value) is expected


# Paths ----------------------------------------------------------------------------------------------------------------

TOO_LONG = ["a" * 300, "a" * 300 + "/x", "/" + "a/" * 3000]


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_path_that_is_too_long_is_not_there(name: str, tmp_path: Path) -> None:
    assert not is_there(tmp_path / name)
    assert first_existing(name, (tmp_path,)) is None
    assert siblings(tmp_path / name) == set()


def test_a_path_is_found_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    for folder, names in (("a", ("only_a",)), ("b", ("only_a", "only_b"))):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
    folders = (tmp_path / "a", tmp_path / "b")
    found = [first_existing(name, folders) for name in ("only_a", "only_b")]
    assert found == [tmp_path / "a" / "only_a", tmp_path / "b" / "only_b"]


def test_the_home_folder_of_a_user_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert first_existing("~/x", (tmp_path / "elsewhere",)) == tmp_path / "x"


def test_the_home_folder_of_nobody_is_a_name_like_any_other(tmp_path: Path) -> None:
    assert first_existing("~nosuchuser/x", (tmp_path,)) is None
