"""The nouns everybody shares: what a network returns, what a step sees, what a data set offers.

Shapes: N batch, K classes, D embedding, C H W of an image or a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:  # searches and reports read these types, and never load torch
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

IntegersT = TypeVar("IntegersT", "NDArray[np.integer]", "Tensor")

Split = Literal["train", "val", "test"]
Part = Literal["logits", "embedding", "maps", "preacts", "exits", "stem"]  # the fields of Output
# What a loss reads of its teacher: probabilities are logits up to a constant, the classifier is `Setting`'s.
Need = Literal["probabilities", "classifier", Part]
# A row an image, whatever the network: such answers can be kept, and given by several networks together.
PER_IMAGE_NEEDS: frozenset[Need] = frozenset({"probabilities", "logits", "embedding"})


class Output(NamedTuple):
    """What every network returns, side by side with what distillation needs from it."""

    logits: Tensor  # (N, K)
    embedding: Tensor  # (N, D), what the classifier reads
    maps: tuple[Tensor, ...] = ()  # (N, Ci, Hi, Wi), what stage i hands on, shallow to deep, after its ReLU
    preacts: tuple[Tensor, ...] = ()  # the same before the ReLU
    exits: tuple[Output, ...] = ()  # early exits, shallow to deep
    stem: Tensor | None = None  # (N, C, H, W), what the first stage is given, where layers come before it


class Batch(NamedTuple):
    """What one step sees: images and which images they are."""

    images: Tensor  # (N, C, H, W) float, normalised, channels-last
    labels: Tensor  # (N,) int64
    index: Tensor  # type: ignore[assignment]  # (N,) int64, the sample's place in the data set's training or test images
    view: Tensor  # (N,) int64, which augmentation of the sample this is


class Shard(NamedTuple):
    """What one of several processes takes of every batch: the images at `rank`, `rank + size`, ..."""

    rank: int = 0
    size: int = 1

    def of(self, rows: IntegersT) -> IntegersT:
        return rows[self.rank :: self.size]

    def between(self, start: int, stop: int) -> slice:
        """Where the share of the batch from `start` to `stop` lies."""
        return slice(start + self.rank, stop, self.size)


UNSHARDED = Shard()


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Channel statistics of images in [0, 1]: a network is fed (image - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options that every data set has, beside its own.

    Args:
        val_size: Images held out of the training images, stratified by class; a tenth of them where not given.
        train_fraction: Share of the remaining training images that is used, stratified by class.
        split_seed: Draws the split; apart from the run's seed, so that all runs and their teachers share one split.
        augment: Random crop and flip, as the data set declares them.
        cutout: Side in pixels of a square at a random place that is blanked in every training image (DeVries and
            Taylor, https://arxiv.org/abs/1708.04552); 0 for none.
        strong_view: Show every training image twice in its batch, the second time strongly augmented: crop and flip of
            its own, RandAugment (Cubuk et al., https://arxiv.org/abs/1909.13719) of 2 operations at strength 10 of 30,
            and a blanked square of up to half the image's side. A step takes twice the time, and the teacher's
            answers are not kept.
        alternating_flip: Flip an image in every second epoch, in the first or from the second on as the seed draws it,
            instead of drawing it anew each time: two epochs always show both (Jordan,
            https://arxiv.org/abs/2404.00498). For data sets in memory that are flipped.
    """

    val_size: int | None = None
    train_fraction: float = 1.0
    split_seed: int = 0
    augment: bool = True
    cutout: int = 0
    strong_view: bool = False
    alternating_flip: bool = False

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


