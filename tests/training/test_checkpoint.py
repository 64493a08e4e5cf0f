"""Checkpoints hold tensors and plain values; no code in them is run, and a corrupt file is an error of one line."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.errors import UserError
from model.training.checkpoint import load_checkpoint, save_checkpoint


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    content = {"state_dict": {"w": torch.randn(3, 2)}, "step": 7, "best": None, "student": {"name": "cnn"}}
    save_checkpoint(tmp_path / "last.pth.tar", content)
    loaded = load_checkpoint(tmp_path / "last.pth.tar")
    assert torch.equal(loaded.pop("state_dict")["w"], content["state_dict"]["w"])  # type: ignore[index]
    assert loaded == {"step": 7, "best": None, "student": {"name": "cnn"}}


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_checkpoint_with_code_is_an_error_and_the_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Malicious(tmp_path / "code_ran")}, tmp_path / "best.pth.tar")
    with pytest.raises(UserError, match=r"holds more than tensors and plain values \(.+\): not loaded; "):
        load_checkpoint(tmp_path / "best.pth.tar")
    assert not (tmp_path / "code_ran").exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [(torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"), ({"mean": np.zeros(3)}, "numpy.*")],
)
def test_what_else_a_file_holds_is_named(content: Any, name: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "best.pth.tar")
    with pytest.raises(
        UserError,
        match=rf"holds more than tensors and plain values \({name}\): not loaded; ",
    ):
        load_checkpoint(tmp_path / "best.pth.tar")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_truncated_checkpoint_is_an_error_of_one_line(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "last.pth.tar"
    save_checkpoint(path, {"state_dict": {"w": torch.randn(1000)}, "step": 7})
    complete = path.read_bytes()
    path.write_bytes(complete[: int(fraction * len(complete))])
    with pytest.raises(UserError) as exc_info:
        load_checkpoint(path)
    assert str(path) in str(exc_info.value)
    assert "\n" not in str(exc_info.value)


@pytest.mark.parametrize("text", ["not a checkpoint", '{"step": 1}', "\x80\x04garbage"])
def test_file_that_is_not_a_checkpoint_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "best.pth.tar").write_text(text)
    with pytest.raises(UserError, match=r"best\.pth\.tar"):
        load_checkpoint(tmp_path / "best.pth.tar")


def test_file_without_a_dictionary_is_an_error(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "best.pth.tar")
    with pytest.raises(UserError, match="holds a Tensor, not a checkpoint"):
        load_checkpoint(tmp_path / "best.pth.tar")


def test_failed_save_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pth.tar"
    save_checkpoint(path, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"step": 2, "wrong": lambda: None})
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_torchscript_program_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that it is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"is a TorchScript program, which is code: not loaded; .* torch\.save\("):
        load_checkpoint(tmp_path / "net.pt")


def test_safetensors_are_read(tmp_path: Path) -> None:
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    save_file(state, tmp_path / "net.safetensors")
    loaded = load_checkpoint(tmp_path / "net.safetensors")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("content", [b"", b"no header", b"\xff" * 100])
def test_broken_safetensors_are_an_error_of_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.safetensors: cannot be read"):
        load_checkpoint(tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors: no such file"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_missing_safetensors_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="needs safetensors, which is not installed: pip install safetensors"):
        load_checkpoint(tmp_path / "net.safetensors")
