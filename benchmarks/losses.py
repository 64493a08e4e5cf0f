"""What a step with each loss costs, relative to one with kd; docs/methods.md shows it.

    python -m benchmarks.losses      writes benchmarks/losses.json

A step is forward and backward of the student, the term and the optimizer. What the teacher says is given: its forward
pass costs every method the same, and none where its answers are kept. One process times all losses in turn, several
rounds; ratios are taken within a round, and their median is told.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.speed import wait
from model.build.runtime import find_device
from model.docs.methods_page import COSTS_FILE, STUDENT, TEACHER, classifier_for, output_shapes
from model.files import write_json
from model.home import ROOT
from model.losses.objective import Objective
from model.registry import LOSSES, NETS, OPTIMIZERS
from model.training.malloc import keep_freed_memory
from model.training.precision import autocast, resolve_precision, to_device
from model.types import Batch, LossContext, Output

NUM_CLASSES, BATCH_SIZE, NUM_IMAGES = 100, 64, 50_000
# Losses for networks of more than the student: one more of its kind, or the way to the teacher's classifier.
PEERS: dict[str, object] = {"networks": [{"name": STUDENT}, {"name": STUDENT}]}
NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    "mutual": ("peers", PEERS),
    "self_distillation": ("peers", PEERS),
    "simkd": ("simkd", {"network": {"name": STUDENT}, "teacher": {"name": TEACHER}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a step with each loss, relative to one with kd.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="times that every loss is timed (default: 5)")
    args = parser.parse_args()

    keep_freed_memory()
    torch.manual_seed(0)
    device = find_device(args.device)
    given = Given(device)
    student = given.network(STUDENT)
    others = {name: given.network(network, **options) for name, (network, options) in NETWORKS.items()}
    steps = {name: given.step(name, others.get(name, student)) for name in LOSSES.names()}
    for step in steps.values():
        step()  # warms up
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for _ in tqdm(range(args.rounds), unit="round", leave=False, disable=None):
        seconds = {name: timed(step, device) for name, step in steps.items()}
        for name, taken in seconds.items():
            ratios[name].append(taken / seconds["kd"])
    found = {name: round(statistics.median(each), 2) for name, each in ratios.items()}
    write_json(COSTS_FILE, {"device": device.type, "rounds": args.rounds, "ratios": found})
    print(f"written: {COSTS_FILE.relative_to(ROOT)}")


class Given:
    """A batch of random images and what a teacher with random weights says of it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.dtype = device, resolve_precision("auto", device)
        index_N = torch.arange(BATCH_SIZE, device=device)
        images = torch.randn(BATCH_SIZE, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        self.batch = Batch(images, index_N % NUM_CLASSES, index_N, torch.zeros_like(index_N))
        with torch.no_grad(), autocast(self.dtype, device):
            self.taught: Output = self.network(TEACHER).eval()(images)

    def network(self, name: str, **options: object) -> nn.Module:
        return to_device(NETS.build(name, NUM_CLASSES, **options), self.device)

    def step(self, name: str, student: nn.Module) -> Callable[[], None]:
        """One training step with this term alone."""
        objective = Objective({name: (LOSSES.build(name), LOSSES.common_options(name, {}))})
        labels_M = torch.arange(NUM_IMAGES) % NUM_CLASSES
        said, taught = output_shapes(STUDENT, BATCH_SIZE), output_shapes(TEACHER, BATCH_SIZE)
        classifier = classifier_for(taught)
        objective.prepare(LossContext(student=said, teacher=taught, labels=labels_M, seed=0, classifier=classifier))
        objective.begin(student)
        objective.to(self.device)
        parameters = [p for module in (student, objective) for p in module.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS.build("sgd", parameters, learning_rate=1e-6)

        def step() -> None:
            with autocast(self.dtype, self.device):
                output = student(self.batch.images)
            loss, _ = objective(output, self.taught, self.batch, 1.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    wait(device)
    began = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
