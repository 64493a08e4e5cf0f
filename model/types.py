"""The types that all packages share: a network's output, a batch, the interfaces of data sets and of teachers.

Shapes: N batch, K classes, D embedding, C H W of an image or a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:  # searches and reports import this module and never load torch
    import os

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor, nn

    from .fingerprint import Fingerprint

    ImageInput = Image.Image | str | os.PathLike[str] | NDArray[np.uint8]  # an array has the shape (H, W, C) or (H, W)

IntegersT = TypeVar("IntegersT", "NDArray[np.integer]", "Tensor")

Split = Literal["train", "val", "test"]
AutoAugment = Literal["trivial_augment", "rand_augment"]
Part = Literal["logits", "embedding", "maps", "preacts", "exits", "stem"]  # the fields of Output
# What a loss needs of its teacher: probabilities are logits up to a constant, the classifier is `LossContext`'s.
Need = Literal["probabilities", "classifier", Part]
# Outputs with one row an image, whatever the network: they can be cached, and combined over several teachers.
PER_IMAGE_NEEDS: frozenset[Need] = frozenset({"probabilities", "logits", "embedding"})
COMPARE_CLASSES: frozenset[Need] = frozenset({"probabilities", "logits", "exits", "classifier"})


class Output(NamedTuple):
    """What every network returns: its logits, and the features that distillation losses read."""

    logits: Tensor  # (N, K)
    embedding: Tensor  # (N, D), the classifier's input
    maps: tuple[Tensor, ...] = ()  # (N, Ci, Hi, Wi), the output of stage i after its ReLU, shallow to deep
    preacts: tuple[Tensor, ...] = ()  # the same before the ReLU
    exits: tuple[Output, ...] = ()  # early exits, shallow to deep
    stem: Tensor | None = None  # (N, C, H, W), the first stage's input, where layers come before it


@dataclass(frozen=True, eq=False)
class Batch:
    """The data of one step: images, labels, and which images these are. Iterating gives its tensors but `at_size`."""

    images: Tensor  # (N, C, H, W) float, normalised, channels-last
    labels: Tensor  # (N,) int64
    index: Tensor  # (N,) int64, the sample's index among the data set's training or test images
    view: Tensor  # (N,) int64, which augmentation of the sample this is
    # Of images that are mixed with others of the batch:
    partner_labels: Tensor | None = None  # (N,) int64, the other image's label
    label_share: Tensor | None = None  # (N,) float, the own label's share of the target
    # Side -> the same views, drawn from the original images at this size, for teachers of another resolution.
    at_size: Mapping[int, Tensor] = field(default_factory=dict, kw_only=True)

    def __iter__(self) -> Iterator[Tensor]:
        tensors = (self.images, self.labels, self.index, self.view, self.partner_labels, self.label_share)
        return (tensor for tensor in tensors if tensor is not None)


class Finding(NamedTuple):
    """A line of a diagnosis."""

    name: str  # its subject
    text: str  # what was measured
    advice: str | None  # what to try, where it names a likely cause of a poor result


class Shard(NamedTuple):
    """The part of every batch that one of several processes takes: the samples `rank`, `rank + size`, ..."""

    rank: int = 0
    size: int = 1

    def of(self, rows: IntegersT) -> IntegersT:
        return rows[self.rank :: self.size]

    def slice_of(self, start: int, stop: int) -> slice:
        """The slice that selects this shard of the batch from `start` to `stop`."""
        return slice(start + self.rank, stop, self.size)


UNSHARDED = Shard()


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Channel statistics of images in [0, 1]: a network's input is (image - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options of every data set, in addition to its own.

    Args:
        val_size: Number of training images held out for validation, stratified by class; by default a tenth of them.
        train_fraction: Fraction of the remaining training images that is used, stratified by class.
        split_seed: Seed of the split; separate from the run's seed, so that runs and their teachers share one split.
        augment: Random crop and flip, as the data set declares them.
        cutout: Side in pixels of a randomly positioned square that is blanked in every training image (DeVries and
            Taylor, https://arxiv.org/abs/1708.04552); 0 for none.
        strong_view: Put every training image into its batch twice, the second time strongly augmented: an independent
            crop and flip, RandAugment (Cubuk et al., https://arxiv.org/abs/1909.13719) with 2 operations at magnitude
            10 of 30, and a blanked square of up to half the image's side. A step takes twice as long, and teacher
            outputs are not cached by default.
        auto_augment: Operations of random kinds on every training image, after crop and flip: "trivial_augment", one
            of random magnitude (Mueller and Hutter, https://arxiv.org/abs/2103.10158), or "rand_augment", two at
            magnitude 10 of 30 (Cubuk et al.), both with torchvision's operations.
        color_jitter: Strength of random changes of colour, as torchvision's ColorJitter: a number b for brightness,
            contrast and saturation, each multiplied by a factor from 1 - b to 1 + b, or a list of brightness,
            contrast, saturation and hue (hue: 0 to 0.5 of the colour circle); 0 for none.
        random_erasing: Probability that a random rectangle of a training image is erased, 2 to 33 % of its area, with
            torchvision's distribution (Zhong et al., https://arxiv.org/abs/1708.04896): it is set to the data set's
            mean, the paper's RE-M. With `strong_view`, the strong views have neither this nor `color_jitter`.
        crop_scale: Least and largest area of a random crop as a share of the image's; for image files, by default
            [0.08, 1].
        crop_ratio: Least and largest aspect ratio of a random crop; for image files, by default [3/4, 4/3].
        mixup: Mix every training image with another one of its batch, and their labels with them (Zhang et al.,
            https://arxiv.org/abs/1710.09412): the share of the first is drawn for each batch from Beta(mixup, mixup);
            0 for none, 0.2 in the paper for ImageNet and 1 for CIFAR-10. The teacher is run on every mixed batch, as
            these are too many to be cached, and loss terms that need one label for each image are refused.
        cutmix: Likewise, but paste a box of the other image (Yun et al., https://arxiv.org/abs/1905.04899), the own
            image's share of the area drawn from Beta(cutmix, cutmix); 0 for none, 1 in the paper. With both, each batch
            has one of the two, with equal chance.
        alternating_flip: Flip an image in every second epoch, instead of at random in each: the seed draws whether it
            begins with the first or with the second epoch, so two consecutive epochs always contain both orientations
            (Jordan, https://arxiv.org/abs/2404.00498). For in-memory data sets whose augmentation flips.
        views_per_image: Show every training image in this number of augmented views, the same in all runs with this
            `split_seed`: a teacher is run on each of them once, for all seeds, students and searches. A run shows the
            views of an image one after another, from one that its seed draws. By default every epoch draws new views.
        sampler: "shuffled" shows each training image once in an epoch; "balanced" shows every class equally often, in
            epochs of the same length: images of rare classes come several times, their views drawn anew, and of
            frequent ones each epoch shows another part.
        class_map: Other names of classes, `{"house_cat": "cat"}`: classes are compared by name with those of teachers
            and of weights files.
    """

    val_size: int | None = None
    train_fraction: float = 1.0
    split_seed: int = 0
    augment: bool = True
    cutout: int = 0
    strong_view: bool = False
    auto_augment: AutoAugment | None = None
    color_jitter: float | list[float] = 0.0
    random_erasing: float = 0.0
    crop_scale: list[float] | None = None
    crop_ratio: list[float] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    alternating_flip: bool = False
    views_per_image: int | None = None
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    class_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.val_size is not None and self.val_size < 0:
            raise ValueError(f"val_size must be 0 or more, got {self.val_size}")
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"train_fraction must be above 0 and at most 1, got {self.train_fraction}")
        if self.split_seed < 0:
            raise ValueError(f"split_seed must be 0 or more, got {self.split_seed}")
        if self.cutout < 0:
            raise ValueError(f"cutout must be 0 or more, got {self.cutout}")
        if self.cutout and not self.augment:
            raise ValueError(f"cutout is an augmentation: it must be 0 where augment is false, got {self.cutout}")
        if self.strong_view and not self.augment:
            raise ValueError("strong_view is an augmentation: it must be false where augment is")
        self._check_augmentations()
        if self.views_per_image is None:
            return
        if self.views_per_image < 1:
            raise ValueError(f"views_per_image must be 1 or more, got {self.views_per_image}")
        if not self.augment:
            raise ValueError("views_per_image is for augmented views: it must be left out where augment is false")
        if self.alternating_flip and self.views_per_image % 2:
            raise ValueError(f"views_per_image must be even with alternating_flip, got {self.views_per_image}")

    def _check_augmentations(self) -> None:
        values = {key: getattr(self, key) for key in ("auto_augment", "color_jitter", "random_erasing")}
        values |= {key: getattr(self, key) for key in ("crop_scale", "crop_ratio")}
        for key, value in values.items():
            if value and not self.augment:
                raise ValueError(f"{key} is an augmentation: it must be left out where augment is false, got {value}")
        if self.auto_augment and self.strong_view:
            raise ValueError("auto_augment must be left out with strong_view, whose strong views have a RandAugment")
        for key in ("mixup", "cutmix"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must be 0 or more, got {getattr(self, key)}")
            if getattr(self, key) and self.strong_view:
                raise ValueError(f"{key} must be 0 with strong_view, whose losses compare two views of one image")
        if not 0 <= self.random_erasing <= 1:
            raise ValueError(f"random_erasing must be in [0, 1], got {self.random_erasing}")
        strengths = self.color_jitter_strengths
        if len(strengths) != 4 or min(strengths) < 0 or strengths[3] > 0.5:
            raise ValueError(
                "color_jitter must be a number or a list of brightness, contrast, saturation and hue, "
                f"0 or more, hue at most 0.5, got {self.color_jitter}"
            )
        if self.crop_scale is not None and not (
            len(self.crop_scale) == 2 and 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1
        ):
            raise ValueError(
                f"crop_scale must be two shares of the area, ascending, above 0 and at most 1, got {self.crop_scale}"
            )
        if self.crop_ratio is not None and not (
            len(self.crop_ratio) == 2 and 0 < self.crop_ratio[0] <= self.crop_ratio[1]
        ):
            raise ValueError(f"crop_ratio must be two aspect ratios, ascending, above 0, got {self.crop_ratio}")

    @property
    def mixing(self) -> list[str]:
        """The names of the options that mix images, where they are set."""
        return [key for key in ("mixup", "cutmix") if getattr(self, key)]

    @property
    def color_jitter_strengths(self) -> list[float]:
        """Of brightness, contrast, saturation and hue."""
        return [*3 * [self.color_jitter], 0.0] if isinstance(self.color_jitter, float | int) else self.color_jitter


@dataclass(frozen=True, kw_only=True)
class TermOptions:
    """Options of every loss term, in addition to its own.

    Args:
        weight: Weight of the term in the objective; a term of weight 0 is not computed.
        warmup_epochs: Epochs over which the weight rises linearly from 0.
    """

    weight: float = 1.0
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight must be 0 or more, got {self.weight}")
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must be 0 or more, got {self.warmup_epochs}")


@dataclass(frozen=True, kw_only=True)
class LossContext:
    """What a loss term can read of its run before the first step.

    Args:
        student: The student's output for a whole batch, on the `meta` device: shapes without values.
        teacher: The teacher's output, likewise; None where no term needs a teacher.
        labels: (M,), the class of each training image in the data set's order; -1 for images that the run does not
            train on.
        seed: The run's seed.
        class_names: Of the student's classes, in their order.
        views_shown: Views of an image in its batch: 1, or 2 with the data set's `strong_view`, whose strong views are
            the second half of the batch.
        classifier: The linear layer from the teacher's embedding to its logits, with its weights; None where no term
            needs it. It stays frozen.
    """

    student: Output
    teacher: Output | None
    labels: Tensor
    seed: int
    class_names: tuple[str, ...] = ()
    views_shown: int = 1
    classifier: nn.Linear | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Options of every learning-rate schedule, in addition to its own.

    Args:
        warmup_epochs: Epochs over which the learning rate rises linearly to the schedule's value.
    """

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must be 0 or more, got {self.warmup_epochs}")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Options of every optimizer, in addition to its own.

    Args:
        classifier_learning_rate: Learning rate of the classifier, the linear layer that computes the logits; by default
            that of the other layers.
        layer_decay: Layer-wise learning rate decay: each layer's rate is this factor of that of the layer behind it, as
            when a pretrained network is fine-tuned (0.75). Layers are those of timm: the blocks of a network, its stem
            and its classifier. 1 for equal rates.
        decay_norms_and_biases: Whether weight decay also applies to biases and other one-dimensional parameters, such
            as those of norms. Parameters of loss terms have the plain learning rate and weight decay.
    """

    classifier_learning_rate: float | None = None
    layer_decay: float = 1.0
    decay_norms_and_biases: bool = True

    def __post_init__(self) -> None:
        if self.classifier_learning_rate is not None and self.classifier_learning_rate <= 0:
            raise ValueError(f"classifier_learning_rate must be positive, got {self.classifier_learning_rate}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")


@dataclass(frozen=True, kw_only=True)
class Views:
    """The augmented views of the training images that a run can draw, numbered from 0.

    Args:
        num_images: Training images of the data set, whether this run uses them or not: `index` is below it.
        per_image: Views of an image: `view` modulo this is below it.
        config: Plain values that define the views: of equal configurations, equal (index, view) are equal images.
        unbounded: Whether every epoch draws from so many views that two runs have few in common.
        can_grow: Whether `per_image` is larger for a longer run, or for one with other options.
    """

    num_images: int
    per_image: int
    config: dict[str, Any]
    unbounded: bool
    can_grow: bool = False

    @property
    def num_rows(self) -> int:
        return self.num_images * self.per_image

    def row(self, index: IntegersT, view: IntegersT) -> IntegersT:
        """One number for (index, view), below `num_rows`; for arrays and for tensors."""
        return view % self.per_image * self.num_images + index


class Pipeline(Protocol):
    """An opened data set: batches on the device that trains."""

    views_shown: int  # views of each image in a training batch of `batch_size` images: see `LossContext`
    views_per_image: int | None  # as in `SplitOptions`
    in_memory: bool  # whether a training image can be had again at little cost

    @property
    def reads_ahead(self) -> bool:
        """Whether other processes read the next batches meanwhile."""

    def size(self, split: Split) -> int:
        """Number of samples of the split."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches in an epoch of `train_batches`, for one process and for several."""

    def train_batches(
        self, epoch: int, batch_size: int, first_step: int = 0, shard: Shard = UNSHARDED
    ) -> Iterator[Batch]:
        """Shuffled, augmented batches from `first_step` on: order f(seed, epoch), views f(seed, epoch, index).

        `batch_size` is that of the global batch, of which the process gets its `shard`.
        """

    def eval_batches(self, split: Split, batch_size: int, shard: Shard = UNSHARDED) -> Iterator[Batch]:
        """All samples of the split, or of a shard of it, in the data set's order and not augmented."""

    def draw_at(self, sizes: tuple[int, ...]) -> None:
        """Draw image files at these sides, too, for teachers: called before the first batch; see `Batch.at_size`."""

    def views(self, num_epochs: int) -> Views:
        """The views that a run of `num_epochs` epochs can draw."""

    def epoch_views(self, epoch: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Index (M,) and view (M,) of all samples of a training epoch, in no particular order."""

    def augmented_batch(self, index: NDArray[np.integer], view: NDArray[np.integer]) -> Batch:
        """The training images of these indices, augmented as these views define."""

    def training_labels(self) -> NDArray[np.integer]:
        """The class of each training image of the data set, (M,); -1 where the run does not train on it."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What identifies the data set's images, whether this run uses them or not."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that are left out as they cannot be read."""

    def image_hashes(self, split: Split) -> NDArray[np.uint64]:
        """A hash of the content of each image of the split: the same for copies under any name."""


class Teacher(Protocol):
    """What the trainer calls for teacher outputs: a live, a cached or an ensemble teacher."""

    @property
    def num_queries(self) -> int:
        """Number of images for which outputs have been requested so far."""

    @property
    def num_forwards(self) -> int:
        """Number of images that have been run through a network for that; summed over an ensemble."""

    @property
    def num_missing(self) -> int:
        """Number of views of the run whose outputs should be cached and are not yet; summed over an ensemble."""

    def __call__(self, batch: Batch) -> Output: ...

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        """Compute outputs of the epoch ahead of its steps, where possible; yields the fraction done, in [0, 1]."""

    def seconds_remaining(self, batch: Batch) -> float:
        """Estimated seconds that a run spends on outputs which are not cached yet, timed on this batch."""


class DataSource(Protocol):
    """What a data set declares before any image is read."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # C, H, W
    normalisation: Normalisation

    @property
    def preprocess(self) -> Callable[[ImageInput], Tensor]:
        """Turns one image into the network's input (C, H, W), float32: the same values as in `eval_batches`."""

    def is_ready(self) -> bool:
        """Whether `open` works without a download."""

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> Pipeline:
        """Read the data set; what is missing is downloaded and verified."""
