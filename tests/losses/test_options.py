"""Impossible values of losses' options are refused, with the option's name."""

from __future__ import annotations

from typing import Any

import pytest

from model.errors import OptionError
from model.registry import LOSSES

IMPOSSIBLE: list[tuple[str, str, Any]] = [
    ("cc", "gamma", 0.0),
    ("cc", "order", 0),
    ("cc_linear", "embedding_size", 0),
    ("crd", "num_negatives", 0),
    ("crd", "temperature", 0.0),
    ("crd", "momentum", 1.0),
    ("crd", "embedding_size", 0),
    ("ctkd", "alpha", 0.0),
    ("ctkd", "alpha", 1.5),
    ("ctkd", "lowest", 0.0),
    ("ctkd", "span", 0.0),
    ("ctkd", "curriculum_epochs", 0.0),
    ("dist", "beta", -1.0),
    ("dist", "gamma", -1.0),
    ("dist", "temperature", 0.0),
    ("dkd", "alpha", -1.0),
    ("dkd", "beta", -1.0),
    ("dkd", "temperature", 0.0),
    ("mlkd", "alpha", 0.0),
    ("mlkd", "temperatures", []),
    ("mlkd", "temperatures", [4.0, 0.0]),
    ("mutual", "others_weight", -1.0),
    ("mutual", "temperature", 0.0),
    ("nkd", "gamma", -1.0),
    ("nkd", "temperature", 0.0),
    ("ofa", "gamma", 0.5),
    ("rkd", "distance_weight", -1.0),
    ("rkd", "angle_weight", -1.0),
    ("rld", "alpha", -1.0),
    ("rld", "beta", -1.0),
    ("rld", "temperature", 0.0),
    ("rld", "confidence_temperature", 0.0),
    ("srd", "exponent", 0.5),
    ("srrl", "feature_weight", -1.0),
    ("srrl", "logit_weight", -1.0),
    ("ttm", "gamma", 0.0),
    ("wsld", "temperature", 0.0),
    ("wttm", "gamma", 0.0),
]


@pytest.mark.parametrize(("loss", "option", "value"), IMPOSSIBLE, ids=lambda part: str(part))
def test_an_impossible_value_is_refused(loss: str, option: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        LOSSES.build(loss, **{option: value})
    assert f"{option} must be" in str(caught.value)
    assert f"got {value}" in str(caught.value)
