"""The training loop."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from model.build.weights import weights_digest
from model.data.memory import MemoryPipeline
from model.errors import RunFailed, Stopped, UserError
from model.files import read_json
from model.logs import logging_to
from model.losses.base import DistillLoss
from model.losses.ce import CrossEntropy
from model.losses.kd import KnowledgeDistillation
from model.losses.objective import Objective
from model.registry import SCHEDULES
from model.teachers.live import LiveTeacher
from model.training import run_logger
from model.training.checkpoint import load_checkpoint, restore
from model.training.meters import Meters
from model.training.probe import (
    Pace,
    compile_student,
    estimate_time,
    measure_pace,
    remaining_seconds,
    speed_up_of_one_thread,
)
from model.training.step import StepResult, TrainStep
from model.training.trainer import Trainer
from model.types import UNSHARDED, Batch, Output, Pipeline, Shard, TermOptions
from tests.training.toy import (
    CPU,
    NORMALISATION,
    STEPS_PER_EPOCH,
    LinearNet,
    SmallNet,
    live_teacher,
    open_data,
    seeded,
    toy_trainer,
)

KD_ONLY = {"kd": (KnowledgeDistillation(alpha=1.0, temperature=2.0), TermOptions())}


class OwnScale(DistillLoss):
    """A loss with a parameter of its own."""

    needs = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.scale * student.logits, batch.labels)


def state_tensors(trainer: Trainer) -> list[Tensor]:
    """Every tensor of a run's state, in a fixed order."""
    optimizer_state = [value for state in trainer.optimizer.state.values() for value in state.values()]
    modules = [*trainer.student.state_dict().values(), *trainer.objective.state_dict().values()]
    return [torch.as_tensor(value).clone() for value in modules + optimizer_state]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Learning rate ------------------------------------------------------------------------------------------------------


def record_learning_rates(trainer: Trainer) -> list[list[float]]:
    rates: list[list[float]] = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    return rates


def test_every_step_uses_its_own_learning_rate(tmp_path: Path) -> None:
    schedule = SCHEDULES.build("multistep", 3, 1, milestones=[1, 2])
    trainer = toy_trainer(tmp_path, schedule=schedule, num_epochs=3)
    rates = record_learning_rates(trainer)
    trainer.fit()
    expected = [[0.1]] * 5 + [[0.01]] * 5 + [[0.001]] * 5
    torch.testing.assert_close(torch.tensor(rates), torch.tensor(expected))
    logged = [row["learning_rate"] for row in trainer.folder.read_history()]
    assert logged == pytest.approx([0.1, 0.01, 0.001])


def test_schedule_is_evaluated_at_fractions_of_epochs(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, schedule=lambda epoch: 1 + epoch, num_epochs=1)
    rates = record_learning_rates(trainer)
    trainer.fit()
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([[0.1], [0.12], [0.14], [0.16], [0.18]]))


def test_parameter_groups_keep_the_ratio_of_their_learning_rates(tmp_path: Path) -> None:
    student = seeded(SmallNet, 0)
    groups = [
        {"params": list(student.get_submodule("conv").parameters()), "lr": 0.1},
        {"params": list(student.get_submodule("linear").parameters()), "lr": 0.3},
    ]
    trainer = toy_trainer(tmp_path, student=student, optimizer=torch.optim.SGD(groups), schedule=lambda epoch: 0.5)
    rates = record_learning_rates(trainer)
    trainer.take_step(next(open_data().train_batches(0, 16)))
    assert rates == [[pytest.approx(0.05), pytest.approx(0.15)]]


# Metrics ------------------------------------------------------------------------------------------------------------


