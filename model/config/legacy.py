"""The legacy flat params.json of knowledge-distillation-pytorch, converted to the nested form.

https://github.com/haitongli/knowledge-distillation-pytorch

Part of what its files mean is in its code: the optimizer and the schedule follow from `model_version`, the seed is
fixed, and the Kullback-Leibler term is averaged over images and classes. All of it is written out here, so that a file
trains the same network as it did there, but for the images of `val`: its code trained on all 50,000 images and chose
the epoch on the test set. Here a tenth is held out; with `"val_size": 0`, a key that its code does not have, all images
are trained on, and the last epoch counts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import OptionError, option_error, preview

NESTED_KEYS = ("dataset", "student", "loss", "optimizer", "schedule")

TEACHER_FOLDERS = {
    "resnet18": "experiments/base_resnet18",
    "wrn": "experiments/base_wrn",
    "densenet": "experiments/base_densenet",
    "resnext29": "experiments/base_resnext29",
    "preresnet110": "experiments/base_preresnet",  # 164 layers, despite its name
}

SEED = 230  # constant in its train.py


def is_flat(raw: dict[str, Any]) -> bool:
    """Whether this is the flat form: it has a `model_version` and none of the nested form's objects."""
    return "model_version" in raw and not any(key in raw for key in NESTED_KEYS)


def nested_from_flat(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert the content of a flat params.json to the nested form of model/config/params.py.

    Raises:
        OptionError: A key is unknown or missing, or its value is not one of the flat form.
    """
    flat = _parse(raw)
    network = flat.model_version.removesuffix("_distill")
    nested: dict[str, Any] = {
        "dataset": {"name": "cifar10", "train_fraction": flat.subset_percent, "augment": flat.augmentation},
        "loss": {"ce": {}},
        "batch_size": flat.batch_size,
        "num_epochs": flat.num_epochs,
        "seed": SEED,
    }
    if flat.val_size is not None:
        nested["dataset"]["val_size"] = flat.val_size
    nested |= RECIPES[network](flat)
    if network != flat.model_version:
        nested |= _distillation(flat)
    return nested


def _yes_or_no(value: Any) -> Any:
    if value in ("yes", "no"):
        return value == "yes"
    if not isinstance(value, bool):
        raise ValueError(f'should be "yes", "no", true or false, got {preview(value)}')
    return value


class FlatParams(BaseModel):
    """The keys of the flat form.

    Keys with a default may be missing: an older version wrote the files of its grids without `augmentation` and
    `subset_percent` (it always augmented, and used all images); the others have the same value in all files, or belong
    to some model versions only.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    model_version: Literal["cnn", "cnn_distill", "resnet18", "resnet18_distill", "wrn"]
    subset_percent: Annotated[float, Field(gt=0, le=1)] = 1.0  # a fraction, despite its name
    augmentation: Annotated[bool, BeforeValidator(_yes_or_no)] = True
    teacher: Literal["resnet18", "wrn", "densenet", "resnext29", "preresnet110", "none"] = "none"
    alpha: float | None = None
    temperature: float | None = None
    learning_rate: float
    batch_size: int = 128
    num_epochs: int
    dropout_rate: float | None = None
    num_channels: int = 32
    val_size: Annotated[int, Field(ge=0)] | None = None  # ours
    save_summary_steps: int = 100  # steps between its summaries: no influence on the result
    num_workers: int = 4  # processes that read images: no influence on the result


def _parse(raw: dict[str, Any]) -> FlatParams:
    try:
        return FlatParams.model_validate(raw)
    except ValidationError as error:
        raise option_error(error, raw, FlatParams) from None


def _cnn(flat: FlatParams) -> dict[str, Any]:
    return {
        "student": {"name": "cnn", "num_channels": flat.num_channels, "dropout": _required(flat, "dropout_rate")},
        "optimizer": {"name": "adam", "learning_rate": flat.learning_rate, "weight_decay": 0.0},
        "schedule": {"name": "step", "step_epochs": 100, "factor": 0.2},
    }


def _resnet18(flat: FlatParams) -> dict[str, Any]:
    return {"student": {"name": "resnet18"}} | _sgd(flat)


def _wrn(flat: FlatParams) -> dict[str, Any]:
    dropout = _required(flat, "dropout_rate")
    return {"student": {"name": "wrn", "depth": 28, "width": 10, "dropout": dropout}} | _sgd(flat)


RECIPES = {"cnn": _cnn, "resnet18": _resnet18, "wrn": _wrn}


def _sgd(flat: FlatParams) -> dict[str, Any]:
    return {
        "optimizer": {
            "name": "sgd",
            "learning_rate": flat.learning_rate,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "nesterov": False,
        },
        "schedule": {"name": "step", "step_epochs": 150, "factor": 0.1},
    }


def _distillation(flat: FlatParams) -> dict[str, Any]:
    if flat.teacher == "none":
        raise OptionError(
            "teacher", f"{flat.model_version} needs a teacher, got none; known: {', '.join(TEACHER_FOLDERS)}"
        )
    return {
        "teacher": TEACHER_FOLDERS[flat.teacher],
        "loss": {
            "kd": {
                "alpha": _required(flat, "alpha"),
                "temperature": _required(flat, "temperature"),
                "reduction": "mean",  # its KLDivLoss divided by images times classes
            }
        },
    }


def _required(flat: FlatParams, key: str) -> Any:
    value = getattr(flat, key)
    if value is None:
        raise OptionError(key, f"{flat.model_version} needs this key")
    return value
