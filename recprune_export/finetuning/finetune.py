"""`finetune`: let a pruned program recover, its zeros held, its best epoch kept."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.finetuning.curvature import Curvature
from recprune_export.finetuning.masks import NonZeroTarget, apply_masks, compute_masks, cubic_schedule
from recprune_export.finetuning.sparse_updates import find_sparse_update_tables, sparse_gradients
from recprune_export.finetuning.task import Task
from recprune_export.program.program import Program
from recprune_export.training.loop import FitResult, fit

RAMP_SHARE = 0.5  # of all steps, over which gradual zeros appear
MASK_UPDATES = 20  # during the ramp


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to tune; `gradual` lets the zeros appear along the way instead of at once.

    With `row_wise`, large tables cost what a batch touches.
    """

    epochs: int
    learning_rate: float
    gradual: bool
    seed: int
    patience: int = 3
    row_wise: bool = True


class _MaskSchedule:
    """Holds the masks during training and tightens them along the ramp."""

    def __init__(
        self,
        program: Program,
        tables: frozenset[str],
        target: NonZeroTarget,
        ramp_steps: int,
        row_wise: frozenset[str] = frozenset(),
        curvature: Curvature | None = None,
    ) -> None:
        self._program, self._tables, self._target = program, tables, target
        self._curvature = curvature
        self._row_wise = row_wise
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
            apply_masks(self._program, self.masks, self._row_wise)

    def _tighten(self) -> None:
        share = 1.0 if self._ramp_steps == 0 else cubic_schedule(self._step / self._ramp_steps)
        target = self._target.interpolate(self._program, self._tables, share)
        self.masks = compute_masks(self._program, self._tables, target, self._curvature)
        apply_masks(self._program, self.masks)


class _InitialWeights:
    """A program with all its zeros at once: what it is worth, and the way back to it. The program is left as it was."""

    def __init__(
        self,
        program: Program,
        task: Task,
        tables: frozenset[str],
        target: NonZeroTarget,
        curvature: Curvature | None,
    ) -> None:
        self._state = copy.deepcopy(program.module.state_dict())
        self._masks = _MaskSchedule(program, tables, target, 0, curvature=curvature).masks
        program.set_training(False)
        self.metric = task.validate(program)
        program.module.load_state_dict(self._state)

    def restore(self, program: Program) -> None:
        """Give `program` these weights."""
        program.module.load_state_dict(self._state)
        apply_masks(program, self._masks)


def finetune(
    student: Program,
    teacher: Program,
    task: Task,
    tables: frozenset[str],
    target: NonZeroTarget,
    schedule: Schedule,
    curvature: Curvature | None = None,
) -> FitResult | None:
    """Train `student` in place towards labels and `teacher`; on return its weights are those of the best epoch.

    Zeros are chosen by the `curvature` of the student's weights as it is given, or else by magnitude. Where no epoch is
    better than the student as it is given, with all zeros at once, its weights are those.

    Dropout stays off: the teacher's answers regularise, and a pruned program has no capacity to spare. The learning rate
    falls linearly to zero. Only epochs in which all zeros are present count as candidates.
    Returns None where no epoch was asked for: then the zeros are set at once. The same seed on the same
    machine gives the same weights.
    """
    if schedule.epochs == 0:
        _MaskSchedule(student, tables, target, 0, curvature=curvature)
        return None
    untuned = _InitialWeights(student, task, tables, target, curvature)
    torch.manual_seed(schedule.seed)
    lessons = task.distillation_data(student, teacher)
    steps = schedule.epochs * lessons.steps_per_epoch
    row_wise = find_sparse_update_tables(student, task.config.batch_size) if schedule.row_wise else frozenset()
    ramp = math.floor(steps * RAMP_SHARE) if schedule.gradual else 0
    zeros = _MaskSchedule(student, tables, target, ramp, row_wise, curvature)
    lessons.teacher.set_training(False)

    def evaluate() -> float:
        apply_masks(student, zeros.masks)
        student.set_training(False)
        value = task.validate(student) if zeros.complete else -math.inf
        student.set_training(True, dropout=False)
        return value

    def batches(epoch: int) -> Iterable[Batch]:
        return lessons.batches(schedule.seed + epoch)

    optimizers = _optimizers(student, row_wise, schedule.learning_rate)
    lessons.student.set_training(True, dropout=False)
    try:
        with sparse_gradients(lessons.student, row_wise):
            fitted = fit(
                student.module,
                batches=batches,
                loss=partial(lessons.loss, task.objective),
                evaluate=evaluate,
                optimizers=optimizers,
                schedulers=[_falling(optimizer, steps) for optimizer in optimizers],
                epochs=schedule.epochs,
                patience=schedule.patience,
                steps_per_epoch=lessons.steps_per_epoch,
                after_step=zeros.after_step,
                description="Fine-tuning",
            )
    finally:
        student.set_training(False)
        apply_masks(student, zeros.masks)
    result = fitted.with_initial_metric(untuned.metric)
    if result.best < 0:
        untuned.restore(student)
    return result


def _falling(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear decay of the learning rate to zero at the last of `steps`."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (steps - step) / max(1, steps))


def _optimizers(student: Program, row_wise: frozenset[str], learning_rate: float) -> list[torch.optim.Optimizer]:
    """Adam, and beside it SparseAdam for the tables that give gradients by rows.

    Weights in half precision stay as they are: Adam's epsilon is zero there, and a step is lost in rounding.
    """
    parameters = {name: p for name, p in student.parameters().items() if p.dtype in (torch.float32, torch.float64)}
    by_rows = [p for name, p in parameters.items() if name in row_wise]
    whole = [p for name, p in parameters.items() if name not in row_wise]
    optimizers: list[torch.optim.Optimizer] = []
    if whole:
        optimizers.append(torch.optim.Adam(whole, lr=learning_rate))
    if by_rows:
        optimizers.append(torch.optim.SparseAdam(by_rows, lr=learning_rate))
    return optimizers
