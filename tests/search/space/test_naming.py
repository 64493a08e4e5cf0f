"""Values of a search as text."""

from typing import Any

import pytest

from model.search.space.naming import short_name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (4, "4"),
        (4.0, "4"),
        (1e-3, "0.001"),
        (0.0001, "0.0001"),
        (1e-5, "1e-05"),
        (-0.5, "-0.5"),
        (0.30000000000000004, "0.30000000000000004"),
        (True, "true"),
        (None, "null"),
        ("adam", "adam"),
        ("experiments/base_resnet18", "experiments-base_resnet18"),
        ("../base", "base"),
        ("a b/c:d*é", "a-b-c-d"),
        ([30, 60.0], "30-60"),
        ({"ce": {}}, "ce"),
        ({"kd": {"alpha": 0.9, "temperature": 4.0}}, "kd_alpha_0.9_temperature_4"),
        ({"name": "sgd", "learning_rate": 0.1}, "sgd_learning_rate_0.1"),
    ],
)
def test_a_value_has_one_short_name(value: Any, name: str) -> None:
    assert short_name(value) == name
