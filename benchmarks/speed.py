"""Images per second of the training loop, beside what it could be and what it usually is.

    make bench

One process times all loops in turn, several rounds each, and prints medians and ratios: absolute figures move from
machine to machine and from minute to minute, the ratios much less. Student `cnn`, teacher ResNet-18, batch size 128.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from model import build
from model.build_teacher import build_untrained_teacher
from model.engine.precision import autocast, resolve_precision
from model.engine.trainer import Trainer
from model.folder import Folder
from model.params import ROOT, Params, parse_params
from model.provenance import processor
from model.registry import NETS
from model.run import build_trainer, open_data
from model.types import Batch, Pipeline
from utils import write_json

BATCH_SIZE = 128
Step = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the training loop beside other loops.")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="times that every loop is timed (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing (default: 2)")
    args = parser.parse_args()

    place = build.Place(device=build.find_device(args.device), data_dir=args.data_dir)
    with tempfile.TemporaryDirectory() as temporary:
        loops = make_loops(Folder(Path(temporary)), place)
        speeds = timed(loops, rounds=args.rounds, seconds=args.seconds, device=place.device)
    reference = statistics.median(speeds["bare"])
    rows = [
        (name, DESCRIPTIONS[name], f"{statistics.median(values):,.0f}", f"{statistics.median(values) / reference:.3f}")
        for name, values in speeds.items()
    ]
    print(f"\n{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {place.device}\n")
    headers = ("loop", "what", "images/s", "ratio to bare")
    print(
        tabulate(
            rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=("left", "left", "right", "right")
        )
    )


COMMON = {
    "dataset": {"name": "cifar10_mini"},
    "student": {"name": "cnn"},
    "optimizer": {"name": "adam"},
    "batch_size": BATCH_SIZE,
}

DESCRIPTIONS = {
    "bare": "forward, backward and step on one fixed batch, best settings",
    "train.py": "the loop of train.py, student alone: data, augmentation, metrics, schedule",
    "train.py, distilling": "the same with a ResNet-18 run on every batch",
    "teacher's forward": "ResNet-18 on one fixed batch, nothing else",
    "bare, float32": "as bare, in float32 and channels-first",
    "conventional": "DataLoader with 2 workers, PIL transforms, float32, ResNet-18 on every batch, .item() a step",
}


def make_loops(folder: Folder, place: build.Place) -> dict[str, Step]:
    """Every loop as a function that does one step."""
    guide = Folder(folder.path / "teacher")
    guide.path.mkdir()
    write_json(guide.params, {**COMMON, "student": {"name": "resnet18"}})
    alone = parsed(folder, {"loss": {"ce": {}}})
    distilling = parsed(folder, {"loss": {"kd": {}}, "teacher": str(guide.path)})
    source = build.build_source(alone, place)
    data = open_data(alone, folder, source, place)
    batch = next(iter(data.train_batches(0, BATCH_SIZE)))
    dtype = resolve_precision("auto", place.device)
    teacher = build_untrained_teacher(distilling, folder.params, source, place)
    assert teacher is not None
    with_teacher = build_trainer(folder, distilling, place, source, data, teacher)
    return {
        "bare": bare(batch, dtype, place.device),
        "train.py": trained(build_trainer(folder, alone, place, source, data, None), data),
        "train.py, distilling": trained(with_teacher, data),
        "teacher's forward": lambda: teacher(batch),
        "bare, float32": bare(batch._replace(images=batch.images.contiguous()), torch.float32, place.device),
        "conventional": conventional(data, place.device),
    }


def parsed(folder: Folder, more: dict[str, Any]) -> Params:
    return build.resolve_params(parse_params(COMMON | more, folder.params), folder.params)


def bare(batch: Batch, dtype: torch.dtype, device: torch.device) -> Step:
    net = NETS.build("cnn", 10, 3).to(device)
    if dtype is torch.bfloat16:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)

    def step() -> None:
        with autocast(dtype, device):
            logits = net(batch.images).logits
        loss = F.cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def trained(trainer: Trainer, data: Pipeline) -> Step:
    """The trainer's step on the pipeline's batches, epoch after epoch."""
    batches = itertools.chain.from_iterable(data.train_batches(epoch, BATCH_SIZE) for epoch in itertools.count())
    trainer.student.train()
    return lambda: trainer.train_step(next(batches))


def conventional(data: Pipeline, device: torch.device) -> Step:
    """The loop that most projects have."""
    student, teacher = NETS.build("cnn", 10, 3).to(device), NETS.build("resnet18", 10, 3).to(device).eval()
    optimizer = torch.optim.Adam(student.parameters())
    batches = endless(DataLoader(AsImages(data), batch_size=BATCH_SIZE, shuffle=True, num_workers=2))

    def step() -> float:
        images, labels = (tensor.to(device) for tensor in next(batches))
        logits = student(images).logits
        with torch.no_grad():
            guide = teacher(images).logits
        soft = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(logits / 4, dim=1), F.softmax(guide / 4, dim=1))
        loss = 0.9 * 16 * soft + 0.1 * F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def endless(loader: DataLoader[Any]) -> Iterator[list[Tensor]]:
    while True:
        yield from loader


class AsImages(Dataset[tuple[Tensor, int]]):
    """The pipeline's training images as PIL images with torchvision's transforms, one at a time."""

    def __init__(self, data: Any) -> None:
        chosen = data.indices["train"]
        self.images, self.labels = data._images["train"][chosen].cpu().numpy(), data._labels["train"][chosen].tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[place])), self.labels[place]


def timed(loops: dict[str, Step], *, rounds: int, seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Images per second of every loop, once a round, the loops in turn."""
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for step in loops.values():
        step()  # warm up
    for _, (name, step) in tqdm(list(itertools.product(range(rounds), loops.items())), unit="timing", disable=None):
        wait(device)
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step()
            steps += 1
        wait(device)
        speeds[name].append(steps * BATCH_SIZE / (time.perf_counter() - start))
    return speeds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
