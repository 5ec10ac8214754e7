"""`finetune`: fine-tuning of a pruned program with fixed zeros and the weights of the best epoch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.finetuning.curvature import Curvature
from recprune_export.finetuning.divided_student import divided_student, shard_curvature
from recprune_export.finetuning.finetuning_constants import MASK_UPDATES, RAMP_SHARE
from recprune_export.finetuning.masks import NonZeroTarget, apply_masks, compute_masks, cubic_schedule
from recprune_export.finetuning.rounded_weights import with_rounded_weights
from recprune_export.finetuning.sparse_updates import find_sparse_update_tables, sparse_gradients
from recprune_export.finetuning.task import Task
from recprune_export.program.program import Program
from recprune_export.stored_bits import StoredBits
from recprune_export.training.loop import FitResult, fit
from recprune_export.training.weight_snapshot import WeightSnapshot


@dataclass(frozen=True)
class Schedule:
    """Hyperparameters of fine-tuning; with `gradual` the zeros appear during training instead of at once.

    With `row_wise`, long tables get sparse updates.
    """

    epochs: int
    learning_rate: float
    gradual: bool
    seed: int
    patience: int = 3
    row_wise: bool = True


class _MaskSchedule:
    """Applies the masks during training and tightens them during the ramp."""

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
        self._interval = max(1, ramp_steps // MASK_UPDATES)
        self._step = 0
        self.masks: Mapping[str, Tensor] = {}
        self._tighten()

    @property
    def complete(self) -> bool:
        """Whether all zeros of the target are set."""
        return self._step >= self._ramp_steps

    def after_step(self) -> None:
        """Count a training step, apply the masks, and tighten them at regular intervals of the ramp."""
        self._step += 1
        if self._step <= self._ramp_steps and (self._step % self._interval == 0 or self.complete):
            self._tighten()
        else:
            apply_masks(self._program, self.masks, self._row_wise)

    def _tighten(self) -> None:
        share = 1.0 if self._ramp_steps == 0 else cubic_schedule(self._step / self._ramp_steps)
        target = self._target.interpolate(self._program, self._tables, share)
        self.masks = {}  # freed before the new ones are made
        self.masks = compute_masks(self._program, self._tables, target, self._curvature)
        apply_masks(self._program, self.masks)


class _InitialWeights:
    """The weights before training with all zeros of the target, and their metric. The program itself is not changed.

    `served` shares the weights of `program`, and gives the answers of the later ONNX file.

    The masks are computed again when they are needed: the same weights give the same masks.
    """

    def __init__(
        self,
        program: Program,
        served: Program,
        task: Task,
        tables: frozenset[str],
        target: NonZeroTarget,
        curvature: Curvature | None,
    ) -> None:
        self._set_zeros = partial(_MaskSchedule, program, tables, target, 0, curvature=curvature)
        self._program, self._snapshot = program, WeightSnapshot.take(program.module)
        self._set_zeros()
        served.set_training(False)
        self.metric = task.validate(served)
        self._snapshot.restore(program.module)

    def restore(self) -> None:
        """Restore these weights in the program."""
        self._snapshot.restore(self._program.module)
        self._set_zeros()


def finetune(
    student: Program,
    teacher: Program,
    task: Task,
    tables: frozenset[str],
    target: NonZeroTarget,
    schedule: Schedule,
    curvature: Curvature | None = None,
    bits: StoredBits | None = None,
) -> FitResult | None:
    """Train `student` in place on labels and the outputs of `teacher`; on return it has the weights of the best epoch.

    Weights with few `bits` are rounded in the forward pass, of the student and of the program that is evaluated.

    Zeros are chosen by the `curvature` of the initial weights, or else by magnitude. If no epoch is better than the
    initial weights with all zeros at once, these are restored.

    Dropout is off: the outputs of the teacher regularize, and a pruned program has no spare capacity. The learning rate
    decays linearly to zero. Only epochs after the ramp of the zeros are candidates.
    Returns None if `schedule.epochs` is 0: then the zeros are set at once. The same seed on the same machine gives the
    same weights.

    Memory in addition to the weights: one byte per weight for the masks; for tables with sparse updates, two moments for the rows that
    batches look up, in whole pages; for other parameters, a gradient and two moments for each weight. The weights that may be restored
    are in files (`WeightSnapshot`). With several processes, each holds its rows of long tables and of their moments.
    """
    if schedule.epochs == 0:
        _MaskSchedule(student, tables, target, 0, curvature=curvature)
        return None
    served = student if bits is None else with_rounded_weights(student, bits)
    initial = _InitialWeights(student, served, task, tables, target, curvature)
    torch.manual_seed(schedule.seed)
    data = task.distillation_data(student, teacher)
    if bits is not None:
        data = replace(data, student=with_rounded_weights(data.student, bits))
    steps = schedule.epochs * data.steps_per_epoch
    row_wise = find_sparse_update_tables(student, task.config.batch_size) if schedule.row_wise else frozenset()
    ramp = math.floor(steps * RAMP_SHARE) if schedule.gradual else 0
    data.teacher.set_training(False)
    with divided_student((student, served, data.student), row_wise) as in_shards:
        at_rows = shard_curvature(curvature, in_shards, student)
        mask_schedule = _MaskSchedule(student, tables, target, ramp, row_wise, at_rows)

        def evaluate() -> float:
            apply_masks(student, mask_schedule.masks)
            served.set_training(False)
            value = task.validate(served) if mask_schedule.complete else -math.inf
            data.student.set_training(True, dropout=False)
            return value

        def batches(epoch: int) -> Iterable[Batch]:
            return data.batches(schedule.seed + epoch)

        optimizers = _make_optimizers(student, row_wise, schedule.learning_rate)
        data.student.set_training(True, dropout=False)
        try:
            with sparse_gradients(data.student, row_wise):
                fitted = fit(
                    student.module,
                    batches=batches,
                    loss=partial(data.loss, task.objective),
                    evaluate=evaluate,
                    greater_is_better=task.greater_is_better,
                    optimizers=optimizers,
                    schedulers=[_linear_decay(optimizer, steps) for optimizer in optimizers],
                    epochs=schedule.epochs,
                    patience=schedule.patience,
                    steps_per_epoch=data.steps_per_epoch,
                    rows_per_step=task.config.batch_size,
                    after_step=mask_schedule.after_step,
                    description="Fine-tuning",
                )
        finally:
            student.set_training(False)
            apply_masks(student, mask_schedule.masks)
    result = fitted.with_initial_metric(initial.metric)
    if result.best < 0:
        initial.restore()
    return result


def _linear_decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a scheduler that decays the learning rate linearly to zero after `steps`."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (steps - step) / max(1, steps))


def _make_optimizers(student: Program, row_wise: frozenset[str], learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return Adam, and SparseAdam for the tables with sparse gradients.

    Weights in half precision are not trained: the epsilon of Adam is zero there, and a step is lost in rounding.
    """
    parameters = {name: p for name, p in student.parameters().items() if p.dtype in (torch.float32, torch.float64)}
    sparse = [p for name, p in parameters.items() if name in row_wise]
    dense = [p for name, p in parameters.items() if name not in row_wise]
    optimizers: list[torch.optim.Optimizer] = []
    if dense:
        optimizers.append(torch.optim.Adam(dense, lr=learning_rate))
    if sparse:
        optimizers.append(_make_sparse_adam(sparse, learning_rate))
    return optimizers


def _make_sparse_adam(tables: Sequence[Tensor], learning_rate: float) -> torch.optim.SparseAdam:
    """Return the optimizer with its moments at zero, in memory that the system allocates page by page when a row is written.

    PyTorch would write zeros to all rows.
    """
    optimizer = torch.optim.SparseAdam(list(tables), lr=learning_rate)
    for table in tables:
        # Bytes, because NumPy has no bfloat16.
        first, second = (
            torch.from_numpy(np.zeros(table.nbytes, np.uint8)).view(table.dtype).reshape(table.shape) for _ in range(2)
        )
        optimizer.state[table] = {"step": 0, "exp_avg": first, "exp_avg_sq": second}
    return optimizer
