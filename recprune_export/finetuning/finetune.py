"""`finetune`: let a pruned program recover, its zeros held, its best epoch kept."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recprune_export.finetuning.task import Batch, Task
from recprune_export.finetuning.zeros import ZeroTarget, cubic_share, hold, magnitude_masks
from recprune_export.program.program import Program
from recprune_export.training.loop import FitResult, fit

RAMP_SHARE = 0.5  # of all steps, over which gradual zeros appear
MASK_UPDATES = 20  # during the ramp


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to tune; `gradual` lets the zeros appear along the way instead of at once."""

    epochs: int
    learning_rate: float
    gradual: bool
    seed: int
    patience: int = 3


class _Zeros:
    """Holds the masks during training and tightens them along the ramp."""

    def __init__(self, program: Program, tables: frozenset[str], target: ZeroTarget, ramp_steps: int) -> None:
        self._program, self._tables, self._target = program, tables, target
        self._ramp_steps = ramp_steps
        self._every = max(1, ramp_steps // MASK_UPDATES)
        self._step = 0
        self.masks: Mapping[str, Tensor] = {}
        self._tighten()

    @property
    def complete(self) -> bool:
        """All zeros that were asked for are there."""
        return self._step >= self._ramp_steps

    def after_step(self) -> None:
        """Count a training step; hold the zeros, and add to them when it is time."""
        self._step += 1
        if self._step <= self._ramp_steps and (self._step % self._every == 0 or self.complete):
            self._tighten()
        else:
            hold(self._program, self.masks)

    def _tighten(self) -> None:
        share = 1.0 if self._ramp_steps == 0 else cubic_share(self._step / self._ramp_steps)
        target = self._target.relaxed(self._program, self._tables, share)
        self.masks = magnitude_masks(self._program, self._tables, target)
        hold(self._program, self.masks)


def finetune(
    student: Program, teacher: Program, task: Task, tables: frozenset[str], target: ZeroTarget, schedule: Schedule
) -> FitResult | None:
    """Train `student` in place towards labels and `teacher`; on return its weights are those of the best epoch.

    Dropout stays off: the teacher's answers regularise, and a pruned program has no capacity to spare. The learning rate
    falls linearly to zero. Only epochs in which all zeros are present count as candidates. Returns None where no epoch
    was asked for: then the zeros are set at once. The same seed on the same machine gives the same weights.
    """
    torch.manual_seed(schedule.seed)
    steps = schedule.epochs * task.steps_per_epoch
    zeros = _Zeros(student, tables, target, math.floor(steps * RAMP_SHARE) if schedule.gradual else 0)
    if schedule.epochs == 0:
        return None
    teacher.set_training(False)

    def loss(batch: Batch) -> Tensor:
        request, labels = batch
        with torch.no_grad():
            answer = teacher(request)
        return task.objective.loss(student(request), answer, labels)

    def evaluate() -> float:
        student.set_training(False)
        value = task.validate(student) if zeros.complete else -math.inf
        student.set_training(True, dropout=False)
        return value

    def batches(epoch: int) -> Iterable[Batch]:
        return task.training_batches(schedule.seed + epoch)

    optimizer = torch.optim.Adam(student.module.parameters(), lr=schedule.learning_rate)
    student.set_training(True, dropout=False)
    try:
        return fit(
            student.module,
            batches=batches,
            loss=loss,
            evaluate=evaluate,
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps),
            epochs=schedule.epochs,
            patience=schedule.patience,
            steps_per_epoch=task.steps_per_epoch,
            after_step=zeros.after_step,
            description="Fine-tuning",
        )
    finally:
        student.set_training(False)
        hold(student, zeros.masks)
