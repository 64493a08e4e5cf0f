"""A conventional training loop, which takes a step for every line on stdin. See benchmarks/loops.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.loops import BATCH_SIZE, unbounded
from model.registry import DATASETS, NETS
from model.types import Pipeline, SplitOptions


def main(data_dir: Path, device: torch.device) -> None:
    data = DATASETS.build("cifar10_mini", data_dir).open(SplitOptions(), seed=0, device=torch.device("cpu"))
    step = conventional(data, device)
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def conventional(data: Pipeline, device: torch.device) -> Callable[[], float]:
    """A DataLoader with PIL transforms, float32, the teacher run on every batch, and .item() in every step."""
    student, teacher = NETS.build("cnn", 10, 3).to(device), NETS.build("resnet18", 10, 3).to(device).eval()
    optimizer = torch.optim.Adam(student.parameters())
    loader = DataLoader(PILImages(data), batch_size=BATCH_SIZE, shuffle=True, num_workers=2)
    batches = unbounded(lambda: loader)

    def step() -> float:
        images, labels = (tensor.to(device) for tensor in next(batches))
        logits = student(images).logits
        with torch.no_grad():
            teacher_logits = teacher(images).logits
        kd = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(logits / 4, dim=1), F.softmax(teacher_logits / 4, dim=1))
        loss = 0.9 * 16 * kd + 0.1 * F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


class PILImages(Dataset[tuple[Tensor, int]]):
    """The pipeline's training images as PIL images with torchvision's transforms."""

    def __init__(self, data: Any) -> None:
        index = data.indices["train"]
        self.images, self.labels = data._images["train"][index].cpu().numpy(), data._labels["train"][index].tolist()
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

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


if __name__ == "__main__":
    main(Path(sys.argv[1]), torch.device(sys.argv[2]))
