"""Run train.py and send it a signal after one of its steps:

    python -m tests.kill_during_training STEP SIGNAL --model_dir ...

SIGKILL is sent while the checkpoint of that step is written, just before the new file replaces the old one.
Of several processes started by torchrun, the last one gets the signal, and SIGKILL is sent after the step.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import NoReturn

from model.home import ROOT
from model.training.distributed import SINGLE_PROCESS
from model.training.parallel import DistributedTrainer
from model.training.trainer import Trainer
from model.types import Batch

STEP, SIGNAL = int(sys.argv.pop(1)), signal.Signals(int(sys.argv.pop(1)))

take_step, save = Trainer.take_step, Trainer.save


def take_step_then_signal(trainer: Trainer, *batches: Batch) -> None:
    take_step(trainer, *batches)
    world = trainer.world if isinstance(trainer, DistributedTrainer) else SINGLE_PROCESS
    if trainer.step == STEP and world.rank == world.size - 1 and (SIGNAL is not signal.SIGKILL or world.size > 1):
        os.kill(os.getpid(), SIGNAL)


def save_with_signal(trainer: Trainer) -> None:
    if trainer.step == STEP and SIGNAL is signal.SIGKILL:
        Path.replace = kill_self  # type: ignore[method-assign,assignment]
    save(trainer)


def kill_self(_: Path, target: Path) -> NoReturn:
    assert target.name == "last.pth.tar"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached after SIGKILL")


Trainer.take_step = take_step_then_signal  # type: ignore[assignment,method-assign]
Trainer.save = save_with_signal  # type: ignore[assignment,method-assign]
sys.argv[0] = "train.py"
runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
