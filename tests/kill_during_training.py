"""train.py, which a signal hits after one of its steps:

    python -m tests.kill_during_training STEP SIGNAL --model_dir ...

SIGKILL comes while the checkpoint of that step is written, just before the new file takes the old one's place.
Of several processes that torchrun has started, the last is hit, and SIGKILL comes after the step.
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


def take_step_and_signal(trainer: Trainer, batch: Batch) -> None:
    take_step(trainer, batch)
    world = trainer.world if isinstance(trainer, DistributedTrainer) else SINGLE_PROCESS
    if trainer.step == STEP and world.rank == world.size - 1 and (SIGNAL is not signal.SIGKILL or world.size > 1):
        os.kill(os.getpid(), SIGNAL)


def save_and_signal(trainer: Trainer) -> None:
    if trainer.step == STEP and SIGNAL is signal.SIGKILL:
        Path.replace = die  # type: ignore[method-assign,assignment]
    save(trainer)


def die(_: Path, target: Path) -> NoReturn:
    assert target.name == "last.pth.tar"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nothing comes after SIGKILL")


Trainer.take_step = take_step_and_signal  # type: ignore[assignment,method-assign]
Trainer.save = save_and_signal  # type: ignore[assignment,method-assign]
sys.argv[0] = "train.py"
runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