@dataclass(frozen=True, kw_only=True)
class TermOptions:
    """Options that every loss term has, beside its own.

    Args:
        weight: Factor of the term in the objective; a term of weight 0 is not computed.
        warmup_epochs: Epochs over which the factor rises linearly from 0.
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
    """What a loss term may know of its run before the first step.

    Args:
        student: What the student says of a whole batch: shapes count, there are no values (the device is `meta`).
        teacher: The same of the teacher; None where no term asks one.
        labels: (M,), the class of each training image of the data set in its order; -1 where the run leaves it out.
        seed: The run's.
        views_shown: Views of an image in its batch: 1, or 2 with the data set's `strong_view`, whose strong views are
            the batch's second half.
        classifier: The layer that makes the teacher's logits of its embedding, with its weights; None where no term
            asks for it. It is not to be trained.
    """

    student: Output
    teacher: Output | None
    labels: Tensor
    seed: int
    views_shown: int = 1
    classifier: nn.Linear | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Options that every learning-rate schedule has, beside its own.

    Args:
        warmup_epochs: Epochs over which the learning rate rises linearly to what the schedule asks for.
    """

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must be 0 or more, got {self.warmup_epochs}")


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views that the training images of a run may be shown in, numbered from 0.

    Args:
        num_images: Training images of the data set, whether this run uses them or not: `index` is below it.
        per_image: Views of an image: `view` modulo this is below it.
        meaning: Plain values that tell what the view of a number is; equal numbers of equal meaning are equal images.
        endless: Whether a longer run has more of them, so that runs share few.
    """

    num_images: int
    per_image: int
    meaning: dict[str, Any]
    unbounded: bool

    @property
    def num_rows(self) -> int:
        return self.num_images * self.per_image

    def row(self, index: IntegersT, view: IntegersT) -> IntegersT:
        """One number for (index, view), below `num_rows`; of arrays and of tensors."""
        return view % self.per_image * self.num_images + index


class Pipeline(Protocol):
    """A data set that is open: batches of it, on the device that trains."""

    views_shown: int  # of each image in a training batch of `batch_size` images: see `Setting`

    def size(self, split: Split) -> int:
        """Number of samples of the split."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches that one epoch of `train_batches` gives."""

    def train_batches(
        self, epoch: int, batch_size: int, first_step: int = 0, shard: Shard = UNSHARDED
    ) -> Iterator[Batch]:
        """Shuffled, augmented batches: order f(seed, epoch), views f(seed, epoch, index), from `first_step` on.

        `share` is what is given of each of them; it has no influence on their number.
        """

    def eval_batches(self, split: Split, batch_size: int, shard: Shard = UNSHARDED) -> Iterator[Batch]:
        """All samples of the split in the data set's order, not augmented; or a share of them, in as large batches."""

    def views(self, num_epochs: int) -> Views:
        """Every view that a run of so many epochs may show."""

    def drawn_views(self, epoch: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """What an epoch shows: index (M,) and view (M,), in no order."""

    def training_batch(self, index: NDArray[np.integer], view: NDArray[np.integer]) -> Batch:
        """The chosen training images as the chosen views show them."""

    def training_labels(self) -> NDArray[np.integer]:
        """The class of each training image of the data set, (M,); -1 where the run does not train on it."""

    def content_digest(self) -> str:
        """SHA-256 that tells the training images of one data set from those of another."""


class Teacher(Protocol):
    """What the trainer uses of a teacher."""

    @property
    def num_queries(self) -> int:
        """Number of images that it has been called on so far."""

    @property
    def num_forwards(self) -> int:
        """Number of images that a network has been run on so far; the sum over several networks."""

    def __call__(self, batch: Batch) -> Output: ...

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        """Compute ahead of an epoch what can be computed; yields the progress, in [0, 1], now and then."""

    def seconds_remaining(self, batch: Batch) -> float:
        """An estimate of the time that a run takes beside its calls on batches whose outputs are cached."""


class DataSource(Protocol):
    """A data set as it declares itself, before any image is read."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # C, H, W
    normalisation: Normalisation

    def is_ready(self) -> bool:
        """Whether `open` needs nothing from the network."""

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> Pipeline:
        """Read the data set, fetching and verifying what is missing."""


class DatasetFunction(Protocol):
    """What is registered in DATASETS."""

    def __call__(self, data_dir: Path) -> DataSource: ...
