"""Checkpoint files: tensors and plain values, written whole or not at all, and read without running any code."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UserError, first_sentence
from ..files import atomic_write

if TYPE_CHECKING:
    from .trainer import Trainer

WAY_OUT = "; where the file is trusted, torch.save(net.state_dict(), ...) writes its weights alone"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that a reader never sees half a file."""
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or a file of safetensors, onto the CPU without running any code from it.

    Beside tensors and plain values, NumPy's float64 numbers and command-line arguments are read: published teachers
    come with the state of their optimizer, whose learning rate is such a number, and with the arguments of their run.

    Raises:
        UserError: The file is missing, cut short, or holds more than that.
    """
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    number = np.float64(0).__reduce__()[0]  # what a pickled number is made with again
    allowed: list[Any] = [
        *((number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # NumPy 1's name, and NumPy 2's
        *(np.dtype, np.dtypes.Float64DType, argparse.Namespace),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ", or is no checkpoint"
        raise UserError(f"{path}: holds more than tensors and plain values{what}: not loaded{WAY_OUT}") from None
    except Exception as error:  # a broken file makes the reader raise almost anything
        reason = first_sentence(error)
        if "TorchScript" in str(error):
            raise UserError(f"{path}: is a TorchScript program, which is code: not loaded{WAY_OUT}") from None
        raise UserError(f"{path}: cannot be read, it may be cut short ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return content


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise UserError(f"{path}: needs safetensors, which is not installed: pip install safetensors") from None
    try:
        content: dict[str, Any] = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:
        raise UserError(f"{path}: cannot be read, it may be cut short ({first_sentence(error)})") from None
    return content


def training_state(trainer: Trainer) -> dict[str, Any]:
    """What last.pth.tar holds beside the description of the network: all that a resume needs."""
    content = {
        "state_dict": trainer.student.state_dict(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        "steps_per_epoch": trainer.steps_per_epoch,
        "seconds": trainer.seconds,
        "best": trainer.best,
        "objective": trainer.objective.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "totals": trainer.meters.reduced(),
    }
    if trainer.early_stopping is not None:
        content["early_stopping"] = trainer.early_stopping.state_dict()
    if trainer.ema is not None:
        content["averaging"] = trainer.ema.state_dict()  # a key that is no name of weights: see build/state_dicts.py
    return content


def restore(trainer: Trainer, content: dict[str, Any]) -> None:
    """Put a trainer where the content of a last.pth.tar stood.

    Raises:
        UserError: Another version of this project has written it within an epoch, whose sums it kept otherwise.
    """
    is_other = content["totals"].shape != trainer.meters.sums.shape
    if is_other and content["totals"].any():
        path = trainer.folder.checkpoint("last")
        raise UserError(f"{path}: was written by another version, within an epoch: end the run with that, or --restart")
    trainer.student.load_state_dict(content["state_dict"])
    trainer.objective.load_state_dict(content["objective"])
    trainer.optimizer.load_state_dict(content["optimizer"])
    trainer.step, trainer.seconds, trainer.best = content["step"], content["seconds"], content["best"]
    if trainer.early_stopping is not None:
        trainer.early_stopping.load_state_dict(content["early_stopping"])
    if trainer.ema is not None:
        trainer.ema.load_state_dict(content["averaging"])
    if not is_other:
        trainer.load_meters(content["totals"])
