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

from benchmarks.loops import unbounded
from model.registry import DATASETS, NETS
from model.types import Pipeline, SplitOptions

# Student, teacher, batch size, and whether top-1 and top-5 accuracy are computed in every step: the loops of
# knowledge-distillation-pytorch, from which Retort descends, and of RepDistiller, the field's benchmark.
LOOPS = {"ancestor": ("cnn", "resnet18", 128, False), "repdistiller": ("resnet8x4", "resnet32x4", 64, True)}


def main(name: str, data_dir: Path, device: torch.device) -> None:
    data = DATASETS.build("cifar10_mini", data_dir).open(SplitOptions(), seed=0, device=torch.device("cpu"))
    step = conventional(data, device, *LOOPS[name])
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def conventional(
    data: Pipeline, device: torch.device, student_name: str, teacher_name: str, batch_size: int, reports_accuracy: bool
) -> Callable[[], float]:
    """A DataLoader with PIL transforms, float32, the teacher run on every batch, and .item() in every step."""
    student, teacher = (NETS.build(name, 10, 3).to(device) for name in (student_name, teacher_name))
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(PILImages(data), batch_size=batch_size, shuffle=True, num_workers=2)
    batches = unbounded(lambda: loader)

    def step() -> float:
        images, labels = (tensor.to(device) for tensor in next(batches))
        logits = student(images).logits
        with torch.no_grad():
            teacher_logits = teacher(images).logits
        kd = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(logits / 4, dim=1), F.softmax(teacher_logits / 4, dim=1))
        loss = 0.9 * 16 * kd + 0.1 * F.cross_entropy(logits, labels)
        if reports_accuracy:
            is_right_N5 = logits.topk(5, dim=1).indices == labels[:, None]
            is_right_N5[:, :1].sum().item(), is_right_N5.sum().item()
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
    main(sys.argv[1], Path(sys.argv[2]), torch.device(sys.argv[3]))
