"""Registered names, and families of names."""

from __future__ import annotations

import pytest

from model.errors import OptionError
from model.registry import Registry


@pytest.fixture
def shapes() -> Registry[None]:
    registry: Registry[None] = Registry("shape")

    @registry.register
    def circle(scale: int, *, radius: float = 1.0) -> str:
        return f"circle {radius * scale}"

    @registry.register_family("polygon")
    def polygon(name: str, scale: int, *, side: float = 1.0) -> str:
        """A shape with corners."""
        if name not in ("triangle", "square"):
            raise OptionError("name", f"no polygon is a {name}")
        return f"{name} {side * scale}"

    return registry


def test_the_first_argument_of_a_family_is_the_rest_of_the_name(shapes: Registry[None]) -> None:
    assert shapes.build("polygon/square", 2, side=1.5) == "square 3.0"
    assert shapes.build("polygon/triangle", 2) == "triangle 2.0"


def test_options_of_a_family_are_validated(shapes: Registry[None]) -> None:
    assert shapes.resolve("polygon/square", {}) == {"side": 1.0}
    with pytest.raises(OptionError, match='unknown option of shape polygon/square, did you mean "side"'):
        shapes.resolve("polygon/square", {"sid": 2.0})
    with pytest.raises(OptionError, match='side: should be a valid number, got "long"'):
        shapes.resolve("polygon/square", {"side": "long"})


def test_the_prefix_of_a_family_is_no_name(shapes: Registry[None]) -> None:
    assert shapes.names() == ["circle"]
    assert shapes.families() == ["polygon"]
    for name in ("polygon", "polygon/"):
        with pytest.raises(OptionError, match=f'no shape is named "{name}"'):
            shapes.build(name, 2)


def test_a_family_raises_the_error_of_an_unknown_member(shapes: Registry[None]) -> None:
    with pytest.raises(OptionError, match="name: no polygon is a cube"):
        shapes.build("polygon/cube", 2)


def test_the_error_of_an_unknown_name_suggests_the_nearest(shapes: Registry[None]) -> None:
    with pytest.raises(OptionError, match='no shape is named "circel", did you mean "circle"') as caught:
        shapes.build("circel", 2)
    assert str(caught.value).endswith("; known: circle, polygon/...")
    with pytest.raises(OptionError, match=r'did you mean "polygon/\.\.\."'):
        shapes.build("polygone/square", 2)


def test_a_family_keeps_its_docstring(shapes: Registry[None]) -> None:
    assert shapes["polygon/square"].__doc__ == "A shape with corners."
