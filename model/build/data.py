"""The data set of an experiment."""

from __future__ import annotations

from ..config.params import Params
from ..errors import option_scope
from ..registry import DATASETS
from ..types import DataSource, SplitOptions
from .runtime import Runtime


def build_source(params: Params, place: Runtime) -> DataSource:
    with option_scope("dataset"):
        source: DataSource = DATASETS.build(params.dataset.name, place.data_dir, **params.dataset.options)
    return source


def split_options(params: Params) -> SplitOptions:
    with option_scope("dataset"):
        return DATASETS.common_options(params.dataset.name, params.dataset.options)
