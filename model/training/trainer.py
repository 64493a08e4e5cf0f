"""The training loop: one step for every method, exact resume, a checkpoint when time or the epoch is up.

The state of a run is its weights, its optimizer and its step. Order, views, dropout and learning rate are functions
of the step and the seed, so a run that goes on from a checkpoint is the run that was never interrupted. Several
processes that train together (distributed.py) have one state, so another number of them may go on.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config.folder import Folder
from ..errors import RunFailed, Stopped, first_sentence
from ..files import write_json
from ..logs import log
from ..randomness import step_seed
from ..types import Batch, Output, Part, Pipeline, Split, Teacher
from .checkpoint import save_checkpoint
from .distributed import SINGLE_PROCESS, World
from .meters import Clock, Meters
from .precision import autocast
from .run_logger import RunLogger, SilentRunLogger
from .schedules import Schedule

# On a GPU, a small network's time goes into starting kernels: CUDA graphs start a whole step's at once.
COMPILE_OPTIONS: dict[str, dict[str, Any]] = {"cuda": {"mode": "reduce-overhead", "dynamic": False}, "cpu": {}}

Evaluate = Callable[[nn.Module, Split], dict[str, float]]
Losses = tuple[Tensor, dict[str, Tensor], Output]  # the objective, its terms, what the student said


@dataclass(kw_only=True)
class Trainer:
    """Everything that one run needs, and where it stands.

    Args:
        objective: The weighted sum of loss terms; a module, as terms may own parameters.
        teacher: Asked on every batch; None where no term uses one.
        schedule: Epochs done, part epochs included -> factor of the optimizer's learning rates.
        evaluate: Metrics of a network on a split; `accuracy` and `loss` among them.
        describe: Plain values that go into the weights file beside the weights: the network, the data set.
        batch_size: Images of a step, in all processes together.
        should_stop: Asked after every step; True saves and raises Stopped.
        world: The processes that train together.
    """

    student: nn.Module
    teacher: Teacher | None
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    data: Pipeline
    evaluate: Evaluate
    folder: Folder
    describe: dict[str, Any]
    batch_size: int
    num_epochs: int
    seed: int
    device: torch.device
    dtype: torch.dtype
    gradient_clip: float | None = None
    checkpoint_minutes: float = 5.0
    should_stop: Callable[[], bool] = lambda: False
    world: World = SINGLE_PROCESS

    def __post_init__(self) -> None:
        self.step = 0  # finished steps of the whole run
        self.seconds = 0.0  # spent in training and validation, interruptions left out
        self.best: dict[str, float] | None = None  # metrics on val of the best weights so far
        self.steps_per_epoch = self.data.steps_per_epoch(self.batch_size)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._forward: nn.Module = self.student  # the same weights, compiled where that was asked for
        self._losses: Callable[[Batch, int], Losses] = self._own_losses
        self._totals = Meters(cast(list[str], self.objective.names), self.device, self.world)

    @property
    def total_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def fit(self) -> None:
        """Train from where the run stands to its end.

        Raises:
            Stopped: `should_stop` said so; everything is saved.
            RunFailed: The loss is no longer finite.
        """
        recorder = self.world.on_all_ranks(self._open_recorder)
        try:
            while self.step < self.total_steps:
                self._train_epoch(recorder)
        finally:
            recorder.close()

    def _open_recorder(self) -> RunLogger | SilentRunLogger:
        if not self.world.is_rank_zero:
            return SilentRunLogger()
        return RunLogger(
            self.folder, num_epochs=self.num_epochs, steps_per_epoch=self.steps_per_epoch, first_step=self.step
        )

    def _train_epoch(self, recorder: RunLogger | SilentRunLogger) -> None:
        epoch, first_step = divmod(self.step, self.steps_per_epoch)
        clock = Clock(self.seconds)
        self._prepare_teacher(epoch, recorder)
        last_saved = time.monotonic()
        self.student.train()
        with recorder.progress(epoch + 1, self.step):
            for batch in self.data.train_batches(epoch, self.batch_size, first_step, self.world.shard):
                self.train_step(batch)
                is_old = time.monotonic() - last_saved > 60 * self.checkpoint_minutes
                show, stop, save = self.world.any_rank(recorder.is_due(), self.should_stop(), is_old)
                if show:
                    means = self._totals.means()
                    self.check_finite(means)
                    speed = (self.step - epoch * self.steps_per_epoch - first_step) * self.batch_size / clock.elapsed()
                    self._show(recorder, means, speed)
                if self.step % self.steps_per_epoch:  # the epoch's last step is saved below, with its metrics
                    if stop or save:
                        self.seconds = clock.total()
                        self.save()
                        last_saved = time.monotonic()
                    if stop:
                        raise Stopped(f"{self.folder.name}: saved at step {self.step} of {self.total_steps}")
        steps_here = self.step - epoch * self.steps_per_epoch - first_step
        self._finish_epoch(epoch + 1, recorder, clock, speed=steps_here * self.batch_size / clock.elapsed())
        (stop,) = self.world.any_rank(self.should_stop())
        if stop and self.step < self.total_steps:
            raise Stopped(f"{self.folder.name}: saved after epoch {epoch + 1} of {self.num_epochs}")

    def _show(self, recorder: RunLogger | SilentRunLogger, means: dict[str, float], speed: float) -> None:
        self.world.on_rank_zero(
            lambda: recorder.log_step(
                self.step, loss=means["loss"], accuracy=means["accuracy"], images_per_second=speed
            )
        )

    def _prepare_teacher(self, epoch: int, recorder: RunLogger | SilentRunLogger) -> None:
        if self.teacher is None:
            return
        stop = False
        with recorder.asking(epoch + 1) as tell:
            for share in self.teacher.precompute(self.data, epoch):
                tell(share)
                stop = self.should_stop()
                if stop:
                    break
        if any(self.world.any_rank(stop)):
            raise Stopped(f"{self.folder.name}: what the teacher said is kept; step {self.step} is saved")

    def train_step(self, batch: Batch) -> None:
        """One step of the optimizer on one batch, or on this process's share of it."""
        # For dropout, so that no generator's state is to be saved.
        seed_generators(step_seed(self.seed, self.step, self.world.rank), self.device)
        epoch = self.step / self.steps_per_epoch
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * self.schedule(epoch)
        loss, terms, output = self._losses(batch, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        self._shared(loss, batch).backward()  # type: ignore[no-untyped-call]
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.gradient_clip)
        self.optimizer.step()
        self.step += 1
        self._totals.add(loss, terms, output, batch)

    def compute_loss(self, student: nn.Module, batch: Batch, step: int) -> Losses:
        """The objective of a step's batch, its terms, and what the student said."""
        with autocast(self.dtype, self.device):
            output: Output = student(batch.images)
        guide = None if self.teacher is None else self.teacher(batch)
        whole = self._of_the_whole_batch(output, guide, batch, step)
        loss, terms = self.objective(output, guide, batch, step / self.steps_per_epoch, whole)
        return loss, terms, output

    def _own_losses(self, batch: Batch, step: int) -> Losses:
        return self.compute_loss(self._forward, batch, step)

    # Several processes ----------------------------------------------------------------------------------------------

    def distribute(self, batch: Batch) -> None:
        """Let all processes take steps together; each is given its share of a first batch."""
        if self.world.size == 1:
            return
        with self._left_as_it_is():
            _, gradients = self._gradients(self.student, batch)
        # Such as those of a classifier that no term looks at: DistributedDataParallel must know not to wait for them.
        find_unused = any(gradient is None for gradient in gradients)
        self._losses = self.world.wrap_ddp([self.student, self.objective], self._detached, find_unused=find_unused)

    def _detached(self, batch: Batch, step: int) -> Losses:
        """The losses, of which the objective alone is differentiated: what else has a graph counts as an aim, too."""
        loss, terms, output = self._own_losses(batch, step)
        told = {name: value.detach() for name, value in terms.items()}
        return loss, told, Output(output.logits.detach(), output.embedding.detach())

    def _of_the_whole_batch(
        self, output: Output, guide: Output | None, batch: Batch, step: int
    ) -> tuple[Output, Output | None, Batch] | None:
        """What terms are given that compare the images of a batch, gathered from all processes; None in one alone."""
        if self.world.size == 1:
            return None
        parts = cast(frozenset[Part], self.objective.global_batch)
        if not parts:
            return None
        total = self._num_images(step)
        taught = None if guide is None else self.world.all_gather_output(guide, parts, total)
        return self.world.all_gather_output(output, parts, total), taught, self.world.all_gather_batch(batch, total)

    def _shared(self, loss: Tensor, batch: Batch) -> Tensor:
        """What a process adds to the mean over the processes, so that it is the mean over the images of the batch."""
        if self.world.size == 1:
            return loss
        return loss * (self.world.size * len(batch.labels) / self._num_images(self.step))

    def _num_images(self, step: int) -> int:
        """Images of a step's whole batch, each view counted."""
        if (step + 1) % self.steps_per_epoch:
            return self.batch_size * self.data.views_shown
        return (self.data.size("train") - (self.steps_per_epoch - 1) * self.batch_size) * self.data.views_shown

    # What is kept ---------------------------------------------------------------------------------------------------

    def _finish_epoch(self, epoch: int, recorder: RunLogger | SilentRunLogger, clock: Clock, speed: float) -> None:
        self.world.sync_buffers(self.student, self.objective)  # all evaluate the network that is saved
        means = self._totals.means()
        self.check_finite(means)
        row: dict[str, Any] = {"epoch": epoch, "train_loss": means.pop("loss"), "train_accuracy": means.pop("accuracy")}
        row |= means
        if self.data.size("val"):
            val = self.evaluate(self.student, "val")
            self.check_finite({"val_loss": val["loss"]})  # the last update may have been the one that broke it
            row |= {"val_loss": val["loss"], "val_accuracy": val["accuracy"]}
            row |= {f"val_{name}": val[name] for name in val if name.startswith(("exit_", "ensemble_"))}
            val = {**val, "epoch": epoch}
            self.write(self.folder.metrics("val", "last"), val)
            if self.best is None or val["accuracy"] > self.best["accuracy"]:
                self.best = val
                self.write(self.folder.metrics("val", "best"), val)
                self.save_weights()
        elif epoch == self.num_epochs:
            self.save_weights()
        self.seconds = clock.total()
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        row["seconds"] = round(self.seconds, 3)
        row["images_per_second"] = round(speed, 1)
        self._totals.reset()
        self.world.on_rank_zero(lambda: recorder.epoch(row, self.step))
        self.save()
        told = {
            "epoch": epoch,
            "seconds": round(self.seconds, 3),
            "progress": self.step / self.total_steps,
            "images_per_second": row["images_per_second"],
        }
        self.world.on_rank_zero(lambda: self.folder.update_run(**told))

    def write(self, path: Path, metrics: dict[str, float]) -> None:
        self.world.on_rank_zero(lambda: write_json(path, metrics))

    def check_finite(self, means: dict[str, float]) -> None:
        """Raise RunFailed, naming the learning rate, where a mean is not finite."""
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            epoch, rate = -(-self.step // self.steps_per_epoch), self.optimizer.param_groups[0]["lr"]
            raise RunFailed(
                f"{self.folder.name}: {', '.join(broken)} is not finite in epoch {epoch} (learning rate {rate:.3g}); "
                "try a smaller one, or gradient_clip"
            )

    def save_weights(self) -> None:
        """Write best.pth.tar: the student's weights and what is needed to build it again."""
        content = {"state_dict": self.student.state_dict(), "epoch": -(-self.step // self.steps_per_epoch)}
        self.world.on_rank_zero(lambda: save_checkpoint(self.folder.checkpoint("best"), content | self.describe))

    def save(self) -> None:
        """Write last.pth.tar: all that going on needs, in however many processes."""
        self.world.sync_buffers(self.student, self.objective)
        content = {
            "state_dict": self.student.state_dict(),
            "epoch": self.step // self.steps_per_epoch,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "seconds": self.seconds,
            "best": self.best,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "totals": self._totals.of_all(),
        }
        self.world.on_rank_zero(lambda: save_checkpoint(self.folder.checkpoint("last"), content | self.describe))

    def load(self, content: dict[str, Any]) -> None:
        """Stand where a last.pth.tar stood."""
        self.student.load_state_dict(content["state_dict"])
        self.objective.load_state_dict(content["objective"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.seconds, self.best = content["step"], content["seconds"], content["best"]
        self._totals.sums.copy_(content["totals"] if self.world.is_rank_zero else torch.zeros_like(content["totals"]))

    def compile(self, batch: Batch) -> None:
        """Compile the student for batches like this one; where that fails, say so and leave it as it is."""
        compiled = cast(nn.Module, torch.compile(self.student, **COMPILE_OPTIONS[self.device.type]))
        with self._left_as_it_is():
            try:
                self._gradients(compiled, batch)
            except Exception as error:  # compilers fail in many ways, and none of them should end a run
                log.warning("the student cannot be compiled (%s); it runs as it is", first_sentence(error))
            else:
                self._forward = compiled

    def estimate_seconds(self, batch: Batch, steps: int = 3) -> float:
        """About how long the rest of the run takes, from a few steps; the run itself is left as it is."""
        began = 0.0
        with self._left_as_it_is():
            for step in range(steps + 1):
                if step == 1:  # the first step also pays for warming up
                    began = time.perf_counter()
                loss, _ = self._gradients(self.student, batch)
            loss.item()  # waits for the device
            seconds = (time.perf_counter() - began) / steps * (self.total_steps - self.step)
        return seconds if self.teacher is None else seconds + self.teacher.seconds_remaining(batch) / self.world.size

    def _gradients(self, student: nn.Module, batch: Batch) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The loss of the first batch and its gradients, after a backward pass that leaves no gradient behind."""
        loss, _, _ = self.compute_loss(student.train(), batch, step=0)
        return loss, torch.autograd.grad(loss, [p for p in self._parameters if p.requires_grad], allow_unused=True)

    @contextmanager
    def _left_as_it_is(self) -> Iterator[None]:
        """Put back what a forward pass changes: batch norm's statistics, what the loss terms keep."""
        modules = (self.student, self.objective)
        before = [copy.deepcopy(module.state_dict()) for module in modules]
        try:
            yield
        finally:
            for module, state in zip(modules, before, strict=True):
                module.load_state_dict(state)


def seed_generators(seed: int, device: torch.device) -> None:
    """As torch.manual_seed, for the CPU and this device alone: asking for every kind of device takes 0.1 ms a step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
