"""The worker process of test_distributed.py: torchrun -m tests.training.distributed_worker FOLDER.

Each process writes the results of collective operations into FOLDER/RANK.json; FOLDER/one_view and FOLDER/two_views
are the folders of the runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.errors import UserError
from model.evaluation.metrics import metrics_of, predict
from model.losses.base import DistillLoss
from model.losses.objective import Objective
from model.registry import LOSSES
from model.training.distributed import SINGLE_PROCESS, World, init_distributed
from model.training.probe import estimate_time
from model.training.trainer import Trainer
from model.types import LossContext, Output, Split, TermOptions
from tests.training.toy import CPU, live_teacher, open_data, seeded, toy_trainer

BATCH_SIZE = 14  # 80 images: in three processes 5, 5 and 4 of each batch, and 4, 3 and 3 of the last one

# Options and weights such that no term drowns the others; `ce`, `kd` and `vid` are means over images.
CHOSEN: dict[str, tuple[dict[str, Any], float]] = {
    "ce": ({}, 1.0),
    "kd": ({}, 1.0),
    "vid": ({}, 0.1),
    "cc": ({}, 10.0),
    "cc_linear": ({"embedding_size": 4}, 0.1),
    "crd": ({"num_negatives": 7, "embedding_size": 4}, 0.1),
    "cwtm": ({}, 1.0),
    "dist": ({}, 0.1),
    "mlkd": ({}, 0.1),
    "ofd": ({}, 0.1),
    "pkt": ({}, 100.0),
    "rkd": ({}, 0.02),
    "self_distillation": ({"feature_reduction": "sum", "beta": 0.01}, 1.0),
    "semckd": ({}, 1.0),
    "sp": ({}, 10.0),
    "srd": ({}, 0.1),
}
# These, and every other loss that reads the global batch.
TERMS = CHOSEN | {name: ({}, 0.1) for name in LOSSES.names() if LOSSES[name]().global_batch and name not in CHOSEN}


RUNS = ("one_view", "two_views", "accumulated")


class Net(nn.Module):
    """A network without batch norm, with every output that losses read, and a layer that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(48, 6), nn.Linear(6, 6)
        self.exit, self.classifier, self.idle = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, images_NCHW: Tensor) -> Output:
        early_ND = self.hidden(images_NCHW.flatten(1)).tanh()
        preact_ND = self.last(early_ND)
        embedding_ND = preact_ND.relu()
        self.idle(embedding_ND)
        return Output(
            self.classifier(embedding_ND),
            embedding_ND,
            maps=(embedding_ND[:, :, None, None],),
            preacts=(preact_ND[:, :, None, None],),
            exits=(Output(self.exit(early_ND), early_ND),),
        )


def make_trainer(path: Path, world: World = SINGLE_PROCESS) -> Trainer:
    """A run of two epochs at step 0; the name of the folder selects what is special."""
    data, student, teacher = open_data(strong_view=path.name == "two_views"), seeded(Net, 0), seeded(Net, 1)
    losses = {name: cast(DistillLoss, LOSSES.build(name, **options)) for name, (options, _) in TERMS.items()}
    objective = Objective({name: (losses[name], TermOptions(weight=weight)) for name, (_, weight) in TERMS.items()})
    output = student(torch.zeros(BATCH_SIZE * data.views_shown, 3, 4, 4))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        labels = torch.from_numpy(data.training_labels())
        objective.prepare(
            LossContext(student=output, teacher=output, labels=labels, seed=0, views_shown=data.views_shown)
        )

    def evaluate(net: nn.Module, split: Split) -> dict[str, float]:
        predictions = predict(net, data.eval_batches(split, 7, world.shard), dtype=torch.float32, device=CPU)
        return metrics_of(predictions.gather(lambda rows: world.all_gather(rows, data.size(split))))

    parameters = [*student.parameters(), *objective.parameters()]
    return toy_trainer(
        path,
        student=student,
        teacher=live_teacher(teacher),
        objective=objective,
        optimizer=torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        data=data,
        evaluate=evaluate,
        batch_size=BATCH_SIZE,
        accumulate=4 if path.name == "accumulated" else 1,  # 6 batches an epoch: 4 and 2
        gradient_clip=5.0,
        world=world,
    )


def train(path: Path, world: World = SINGLE_PROCESS) -> None:
    trainer = make_trainer(path, world)
    batch = next(trainer.train_batches(0, 0))
    estimate_time(trainer, batch, num_processes=world.size)
    trainer.train_step.start(batch)
    trainer.fit()


def collective_results(world: World) -> dict[str, Any]:
    """The results of collective operations in this process."""
    rank, data = world.rank, open_data()
    rows_N2 = torch.tensor([[number, -number] for number in range(11)])[world.shard.of(torch.arange(11))]
    indices = [batch.index for batch in data.eval_batches("test", 4, world.shard)]
    norm, mean = nn.BatchNorm1d(2), torch.tensor([1.0, 10.0]) * rank
    norm.running_mean = mean

    def fail(error: Exception) -> Callable[[], None]:
        def function() -> None:
            if rank == 2:
                raise error

        return function

    world.sync_buffers(norm.buffers())
    return {
        "all_gather": world.all_gather(rows_N2, 11).tolist(),
        "evaluation": world.all_gather(torch.cat(indices), data.size("test")).tolist(),
        "all_reduce_sum": world.all_reduce_sum(torch.tensor([1.0, rank])).tolist(),
        "any_rank": world.any_rank(rank == 1, False, True),
        "on_rank_zero": world.on_rank_zero(lambda: f"from rank {rank}"),
        "on_all_ranks": world.on_all_ranks(lambda: f"from rank {rank}"),
        "user error": raised_error(lambda: world.on_all_ranks(fail(UserError("only on rank 2")))),
        "bug": raised_error(lambda: world.on_all_ranks(fail(KeyError("broken")))),
        "failure on rank zero": raised_error(lambda: world.on_rank_zero(lambda: 1 / 0)),
        "sync_buffers": [mean.tolist(), norm.state_dict()["num_batches_tracked"].item()],
    }


def raised_error(function: Callable[[], Any]) -> list[str]:
    try:
        function()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with init_distributed() as world:
        for name in RUNS:
            train(folder / name, world)
        results = collective_results(world)
    (folder / f"{world.rank}.json").write_text(json.dumps(results))