def totals_in_batches_of(batch_size: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    logits_NK, labels_N = torch.randn(300, 4, generator=generator, dtype=torch.float64), torch.arange(300) % 4
    totals = Meters(["ce"], CPU)
    for start in range(0, 300, batch_size):
        scores, labels = logits_NK[start : start + batch_size], labels_N[start : start + batch_size]
        loss = nn.functional.cross_entropy(scores, labels)
        totals.add(StepResult(loss, {"ce": 2 * loss}, Output(scores, scores)), Batch(scores, labels, labels, labels))
    return totals.means()


@pytest.mark.parametrize("batch_size", [1, 7, 299, 300])
def test_training_metrics_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    actual, expected = totals_in_batches_of(batch_size), totals_in_batches_of(128)
    assert actual["accuracy"] == expected["accuracy"]
    assert actual == pytest.approx(expected, rel=1e-12)


def test_training_accuracy_is_a_count_over_the_epoch_s_samples(tmp_path: Path) -> None:
    correct: list[int] = []

    class Spy(LinearNet):
        def forward(self, images_NCHW: Tensor) -> Output:
            output = super().forward(images_NCHW)
            if self.training and torch.is_grad_enabled():
                correct.append(int((output.logits.argmax(dim=1) == labels[len(correct)]).sum()))
            return output

    labels = [batch.labels for epoch in (0, 1) for batch in open_data().train_batches(epoch, 16)]
    trainer = toy_trainer(tmp_path, student=Spy())
    trainer.fit()
    logged = [row["train_accuracy"] for row in trainer.folder.read_history()]
    assert logged == [sum(correct[:STEPS_PER_EPOCH]) / 80, sum(correct[STEPS_PER_EPOCH:]) / 80]


def test_metrics_are_plain_numbers(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.fit()
    assert trainer.best is not None
    values = [*trainer.best.values(), *(value for row in trainer.folder.read_history() for value in row.values())]
    assert {type(value) for value in values} <= {int, float}


def test_history_has_the_loss_of_every_term_by_its_name(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.fit()
    assert set(trainer.folder.read_history()[0]) == {
        "epoch",
        "train_loss",
        "train_accuracy",
        "loss_ce",
        "val_loss",
        "val_accuracy",
        "val_macro_recall",
        "val_macro_f1",
        "learning_rate",
        "seconds",
        "images_per_second",
    }


def test_history_has_the_agreement_with_the_teacher_and_its_accuracy(tmp_path: Path) -> None:
    """A student that does not learn beside a teacher: both predictions can be counted beforehand."""
    student, teacher = seeded(LinearNet, 0), seeded(LinearNet, 1)
    batches = list(open_data().train_batches(0, 16))
    pairs = [(student(b.images).logits.argmax(1), teacher(b.images).logits.argmax(1), b.labels) for b in batches]
    own, others, labels = (torch.cat(values) for values in zip(*pairs, strict=True))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    trainer = toy_trainer(
        tmp_path,
        student=student,
        teacher=live_teacher(teacher),
        objective=Objective(KD_ONLY),
        optimizer=optimizer,
        num_epochs=1,
    )
    trainer.fit()
    (row,) = trainer.folder.read_history()
    assert row["agreement"] == int((own == others).sum()) / 80
    assert row["teacher_accuracy"] == int((others == labels).sum()) / 80


def test_parts_of_a_term_are_logged_apart_and_add_up(tmp_path: Path) -> None:
    kd = {"kd": (KnowledgeDistillation(alpha=0.5), TermOptions(weight=2.0))}
    trainer = toy_trainer(tmp_path, teacher=live_teacher(seeded(SmallNet, 1)), objective=Objective(kd))
    trainer.fit()
    for row in trainer.folder.read_history():
        assert row["loss_kd_hard"] + row["loss_kd_soft"] == pytest.approx(row["loss_kd"])
        assert row["train_loss"] == pytest.approx(2 * row["loss_kd"])


def test_norms_of_gradients_are_those_of_the_weighted_terms_in_the_epoch_s_last_step(tmp_path: Path) -> None:
    student = seeded(LinearNet, 0)
    terms: dict[str, tuple[DistillLoss, TermOptions]] = {
        "ce": (CrossEntropy(), TermOptions(weight=3.0)),
        "scaled": (OwnScale(), TermOptions()),
    }
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    trainer = toy_trainer(tmp_path, student=student, objective=Objective(terms), optimizer=optimizer, num_epochs=7)
    trainer.fit()
    rows = trainer.folder.read_history()
    assert [row["epoch"] for row in rows if "gradient_norm_ce" in row] == [1, 6]
    for factor, name in ((3.0, "ce"), (1.0, "scaled")):
        batch = list(open_data().train_batches(5, 16))[-1]
        logits_NK = student(batch.images).logits * (0.5 if name == "scaled" else 1.0)
        loss = factor * nn.functional.cross_entropy(logits_NK, batch.labels)
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        expected = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        assert rows[5][f"gradient_norm_{name}"] == pytest.approx(expected, rel=1e-5)


def test_measuring_gradients_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(name: str) -> list[Tensor]:
        kd = Objective({"kd": (KnowledgeDistillation(), TermOptions())})
        trainer = toy_trainer(tmp_path / name, teacher=live_teacher(seeded(SmallNet, 1)), objective=kd)
        trainer.fit()
        assert ("gradient_norm_kd" in trainer.folder.read_history()[0]) == (name == "measured")
        return state_tensors(trainer)

    measured = trained("measured")
    monkeypatch.setattr(TrainStep, "_measures_gradients", lambda self, step: False)
    assert_same(measured, trained("unmeasured"))


def test_checkpoint_of_an_earlier_version_is_resumed_between_epochs_only(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.save()
    content = load_checkpoint(trainer.folder.checkpoint("last"))
    restore(trainer, content | {"totals": torch.zeros(4)})
    with pytest.raises(UserError, match="was written by another version, within an epoch"):
        restore(trainer, content | {"totals": torch.ones(4)})


def test_network_is_in_training_mode_in_every_epoch(tmp_path: Path) -> None:
    training_modes = []

    class Spy(LinearNet):
        def forward(self, images_NCHW: Tensor) -> Output:
            training_modes.append(self.training)
            return super().forward(images_NCHW)

    def evaluate_in_eval_mode(net: nn.Module, split: str) -> dict[str, float]:
        net.eval()
        return {"accuracy": 0.5, "loss": 1.0}

    toy_trainer(tmp_path, student=Spy().eval(), evaluate=evaluate_in_eval_mode).fit()
    assert training_modes == [True] * 10


# Accumulated gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accumulate", "batch_size"), [(2, 16), (4, 8), (32, 1)])
@pytest.mark.parametrize("val_size", [20, 19])  # 80 images make steps of 32, 32 and 16; 81 a last step of 17
def test_accumulated_batches_give_the_steps_of_large_ones(
    accumulate: int, batch_size: int, val_size: int, tmp_path: Path
) -> None:
    def trained(name: str, **sizes: int) -> Trainer:
        student, ce = seeded(LinearNet, 0), Objective({"ce": (CrossEntropy(), TermOptions(warmup_epochs=1.5))})
        parts = {"schedule": lambda epoch: 1 / (1 + epoch), "gradient_clip": 0.2, "data": open_data(val_size)}
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
        trainer = toy_trainer(tmp_path / name, student=student, objective=ce, optimizer=optimizer, **parts, **sizes)
        trainer.fit()
        return trainer

    large, small = trained("large", batch_size=32), trained("small", batch_size=batch_size, accumulate=accumulate)
    assert large.step == small.step == 6
    for name, weight in large.student.state_dict().items():
        torch.testing.assert_close(small.student.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    for one, other in zip(history_without_times(large), history_without_times(small), strict=True):
        assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
def test_resumed_run_of_accumulated_batches_equals_an_uninterrupted_run(stop_at: int, tmp_path: Path) -> None:
    def made(name: str, **changes: Any) -> Trainer:  # 5 batches an epoch: steps of 2, 2 and 1
        return with_own_scale(tmp_path / name, torch.optim.SGD, accumulate=2, **changes)

    uninterrupted = made("uninterrupted")
    uninterrupted.fit()
    stopped: Trainer = made("stopped", should_stop=lambda: stopped.step == stop_at)
    with pytest.raises(Stopped):
        stopped.fit()
    resumed = made("stopped")
    restore(resumed, load_checkpoint(resumed.folder.checkpoint("last")))
    resumed.fit()
    assert_same(state_tensors(resumed), state_tensors(uninterrupted))
    assert history_without_times(resumed) == history_without_times(uninterrupted)


def test_batches_of_one_step_have_dropout_of_their_own(tmp_path: Path) -> None:
    dropped = []

    class Spy(SmallNet):
        def forward(self, images_NCHW: Tensor) -> Output:
            output = super().forward(images_NCHW)
            dropped.append(output.embedding == 0)
            return output

    batch = next(open_data().train_batches(0, 16))
    toy_trainer(tmp_path, student=Spy(), accumulate=2).take_step(batch, batch)
    assert not torch.equal(*dropped)


# The teacher --------------------------------------------------------------------------------------------------------


def test_kd_is_zero_when_student_equals_teacher(tmp_path: Path) -> None:
    """Also on shuffled, augmented batches: both networks get the same images."""
    student = seeded(LinearNet, 1)
    trainer = toy_trainer(
        tmp_path,
        student=student,
        teacher=live_teacher(copy.deepcopy(student)),
        objective=Objective(KD_ONLY),
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
    )
    trainer.fit()
    assert [row["loss_kd"] for row in trainer.folder.read_history()] == pytest.approx([0.0, 0.0], abs=1e-10)


class PrecomputingTeacher(LiveTeacher):
    """A teacher that precomputes outputs in four parts before an epoch."""

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        self.num_yielded = 0
        for fraction in (0.25, 0.5, 0.75, 1.0):
            self.num_yielded += 1
            yield fraction


def test_run_that_is_stopped_while_teacher_outputs_are_computed_takes_no_step(tmp_path: Path) -> None:
    net = seeded(SmallNet, 1)
    teacher = PrecomputingTeacher(
        net, normalisation=NORMALISATION, data_normalisation=NORMALISATION, dtype=torch.float32, device=CPU
    )
    trainer = toy_trainer(tmp_path, teacher=teacher, objective=Objective(KD_ONLY), should_stop=lambda: True)
    with pytest.raises(Stopped):
        trainer.fit()
    assert (teacher.num_yielded, trainer.step) == (1, 0)


class MisalignedTeacher(LiveTeacher):
    """A teacher that gets the images of other rows of the batch."""

    def __call__(self, batch: Batch) -> Output:
        return super().__call__(replace(batch, images=batch.images.roll(1, dims=0)))


def test_kd_is_not_zero_when_the_teacher_gets_other_images(tmp_path: Path) -> None:
    student = seeded(LinearNet, 1)
    teacher = MisalignedTeacher(
        copy.deepcopy(student),
        normalisation=NORMALISATION,
        data_normalisation=NORMALISATION,
        dtype=torch.float32,
        device=CPU,
    )
    trainer = toy_trainer(
        tmp_path,
        student=student,
        teacher=teacher,
        objective=Objective(KD_ONLY),
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
    )
    trainer.fit()
    assert trainer.folder.read_history()[0]["loss_kd"] > 0.01


# Failures -----------------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite_fails_the_run(tmp_path: Path) -> None:
    student = seeded(LinearNet, 0)
    trainer = toy_trainer(tmp_path, student=student, optimizer=torch.optim.SGD(student.parameters(), lr=1e38))
    with pytest.raises(RunFailed, match=r"loss, loss_ce is not finite in epoch 1 \(learning rate 1e\+38\)"):
        trainer.fit()
    assert not trainer.folder.checkpoint("last").exists()


def test_loss_that_is_not_finite_fails_the_run_before_the_epoch_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_logger, "SECONDS_BETWEEN_STEP_LOGS", 0.0)

    class NanInThirdCall(OwnScale):
        calls = 0

        def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
            self.calls += 1
            return super().forward(student, teacher, batch) * (float("nan") if self.calls == 3 else 1.0)

    trainer = toy_trainer(tmp_path, objective=Objective({"own": (NanInThirdCall(), TermOptions())}))
    with pytest.raises(RunFailed, match="loss_own is not finite in epoch 1"):
        trainer.fit()
    assert trainer.step == 3


def test_weights_with_a_val_loss_that_is_not_finite_are_not_saved(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, evaluate=lambda net, split: {"accuracy": 0.2, "loss": float("nan")})
    with pytest.raises(RunFailed, match="val_loss is not finite in epoch 1"):
        trainer.fit()
    assert not trainer.folder.checkpoint("best").exists()


@pytest.mark.parametrize("gradient_clip", [0.5, 0.01])
def test_gradient_clip_bounds_the_step(gradient_clip: float, tmp_path: Path) -> None:
    student = seeded(SmallNet, 0)
    optimizer = torch.optim.SGD(student.parameters(), lr=2.0)
    trainer = toy_trainer(tmp_path, student=student, optimizer=optimizer, gradient_clip=gradient_clip)
    step_norms = []
    for batch in open_data().train_batches(0, 16):
        before = parameters_to_vector(student.parameters()).detach().clone()
        trainer.take_step(batch)
        step_norms.append((parameters_to_vector(student.parameters()) - before).norm().item())
    assert max(step_norms) == pytest.approx(2.0 * gradient_clip, rel=1e-4)


# Checkpoints --------------------------------------------------------------------------------------------------------


def fake_evaluate(accuracies: list[float]) -> Callable[[nn.Module, str], dict[str, float]]:
    remaining = iter(accuracies)
    return lambda net, split: {"accuracy": next(remaining), "loss": 1.0}


@pytest.mark.parametrize(
    ("accuracies", "best_epoch"), [([0.5, 0.7, 0.7, 0.6], 2), ([0.1, 0.2, 0.3, 0.4], 4), ([0.0, 0.0, 0.0, 0.0], 1)]
)
def test_best_weights_are_the_first_with_the_highest_accuracy(
    accuracies: list[float], best_epoch: int, tmp_path: Path
) -> None:
    trainer = toy_trainer(tmp_path, num_epochs=4, evaluate=fake_evaluate(accuracies))
    trainer.fit()
    assert load_checkpoint(trainer.folder.checkpoint("best"))["epoch"] == best_epoch
    assert read_json(trainer.folder.metrics("val", "best"))["epoch"] == best_epoch
    assert read_json(trainer.folder.metrics("val", "last"))["accuracy"] == accuracies[-1]


def test_worse_epoch_after_a_resume_keeps_the_best_weights(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, num_epochs=1, evaluate=fake_evaluate([0.9]))
    trainer.fit()
    best = trainer.folder.checkpoint("best").read_bytes()
    resumed = toy_trainer(tmp_path, num_epochs=2, evaluate=fake_evaluate([0.8]))
    restore(resumed, load_checkpoint(trainer.folder.checkpoint("last")))
    resumed.fit()
    assert trainer.folder.checkpoint("best").read_bytes() == best


def test_without_a_val_split_the_last_weights_are_the_best(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, data=open_data(val_size=0))
    trainer.fit()
    best, last = (load_checkpoint(trainer.folder.checkpoint(weights)) for weights in ("best", "last"))
    assert_same([*best["state_dict"].values()], [*last["state_dict"].values()])
    assert best["epoch"] == 2
    assert not trainer.folder.metrics("val", "best").exists()


@pytest.mark.parametrize(("checkpoint_minutes", "saved_at"), [(0.0, [*range(1, 11)]), (5.0, [5, 10])])
def test_checkpoints_are_written_at_intervals_and_after_every_epoch(
    checkpoint_minutes: float, saved_at: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    save = Trainer.save

    def spy(trainer: Trainer) -> None:
        saved.append(trainer.step)
        save(trainer)

    monkeypatch.setattr(Trainer, "save", spy)
    toy_trainer(tmp_path, checkpoint_minutes=checkpoint_minutes).fit()
    assert saved == saved_at


def test_weights_file_has_epoch_and_student(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.fit()
    content = load_checkpoint(trainer.folder.checkpoint("best"))
    assert set(content) == {"state_dict", "epoch", "student"}
    assert content["student"] == {"name": "small"}


# Resuming -----------------------------------------------------------------------------------------------------------


def with_own_scale(path: Path, optimizer: type[torch.optim.Optimizer], **changes: Any) -> Trainer:
    """A run with every kind of state: momentum, dropout, batch statistics, a parameter of a loss."""
    student, objective = seeded(SmallNet, 0), Objective({"own": (OwnScale(), TermOptions(warmup_epochs=1.0))})
    parameters = [*student.parameters(), *objective.parameters()]
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9} if optimizer is torch.optim.SGD else {"lr": 0.01}
    schedule = SCHEDULES.build("onecycle", 2, 4)
    parts = {"student": student, "objective": objective, "optimizer": optimizer(parameters, **options)}
    return toy_trainer(path, schedule=schedule, **(parts | changes))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("stop_at", [1, 4, 5, 8])
def test_resumed_run_equals_an_uninterrupted_run(
    stop_at: int, optimizer: type[torch.optim.Optimizer], tmp_path: Path
) -> None:
    uninterrupted = with_own_scale(tmp_path / "uninterrupted", optimizer)
    uninterrupted.fit()
    torch.manual_seed(99)  # the state of the global generator is no part of a run
    stopped: Trainer = with_own_scale(tmp_path / "stopped", optimizer, should_stop=lambda: stopped.step == stop_at)
    with pytest.raises(Stopped, match="saved"):
        stopped.fit()
    resumed = with_own_scale(tmp_path / "stopped", optimizer)
    restore(resumed, load_checkpoint(resumed.folder.checkpoint("last")))
    assert resumed.step == stop_at
    resumed.fit()
    assert_same(state_tensors(resumed), state_tensors(uninterrupted))
    assert history_without_times(resumed) == history_without_times(uninterrupted)
    assert resumed.best == uninterrupted.best


def history_without_times(trainer: Trainer) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
        for row in trainer.folder.read_history()
    ]


def test_resume_replaces_history_rows_after_the_checkpoint(tmp_path: Path) -> None:
    uninterrupted = toy_trainer(tmp_path / "uninterrupted")
    uninterrupted.fit()
    stopped: Trainer = toy_trainer(tmp_path / "stopped", should_stop=lambda: stopped.step == 7)
    with pytest.raises(Stopped):
        stopped.fit()
    with stopped.folder.history.open("a") as file:
        file.write('{"epoch": 2, "train_loss": 0.0}\n{"epoch": 3, "train_l')
    resumed = toy_trainer(tmp_path / "stopped")
    restore(resumed, load_checkpoint(resumed.folder.checkpoint("last")))
    resumed.fit()
    assert history_without_times(resumed) == history_without_times(uninterrupted)


def test_signal_in_the_last_step_lets_the_run_finish(tmp_path: Path) -> None:
    trainer: Trainer = toy_trainer(tmp_path, should_stop=lambda: trainer.step == 2 * STEPS_PER_EPOCH)
    trainer.fit()
    assert trainer.step == trainer.total_steps


def test_dropout_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    weights = []
    for generator_seed, run_seed in ((1, 0), (2, 0), (1, 5)):
        trainer = toy_trainer(tmp_path / f"{generator_seed} {run_seed}", seed=run_seed)
        torch.manual_seed(generator_seed)
        for batch in itertools.islice(open_data().train_batches(0, 16), 2):
            trainer.take_step(batch)
        weights.append(trainer.student.get_parameter("linear.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Estimate of the run time -------------------------------------------------------------------------------------------


def test_estimate_of_the_run_time_does_not_change_the_run(tmp_path: Path) -> None:
    def distilled(path: Path) -> Trainer:
        objective = Objective({"kd": (KnowledgeDistillation(), TermOptions()), "own": (OwnScale(), TermOptions())})
        return toy_trainer(path, teacher=live_teacher(seeded(SmallNet, 1)), objective=objective)

    estimated, untouched = distilled(tmp_path / "estimated"), distilled(tmp_path / "untouched")
    teacher_before = weights_digest(estimated.teacher.net.state_dict())  # type: ignore[union-attr]
    batch = next(open_data().train_batches(0, 16))
    assert estimate_time(estimated, batch).total > 0
    assert speed_up_of_one_thread(estimated.train_step, batch) > 0
    assert estimated.student.training
    assert weights_digest(estimated.teacher.net.state_dict()) == teacher_before  # type: ignore[union-attr]
    parameters = [*estimated.student.parameters(), *estimated.objective.parameters()]
    assert all(parameter.grad is None for parameter in parameters)
    assert_same(state_tensors(estimated), state_tensors(untouched))
    estimated.fit()
    untouched.fit()
    assert_same(state_tensors(estimated), state_tensors(untouched))
    assert history_without_times(estimated) == history_without_times(untouched)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 10 * 1.0 + (2 * 20 + 2 * 30) * 0.1 + (2 * 2 + 2) * 0.5),
        (5, 5 * 1.0 + (20 + 2 * 30) * 0.1 + (2 + 2) * 0.5),
        (10, 2 * 30 * 0.1 + 2 * 0.5),
    ],
)
def test_estimate_counts_steps_evaluations_and_starts_of_epochs(tmp_path: Path, step: int, expected: float) -> None:
    trainer = toy_trainer(tmp_path)  # 2 epochs of 5 steps, 20 images in val and 30 in test
    trainer.step = step
    pace = Pace(batch=1.0, evaluated_image=0.1, epoch_start=0.5)
    assert remaining_seconds(trainer, pace) == pytest.approx(expected)


class Clock:
    now = 0.0


class SlowPipeline(MemoryPipeline):
    """A data set that takes 100 seconds until the first batch of an epoch, and 3 for each further one."""

    clock: Clock
    reads_ahead = False

    def train_batches(
        self, epoch: int, batch_size: int, first_step: int = 0, shard: Shard = UNSHARDED
    ) -> Iterator[Batch]:
        for number, batch in enumerate(super().train_batches(epoch, batch_size, first_step, shard)):
            self.clock.now += 3 if number else 100
            yield batch


class SlowNet(SmallNet):
    """A network whose first forward pass takes 50 seconds, any other one for training 8, for evaluation 1.6."""

    clock: Clock
    is_warm = False

    def forward(self, images_NCHW: Tensor) -> Output:
        self.clock.now += (8 if self.training else 1.6) if self.is_warm else 50
        self.is_warm = True
        return super().forward(images_NCHW)


@pytest.mark.parametrize(("reads_ahead", "step", "image"), [(False, 8 + 3, (1.6 + 3) / 16), (True, 8, 3 / 16)])
def test_estimate_is_not_spoilt_by_a_slow_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads_ahead: bool, step: float, image: float
) -> None:
    clock = Clock()
    monkeypatch.setattr("model.training.probe.time.perf_counter", lambda: clock.now)
    monkeypatch.setattr("model.training.probe.usable_cpus", lambda: torch.get_num_threads() + 1)
    student, data = SlowNet(), open_data()
    data.__class__ = SlowPipeline
    student.clock = data.clock = clock  # type: ignore[attr-defined]
    data.reads_ahead = reads_ahead
    trainer = toy_trainer(tmp_path, student=student, data=data)
    batch = next(open_data().train_batches(0, 16))
    assert measure_pace(trainer, batch) == pytest.approx(Pace(step, image, epoch_start=97))


# run.json -----------------------------------------------------------------------------------------------------------


def test_run_json_has_the_progress_of_the_run(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.fit()
    run = trainer.folder.read_run()
    assert (run["epoch"], run["progress"]) == (2, 1.0)
    assert run["seconds"] > 0
    assert run["images_per_second"] > 0


# Compiling ----------------------------------------------------------------------------------------------------------


def compile_eagerly(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Let torch.compile trace without a compiler, which not every machine has; returns the compiled networks."""
    compiled: list[nn.Module] = []

    def trace(net: nn.Module, **_: Any) -> Any:
        compiled.append(net)
        return compile_(net, backend="eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", trace)
    return compiled


@pytest.mark.parametrize("accumulate", [1, 2])
def test_compiled_run_equals_the_run_that_is_not_compiled(
    accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, compiled = (toy_trainer(tmp_path / name, accumulate=accumulate) for name in ("plain", "compiled"))
    traced = compile_eagerly(monkeypatch)
    compile_student(compiled.train_step, next(compiled.data.train_batches(0, 16)))
    for trainer in (plain, compiled):
        trainer.fit()
    assert traced == [compiled.student]
    assert weights_digest(compiled.student.state_dict()) == weights_digest(plain.student.state_dict())


def test_student_that_cannot_be_compiled_is_trained_without_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, other = toy_trainer(tmp_path / "plain"), toy_trainer(tmp_path / "other")

    def compile_to_broken_network(net: nn.Module, **_: Any) -> Any:
        return torch.nn.Sequential(net, torch.nn.Linear(1, 1))  # fails when it is called

    monkeypatch.setattr(torch, "compile", compile_to_broken_network)
    with logging_to(tmp_path / "log"):
        compile_student(other.train_step, next(other.data.train_batches(0, 16)))
    for trainer in (plain, other):
        trainer.fit()
    assert "the student cannot be compiled" in (tmp_path / "log").read_text()
    assert weights_digest(other.student.state_dict()) == weights_digest(plain.student.state_dict())
