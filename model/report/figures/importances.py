"""How much each searched parameter matters for the accuracy on val: Optuna's fANOVA.

Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ...registry import FIGURES
from ..collect import format_value
from ..runs import Runs
from ..seeds import varied_params
from ..table import is_numeric, plain
from .style import COLOURS, new_figure

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MIN_RUNS = 8  # with fewer, a forest of trees says little


@FIGURES.register
def importances(runs: Runs) -> Figure | None:
    """Share of the variance of the accuracy on val that each parameter alone explains (fANOVA), in percent."""
    table = runs.table.dropna(subset=["val_best_accuracy"])
    params = varied_params(table)
    if len(params) < 2 or len(table) < MIN_RUNS or table["val_best_accuracy"].nunique() < 2:
        return None
    shares = param_importances(table, params)
    figure, axes = new_figure(height=0.8 + 0.35 * len(shares))
    names = list(shares)
    axes.barh(range(len(names)), [100 * shares[name] for name in names], color=COLOURS[0], height=0.6)
    axes.set_yticks(range(len(names)), labels=[name.rpartition(".")[2].replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x")
    axes.set(xlabel="share of the variance of the accuracy on val (%)", title=f"of {len(table)} runs")
    return figure


def param_importances(table: DataFrame, params: list[str]) -> dict[str, float]:
    """Parameter -> share of the variance, the largest first.

    Args:
        table: Runs with an accuracy on val; a run that does not have one of the parameters is left out.
    """
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    table = table.dropna(subset=params)
    columns = {name: _column(table[name]) for name in params}
    distributions: dict[str, BaseDistribution] = {name: distribution for name, (_, distribution) in columns.items()}
    trials = [
        optuna.trial.create_trial(
            params={name: values[number] for name, (values, _) in columns.items()},
            distributions=distributions,
            value=float(accuracy),
        )
        for number, accuracy in enumerate(table["val_best_accuracy"])
    ]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its evaluators are experimental
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _column(values: Series[Any]) -> tuple[list[Any], Any]:
    """A parameter's values and their range, as Optuna wants them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if is_numeric(values):
        low, high = float(values.min()), float(values.max())
        return [float(value) for value in values], FloatDistribution(low, high, log=low > 0 and high / low >= 30)
    texts = [format_value(plain(value)) for value in values]
    return texts, CategoricalDistribution(sorted(set(texts)))
