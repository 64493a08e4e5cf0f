"""What TensorBoard is given at the end of a run: results, its parameters (HParams), and a picture of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def log_results(
    log_dir: Path, *, params: Mapping[str, Any], metrics: Mapping[str, float], epoch: int, samples: NDArray[np.uint8]
) -> None:
    """Add a run's results to its event files.

    TensorBoard compares runs by their parameters where each is a session of HParams. Experiments are not declared:
    it takes their columns from the sessions, also where runs have different parameters.

    Args:
        params: Dotted path -> value.
        metrics: Tag -> value.
        samples: A picture (H, W, 3).
    """
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    values = {path: _hparam(value) for path, value in params.items() if value is not None}
    _, session_start, session_end = hparams(values, dict(metrics))
    with SummaryWriter(str(log_dir), filename_suffix=".results") as writer:
        writer.file_writer.add_summary(session_start)
        for tag, value in metrics.items():
            writer.add_scalar(tag, value, epoch)
        writer.add_image("samples", samples, epoch, dataformats="HWC")
        writer.file_writer.add_summary(session_end)


def _hparam(value: Any) -> float | str | bool:
    """A number, a text or a boolean, which is all that HParams has."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
