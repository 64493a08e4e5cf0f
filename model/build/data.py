"""The data set of an experiment."""

from __future__ import annotations

from model.build.runtime import Place
from model.config.params import Params
from model.errors import under
from model.registry import DATASETS
from model.types import DataSource, SplitOptions


def build_source(params: Params, place: Place) -> DataSource:
    with under("dataset"):
        source: DataSource = DATASETS.build(params.dataset.name, place.data_dir, **params.dataset.options)
    return source


def split_options(params: Params) -> SplitOptions:
    with under("dataset"):
        return DATASETS.common_options(params.dataset.name, params.dataset.options)
