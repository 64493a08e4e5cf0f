"""params.json: the schema of an experiment.

Keys and types only. The options of a network, a loss or another component are checked against the signature of its
registered function (model/registry.py), in model/build.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import OptionError, UserError, option_error, preview
from ..files import is_there, read_json
from .legacy import is_flat, nested_from_flat
from .references import did_you_mean_folder

PARAMS_FILE = "params.json"

ClassMap = dict[str, str] | Literal["by_index"]
RATES = ("accuracy", "macro_recall", "macro_f1")  # endings of metrics in [0, 1] of which the highest is the best
TeacherClasses = Literal["same", "renormalised", "rest"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Component(Strict):
    """The name of a registered function; every other key is one of its keyword arguments."""

    model_config = ConfigDict(extra="allow")
    expected_form: ClassVar[str] = 'an object with a "name"'

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


def _component(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TeacherParams(Strict):
    """The folder of the teacher, or of several teachers, or networks that were trained elsewhere.

    Args:
        model_dir: A folder, or several (an ensemble); relative to the repository's root, then to this folder, and
            `../base` to this folder. Or a network with its published weights (`timm/convnext_tiny`,
            `torchvision/resnet50`), a weights file (.pth, .pt, .safetensors) of a `network`, or an ONNX file.
        network: The network of a weights file, by name, with its options.
        image_size: Height and width of the images that a teacher without a folder was trained on; by default what the
            file or its publisher says, else the student's.
        mean: Mean of the channels of its training images, in 0..1; by default as `image_size`.
        std: Standard deviation of the channels, likewise.
        class_names: The names of its classes in the order of its outputs, or a text file with one a line; by default
            what the file or its publisher says, else "0", "1", ...
        expected_accuracy: Its accuracy on data like the student's, in [0, 1]: by default that of its folder. Before
            training it is measured on val; much less ends the run.
        weights: Which weights of the teacher's run to load; "ema" are those of a run with `ema`.
        combine: Whether an ensemble averages the probabilities or the logits of its networks.
        cache: Whether the teacher's outputs are cached in its folder, for this run and later ones. By default they are
            if the data set has finitely many views (all in memory without `cutout`, `strong_view`, `auto_augment`,
            `color_jitter` and `random_erasing`, and all with `views_per_image`), all loss terms need only logits or
            embeddings, and what a run caches takes 16 GB at most.
        cache_top_k: Cache only this number of largest probabilities an image and spread the rest evenly over the other
            classes; by default all logits are cached, or 16 probabilities where views are not finitely many.
        class_map: The student's names of classes that the teacher calls otherwise, `{"tabby": "cat"}`; or `by_index`
            where names mean nothing: both number their classes alike. Classes of equal names are matched by name.
            Several of the teacher's may have one of the student's: their probabilities are added up.
        classes: What is done about classes that only the teacher has. "same": they are an error. "renormalised": the
            teacher is taken as if it could not predict them. "rest": together they are one more class, whose logit of
            the student is 0; see docs/teachers.md. Losses of embeddings and maps alone never compare classes.
    """

    expected_form: ClassVar[str] = 'a folder, a list of folders, or an object with "model_dir"'

    model_dir: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    network: Annotated[Component | None, BeforeValidator(_component)] = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    mean: list[float] | None = None
    std: list[Annotated[float, Field(gt=0)]] | None = None
    class_names: list[str] | str | None = None
    expected_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    weights: Literal["best", "last", "ema"] = "best"
    combine: Literal["probabilities", "logits"] = "probabilities"
    cache: bool | None = None
    cache_top_k: Annotated[int, Field(ge=1)] | None = None
    class_map: ClassMap = {}
    classes: TeacherClasses = "same"


def _teacher(value: Any) -> Any:
    if isinstance(value, str):
        return {"model_dir": [value]}
    if isinstance(value, list):
        return {"model_dir": value}
    if isinstance(value, dict) and isinstance(value.get("model_dir"), str):
        return value | {"model_dir": [value["model_dir"]]}
    return value


class InitParams(Strict):
    """The folder, or the file, with the initial weights of a run.

    Args:
        model_dir: The folder, or a weights file (.pth, .pt, .tar, .safetensors); relative to the repository's root,
            then to this folder, and `../base` to this folder.
        weights: Which weights of a folder's run to load, as for `teacher`. The last ones include the learned weights of
            loss terms, which are loaded for every term that both folders have.
        class_map: This data set's names of classes that the folder calls otherwise, as for `teacher`.
            Without it, a folder of other classes gives all weights but those of the classifier.
    """

    expected_form: ClassVar[str] = 'a folder, or an object with "model_dir"'

    model_dir: Annotated[str, Field(min_length=1)]
    weights: Literal["best", "last", "ema"] = "last"
    class_map: ClassMap = {}


def _init(value: Any) -> Any:
    return {"model_dir": value} if isinstance(value, str) else value


class EarlyStoppingParams(Strict):
    """When a run ends before `num_epochs`.

    Args:
        metric: A value of metrics.jsonl; accuracies should rise, all others fall. Not of the test split.
        patience: Epochs without an improvement after which the run ends.
        min_improvement: An improvement of at most this is none.
    """

    metric: Annotated[str, Field(min_length=1)] = "val_accuracy"
    patience: Annotated[int, Field(ge=1)] = 10
    min_improvement: Annotated[float, Field(ge=0)] = 0.0

    @property
    def is_maximized(self) -> bool:
        return is_maximized(self.metric)


class EmaParams(Strict):
    """The average of weights that is kept beside them.

    Args:
        decay: Share that the average keeps in each step of the optimizer; the rest is of the new weights.
        warmup: Whether the share after t steps is at most (1 + t) / (10 + t), as in TensorFlow: for runs with fewer
            steps than some times 1 / (1 - decay).
    """

    expected_form: ClassVar[str] = 'a number, or an object with "decay"'

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warmup: bool = False


def _ema(value: Any) -> Any:
    return {"decay": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


def is_maximized(metric: str) -> bool:
    """Whether a larger value of metrics.jsonl or run.json is the better one."""
    return metric.endswith(RATES) or metric == "images_per_second"


class Params(Strict):
    """One experiment, with the schema's defaults filled in.

    Args:
        description: For people; has no effect.
        dataset: The data set, by name, with its options.
        student: The network to train, by name, with its options.
        teacher: The folder of the teacher, a list of folders (an ensemble), or an object with `model_dir`; relative to
            the repository's root, then to this folder, and `../base` to this folder. Also a network that was trained
            elsewhere: `timm/convnext_tiny`, an ONNX file, a weights file with its `network`.
        init: A folder whose network's weights are the student's initial weights, a weights file, or an object with
            `model_dir` and `weights`; random weights if left out. Where it has other classes, the classifier begins
            with random weights.
        baseline: The folder that this run is compared with, such as the same student alone; has no effect on the run.
        generations: Born-again networks: the number of generations to train, in the folders gen_0, gen_1, ... of this
            one; the first learns from labels (or from the teacher, if there is one), each other from the one before.
        loss: The terms of the objective, which are added up: the name of each, and its options.
        optimizer: The optimizer, by name, with its options.
        schedule: The learning-rate schedule, by name, with its options.
        freeze: Modules of the student that are not trained, by name with all that is inside, `["conv1", "layer1"]`, or
            `all_but_classifier`. Their batch norm and dropout stay in eval mode.
        batch_size: Images per step, or per forward and backward pass where `accumulate` is above 1.
        accumulate: Batches whose gradients are added up before a step of the optimizer: 4 batches of 32 images give the
            step of one of 128 with less memory. Batch norm's statistics are those of each batch, and loss terms that
            compare the images of a batch with one another compare those of one of the small ones.
        num_epochs: Passes over the training images.
        early_stopping: Ends the run, as a finished one, where a metric has not improved for some epochs; needs val.
            Schedules are those of `num_epochs`.
        ema: Keeps an exponential moving average of the student's weights, with this decay, beside the raw ones:
            evaluated after each epoch, and saved where it is best on val.
        gradient_clip: Maximum norm of the gradient; a longer one is scaled down to it.
        seed: Seed of initial weights, the order of images, their augmentation, and dropout.
        precision: Precision of the networks' computations; auto: bfloat16 if the hardware supports it.
        compile: Whether the student's step is compiled with torch.compile; auto: on a GPU, if the run takes more than
            five minutes, as compiling takes about one. A large teacher is compiled, too, also on a CPU, unless this is
            false.
        checkpoint_minutes: Minutes between two checkpoints within an epoch.
        plugins: Python files or modules that register losses, networks and data sets; files are relative to this
            folder, then to the repository's root. Those of a teacher's folder are not run: name them here, too.
    """

    description: str = ""
    dataset: Component
    student: Component
    teacher: Annotated[TeacherParams | None, BeforeValidator(_teacher)] = None
    init: Annotated[InitParams | None, BeforeValidator(_init)] = None
    baseline: Annotated[str, Field(min_length=1)] | None = None
    generations: Annotated[int, Field(ge=2)] | None = None
    loss: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {"ce": {}}
    optimizer: Component = Component(name="sgd")
    schedule: Component = Component(name="constant")
    freeze: list[Annotated[str, Field(min_length=1)]] | Literal["all_but_classifier"] = []
    batch_size: Annotated[int, Field(ge=1)] = 128
    accumulate: Annotated[int, Field(ge=1)] = 1
    num_epochs: Annotated[int, Field(ge=1)] = 30
    early_stopping: EarlyStoppingParams | None = None
    ema: Annotated[EmaParams | None, BeforeValidator(_ema)] = None
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 5.0
    plugins: list[Annotated[str, Field(min_length=1)]] = []


def load_params(model_dir: Path) -> Params:
    """Read a folder's params.json, nested or in the legacy flat form.

    Raises:
        UserError: The folder or file is missing, it is no JSON, a key is unknown, or a value has the wrong type.
    """
    if is_there(model_dir, Path.is_file):
        raise UserError(f"{model_dir}: is a file, not a folder that holds {PARAMS_FILE}")
    if not is_there(model_dir, Path.is_dir):
        raise UserError(f"{model_dir}: no such folder{did_you_mean_folder(model_dir)}")
    path = model_dir / PARAMS_FILE
    if not path.exists():
        raise UserError(f"{model_dir}: the folder holds no {PARAMS_FILE}")
    return parse_params(read_json(path), path)


def parse_params(raw: Any, path: Path) -> Params:
    """Validate the content of a params.json; `path` is used in error messages only."""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be a JSON object, got {preview(raw)}")
    try:
        return _validate(nested_from_flat(raw) if is_flat(raw) else raw)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


def _validate(raw: dict[str, Any]) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise option_error(error, raw, Params) from None
