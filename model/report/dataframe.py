"""The results of all runs below a folder as a pandas DataFrame, for notebooks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..config.folder import Weights
from .collect import COSTS, SPLITS, WEIGHTS, RunRecord, collect_runs, format_value, natural_order, schema_position

if TYPE_CHECKING:
    from pandas import DataFrame

BASIS = ("data", "teacher_weights", "val_seen")


def results(parent_dir: str | Path) -> DataFrame:
    """All runs in and below a folder, one row per run in natural order of their paths.

        >>> table = results("experiments")
        >>> table.groupby("loss")["test_best_accuracy"].agg(["mean", "std", "count"])

    The index is the run's path relative to `parent_dir`. Columns:

    - every parameter under its dotted path, defaults included: `student`, `loss.kd.alpha`. Lists are text, as in the
      printed tables, so that rows can be grouped by them.
    - `state`: `finished`, `stopped`, ...; missing if the run has no run.json.
    - every metric as `{split}_{weights}_{name}`: `val_best_accuracy` (in [0, 1]), `test_last_loss`,
      `test_best_exit_1_accuracy`, and `test_ema_accuracy` where a run has averaged weights. The four accuracies of best
      and last weights are there even if no run has them.
    - `epochs` completed, `seconds`; `parameters`, `macs` and `latency_ms` (of one image) of the student;
      `images_per_second` and `peak_memory_bytes` of its training.
    - `data` and `teacher_weights`: the same text for equal data, and for equal weights of the teachers.
    - `val_seen`: how many images of val a teacher has seen in training.
    - `notes`: warnings and errors, separated by "; ".

    What a run does not have is NaN. torch is not imported.

    Raises:
        UserError: The folder does not exist, or there is no run in it.
    """
    return to_dataframe(collect_runs(Path(parent_dir)))


def to_dataframe(runs: list[RunRecord]) -> DataFrame:
    """One row per run, as described for `results`."""
    import pandas as pd  # here, as the import takes longer than collecting runs

    try:
        return _make_table(runs)
    except UnicodeEncodeError:  # pandas keeps texts in pyarrow where that is installed, which has UTF-8 alone
        pd.set_option("mode.string_storage", "python")
        return _make_table(runs)


def _make_table(runs: list[RunRecord]) -> DataFrame:
    import pandas as pd

    params = sorted(dict.fromkeys(path for run in runs for path in run.params), key=schema_position)
    columns = [*params, "state", *_metric_columns(runs), "epochs", *COSTS, *BASIS, "notes"]
    index = pd.Index([run.path for run in runs], name="path")
    rows = [_row(run) for run in runs]
    table: DataFrame = pd.DataFrame(rows, index=index, columns=list(dict.fromkeys(columns)))
    return table


def _row(run: RunRecord) -> dict[str, Any]:
    params = {path: format_value(value) if isinstance(value, list) else value for path, value in run.params.items()}
    metrics = {
        f"{split}_{weights}_{key}": value
        for (split, weights), values in run.metrics.items()
        for key, value in ({"accuracy": math.nan} | values).items()
    }
    numbers = {
        "epochs": math.nan if run.epochs is None else run.epochs,
        "val_seen": math.nan if run.val_seen is None else run.val_seen,
        **{name: run.costs.get(name, math.nan) for name in COSTS},
    }
    basis = {"data": run.data, "teacher_weights": run.teacher_weights}
    return params | {"state": run.state} | metrics | numbers | basis | {"notes": "; ".join(run.notes)}


def _metric_columns(runs: list[RunRecord]) -> list[str]:
    columns = []
    for split in SPLITS:
        for weights in get_args(Weights):
            if weights not in WEIGHTS and not any((split, weights) in run.metrics for run in runs):
                continue
            keys = {key for run in runs for key in run.metrics.get((split, weights), {})} - {"accuracy"}
            columns += [f"{split}_{weights}_{key}" for key in ("accuracy", *sorted(keys, key=natural_order))]
    return columns
