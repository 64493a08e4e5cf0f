"""Batches of image files beside a plain ImageFolder and DataLoader of torchvision and torch, with the same transforms.

    python -m benchmarks.images

Both read the same JPEG files, in turn, an epoch at a time, in one process, for several rounds; ratios are taken within
a round. Both have started their workers and have read every file once before, so that files are in the system's cache.
The plain loader has persistent workers. Photos are noise of all scales, of which JPEG makes as many bytes as of real
ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from model.cpus import usable_cpus
from model.data.image_pipeline import IMAGENET_NORMALISATION
from model.registry import DATASETS
from model.types import SplitOptions

SIZE, BATCH_SIZE = 224, 8
PHOTOS = {"500 x 375": (500, 375, 64), "4000 x 3000": (4000, 3000, 8)}  # width, height, how many
OURS: dict[str, dict[str, Any]] = {"": {}, "draft false": {"draft": False}, "cache_size 512": {"cache_size": 512}}
CPU = torch.device("cpu")
Epoch = Callable[[], Iterable[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare batches of image files with a plain ImageFolder and DataLoader."
    )
    parser.add_argument("--rounds", type=int, default=7, help="epochs that every loader is timed for (default: 7)")
    parser.add_argument("--photos", nargs="+", choices=PHOTOS, default=list(PHOTOS), help="sizes (default: all)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of workers (default: 0 1 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # on a busy machine, threads would mostly wait for one another
    print(f"{usable_cpus()} CPUs, load average before: {os.getloadavg()[0]:.2f}\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in args.photos for row in compare(Path(folder), name, args.workers, args.rounds)]
    headers = ["photos", "workers", "options", "plain, images/s", "ratio", "of the rounds"]
    print(tabulate(rows, headers, tablefmt="github"))


def compare(folder: Path, name: str, worker_counts: Iterable[int], rounds: int) -> Iterable[list[str]]:
    """A row for each number of workers and each of our options."""
    width, height, number = PHOTOS[name]
    root = folder / name
    write_photos(root, width, height, number)
    for num_workers in worker_counts:
        loaders = {"plain": plain_epochs(root / "train", num_workers)}
        loaders |= {options: our_epochs(folder, root, num_workers, **own) for options, own in OURS.items()}
        speeds = time_epochs(loaders, rounds)
        for options in OURS:
            ratios = [ours / plain for ours, plain in zip(speeds[options], speeds["plain"], strict=True)]
            plain = f"{statistics.median(speeds['plain']):,.1f}"
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            yield [name, str(num_workers), options, plain, f"{statistics.median(ratios):.2f}", spread]


def time_epochs(loaders: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Images a second of each loader in each round."""
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for each in range(rounds + 1):
        for name, epoch in loaders.items():
            start = time.perf_counter()
            seen = sum(len(images) for images in epoch())
            if each:  # the first starts the workers
                speeds[name].append(seen / (time.perf_counter() - start))
    return speeds


def plain_epochs(root: Path, num_workers: int) -> Epoch:
    mean, std = IMAGENET_NORMALISATION.mean, IMAGENET_NORMALISATION.std
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    loader: DataLoader[Any] = DataLoader(
        ImageFolder(str(root), transform),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return lambda: (images for images, _ in loader)


def our_epochs(data_dir: Path, root: Path, num_workers: int, **options: Any) -> Epoch:
    source = DATASETS.build("folder", data_dir, path=str(root), image_size=SIZE, num_workers=num_workers, **options)
    pipeline = source.open(SplitOptions(val_size=0), seed=0, device=CPU)
    epochs = iter(range(10**9))
    return lambda: (batch.images for batch in pipeline.train_batches(next(epochs), BATCH_SIZE))


def write_photos(root: Path, width: int, height: int, number: int) -> None:
    """As many training photos in two classes, and two test photos."""
    for index in range(number + 2):
        split = "train" if index < number else "test"
        file = root / split / "ab"[index % 2] / f"{index}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(width, height, index).save(file, quality=90)


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise of every scale down to two pixels, of which each octave has the same share, as in photographs."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (2, 2), (128, 128, 128))
    scale = 2 ** int(np.log2(min(width, height) / 4))
    while scale >= 2:
        image = image.resize((-(-width // scale), -(-height // scale)), Image.Resampling.BICUBIC)
        noise = rng.integers(-20, 21, (image.height, image.width, 1)) + rng.integers(
            -5, 6, (image.height, image.width, 3)
        )
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
        scale //= 2
    return image.resize((width, height), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    main()
