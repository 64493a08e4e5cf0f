"""The content of search.json: what is varied, by which method, and which metric decides.

The vocabulary is that of W&B's sweeps. https://docs.wandb.ai/guides/sweeps/sweep-config-keys

    method           a sampler: grid, random, tpe (bayes), ... (model/search/sampling)
    metric           {"name": "val_accuracy", "goal": "maximize"}, or a list of several
    parameters       name -> values, a constant, a range or choices (parameter.py)
    run_cap          the largest number of runs; every method but grid needs it
    early_terminate  a pruner with its options: {"type": "median", "min_iter": 3} (model/search/sampling)
    seeds, top       the first seed for all trials, the others for the best few; ours, as are search_seed and choices
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from ...config.params import Strict
from ...registry import PRUNERS, SAMPLERS
from .metric import Metric
from .parameter import Parameter, ParameterEntry, constants, varied

if TYPE_CHECKING:
    from ..sampling.base import Sampler
    from ..sampling.pruner import Pruner

ALIASES = {"bayes": "tpe"}  # W&B's name


class EarlyTerminate(Strict):
    """A pruner by its name (`type`), with every other key one of its keyword arguments."""

    model_config = ConfigDict(extra="allow")

    type: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


def _wrap_metric(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _resolve_alias(method: str) -> str:
    return ALIASES.get(method, method)


class Space(Strict):
    """search.json."""

    method: Annotated[str, AfterValidator(_resolve_alias)] = "grid"
    metric: Annotated[tuple[Metric, ...], BeforeValidator(_wrap_metric), Field(min_length=1, strict=False)] = (
        Metric(),
    )
    parameters: Annotated[dict[str, ParameterEntry], Field(min_length=1)]
    run_cap: Annotated[int, Field(ge=1)] | None = None
    search_seed: Annotated[int, Field(ge=0)] = 0
    early_terminate: EarlyTerminate | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)] | None = None
    top: Annotated[int, Field(ge=1)] = 3

    @property
    def varied(self) -> dict[str, Parameter]:
        """The parameters that differ from run to run."""
        return varied(self.parameters)

    @property
    def shared(self) -> dict[str, Any]:
        """The values that all runs have in common."""
        return constants(self.parameters)

    @property
    def is_sequential(self) -> bool:
        """Whether runs are proposed one after another; the runs of a grid are all known before the first."""
        return cast("type[Sampler]", SAMPLERS[self.method]).is_sequential

    def build_sampler(self) -> Sampler:
        sampler: Sampler = SAMPLERS.build(self.method, self)
        return sampler

    def build_pruner(self) -> Pruner | None:
        """The pruner of `early_terminate`, if there is one.

        Raises:
            OptionError: An unknown option, or a value that the pruner refuses.
        """
        if self.early_terminate is None:
            return None
        options = PRUNERS.resolve(self.early_terminate.type, self.early_terminate.options)
        pruner: Pruner = PRUNERS.build(self.early_terminate.type, self.metric[0], self.search_seed, **options)
        return pruner
