"""The time of a training step with each loss, relative to one with kd; docs/methods.md shows it.

    python -m benchmarks.losses      writes benchmarks/losses.json

A step is forward and backward of the student, the loss and the optimizer. The teacher's output is computed beforehand:
its forward pass takes every method the same time, and none where outputs are cached. One process times all losses in
turn, for several rounds; ratios are taken within a round, and their median is written.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks import REPOSITORY
from benchmarks.speed import synchronize
from model.build.runtime import find_device
from model.docs.methods_page import COSTS_FILE, STUDENT, TEACHER, classifier_for, output_shapes
from model.files import write_json
from model.losses.objective import Objective
from model.registry import LOSSES, NETS, OPTIMIZERS
from model.training.malloc import keep_freed_memory
from model.training.precision import autocast, resolve_precision, to_device
from model.types import Batch, LossContext, Output

NUM_CLASSES, BATCH_SIZE, NUM_IMAGES = 100, 64, 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a step with each loss, relative to one with kd.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="times that every loss is timed (default: 5)")
    args = parser.parse_args()

    keep_freed_memory()
    torch.manual_seed(0)
    device = find_device(args.device)
    workload = Workload(device)
    steps = {name: workload.step(name) for name in LOSSES.names()}
    for step in steps.values():
        step()  # warms up
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for _ in tqdm(range(args.rounds), unit="round", leave=False, disable=None):
        seconds = {name: timed(step, device) for name, step in steps.items()}
        for name, duration in seconds.items():
            ratios[name].append(duration / seconds["kd"])
    medians = {name: round(statistics.median(rounds), 2) for name, rounds in ratios.items()}
    write_json(COSTS_FILE, {"device": device.type, "rounds": args.rounds, "ratios": medians})
    print(f"written: {COSTS_FILE.relative_to(REPOSITORY)}")


class Workload:
    """A batch of random images, a student, and the output of a teacher with random weights."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.dtype = device, resolve_precision("auto", device)
        index_N = torch.arange(BATCH_SIZE, device=device)
        images = torch.randn(BATCH_SIZE, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        self.batch = Batch(images, index_N % NUM_CLASSES, index_N, torch.zeros_like(index_N))
        with torch.no_grad(), autocast(self.dtype, device):
            self.teacher_output: Output = self.network(TEACHER).eval()(images)
        self.plain_student = self.network(STUDENT)

    def network(self, name: str, **options: Any) -> nn.Module:
        return to_device(NETS.build(name, NUM_CLASSES, **options), self.device)

    def student(self, loss: str) -> nn.Module:
        """The student; for a loss with a network of its own, such as peers, that network with the student inside."""
        example = LOSSES.example(loss).get("student")
        if example is None:
            return self.plain_student
        options: dict[str, Any] = {}
        for key, value in example.items():
            if key != "name":
                options[key] = [{"name": STUDENT} for _ in value] if isinstance(value, list) else {"name": STUDENT}
        if "teacher" in NETS.options(example["name"]):
            options["teacher"] = {"name": TEACHER}
        return self.network(example["name"], **options)

    def step(self, name: str) -> Callable[[], None]:
        """One training step with this loss alone."""
        student = self.student(name)
        objective = Objective({name: (LOSSES.build(name), LOSSES.common_options(name, {}))})
        teacher_shapes = output_shapes(TEACHER, BATCH_SIZE)
        objective.prepare(
            LossContext(
                student=output_shapes(STUDENT, BATCH_SIZE),
                teacher=teacher_shapes,
                labels=torch.arange(NUM_IMAGES) % NUM_CLASSES,
                seed=0,
                classifier=classifier_for(teacher_shapes),
            )
        )
        objective.initialize_student(student)
        objective.to(self.device)
        parameters = [p for module in (student, objective) for p in module.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS.build("sgd", parameters, learning_rate=1e-6)

        def step() -> None:
            with autocast(self.dtype, self.device):
                output = student(self.batch.images)
            loss, _ = objective(output, self.teacher_output, self.batch, 1.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
