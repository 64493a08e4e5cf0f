"""What a user reads when a value is wrong: one line with the key, what is allowed and what came."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from model.errors import did_you_mean, option_error


def test_similar_names_are_suggested_and_others_are_not() -> None:
    assert did_you_mean("temprature", ["alpha", "temperature"]) == ', did you mean "temperature"?'
    assert did_you_mean("xyz", ["alpha", "temperature"]) == ""


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    expected_form: ClassVar[str] = 'a number of inches, or an object with "inches"'

    inches: float
    rim: Literal["steel", "alloy"] = "steel"


def wheel(value: Any) -> Any:
    return {"inches": value} if isinstance(value, int) else value


class Axle(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    length: float


class Car(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    doors: int
    spare: Annotated[Wheel | None, BeforeValidator(wheel)] = None
    wheels: Annotated[list[Annotated[Wheel, BeforeValidator(wheel)]], Field(min_length=1)] = [Wheel(inches=15)]
    axles: dict[str, Axle] = {}
    heating: bool | Literal["auto"] = "auto"
    name: str = ""

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name == "Beetle":
            raise ValueError(f'this name is taken, got "{name}"')
        return name


def car_error(**changes: Any) -> str:
    value = {"doors": 4} | changes
    with pytest.raises(ValidationError) as caught:
        Car.model_validate(value)
    return str(option_error(caught.value, value, Car))


CAR_KEYS = "doors, spare, wheels, axles, heating, name"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doors": "four"}, 'doors: should be a valid integer, got "four"'),
        ({"dors": 2}, f'dors: unknown key, did you mean "doors"?; known: {CAR_KEYS}'),
        ({"spare": {"inch": 15, "inches": 15}}, 'spare.inch: unknown key, did you mean "inches"?; known: inches, rim'),
        ({"axles": {"front": {"length": 1.5, "width": 1}}}, "axles.front.width: unknown key; known: length"),
        ({"spare": {}}, "spare.inches: this key is needed"),
        ({"axles": {"front": 1.5}}, "axles.front: should be an object, got 1.5"),
        ({"axles": 3}, "axles: should be an object, got 3"),
        ({"spare": "big"}, 'spare: should be a number of inches, or an object with "inches", got "big"'),
        ({"wheels": [15, {"inches": 15, "rim": "aloy"}]}, "wheels.1.rim: should be 'steel' or 'alloy', got \"aloy\", "),
        ({"wheels": []}, "wheels: is empty"),
        ({"name": "Beetle"}, 'name: this name is taken, got "Beetle"'),
        ({"heating": "of"}, "heating: should be a valid boolean or 'auto', got \"of\""),
    ],
)
def test_wrong_value_of_a_model_is_one_line(changes: dict[str, Any], message: str) -> None:
    assert car_error(**changes).startswith(message)


def test_nearest_choice_is_suggested() -> None:
    assert car_error(wheels=[{"inches": 15, "rim": "aloy"}]).endswith(', did you mean "alloy"?')


def test_key_is_the_one_that_the_user_wrote_not_what_a_validator_made_of_it() -> None:
    assert car_error(spare=True).startswith("spare: should be a valid number, got true")


def test_unknown_key_comes_before_the_missing_key_and_others_are_counted() -> None:
    value = {"dors": 4, "name": 3}
    with pytest.raises(ValidationError) as caught:
        Car.model_validate(value)
    message = str(option_error(caught.value, value, Car))
    assert message == f'dors: unknown key, did you mean "doors"?; known: {CAR_KEYS} (and 2 more)'


def test_members_of_a_union_count_as_one_mistake() -> None:
    assert car_error(heating="of", name=3).endswith('got "of" (and 1 more)')


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "3", 'should be a valid integer, got "3"'),
        (list[int], [1, "x"], '1: should be a valid integer, got "x"'),
        (tuple[float, float], [0.5], "has too few values, got [0.5]"),
        (list[int] | list[tuple[int, int]], 3, "should be a valid array, got 3"),
        (Literal["mean", "sum"], "man", "should be 'mean' or 'sum', got \"man\", did you mean \"mean\"?"),
        (float, [0] * 30, f"should be a valid number, got [{'0, ' * 19}0,..."),
    ],
)
def test_wrong_option_is_one_line(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_json(json.dumps(value))
    assert str(option_error(caught.value, value)) == message
