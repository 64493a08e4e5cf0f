"""Where a run computes: device, data folder, processes. None of it is part of the experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import UserError, first_sentence
from ..home import ROOT
from ..training.distributed import SINGLE_PROCESS, World


def find_device(name: str, world: World = SINGLE_PROCESS) -> torch.device:
    """The device of `--device`: auto, cpu, cuda, cuda:1 or mps; each of several processes has a GPU of its own.

    `auto` is an NVIDIA GPU where there is one, else the CPU: MPS has no float64, and has to be asked for.

    Raises:
        UserError: There is no such device here, or it cannot be shared by several processes.
    """
    if world.size > 1 and name == "mps":
        raise UserError(f"--device {name}: several processes need NVIDIA GPUs, or --device cpu")
    if world.size > 1 and name != "cpu" and torch.cuda.is_available():
        if name not in ("auto", "cuda"):
            raise UserError(f"--device {name}: every process has a GPU of its own: leave this out")
        if world.local_rank >= (count := torch.cuda.device_count()):
            raise UserError(
                f"--device {name}: more processes than GPUs here: --nproc_per_node {count}, or --device cpu"
            )
        return torch.device("cuda", world.local_rank)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError('--device mps: only for Apple GPUs; "auto" selects an available device')
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # torch.device() alone also accepts devices that cannot compute here
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'--device {name}: {first_sentence(error)}; "auto" selects an available one') from None
    return device


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, data folder and processes of a run; by default a GPU where there is one, `data` and this process."""

    device: torch.device = field(default_factory=lambda: find_device("auto"))
    data_dir: Path = ROOT / "data"
    world: World = SINGLE_PROCESS
