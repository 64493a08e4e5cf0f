"""How a run ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.commands.signals import one_line_errors
from model.config.folder import Folder
from model.errors import RunFailed


def test_too_little_memory_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(RunFailed, match=r"not enough memory \(a smaller batch_size takes less\)$"),
        one_line_errors(Folder(tmp_path)),
    ):
        torch.empty(2**60)
